"""What a home keeps beside its traces: versions, the state of the lifecycle, events, audits, usage."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

__all__ = ["Audit", "Event", "Stage", "State", "Usage", "VersionRecord", "VersionStatus"]

Stage = Literal["teacher", "shadow", "canary", "live"]
VersionStatus = Literal["ready", "refused", "retired"]


@dataclass(frozen=True, slots=True)
class VersionRecord:
    """One version that was learned, whether its certificate covers anything or not.

    Attributes:
        number: 1, 2, ...; delta is spent by it.
        created: seconds since the epoch.
        file: name of its model file below ``versions/``.
        status: "refused" when its certificate covers nothing, "retired" when it is not to be used again.
        parent: the version that was in use when it was learned.
        certificate: `Certificate.to_dict()`.
        figures: what was measured when it was made, for the report.
        rows_fit, rows_calibrate: rows that it was fitted on, and that certified it.
        delta: its own share of delta.
        seconds: that making it took.
    """

    number: int
    created: float
    file: str
    status: VersionStatus
    parent: int | None = None
    certificate: Mapping[str, Any] = field(default_factory=dict)
    figures: Mapping[str, Any] = field(default_factory=dict)
    rows_fit: int = 0
    rows_calibrate: int = 0
    delta: float | None = None
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class State:
    """Where the lifecycle stands.

    Attributes:
        stage: "teacher" while there is no certified version.
        version: in use; None: none.
        previous: the version to roll back to.
        revision: counts the moves; `Store.move` sets it.
        since: seconds since the epoch, of the last move.
        reason: of the last move.
        held: no automatic move forward.
        watch: the monitor's state, JSON-able; `Store.add_audits` keeps it current between moves.
    """

    stage: Stage = "teacher"
    version: int | None = None
    previous: int | None = None
    revision: int = 0
    since: float = 0.0
    reason: str = ""
    held: bool = False
    watch: Mapping[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """As JSON-able data."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Event:
    """One line of the audit log.

    Attributes:
        at: seconds since the epoch.
        kind: "promoted", "demoted", "rolled back", "version made", ...
        by: "rule", "watch", "learner" or "user:...".
        before, after: what changed, JSON-able.
        id: number in the store; None: not stored yet.
    """

    at: float
    kind: str
    by: str
    reason: str = ""
    before: Mapping[str, Any] = field(default_factory=dict)
    after: Mapping[str, Any] = field(default_factory=dict)
    id: int | None = None

    def to_dict(self) -> dict[str, Any]:
        """As JSON-able data."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Audit:
    """One comparison of a native answer with the teacher's.

    Attributes:
        at: seconds since the epoch.
        version, stage: that the call met.
        score: the gate's, of the native answer; None: it has none.
        native, teacher: output -> value, in the fields' own types.
        wrong: whether they disagree.
        trace: number of the trace that holds the call; None: none.
        id: number in the store; None: not stored yet.
    """

    at: float
    version: int
    stage: Stage
    score: float | None
    native: Mapping[str, Any]
    teacher: Mapping[str, Any]
    wrong: bool
    trace: int | None = None
    id: int | None = None


@dataclass(frozen=True, slots=True)
class Usage:
    """Counters of one hour.

    Attributes:
        hour: its beginning, seconds since the epoch.
        version: that the calls met; None: none.
        counts: name -> sum: "native", "deferred", "audited", "usd", ...
    """

    hour: int
    version: int | None
    stage: Stage
    counts: Mapping[str, float]

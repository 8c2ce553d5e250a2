"""The rules of the lifecycle: from where a program stands and what has been seen, the next move, or none."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from dspex.distill.settings import LifecycleSettings
from dspex.distill.store.records import Stage, State

__all__ = ["STAGES", "Evidence", "Move", "first_stage", "next_move", "rank"]

#: In the order in which a version moves on.
STAGES: tuple[Stage, ...] = ("teacher", "shadow", "canary", "live")


@dataclass(frozen=True, slots=True)
class Evidence:
    """What has been seen of the version in service.

    Attributes:
        checks: native answers that the gate would let through and that were compared with the teacher's,
            since the version came to this stage.
        errors: how many of them disagreed.
        allowed: share that may disagree: 1 - agreement.
        alarm: what the watch found, in words; None while it has not alarmed.
        breached: whether the alarm has been acted upon.
        newer: a certified version that has not been in service yet; None: there is none.
        weaker: why the version in service guarantees less than the settings ask for; None: it does not.
    """

    checks: int = 0
    errors: int = 0
    allowed: float = 0.05
    alarm: str | None = None
    breached: bool = False
    newer: int | None = None
    weaker: str | None = None


@dataclass(frozen=True, slots=True)
class Move:
    """A step of the lifecycle.

    Attributes:
        kind: "promote", "adopt", "breach" or "withdraw".
        stage, version: where it leads.
        by: "rule" or "watch".
        reason: a sentence.
    """

    kind: Literal["promote", "adopt", "breach", "withdraw"]
    stage: Stage
    version: int | None
    by: str
    reason: str


def next_move(state: State, evidence: Evidence, settings: LifecycleSettings) -> Move | None:
    """The move that the rules ask for; None: all stays as it is.

    A breach comes first and is never held up; nor is a version that guarantees too little left where it
    answers. A newer version takes over, then a version moves on by one stage; both only while the program is
    not held and `settings.automatic` is set. A version that has breached, or guarantees too little, moves on
    no more by itself.
    """
    if evidence.alarm is not None and not evidence.breached:
        return Move("breach", min(state.stage, "shadow", key=rank), state.version, "watch", evidence.alarm)
    if evidence.weaker is not None and rank(state.stage) > rank("shadow"):
        return Move("withdraw", "shadow", state.version, "rule", evidence.weaker)
    if state.held or not settings.automatic:
        return None
    if evidence.newer is not None:
        stage = first_stage(state, settings)
        return Move("adopt", stage, evidence.newer, "rule", f"version {evidence.newer} is certified")
    if evidence.alarm is not None or evidence.weaker is not None:
        return None  # what has breached goes nowhere: a newer version has to come
    return _forward(state, evidence, settings)


def _forward(state: State, evidence: Evidence, settings: LifecycleSettings) -> Move | None:
    wanted = {"shadow": settings.shadow_checks, "canary": settings.canary_checks}.get(state.stage)
    if wanted is None or state.version is None or evidence.checks < wanted:
        return None
    if evidence.errors > evidence.allowed * evidence.checks:
        return None  # not alarming, but no recommendation: more checks will tell
    reason = (
        f"{evidence.errors} of {evidence.checks} compared answers disagreed, "
        f"and {evidence.allowed:.1%} may"
    )  # fmt: skip
    return Move("promote", STAGES[rank(state.stage) + 1], state.version, "rule", reason)


def first_stage(state: State, settings: LifecycleSettings) -> Stage:
    """The stage in which a new version starts."""
    if rank(state.stage) <= rank("shadow"):
        return settings.start
    return min(state.stage, settings.refit_start, key=rank)  # not further on than the one it takes over from


def rank(stage: Stage) -> int:
    """How far on a stage is, from 0."""
    return STAGES.index(stage)

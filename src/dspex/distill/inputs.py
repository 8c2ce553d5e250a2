"""Watches for drift of the inputs, by native answers alone.

One process of a home looks at a time, at a share of its own calls, and keeps in the home what it has come to:
whoever looks next goes on from there. So a false alarm is as rare over all of them as it is over one.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any

from dspex.distill.plan import Plan
from dspex.distill.references import drift_label, drift_reference
from dspex.distill.store import Store
from dspex.errors import ConfigError, InputError, ResourceError
from dspex.guarantee.drift import DriftReference, DriftWatch
from dspex.result import Result
from dspex.signature import Signature

__all__ = ["InputWatch", "VersionDrift"]

_FIRST = 1000  # calls that are the reference of a version whose rows cannot be one
_EVERY = 30.0  # seconds between two writings


class VersionDrift:
    """The watch on the inputs of one version.

    A program that has learned from the rows that certify it ("cross") is surer of them than of calls, so that
    they are no reference. Its first calls in service are one instead.

    Args:
        signature: of its program.
        reference: of the rows that certified it; None: they are none.
        delta: chance of a false alarm, over all time.
        data: what `to_dict` gave, to go on from. One of another delta is begun anew.
    """

    def __init__(
        self,
        signature: Signature,
        reference: Mapping[str, Any] | None,
        delta: float,
        data: Mapping[str, Any] | None = None,
    ) -> None:
        data = data or {}
        self._signature, self._delta = signature, delta
        self._first: list[tuple[float, str | None]] = [
            (score, label) for score, label in data.get("first", ())
        ]
        self._watch: DriftWatch | None = None
        self._own = None if reference is not None else data.get("reference")
        found = reference if reference is not None else self._own
        if found is not None:
            self._watch = _resumed(DriftReference.from_dict(found), delta, data.get("watch"))

    def update(self, result: Result) -> bool:
        """Takes in a native answer; whether that raised the alarm."""
        score = result.gate_score
        if score is None:
            return False
        label = drift_label(self._signature, result)
        if self._watch is not None:
            before = self._watch.alarmed
            return self._watch.update(score, label) and not before
        self._first.append((score, label))
        if len(self._first) >= _FIRST:
            self._begin()
        return False

    def _begin(self) -> None:
        scores, labels = zip(*self._first, strict=True)
        reference = drift_reference(self._signature, scores, labels)
        self._own, self._first = reference.to_dict(), []
        self._watch = DriftWatch(reference, self._delta)

    def report(self) -> dict[str, Any]:
        """As `DriftWatch.report`; before there is a reference, its "n" is 0."""
        if self._watch is not None:
            return self._watch.report()
        text = (
            f"Calls are compared with the first {_FIRST:,} that were looked at, and so far there are "
            f"{len(self._first):,}."
        )
        return {
            "alarm": False, "n": 0, "alarmed_at": None, "since": None, "evidence": 1.0,
            "limit": 1 / self._delta, "text": text,
        }  # fmt: skip

    def to_dict(self) -> dict[str, Any]:
        """All that has to be kept beside the version, as JSON-able data."""
        watch = None if self._watch is None else self._watch.state()
        return {"first": self._first, "reference": self._own, "watch": watch}


class InputWatch:
    """The watch on the inputs of the version in service, for one process of a home."""

    def __init__(self, store: Store, delta: float) -> None:
        self._store, self._delta = store, delta
        self._seat: ExitStack | None = None
        self._version: int | None = None
        self._drift: VersionDrift | None = None
        self._written, self._changed = 0.0, False

    def look(self, plan: Plan) -> dict[str, Any] | None:
        """Takes in the calls that a plan has sampled; the report of an alarm that this raised.

        Once that is told, `write` is to follow: an alarm that is kept is not told again.
        """
        version = plan.state.version
        if version is None or plan.guarded is None:
            return None
        if not self._seated():
            plan.samples.clear()
            return None
        if self._version != version:
            self.write()
            self._drift, self._version = self._of(plan), version
        assert self._drift is not None
        raised = False
        while plan.samples:
            raised |= self._drift.update(plan.samples.popleft())
            self._changed = True
        if raised:
            return self._drift.report()
        if time.monotonic() - self._written >= _EVERY:
            self.write()
        return None

    def report(self, plan: Plan) -> dict[str, Any] | None:
        """What is known of the version in service: here, or else in the home; None without a version."""
        if plan.state.version is None or plan.guarded is None:
            return None
        here = self._drift is not None and self._version == plan.state.version
        drift = self._drift if here else self._of(plan)
        assert drift is not None
        return drift.report()

    def write(self) -> None:
        """Keeps in the home what has been come to."""
        self._written = time.monotonic()
        if self._changed and self._drift is not None and self._version is not None:
            self._store.drift.write(self._version, self._drift.to_dict())
            self._changed = False

    def close(self) -> None:
        """Writes, and leaves the seat to another process."""
        self.write()
        self.leave()

    def leave(self) -> None:
        """Leaves the seat as it is: in a forked child, it is the parent's."""
        if self._seat is not None:
            self._seat.close()
        self._seat = self._version = self._drift = None
        self._changed = False

    def _seated(self) -> bool:
        if self._seat is None:
            seat = ExitStack()
            try:
                seat.enter_context(self._store.drift.seat())
            except ResourceError:
                return False
            self._seat, self._written = seat, time.monotonic()
        return True

    def _of(self, plan: Plan) -> VersionDrift:
        assert plan.state.version is not None
        assert plan.guarded is not None
        return VersionDrift(
            plan.guarded.program.signature,
            plan.reference,
            self._delta,
            self._store.drift.read(plan.state.version),
        )


def _resumed(reference: DriftReference, delta: float, state: Mapping[str, Any] | None) -> DriftWatch:
    try:
        return DriftWatch(reference, delta, state=state)
    except (ConfigError, InputError):  # of another delta
        return DriftWatch(reference, delta)

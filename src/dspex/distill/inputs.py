"""Watches for drift of the inputs, by native answers alone.

One process of a home looks at a time, at a share of its own calls, and keeps in the home what it has come to:
whoever looks next goes on from there. So a false alarm is as rare over all of them as it is over one. A
process that has no calls leaves the seat to those that have.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from typing import Any

from dspex.distill.hooks import log
from dspex.distill.plan import Plan
from dspex.distill.references import drift_label, drift_reference
from dspex.distill.store import Event, Store
from dspex.errors import ConfigError, InputError, ModelFileError, ResourceError
from dspex.guarantee.drift import DriftReference, DriftWatch
from dspex.result import Result
from dspex.signature import Signature

__all__ = ["InputWatch", "VersionDrift"]

_FIRST = 1000  # calls that are the reference of a version whose rows cannot be one
_EVERY = 30.0  # seconds between two writings
_IDLE = 60.0  # seconds without a call after which the seat is left


class VersionDrift:
    """The watch on the inputs of one version.

    A program that has learned from the rows that certify it ("cross") is surer of them than of calls, so that
    they are no reference. Its first calls in service are one instead.

    Args:
        signature: of its program.
        reference: of the rows that certified it; None: they are none.
        delta: chance of a false alarm, over all time.
        data: what `to_dict` gave, to go on from. One of another delta is begun anew.

    Raises:
        InputError: `reference` or `data` is damaged.
    """

    def __init__(
        self,
        signature: Signature,
        reference: Mapping[str, Any] | None,
        delta: float,
        data: Mapping[str, Any] | None = None,
    ) -> None:
        data = {} if data is None else data
        if not isinstance(data, Mapping):
            raise InputError(f"what is known of drift must be a mapping, not {type(data).__name__}")
        self._signature, self._delta = signature, delta
        self._first = [_looked_at(pair) for pair in data.get("first") or ()]
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
    """The watch on the inputs of the version in service, for one process of a home.

    Args:
        delta: of each version's watch.
        clock: seconds since the epoch.
    """

    def __init__(self, store: Store, delta: float, clock: Callable[[], float]) -> None:
        self._store, self._delta, self._clock = store, delta, clock
        self._seat: ExitStack | None = None
        self._version: int | None = None
        self._drift: VersionDrift | None = None
        self._written = self._called = 0.0
        self._changed = self._untold = False

    def look(self, plan: Plan) -> None:
        """Takes in the calls that a plan has sampled. An alarm that they raise is written with its event.

        Raises:
            ResourceError, ModelFileError: the home cannot be read or written; looking again goes on.
        """
        version = plan.state.version
        if version is not None and plan.samples:
            if self._seated():
                self._take_in(plan, version)
            else:
                plan.samples.clear()
        elif self._seat is not None and time.monotonic() - self._called >= _IDLE:
            self.write()
            self.leave()
        if self._untold or time.monotonic() - self._written >= _EVERY:
            self.write()

    def _take_in(self, plan: Plan, version: int) -> None:
        if self._version != version:
            self.write()
            self._drift, self._version = self._of(plan, version), version
        assert self._drift is not None
        while plan.samples:
            self._untold |= self._drift.update(plan.samples.popleft())
            self._changed = True
        self._called = time.monotonic()

    def report(self, plan: Plan) -> dict[str, Any] | None:
        """What is known of the version in service: here, or else in the home; None without a version."""
        if plan.state.version is None or plan.guarded is None:
            return None
        if self._drift is not None and self._version == plan.state.version:
            return self._drift.report()
        return self._of(plan, plan.state.version).report()

    def write(self) -> None:
        """Keeps in the home what has been come to: an alarm and its event together, so it is told once."""
        self._written = time.monotonic()
        if self._changed and self._drift is not None and self._version is not None:
            event = self._alarm(self._drift) if self._untold else None
            self._store.drift.write(self._version, self._drift.to_dict(), event)
            self._changed = self._untold = False

    def _alarm(self, drift: VersionDrift) -> Event:
        report = drift.report()
        return Event(self._clock(), "drift", "watch", report["text"], {}, report)

    def close(self) -> None:
        """Writes, and leaves the seat to another process."""
        try:
            self.write()
        finally:
            self.leave()

    def leave(self) -> None:
        """Leaves the seat as it is: in a forked child, it is the parent's."""
        if self._seat is not None:
            self._seat.close()
        self._seat = self._version = self._drift = None
        self._changed = self._untold = False

    def _seated(self) -> bool:
        if self._seat is None:
            seat = ExitStack()
            try:
                seat.enter_context(self._store.drift.seat())
            except ResourceError:
                return False
            self._seat, self._written = seat, time.monotonic()
        return True

    def _of(self, plan: Plan, version: int) -> VersionDrift:
        """As the home has it. What is damaged there is begun anew: a watch is no reason not to serve."""
        assert plan.guarded is not None
        signature = plan.guarded.program.signature
        try:
            return VersionDrift(signature, plan.reference, self._delta, self._store.drift.read(version))
        except (InputError, ModelFileError) as error:
            log.warning("the drift watch of version %s cannot be read and begins anew: %s", version, error)
        try:
            return VersionDrift(signature, plan.reference, self._delta)
        except InputError:  # it is the reference that is damaged
            return VersionDrift(signature, None, self._delta)


def _looked_at(pair: Any) -> tuple[float, str | None]:
    """(score, label) of a call."""
    if isinstance(pair, list | tuple) and len(pair) == 2:
        score, label = pair
        if isinstance(score, float | int) and 0 <= score <= 1 and isinstance(label, str | None):
            return float(score), label
    raise InputError(f"{pair!r} is no score with its label")


def _resumed(reference: DriftReference, delta: float, state: Mapping[str, Any] | None) -> DriftWatch:
    try:
        return DriftWatch(reference, delta, state=state)
    except (ConfigError, InputError):  # of another delta
        return DriftWatch(reference, delta)

"""Keeps a live program's plan in step with its store: looks at audits, moves by the rules, tells."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from dspex.distill import lifecycle
from dspex.distill.hooks import Hooks, log
from dspex.distill.inputs import InputWatch
from dspex.distill.monitor import Monitor
from dspex.distill.plan import Plan, plan_of, without_version
from dspex.distill.rules import next_move
from dspex.distill.settings import DistillSettings
from dspex.distill.store import State, Store
from dspex.distill.tally import Costs
from dspex.errors import DspexError, ResourceError

__all__ = ["Keeper"]

_LATELY = 100  # answers of earlier processes that say what the teacher takes
_RETIRED = 600.0  # seconds that calls may still be under way by a plan that has been replaced


class Keeper:
    """Holds the plan. Its methods are called by the background thread, and by who moves the program.

    Attributes:
        plan: that calls follow; replaced whole.
        closed: whether the program has ended.
    """

    def __init__(
        self,
        store: Store,
        settings: DistillSettings,
        costs: Costs,
        *,
        seed: int | None,
        clock: Callable[[], float],
    ) -> None:
        self._store, self._settings, self._costs = store, settings, costs
        self._seed, self._clock = seed, clock
        self._lock = threading.RLock()
        self.hooks = Hooks()
        self.inputs = InputWatch(store, settings.lifecycle.audit_delta, clock)
        self.closed = False
        self._newer: int | None = None
        self._old: list[tuple[float, Plan]] = []
        self._past: dict[str, float] = {}
        self._saved_upto = -1
        self._told, self._looked = self._newest_event(), -1
        for trace in store.traces(newest=_LATELY):
            costs.add(*(_each(cost, trace.count) for cost in (trace.answer.usd, trace.answer.seconds)))
        if costs.medians() == (None, None):
            costs.add(*_usual(store))
        self.plan = plan_of(store, store.state(), settings, seed)
        self.monitor = self._monitor(self.plan)
        if self.plan.weaker is not None:
            self._step()  # said, and seen by all, before the first call

    # Moving

    def moved_by(self, move: Callable[[], State]) -> None:
        """Makes a move of a user's, and follows it at once."""
        with self._lock:
            self._save()
            move()
            self._follow()
        self.tell()

    def look(self) -> None:
        """Takes in what was audited, and makes the moves that the rules ask for."""
        with self._lock:
            self.monitor.catch_up()
            while self._step():
                pass
        self.tell()

    def _step(self) -> bool:
        state = self.plan.state
        move = next_move(
            state, self.monitor.evidence(self._newer, self.plan.weaker), self._settings.lifecycle
        )
        if move is None:
            return False
        try:
            lifecycle.apply(self._store, state, move, self.monitor.saved(), self._clock())
        except ResourceError as error:
            if not error.retryable:
                raise
            log.info("another process moved first: %s", error)
        self._follow()
        self.monitor.catch_up()
        return self.plan.state.revision != state.revision

    def refresh(self) -> None:
        """Follows what other processes moved, and sees what versions there are."""
        with self._lock:
            self._follow()
            newest = self._newest_event()
            if newest != self._looked:  # each change of the versions is an event; reading them takes longer
                found = lifecycle.newer_version(self._store, self.plan.state, self._settings.guarantee)
                self._newer, self._looked = (None if found is None else found.number), newest

    def _newest_event(self) -> int:
        newest = self._store.events(limit=1)
        return int(newest[-1].id or 0) if newest else 0

    def _follow(self) -> None:
        state = self._store.state()
        if state.revision == self.plan.state.revision:
            return
        plan = self._planned(state, self.plan)
        self._old.append((time.monotonic(), self.plan))
        self.plan = plan
        self.monitor = self._monitor(plan)
        if self._newer is not None and state.version is not None and state.version >= self._newer:
            self._newer = None

    def _planned(self, state: State, before: Plan | None) -> Plan:
        try:
            return plan_of(self._store, state, self._settings, self._seed, before)
        except DspexError as error:
            # Without its file a version cannot answer; the teacher can.
            log.error("version %s cannot be put in service: %s", state.version, error)
            return without_version(state, self._settings, self._seed)

    def _monitor(self, plan: Plan) -> Monitor:
        settings = self._settings
        agreement = (
            settings.guarantee.agreement if plan.guarded is None else plan.guarded.certificate.agreement
        )  # fmt: skip
        return Monitor(self._store, plan.state, agreement, settings.lifecycle.audit_delta)

    # At intervals

    def tick(self) -> None:
        """All that is to be done about once a second."""
        self.refresh()
        self.look()
        self.drift()
        with self._lock:
            self._save()
        self.flush()
        if self.closed:  # nothing comes after the last tick
            self._leave()
        self.tell()

    def _save(self) -> None:
        """Saves what the monitor has come to, so that the next process need not read the whole log."""
        saved = self.monitor.saved()
        if self.plan.state.version is None or saved["upto"] == self._saved_upto:
            return
        self._store.add_audits([], saved, revision=self.plan.state.revision)
        self._saved_upto = saved["upto"]

    def _leave(self) -> None:
        with self._lock:
            try:
                self.inputs.close()
            except (DspexError, OSError) as error:
                log.warning("what the watch on drift has come to is not kept: %s", error)

    def drift(self) -> None:
        """Shows the sampled calls to the drift watch; its alarm is an event."""
        with self._lock:
            try:
                self.inputs.look(self.plan)
            except (DspexError, OSError) as error:  # counters, moves and learning go on
                log.warning("the watch on drift is held up: %s", error)

    def drift_report(self) -> dict[str, Any] | None:
        """What is known of drift of the inputs; None without a version in service."""
        with self._lock:
            return self.inputs.report(self.plan)

    def flush(self) -> None:
        """Writes the counters."""
        with self._lock:
            now = time.monotonic()
            plans = [*(plan for _, plan in self._old), self.plan]
            for since, plan in self._old:
                if now - since >= _RETIRED:
                    _add(self._past, plan.tally.values())
            self._old = [(since, plan) for since, plan in self._old if now - since < _RETIRED]
            usd, seconds = self._costs.medians()
            for plan in plans:
                counts = plan.tally.unflushed()
                native = counts.get("native", 0)
                if native:
                    counts["usd_saved"] = native * (usd or 0.0)
                    counts["seconds_saved"] = native * (seconds or 0.0)
                if counts:
                    self._store.add_counts(counts, version=plan.state.version, stage=plan.state.stage)

    def tell(self) -> None:
        """Calls back for events that are new, whoever caused them."""
        with self._lock:
            events = self._store.events(since=self._told)
            if not events:
                return
            self._told = int(events[-1].id or self._told)
        for event in events:
            self.hooks.tell(event)

    # Ends

    def close(self) -> None:
        """No call is answered at once from now on."""
        with self._lock:
            self.closed = True
            self.plan = replace(self.plan, fast=None)

    def reborn(self) -> None:
        """In a forked child: locks, coins and counters of its own."""
        self._lock = threading.RLock()
        self.inputs.leave()
        self._old = []
        if self._seed is not None:
            self._seed += os.getpid()  # the parent goes on with its own coins
        # Anew from the store: another thread of the parent may have been half-way through a change.
        self.plan = self._planned(self._store.state(), None)
        self.monitor = self._monitor(self.plan)

    def counters(self) -> dict[str, float]:
        """What this process has counted, all plans together."""
        with self._lock:
            sums = dict(self._past)
            for plan in (*(plan for _, plan in self._old), self.plan):
                _add(sums, plan.tally.values())
        return sums


def _add(sums: dict[str, float], values: Mapping[str, float]) -> None:
    for name, value in values.items():
        sums[name] = sums.get(name, 0) + value


def _usual(store: Store) -> tuple[float | None, float | None]:
    """(US dollars, seconds) of an answer: the mean of all that a home has counted; None: not known."""
    sums: dict[str, float] = {}
    for each in store.usage():
        _add(sums, each.counts)
    answers = sums.get("asked", 0.0) + sums.get("audited", 0.0) - sums.get("failed", 0.0)
    usd, seconds = sums.get("usd", 0.0), sums.get("seconds", 0.0)
    return (usd / answers if answers and usd else None, seconds / answers if answers and seconds else None)


def _each(cost: float | None, count: int) -> float | None:
    """Of one answer, where equal ones are kept as one row."""
    return None if cost is None else cost / count

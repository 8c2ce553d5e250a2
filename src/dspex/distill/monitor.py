"""What the audits say of the version in service: a fold over the log of audits in the store.

Several processes may serve one home. Each adds its audits to the log, and each reads all of it, in order: so
all of them come to the same counts, the same evidence, and the same alarm. The state that is saved is a
place in the log and what it had come to there.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dspex.distill.rules import Evidence
from dspex.distill.store import State, Store
from dspex.guarantee.watch import ConfidenceSequence, Watch

__all__ = ["Monitor"]


class Monitor:
    """Watches the version in service from where the store's state has it.

    Args:
        agreement: that is guaranteed; delta: chance of a false alarm over all time.
    """

    def __init__(self, store: Store, state: State, agreement: float, delta: float) -> None:
        self._store, self._state = store, state
        self._kept: dict[str, Any] = dict(state.watch)
        saved = self._kept.get("watch")
        same = saved is not None and (saved["agreement"], saved["delta"]) == (agreement, delta)
        self._watch = Watch(agreement, delta, saved if same else None)
        self._upto = int(self._kept.get("upto", 0))
        self._checks = int(self._kept.get("checks", 0))
        self._errors = int(self._kept.get("errors", 0))

    def catch_up(self) -> int:
        """Takes in the audits that have come since; how many."""
        version, stage, came = self._state.version, self._state.stage, 0
        if version is None:
            return 0
        for audit in self._store.audits(version, since=self._upto):
            assert audit.id is not None
            self._upto = audit.id
            self._watch.update(audit.wrong)
            came += 1
            if audit.stage == stage:
                self._checks += 1
                self._errors += audit.wrong
        return came

    def evidence(self, newer: int | None, weaker: str | None = None) -> Evidence:
        """For the rules; see `Evidence` for the arguments."""
        alarm = str(self._watch) if self._watch.alarmed else None
        return Evidence(
            self._checks,
            self._errors,
            self._watch.bound,
            alarm,
            bool(self._kept.get("breach")),
            newer,
            weaker,
        )

    def saved(self) -> dict[str, Any]:
        """For `State.watch`."""
        return {
            **self._kept,
            "upto": self._upto, "checks": self._checks, "errors": self._errors, "watch": self._watch.state(),
        }  # fmt: skip

    def report(self) -> dict[str, Any]:
        """What is known of the disagreement among answers that the gate lets through, as JSON-able data."""
        watch = self._watch
        sequence = ConfidenceSequence(watch.delta, expected=watch.bound)
        sequence = ConfidenceSequence.from_state({**sequence.state(), "n": watch.n, "errors": watch.errors})
        breach: Mapping[str, Any] | None = self._kept.get("breach")
        return {
            "n": watch.n, "errors": watch.errors, "bound": watch.bound, "interval": list(sequence.interval()),
            "capital": watch.capital, "alarmed": watch.alarmed, "breach": breach,
            "checks": self._checks, "check_errors": self._errors,
        }  # fmt: skip

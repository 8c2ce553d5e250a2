"""What the audits of the version in use say, replayed from the store's log."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from dspex.distill.settings import LifecycleSettings
from dspex.guarantee.watch import ConfidenceSequence, Watch

if TYPE_CHECKING:
    from dspex.distill.store import State, Store

__all__ = ["watch"]

_POINTS = 200


def watch(store: Store, state: State, agreement: float) -> dict[str, Any] | None:
    """The watch over the version in use; None without one.

    It is run again over the audits that the monitor has seen since the version came into service, and over
    those that came after: "series" has at most 200 moments of it. "capital" and "alarm_at" are natural
    logarithms.
    """
    if state.version is None:
        return None
    saved: Mapping[str, Any] = state.watch.get("watch") or {}
    agreement = float(saved.get("agreement", agreement))
    delta = float(saved.get("delta", LifecycleSettings().audit_delta))
    audits = _watched(store, state, saved)
    monitor, sequence = Watch(agreement, delta), ConfidenceSequence(delta, expected=1 - agreement)
    every = max(1, -(-len(audits) // _POINTS))
    series = []
    for number, (at, wrong) in enumerate(audits, 1):
        monitor.update(wrong)
        sequence.update(wrong)
        if number % every == 0 or number == len(audits):
            series.append({"n": number, "at": at, **_now(monitor, sequence)})
    return {
        "version": state.version,
        "audited": monitor.n,
        "wrong": monitor.errors,
        "target": agreement,
        "delta": delta,
        "alarm_at": -math.log(delta),
        "alarmed": monitor.alarmed or bool(state.watch.get("breach")),
        **_now(monitor, sequence),
        "series": series,
    }


def _watched(store: Store, state: State, saved: Mapping[str, Any]) -> list[tuple[float, bool]]:
    """Time and outcome of the audits that count: of this version, since it was put in service."""
    upto = int(state.watch.get("upto", 0))
    seen: list[tuple[float, bool]] = []
    after: list[tuple[float, bool]] = []
    for audit in store.audits(state.version):
        (seen if (audit.id or 0) <= upto else after).append((audit.at, audit.wrong))
    counted = int(saved.get("n", 0))
    return [*seen[len(seen) - min(counted, len(seen)) :], *after]


def _now(monitor: Watch, sequence: ConfidenceSequence) -> dict[str, Any]:
    low, high = sequence.interval()
    return {
        "agreement": 1 - monitor.errors / monitor.n if monitor.n else None,
        "low": 1 - high,
        "high": 1 - low,
        "capital": monitor.capital,
    }

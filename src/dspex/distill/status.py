"""Where a program stands, as JSON-able data: from the store alone, or from a live program over it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from dspex.distill.store import Store

if TYPE_CHECKING:
    from dspex.distill.auditor import Auditor
    from dspex.distill.keeper import Keeper
    from dspex.distill.tutor import Tutor

__all__ = ["status_of", "stored_status"]

_EVENTS = 20
_CERTIFICATE = (
    "agreement",
    "delta",
    "method",
    "rows",
    "accepted",
    "errors",
    "coverage",
    "upper_bound",
    "reason",
)


def stored_status(store: Store) -> dict[str, Any]:
    """What the store tells, whether anyone serves it or not.

    "stage", "version", "previous", "held", "since", "reason", "revision"; "certificate": a summary of that of
    the version in service, or None; "versions": number and status of each; "traces": as `Store.counts`;
    "usage": sums over all time; "coverage": of the calls that met a version, the share that its gate let
    through; "events": the newest 20.
    """
    state = store.state()
    usage: dict[str, float] = {}
    calls = deferred = 0.0
    for each in store.usage():
        for name, value in each.counts.items():
            usage[name] = usage.get(name, 0.0) + value
        if each.version is not None:
            calls += each.counts.get("native", 0.0) + each.counts.get("asked", 0.0)
            deferred += each.counts.get("deferred", 0.0)
    certificate = None if state.version is None else store.version(state.version).certificate
    return {
        "stage": state.stage, "version": state.version, "previous": state.previous, "held": state.held,
        "since": state.since, "reason": state.reason, "revision": state.revision,
        "certificate": _summary(certificate),
        "versions": [{"number": each.number, "status": each.status} for each in store.versions()],
        "traces": store.counts(),
        "usage": usage,
        "coverage": 1 - deferred / calls if calls else None,
        "events": [asdict(event) for event in store.events(limit=_EVENTS)],
    }  # fmt: skip


def status_of(store: Store, keeper: Keeper, tutor: Tutor, auditor: Auditor) -> dict[str, Any]:
    """The same, and what this process knows.

    "watch": of the monitor, with the limits of the disagreement; "drift": of the inputs, or None; "learning";
    "process": what this process has counted since it began, and its "background_errors".
    """
    keeper.flush()
    plan = keeper.plan
    return {
        **stored_status(store),
        "watch": None if plan.state.version is None else keeper.monitor.report(),
        "drift": keeper.drift_report(),
        "learning": tutor.report(plan.state),
        "process": {**keeper.counters(), "background_errors": auditor.errors},
    }


def _summary(certificate: Mapping[str, Any] | None) -> dict[str, Any] | None:
    if certificate is None:
        return None
    return {name: certificate[name] for name in _CERTIFICATE if name in certificate}

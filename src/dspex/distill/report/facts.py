"""Everything that a report shows of a home, as JSON-able data."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from dspex.distill.report.spending import usage
from dspex.distill.report.watching import watch

if TYPE_CHECKING:
    from dspex.distill.store import Event, State, Store, VersionRecord
    from dspex.signature import Field, Signature

__all__ = ["FORMAT", "facts"]

#: Rises when keys change their meaning.
FORMAT = 1
_EVENTS = 200
_MOVES = 400
_CLASSES = 1000
_PAIRS = 12
_CURVE = 200
_TOLD = ("stage", "version", "held")
_CERTIFIED = (
    "agreement", "delta", "method", "threshold", "thresholds", "rows", "accepted", "errors", "coverage",
    "upper_bound", "rows_needed", "reason", "risk", "test",
)  # fmt: skip


def facts(store: Store, *, now: float | None = None) -> dict[str, Any]:
    """What the report shows. docs/report.md lists the keys.

    Args:
        now: seconds since the epoch.

    Raises:
        ModelFileError: the store is damaged.
    """
    from dspex import __version__

    state, records = store.state(), store.versions()
    record = _told(state, records)
    events = store.events()
    agreement = None if record is None else record.certificate.get("agreement")
    watched = None if agreement is None else watch(store, state, agreement)
    classes = [] if record is None else _classes(record)
    return {
        "format": FORMAT,
        "made": time.time() if now is None else now,
        "dspex": __version__,
        "home": str(store.home),
        "signature": _signature(store.signature, len(classes)),
        "state": {name: value for name, value in state.to_dict().items() if name != "watch"},
        "rows": store.counts(),
        "guarantee": None if record is None else _guarantee(record),
        "classes": classes[:_CLASSES],
        "classes_left_out": max(0, len(classes) - _CLASSES),
        "boundary": [] if record is None else list(record.figures.get("boundary", []))[:_PAIRS],
        "usage": usage(store),
        "watch": watched,
        "drift": _drift(state, events),
        "versions": [_version(each, state) for each in reversed(records)],
        "stages": _stages(events)[-_MOVES:],
        "events": [_event(each) for each in reversed(events[-_EVENTS:])],
        "events_total": len(events),
    }


def _told(state: State, records: Sequence[VersionRecord]) -> VersionRecord | None:
    """The version that the report is about: the one in use, else the newest."""
    for record in records:
        if record.number == state.version:
            return record
    return records[-1] if records else None


def _signature(signature: Signature, seen: int) -> dict[str, Any]:
    outputs = {name: _output(field) for name, field in signature.outputs.items()}
    if len(outputs) == 1 and seen:
        (only,) = outputs.values()
        only["classes"] = only["classes"] or seen
    named = ", ".join(f"{name} ({_kind(output)})" for name, output in outputs.items())
    return {
        "inputs": list(signature.inputs),
        "outputs": outputs,
        "text": f"{', '.join(signature.inputs)} -> {named}",
    }


def _output(field: Field) -> dict[str, Any]:
    return {"kind": field.kind, "classes": len(field.classes) if field.classes else None}


def _kind(output: Mapping[str, Any]) -> str:
    count = output["classes"]
    return str(output["kind"]) if count is None else f"{count:,} class{'' if count == 1 else 'es'}"


def _guarantee(record: VersionRecord) -> dict[str, Any]:
    certificate = record.certificate
    thresholds = certificate.get("thresholds")
    covers = certificate.get("threshold") is not None or any(
        each is not None for each in (thresholds or {}).values()
    )
    return {
        "version": record.number,
        "covers": covers and record.status != "refused",
        **{name: certificate.get(name) for name in _CERTIFIED},
        "assumptions": list(certificate.get("assumptions", ())),
        "groups": _groups(certificate.get("groups") or {}),
        "curve": _thinned([_point(each) for each in certificate.get("curve", ())]),
    }


def _groups(groups: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """What is guaranteed of each group, those with the most rows first."""
    kept = ("threshold", "rows", "accepted", "errors", "upper_bound", "rows_needed")
    order = sorted(groups.items(), key=lambda item: (-item[1]["rows"], item[0]))[:_CLASSES]
    return [{"group": name, **{key: group[key] for key in kept}} for name, group in order]


def _point(given: Mapping[str, float] | Sequence[float]) -> dict[str, float]:
    names = ("threshold", "coverage", "agreement", "lower")
    if isinstance(given, Mapping):
        return {name: given[name] for name in names}
    return dict(zip(names, given, strict=True))


def _thinned(points: list[dict[str, float]]) -> list[dict[str, float]]:
    return points[:: max(1, -(-len(points) // _CURVE))]


def _classes(record: VersionRecord) -> list[dict[str, Any]]:
    return [{"class": name, **figures} for name, figures in record.figures.get("per_class", {}).items()]


def _version(record: VersionRecord, state: State) -> dict[str, Any]:
    certificate = record.certificate
    ready = record.status != "refused"
    return {
        "version": record.number,
        "made": record.created,
        "status": record.status,
        "parent": record.parent,
        "current": record.number == state.version,
        "rows_fit": record.rows_fit,
        "rows_calibrate": record.rows_calibrate,
        "coverage": certificate.get("coverage") if ready else None,
        "agreement": certificate.get("agreement") if ready else None,
        "delta": record.delta,
        "seconds": record.seconds,
        "reason": str(certificate.get("reason") or ""),
        "compared": record.figures.get("compared"),
    }


def _stages(events: Iterable[Event]) -> list[dict[str, Any]]:
    """The stages in the order in which they were entered; the first as it was before the first move."""
    moves: list[dict[str, Any]] = []
    for event in events:
        before, after = event.before.get("stage"), event.after.get("stage")
        if before is None or after is None:
            continue
        if not moves:
            moves.append({"at": event.at, "stage": before, "version": event.before.get("version")})
        found = {"at": event.at, "stage": after, "version": event.after.get("version")}
        if (found["stage"], found["version"]) != (moves[-1]["stage"], moves[-1]["version"]):
            moves.append(found)
    return moves


def _event(event: Event) -> dict[str, Any]:
    return {
        "at": event.at,
        "kind": event.kind,
        "by": event.by,
        "reason": event.reason,
        "change": _change(event.before, event.after),
    }


def _change(before: Mapping[str, Any], after: Mapping[str, Any]) -> str:
    """What an event changed of the state, in a few words."""
    parts = []
    for name in _TOLD:
        if name in after and name not in before:
            parts.append(f"{name} {_said(after[name])}")
        elif name in after and before[name] != after[name]:
            parts.append(f"{name} {_said(before[name])} → {_said(after[name])}")
    return ", ".join(parts)


def _said(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "none" if value is None else str(value)


def _drift(state: State, events: Sequence[Event]) -> dict[str, Any] | None:
    """The last word on drift since the version in use came into service; None without a version."""
    if state.version is None:
        return None
    found = None
    for event in events:
        if event.after.get("version") != event.before.get("version", event.after.get("version")):
            found = None  # another version has been put in service
        elif event.kind == "drift" and event.after.get("version", state.version) == state.version:
            found = event
    if found is None:
        return {"version": state.version, "alarm": False, "at": None, "text": "", "moved": []}
    return {
        "version": state.version,
        "alarm": True,
        "at": found.at,
        "text": found.reason,
        "moved": _moved(found.after),
    }


def _moved(report: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What moved, of all groups that are watched, most evidence first."""
    moves = [
        move for group in report.values() if isinstance(group, Mapping) for move in group.get("moved", ())
    ]
    kept = ("what", "direction", "reference", "lately", "part")
    return [
        {name: move.get(name) for name in kept}
        for move in sorted(moves, key=lambda move: -move.get("part", 0))
    ]

"""Moves of the lifecycle on a store: from any process, each one transaction with its event."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from dspex.distill.rules import STAGES, Move, first_stage, rank
from dspex.distill.settings import GuaranteeSettings, LifecycleSettings
from dspex.distill.store.records import Event, Stage, State
from dspex.distill.terms import wanted_of, weaker
from dspex.errors import ConfigError, ProgramError, nearest

if TYPE_CHECKING:
    from dspex.distill.store import Store, VersionRecord

__all__ = [
    "adopt",
    "apply",
    "demote",
    "hold",
    "moved_back",
    "newer_version",
    "outdated",
    "promote",
    "release",
    "rollback",
    "rows_stored",
]

_FORWARD, _BACK = {"adopted", "promoted"}, {"breach", "demoted", "withdrawn"}

# Keys of State.watch:
#   served: the highest version that has been in service; checks, errors: since the last move, see Evidence;
#   upto: the last audit that counts in them and in `watch` and `sequence`, the states of the monitors;
#   breach: {"at", "reason", "rows" stored by then}, once the version in service has breached;
#   last_breach: the same, for good: of a sample that was taken before it, nothing follows for calls after it.


def promote(
    store: Store,
    by: str,
    reason: str,
    to: Stage | None = None,
    *,
    settings: LifecycleSettings | None = None,
    at: float | None = None,
) -> State:
    """Moves the version in service on, by one stage or straight `to` one; takes it off hold.

    Without a version in service, the newest certified one is adopted. A version that has breached is watched
    anew.

    Args:
        by: "user:..." or "rule", for the audit log.
        settings: say in which stage a version that is adopted starts; the defaults when left out.
        at: seconds since the epoch; now when left out.

    Raises:
        ProgramError: there is no certified version, it guarantees less than the home keeps, or it stands as
            far on already.
        ConfigError: no such stage.
        ResourceError: another process moved in the meantime; retryable.
    """
    state = store.state()
    if state.version is None:
        found = newer_version(store, state)
        if found is None and state.previous is not None:
            found = _usable(store, state.previous)
        if found is None:
            raise ProgramError("no version is certified, so there is nothing to promote", hint=_why(store))
        stage = _known(to) if to else (settings or LifecycleSettings()).start
        if stage == "teacher":
            raise ProgramError("the teacher answers already", hint="Promote to shadow, canary or live")
        return _adopted(store, state, found, stage, by, reason, at, held=False)
    _usable(store, state.version)
    if to is None and state.stage == STAGES[-1]:
        raise ProgramError(f"version {state.version} is live already: there is no further stage")
    target = _known(to) if to else STAGES[rank(state.stage) + 1]
    if rank(target) <= rank(state.stage):
        raise ProgramError(
            f"version {state.version} is in stage {state.stage!r}, and {target!r} is no further",
            hint="demote moves it back",
        )
    watch = _fresh(store, state.watch) if state.watch.get("breach") else _recounted(state.watch)
    return _moved(store, state, "promoted", by, reason, at, stage=target, held=False, watch=watch)


def demote(store: Store, by: str, reason: str, to: Stage | None = None, *, at: float | None = None) -> State:
    """Moves the version in service back: to shadow, from there to teacher, or straight `to` a stage.

    In "teacher" no version is in service; the one that was is the previous one. The program is held there
    until `release` or `promote`: the rules would move it on again.

    Raises:
        ProgramError: it stands as far back already.
        ConfigError: no such stage.
        ResourceError: as `promote`.
    """
    state = store.state()
    target = _known(to) if to else STAGES[max(0, min(rank("shadow"), rank(state.stage) - 1))]
    if rank(target) >= rank(state.stage):
        raise ProgramError(
            f"the program is in stage {state.stage!r}, and {target!r} is no step back",
            hint="promote moves it on",
        )
    changes: dict[str, Any] = {"stage": target, "held": True, "watch": _recounted(state.watch)}
    if target == "teacher":
        changes |= {"version": None, "previous": state.version}
    return _moved(store, state, "demoted", by, reason, at, **changes)


def rollback(store: Store, by: str, reason: str, *, at: float | None = None) -> State:
    """Puts the previous version back in service, in the stage in which the program is; watched anew.

    Where only the teacher answers, in shadow.
    The version that is left is not adopted again by itself; `adopt` does it.

    Raises:
        ProgramError: there is no previous version, it has been retired, or guarantees less than the home
            keeps.
        ResourceError: as `promote`.
    """
    state = store.state()
    if state.previous is None:
        raise ProgramError(
            "there is no previous version to roll back to",
            hint="demote leaves the calls to the teacher" if state.version is not None else _why(store),
        )
    record = _usable(store, state.previous)
    before = record.parent if record.parent in {each.number for each in store.versions()} else None
    stage = "shadow" if state.stage == "teacher" else state.stage
    return _moved(
        store, state, "rolled back", by, reason, at,
        stage=stage, version=record.number, previous=before, watch=_fresh(store, state.watch),
    )  # fmt: skip


def adopt(
    store: Store,
    version: int,
    by: str,
    reason: str,
    *,
    settings: LifecycleSettings | None = None,
    at: float | None = None,
) -> State:
    """Puts a certified version in service in place of the present one, which becomes the previous.

    It starts in the stage that the settings say (`start`; `refit_start` where the present one is in canary or
    live), and is watched from the start.

    Raises:
        ProgramError: no such version, one that is not certified or guarantees less than the home keeps, or
            the one that is in service.
        ResourceError: as `promote`.
    """
    state = store.state()
    if version == state.version:
        raise ProgramError(f"version {version} is in service already")
    stage = first_stage(state, settings or LifecycleSettings())
    return _adopted(store, state, _usable(store, version), stage, by, reason, at)


def hold(store: Store, by: str, reason: str, *, at: float | None = None) -> State:
    """Keeps the program from moving on by itself. A breach still demotes it.

    Raises:
        ProgramError: it is held already.
        ResourceError: as `promote`.
    """
    state = store.state()
    if state.held:
        raise ProgramError("the program is held already", hint="release lets it move on again")
    return _moved(store, state, "held", by, reason, at, held=True)


def release(store: Store, by: str, reason: str, *, at: float | None = None) -> State:
    """Lets the program move on by itself again.

    Raises:
        ProgramError: it is not held.
        ResourceError: as `promote`.
    """
    state = store.state()
    if not state.held:
        raise ProgramError("the program is not held")
    return _moved(store, state, "released", by, reason, at, held=False)


def apply(store: Store, state: State, move: Move, watch: Mapping[str, Any], at: float) -> State:
    """Makes a move that the rules asked for.

    Args:
        state: that the rules saw; if another process has moved since, this one does not.
        watch: what the monitors know, for `State.watch`.

    Raises:
        ResourceError: another process moved first.
    """
    seen = replace(state, watch=dict(watch))
    if move.kind == "adopt":
        assert move.version is not None
        record = _ready(store, move.version)
        return _adopted(store, seen, record, move.stage, move.by, move.reason, at)
    if move.kind == "withdraw":
        again = _recounted(seen.watch)
        return _moved(store, seen, "withdrawn", move.by, move.reason, at, stage=move.stage, watch=again)
    if move.kind == "breach":
        breach = {"at": at, "reason": move.reason, "rows": rows_stored(store)}
        noted = _recounted(seen.watch) | {"breach": breach, "last_breach": breach}
        return _moved(store, seen, "breach", move.by, move.reason, at, stage=move.stage, watch=noted)
    again = _recounted(seen.watch)
    return _moved(store, seen, "promoted", move.by, move.reason, at, stage=move.stage, watch=again)


def moved_back(store: Store) -> str | None:
    """Why native answers are no replies any more; None: they are, or none has been one yet."""
    if rank(store.state().stage) > rank("shadow"):
        return None
    for event in reversed(store.events()):
        if event.kind in _FORWARD:
            return None
        if event.kind in _BACK:
            return f"the version was moved back ({event.kind}): {event.reason}"
    return None


def newer_version(
    store: Store, state: State, wanted: GuaranteeSettings | None = None
) -> VersionRecord | None:
    """The newest certified version that has not been in service yet and may be.

    Not one whose guarantee is weaker than what is wanted, and not one that was certified on calls from before
    the last breach.

    Args:
        wanted: None: what the home keeps.
    """
    wanted = wanted or wanted_of(store)
    served = max(int(state.watch.get("served", 0)), state.version or 0)
    for each in reversed(store.versions()):
        if each.number <= served:
            return None
        if each.status != "ready" or outdated(each.figures, state):
            continue
        if wanted is None or weaker(each, wanted) is None:
            return each
    return None


def rows_stored(store: Store) -> int:
    """How many rows were ever stored: what progress is measured by.

    The rows that are there now stay level once the oldest are dropped (`max_rows`, `max_age`). A repeat that
    is counted in an equal row, see `deduplicate`, is none; the calls that certify are a row each.
    """
    return int(store.counts()["last"])


def outdated(figures: Mapping[str, Any], state: State) -> bool:
    """Whether a version was certified on calls from before the last breach, by its figures."""
    breach: Mapping[str, Any] | None = state.watch.get("last_breach")
    sampled = figures.get("sampled_from")
    return breach is not None and sampled is not None and float(sampled) < float(breach["at"])


def _adopted(
    store: Store,
    state: State,
    record: VersionRecord,
    stage: Stage,
    by: str,
    reason: str,
    at: float | None,
    **changes: Any,
) -> State:
    watch = _fresh(store, state.watch)
    watch["served"] = max(int(watch.get("served", 0)), record.number)
    previous = state.version if state.version is not None else state.previous
    previous = None if previous == record.number else previous
    return _moved(
        store, state, "adopted", by, reason, at,
        version=record.number, previous=previous, stage=stage, watch=watch, **changes,
    )  # fmt: skip


def _moved(
    store: Store, state: State, kind: str, by: str, reason: str, at: float | None, **changes: Any
) -> State:
    now = time.time() if at is None else at
    new = replace(state, **{"reason": reason, "since": now, **changes})
    event = Event(at=now, kind=kind, by=by, reason=reason, before=_shown(state), after=_shown(new))
    return store.move(state.revision, new, event)


def _shown(state: State) -> dict[str, Any]:
    return {
        "stage": state.stage, "version": state.version, "previous": state.previous, "held": state.held,
    }  # fmt: skip


def _usable(store: Store, number: int) -> VersionRecord:
    """A version that is ready and guarantees what the home keeps."""
    record, wanted = _ready(store, number), wanted_of(store)
    reason = None if wanted is None else weaker(record, wanted)
    if reason is not None:
        raise ProgramError(
            f"version {number} guarantees less than the home: {reason}",
            hint="Learn another one, or serve the home with settings that ask for what this one guarantees",
        )
    return record


def _ready(store: Store, number: int) -> VersionRecord:
    records = {each.number: each for each in store.versions()}
    record = records.get(number)
    if record is None:
        raise ProgramError(f"there is no version {number}", hint=nearest(str(number), map(str, records)))
    if record.status != "ready":
        raise ProgramError(
            f"version {number} is {record.status}",
            hint=str(record.certificate.get("reason", "")) or "Learn another one",
        )
    return record


def _why(store: Store) -> str:
    """Why there is no certified version."""
    tried = store.versions()
    if not tried:
        return "Nothing has been learned yet: learn a version first"
    return str(tried[-1].certificate.get("reason", "")) or f"version {tried[-1].number} is {tried[-1].status}"


def _known(stage: str) -> Stage:
    for each in STAGES:
        if each == stage:
            return each
    raise ConfigError(f"there is no stage {stage!r}", field="to", hint=nearest(stage, STAGES))


def _recounted(watch: Mapping[str, Any]) -> dict[str, Any]:
    """The same watch; the checks of the stage begin anew."""
    return {**watch, "checks": 0, "errors": 0}


def _fresh(store: Store, watch: Mapping[str, Any]) -> dict[str, Any]:
    """A watch that begins with the next audit."""
    last = next(store.audits(newest=1), None)
    upto = 0 if last is None else last.id
    kept = {name: watch[name] for name in ("served", "last_breach") if name in watch}
    return {**kept, "checks": 0, "errors": 0, "upto": upto}

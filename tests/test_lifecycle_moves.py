"""Moves by hand on a store alone, as another process makes them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from dspex.distill import lifecycle
from dspex.distill.rules import Move
from dspex.distill.settings import LifecycleSettings
from dspex.distill.store import Audit, Event, Store
from dspex.errors import ConfigError, ProgramError, ResourceError
from live_tools import add_version, home, stage_of


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with home(tmp_path) as opened:
        yield opened


def last(store: Store) -> Event:
    return store.events(limit=1)[0]


def audit(store: Store, version: int, n: int = 1) -> None:
    said = {"label": "apple"}
    store.add_audits([Audit(0.0, version, "live", 0.9, said, said, False)] * n)


def test_a_version_moves_on_stage_by_stage(store: Store) -> None:
    add_version(store)
    for stage in ("shadow", "canary", "live"):
        state = lifecycle.promote(store, "user:ann", "looks good")
        assert (state.stage, state.version) == (stage, 1)
        assert state == store.state()
    with pytest.raises(ProgramError, match="live already"):
        lifecycle.promote(store, "user:ann", "more")
    assert [event.kind for event in store.events()] == ["version made", "adopted", "promoted", "promoted"]
    event = last(store)
    assert (event.by, event.reason) == ("user:ann", "looks good")
    assert (event.before["stage"], event.after["stage"]) == ("canary", "live")


def test_straight_to_a_stage(store: Store) -> None:
    add_version(store)
    assert lifecycle.promote(store, "u", "r", "live").stage == "live"
    assert lifecycle.demote(store, "u", "r", "canary").stage == "canary"
    with pytest.raises(ProgramError, match="no further"):
        lifecycle.promote(store, "u", "r", "shadow")
    with pytest.raises(ProgramError, match="no step back"):
        lifecycle.demote(store, "u", "r", "live")
    for move in (lifecycle.promote, lifecycle.demote):
        with pytest.raises(ConfigError, match=r"no stage 'lvie'.*Did you mean 'live'"):
            move(store, "u", "r", "lvie")  # type: ignore[arg-type]


def test_demoted_is_held_until_released_or_promoted(store: Store) -> None:
    add_version(store)
    lifecycle.promote(store, "u", "r", "live")
    state = lifecycle.demote(store, "u", "odd answers")
    assert (state.stage, state.held) == ("shadow", True)
    assert lifecycle.release(store, "u", "fixed").held is False
    lifecycle.demote(store, "u", "again")
    assert stage_of(store) == ("teacher", None)
    assert store.state().previous == 1
    with pytest.raises(ProgramError, match="no step back"):
        lifecycle.demote(store, "u", "again")
    state = lifecycle.promote(store, "u", "back")
    assert (state.stage, state.version, state.previous, state.held) == ("shadow", 1, None, False)


def test_rollback(store: Store) -> None:
    add_version(store)
    lifecycle.promote(store, "u", "r", "live")
    add_version(store, parent=1)
    rules = LifecycleSettings(refit_start="live")
    state = lifecycle.adopt(store, 2, "u", "newer", settings=rules)
    assert (state.stage, state.version, state.previous) == ("live", 2, 1)
    assert lifecycle.newer_version(store, state) is None
    state = lifecycle.rollback(store, "u", "worse")
    assert (state.stage, state.version, state.previous) == ("live", 1, None)
    assert last(store).kind == "rolled back"
    assert lifecycle.newer_version(store, state) is None, "what was left must not come back by itself"
    with pytest.raises(ProgramError, match="no previous version"):
        lifecycle.rollback(store, "u", "worse still")
    assert lifecycle.adopt(store, 2, "u", "was fine").version == 2


def test_rollback_from_the_teacher_starts_in_shadow(store: Store) -> None:
    add_version(store)
    lifecycle.promote(store, "u", "r", "live")
    lifecycle.demote(store, "u", "r", "teacher")
    assert (lifecycle.rollback(store, "u", "r").stage, store.state().version) == ("shadow", 1)


def test_adoption_takes_the_newest_certified_version(store: Store) -> None:
    add_version(store)
    add_version(store)
    add_version(store, refused=True)
    found = lifecycle.newer_version(store, store.state())
    assert found is not None
    assert found.number == 2
    assert lifecycle.promote(store, "u", "r").version == 2
    with pytest.raises(ProgramError, match="in service already"):
        lifecycle.adopt(store, 2, "u", "r")
    with pytest.raises(ProgramError, match=r"version 3 is refused.*too few rows"):
        lifecycle.adopt(store, 3, "u", "r")
    with pytest.raises(ProgramError, match="no version 9"):
        lifecycle.adopt(store, 9, "u", "r")


def test_hold_and_release(store: Store) -> None:
    with pytest.raises(ProgramError, match="not held"):
        lifecycle.release(store, "u", "r")
    assert lifecycle.hold(store, "u", "holidays").held
    assert (last(store).kind, last(store).after["held"]) == ("held", True)
    with pytest.raises(ProgramError, match="held already"):
        lifecycle.hold(store, "u", "r")


@pytest.mark.parametrize("move", [lifecycle.promote, lifecycle.rollback])
def test_nothing_to_move(store: Store, move: Callable[..., Any]) -> None:
    with pytest.raises(ProgramError, match="learn a version first"):
        move(store, "u", "r")
    add_version(store, refused=True)
    with pytest.raises(ProgramError, match="too few rows"):
        move(store, "u", "r")
    assert store.state().revision == 0


def test_who_decided_on_an_older_state_does_not_move(store: Store) -> None:
    add_version(store)
    lifecycle.promote(store, "u", "r", "canary")
    seen = store.state()
    lifecycle.demote(store, "other", "careful")
    move = Move("promote", "live", 1, "rule", "all is well")
    with pytest.raises(ResourceError, match="moved meanwhile") as caught:
        lifecycle.apply(store, seen, move, seen.watch, 0.0)
    assert caught.value.retryable
    assert stage_of(store) == ("shadow", 1)
    assert last(store).kind == "demoted"


def test_a_breach_is_noted_and_a_promotion_by_hand_watches_anew(store: Store) -> None:
    add_version(store)
    lifecycle.promote(store, "u", "r", "live")
    audit(store, 1, 7)
    state = store.state()
    breach = Move("breach", "shadow", 1, "watch", "5 of 9 wrong")
    watch = {**state.watch, "upto": 5, "checks": 5, "errors": 5, "watch": {"n": 5}}
    state = lifecycle.apply(store, state, breach, watch, 12.0)
    assert (state.stage, state.version, state.reason, state.held) == ("shadow", 1, "5 of 9 wrong", False)
    assert state.watch["breach"] == {"at": 12.0, "reason": "5 of 9 wrong", "rows": 0}
    assert (state.watch["checks"], state.watch["errors"]) == (0, 0)
    assert (last(store).kind, last(store).by) == ("breach", "watch")
    state = lifecycle.promote(store, "u", "the teacher was wrong")
    assert "breach" not in state.watch
    assert "watch" not in state.watch
    assert state.watch["upto"] == 7, "only audits from now on count"
    assert state.watch["last_breach"]["at"] == 12.0
    assert state.watch["served"] == 1


def test_a_retired_version_is_not_used(store: Store) -> None:
    add_version(store)
    lifecycle.promote(store, "u", "r")
    add_version(store, parent=1, retired=True)  # as learning leaves one that covers less
    assert lifecycle.newer_version(store, store.state()) is None
    with pytest.raises(ProgramError, match="version 2 is retired"):
        lifecycle.adopt(store, 2, "u", "r")
    with pytest.raises(ProgramError, match="no previous version"):
        lifecycle.rollback(store, "u", "r")
    assert stage_of(store) == ("shadow", 1)

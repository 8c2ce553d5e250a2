"""The rules: which move follows from where a program stands and what has been seen."""

from __future__ import annotations

from typing import Any

import pytest

from dspex.distill.rules import STAGES, Evidence, first_stage, next_move, rank
from dspex.distill.settings import LifecycleSettings
from dspex.distill.store import State

RULES = LifecycleSettings(shadow_checks=100, canary_checks=50)


def state(stage: str = "shadow", version: int | None = 1, **others: Any) -> State:
    return State(stage=stage, version=version, **others)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("stage", "checks", "errors", "leads_to"),
    [
        ("shadow", 99, 0, None),
        ("shadow", 100, 0, "canary"),
        ("shadow", 100, 5, "canary"),
        ("shadow", 100, 6, None),  # more than may be: more checks will tell
        ("canary", 49, 0, None),
        ("canary", 50, 2, "live"),
        ("canary", 50, 3, None),
        ("live", 10_000, 0, None),
    ],
)
def test_forward(stage: str, checks: int, errors: int, leads_to: str | None) -> None:
    move = next_move(state(stage), Evidence(checks, errors, allowed=0.05), RULES)
    assert (move and move.stage) == leads_to
    if move is not None:
        assert (move.kind, move.version, move.by) == ("promote", 1, "rule")
        assert move.reason == f"{errors} of {checks} compared answers disagreed, and 5.0% may"


@pytest.mark.parametrize("stage", STAGES[1:])
@pytest.mark.parametrize("held", [False, True])
@pytest.mark.parametrize("automatic", [False, True])
def test_a_breach_is_never_held_up(stage: str, held: bool, automatic: bool) -> None:
    rules = LifecycleSettings(automatic=automatic)
    evidence = Evidence(500, 50, alarm="too many", newer=2)
    move = next_move(state(stage, held=held), evidence, rules)
    assert move is not None
    assert (move.kind, move.stage, move.version, move.by) == ("breach", "shadow", 1, "watch")
    assert move.reason == "too many"


def test_what_has_breached_waits_for_another_version() -> None:
    seen = Evidence(500, 0, alarm="too many", breached=True)
    assert next_move(state(), seen, RULES) is None
    move = next_move(state(), Evidence(500, 0, alarm="too many", breached=True, newer=2), RULES)
    assert move is not None
    assert (move.kind, move.version, move.stage) == ("adopt", 2, "shadow")


@pytest.mark.parametrize("how", [{"held": True}, {"automatic": False}])
def test_held_or_by_hand_nothing_moves_on(how: dict[str, bool]) -> None:
    rules = LifecycleSettings(automatic=how.get("automatic", True))
    held = state("shadow", held=how.get("held", False))
    assert next_move(held, Evidence(10_000, 0), rules) is None
    assert next_move(held, Evidence(10_000, 0, newer=3), rules) is None


@pytest.mark.parametrize(
    ("stage", "start", "refit_start", "first"),
    [
        ("teacher", "shadow", "canary", "shadow"),
        ("teacher", "live", "canary", "live"),
        ("shadow", "shadow", "live", "shadow"),
        ("canary", "shadow", "canary", "canary"),
        ("canary", "shadow", "live", "canary"),  # not further on than the one before it
        ("live", "shadow", "canary", "canary"),
        ("live", "shadow", "shadow", "shadow"),
        ("live", "live", "live", "live"),
    ],
)
def test_where_a_new_version_starts(stage: str, start: Any, refit_start: Any, first: str) -> None:
    rules = LifecycleSettings(start=start, refit_start=refit_start)
    now = state(stage, None if stage == "teacher" else 1)
    assert first_stage(now, rules) == first
    move = next_move(now, Evidence(newer=2), rules)
    assert move is not None
    assert (move.kind, move.stage, move.version) == ("adopt", first, 2)


def test_stages_are_in_order() -> None:
    assert [rank(stage) for stage in STAGES] == [0, 1, 2, 3]


def test_nothing_moves_without_a_version() -> None:
    assert next_move(State(), Evidence(1000, 0), RULES) is None

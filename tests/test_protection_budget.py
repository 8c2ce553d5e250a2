"""What a program may spend in a window."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dspex.config import BudgetSettings
from dspex.errors import ResourceError
from dspex.protection import Budget
from dspex.protection.window import RollingWindow
from test_pool_tools import in_threads
from test_protection_tools import Clock


def a_budget(clock: Clock, **limits: float) -> Budget:
    return Budget(BudgetSettings(**limits), clock)


def used_up(budget: Budget) -> ResourceError | None:
    try:
        budget.check("intents")
    except ResourceError as error:
        return error
    return None


def test_tokens() -> None:
    budget = a_budget(Clock(), tokens=100)
    budget.charge(99, 5.0)
    budget.check("intents")
    budget.charge(1, None)
    with pytest.raises(ResourceError) as caught:
        budget.check("intents")
    error = caught.value
    assert (error.program, error.field, error.retryable) == ("intents", "budget.tokens", True)
    assert error.message == "the budget is used up: 100 of 100 tokens in 86400 s"


def test_usd() -> None:
    budget = a_budget(Clock(), usd=0.5, window=60)
    budget.charge(10**9, 0.25)
    budget.check("intents")
    budget.charge(None, 0.25)
    assert "0.5 of 0.5 US dollars" in str(used_up(budget))
    budget.charge(None, 0.1)
    error = used_up(budget)
    assert error is not None
    assert (error.field, error.message) == (
        "budget.usd",
        "the budget is used up: 0.6 of 0.5 US dollars in 60 s",
    )


def test_both() -> None:
    budget = a_budget(Clock(), usd=0.5, tokens=10)
    budget.charge(20, 1.0)
    error = used_up(budget)
    assert error is not None
    assert "20 of 10 tokens and 1 of 0.5 US dollars" in error.message


def test_what_is_not_known_is_not_counted() -> None:
    budget = a_budget(Clock(), tokens=1, usd=0.1)
    budget.charge(None, None)
    budget.check(None)
    assert budget.stats()["refused"] == 0


@pytest.mark.parametrize("window", [60.0, 86_400.0])
def test_window(window: float) -> None:
    clock = Clock(0.0)
    budget = a_budget(clock, tokens=100, window=window)
    budget.charge(60, None)
    clock.sleep(window / 2)
    budget.charge(60, None)
    error = used_up(budget)
    assert error is not None
    assert error.retry_after is not None
    assert window / 2 <= error.retry_after <= window * (0.5 + 1 / 96) + 1e-6
    clock.sleep(window / 2 - 1e-3)
    assert used_up(budget) is not None
    clock.sleep(error.retry_after - window / 2 + 2e-3)
    budget.check(None)
    assert budget.stats()["tokens"] == 60


def test_retry_after_is_when_enough_of_it_is_free() -> None:
    clock = Clock(0.0)
    budget = a_budget(clock, tokens=100, window=96)  # slots of a second
    for _ in range(10):
        budget.charge(20, None)
        clock.sleep(1)
    error = used_up(budget)  # 200 of 100: six charges have to go
    assert error is not None
    assert error.retry_after == 97 + 5 - 10
    clock.sleep(error.retry_after - 0.5)
    assert used_up(budget) is not None
    clock.sleep(0.5)
    budget.check(None)


def test_of_tokens_and_money_the_one_that_takes_longer_says_when() -> None:
    for tokens, usd in [(0, 20.0), (20, 0.0), (20, 20.0)]:
        clock = Clock(0.0)
        budget = a_budget(clock, tokens=100, usd=100, window=96)
        for _ in range(10):
            budget.charge(tokens, usd)
            clock.sleep(1)
        error = used_up(budget)
        assert error is not None
        assert error.retry_after == 97 + 5 - 10
    budget.charge(1000, None)  # the latest charge has to go as well
    error = used_up(budget)
    assert error is not None
    assert error.retry_after == 97


def test_what_is_told_is_what_counts_now() -> None:
    clock = Clock(0.0)
    budget = a_budget(clock, tokens=100, window=96)
    budget.charge(50, None)
    clock.sleep(90)
    budget.charge(110, None)
    clock.sleep(10)
    error = used_up(budget)
    assert error is not None
    assert "110 of 100" in error.message
    clock.sleep(97)
    assert budget.stats()["tokens"] == 0


@given(
    limit=st.integers(1, 50),
    steps=st.lists(st.tuples(st.integers(0, 700), st.integers(0, 30)), max_size=60),
)
def test_what_was_let_through_in_any_window_was_let_through_below_the_limit(
    limit: int, steps: list[tuple[int, int]]
) -> None:
    """Against the plain list of charges: never too generous, and at most a slot too strict."""
    clock, charges = Clock(0.0), [(0.0, 0)]
    budget = a_budget(clock, tokens=limit, window=96)
    for tenths, tokens in steps:
        clock.sleep(tenths / 10)
        error = used_up(budget)
        strict = sum(amount for at, amount in charges if clock.now - at < 96)
        loose = sum(amount for at, amount in charges if clock.now - at < 97)
        if error is None:
            assert strict < limit
            budget.charge(tokens, None)
            charges.append((clock.now, tokens))
        else:
            assert loose >= limit
            assert error.retry_after is not None
            assert 0 < error.retry_after <= 97


@given(
    steps=st.lists(st.tuples(st.integers(0, 50), st.integers(0, 9), st.floats(0, 1)), max_size=100),
    slots=st.integers(1, 8),
)
def test_a_rolling_window_against_a_list(steps: list[tuple[int, int, float]], slots: int) -> None:
    window, now = RollingWindow(1.0, slots), 0.0
    events: list[tuple[int, int, float]] = []
    for tenths, first, second in steps:
        now += tenths / 10
        window.add(now, first, second)
        events.append((int(now), first, second))
        kept = [each for each in events if int(now) - each[0] < slots]
        assert window.first == sum(each[1] for each in kept)
        assert window.second == pytest.approx(sum(each[2] for each in kept))
    window.roll(now + slots)
    assert (window.first, window.second) == (0, 0)


def test_a_clock_that_stands_still_or_goes_back_forgets_nothing() -> None:
    window = RollingWindow(1.0, 3)
    for now in (5.0, 4.0, 5.0, 1.0):
        window.add(now, 1, 1)
    assert window.first == 4
    window.clear()
    assert (window.first, window.second) == (0, 0)


def test_threads_charge_together() -> None:
    budget = a_budget(Clock(), tokens=8000)
    in_threads(lambda _: [budget.charge(1, 0.5) for _ in range(1000)] and None, 8)
    stats = budget.stats()
    assert (stats["tokens"], stats["usd"]) == (8000, 4000.0)
    assert used_up(budget) is not None
    assert used_up(a_budget(Clock(), tokens=1)) is None
    assert json.loads(json.dumps(budget.stats())) == {
        "tokens": 8000,
        "usd": 4000.0,
        "limits": {"tokens": 8000, "usd": None},
        "window": 86_400.0,
        "refused": 1,
    }

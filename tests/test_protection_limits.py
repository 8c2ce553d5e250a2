"""How much of an LM may be used: token buckets and places, by a clock that the tests move."""

from __future__ import annotations

from contextlib import suppress
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dspex.config import LimitSettings
from dspex.errors import CallTimeoutError, ResourceError
from dspex.protection import NEVER, Deadline
from dspex.protection.limits import Limits, TokenBucket
from test_protection_tools import Clock, a_guard, admitted, succeed

STEPS = st.lists(st.tuples(st.integers(0, 40), st.integers(1, 5)), max_size=60)


@given(rate=st.integers(1, 9), size=st.integers(1, 9), steps=STEPS)
def test_a_bucket_gives_out_what_came_in_and_no_more_in_any_time(
    rate: int, size: int, steps: list[tuple[int, int]]
) -> None:
    """Against a bucket of exact fractions, and against its promise, for every pair of moments."""
    bucket, now = TokenBucket(rate, size, 0.0), 0.0
    exact, taken = Fraction(size), [(0.0, 0)]
    for tenths, tokens in steps:
        now += tenths / 10
        exact = min(Fraction(size), exact + Fraction(tenths * rate, 10))
        wait = bucket.wait(now, tokens)
        assert wait == pytest.approx(max(0.0, float((tokens - exact) / rate)), abs=1e-6)
        if wait == 0:
            bucket.take(now, tokens)
            exact -= tokens
            taken.append((now, tokens))
    for i, (begin, _) in enumerate(taken):
        for j in range(i, len(taken)):
            end = taken[j][0]
            assert sum(tokens for _, tokens in taken[i : j + 1]) <= rate * (end - begin) + size + 1e-6


@given(rate=st.floats(0.01, 1e4), size=st.floats(1, 100), ahead=st.integers(1, 50))
def test_after_the_wait_it_is_there(rate: float, size: float, ahead: int) -> None:
    bucket = TokenBucket(rate, size, 0.0)
    bucket.take(0.0, size + ahead)  # a debt
    assert bucket.level(0.0) == pytest.approx(-ahead)
    wait = bucket.wait(0.0, 1)
    assert wait == pytest.approx((1 + ahead) / rate)
    assert bucket.wait(wait * 0.99, 1) > 0
    assert bucket.wait(wait * 1.000001 + 1e-9, 1) == 0


def test_what_is_given_back_does_not_overfill() -> None:
    bucket = TokenBucket(1, 5, 0.0)
    bucket.take(0.0, 2)
    bucket.take(0.0, -4)
    assert bucket.level(0.0) == 5
    assert bucket.level(100.0) == 5


@given(
    per_minute=st.integers(1, 600),
    burst=st.none() | st.integers(1, 10),
    steps=st.lists(st.integers(0, 30), max_size=80),
)
def test_a_guard_lets_through_rate_times_time_plus_burst(
    per_minute: int, burst: int | None, steps: list[int]
) -> None:
    clock = Clock()
    guard = a_guard(clock, requests_per_minute=per_minute, burst=burst, max_wait=0)
    let_in: list[float] = []
    for tenths in steps:
        clock.sleep(tenths / 10)
        with suppress(ResourceError):
            guard.admit(NEVER).succeeded()
            let_in.append(clock.now)
    size = max(1.0, per_minute / 60 if burst is None else burst)
    for i, begin in enumerate(let_in):
        for j in range(i, len(let_in)):
            assert j - i + 1 <= per_minute / 60 * (let_in[j] - begin) + size + 1e-6


def test_requests_per_minute_and_what_is_told_when_there_are_no_more() -> None:
    clock = Clock()
    guard = a_guard(clock, requests_per_minute=30, max_wait=1)
    succeed(guard)
    with pytest.raises(ResourceError, match=r"LM 'fast' has no turn within 1 s: 0 requests") as caught:
        guard.admit(NEVER, "intents")
    assert (caught.value.retry_after, caught.value.program) == (pytest.approx(2), "intents")
    clock.sleep(2)
    succeed(guard)
    assert guard.stats()["refused"] == {"circuit": 0, "turn": 1, "deadline": 0}


def test_by_default_a_burst_is_what_comes_in_a_second_and_at_least_one() -> None:
    for per_minute, at_once in [(300, 5), (6, 1)]:
        guard = a_guard(Clock(), requests_per_minute=per_minute, max_wait=0)
        succeed(guard, at_once)
        with pytest.raises(ResourceError):
            guard.admit(NEVER)


def test_a_burst_of_its_own() -> None:
    clock = Clock()
    guard = a_guard(clock, requests_per_minute=60, burst=4, max_wait=0)
    for _ in range(2):
        succeed(guard, 4)
        with pytest.raises(ResourceError):
            guard.admit(NEVER)
        clock.sleep(4)
    guard = a_guard(Clock(), requests_per_minute=60, burst=0.25, max_wait=0)
    succeed(guard)  # less than one would let nobody through, ever


def test_tokens_are_taken_when_they_are_known_and_may_make_a_debt() -> None:
    clock = Clock()
    guard = a_guard(clock, tokens_per_minute=600, max_wait=0)  # 10 a second
    first = guard.admit(NEVER)
    first.succeeded(110)  # 10 were there: 100 lack
    with pytest.raises(ResourceError) as caught:
        guard.admit(NEVER)
    assert caught.value.retry_after == pytest.approx(10)
    clock.sleep(9.9)
    assert isinstance(guard.peek(), ResourceError)
    clock.sleep(0.2)
    assert guard.peek() is None
    guard.admit(NEVER).succeeded(1)


def test_requests_under_way_count_with_the_tokens_that_are_usual() -> None:
    """Or all who wait out a debt would go at once when it is paid."""
    clock = Clock()
    guard = a_guard(clock, tokens_per_minute=6000, max_wait=0)  # 100 a second
    guard.admit(NEVER).succeeded(50)
    permits = admitted(guard, 1)  # expects 50: now there are none
    with pytest.raises(ResourceError):
        guard.admit(NEVER)
    permits[0].succeeded(10)  # 40 of them come back
    permits = admitted(guard, 1)  # 42 are expected by now
    with pytest.raises(ResourceError) as caught:
        guard.admit(NEVER)
    assert caught.value.retry_after == pytest.approx(0.02)
    permits[0].succeeded()  # unknown: stays as expected
    with pytest.raises(ResourceError):
        guard.admit(NEVER)


@pytest.mark.parametrize("end", ["failed", "cancelled"])
def test_a_failed_request_used_no_tokens_a_cancelled_one_what_is_usual(end: str) -> None:
    guard = a_guard(Clock(), tokens_per_minute=6000, max_wait=0)
    guard.admit(NEVER).succeeded(100)
    guard = a_guard(clock := Clock(), tokens_per_minute=6000, max_wait=0)
    guard.admit(NEVER).succeeded(60)
    permit = guard.admit(NEVER)  # 40 - 60
    if end == "failed":
        permit.failed(ValueError(), counts=False)
        assert guard.peek() is None
    else:
        permit.cancelled()
        assert guard.peek() is not None
        clock.sleep(0.21)
        assert guard.peek() is None


def test_places() -> None:
    clock = Clock()
    guard = a_guard(clock, concurrency=2, max_wait=0)
    one, two = admitted(guard, 2)
    assert guard.stats()["under_way"] == 2
    with pytest.raises(ResourceError, match="2 requests are under way and 0 wait") as caught:
        guard.admit(NEVER)
    assert caught.value.retry_after is None  # nothing has ended yet
    clock.sleep(4)
    one.succeeded()
    one.succeeded()  # ends once
    three = guard.admit(NEVER)
    with pytest.raises(ResourceError) as caught:
        guard.admit(NEVER)
    assert caught.value.retry_after == pytest.approx(2)  # one ended in 4 s, there are two places
    two.failed(ValueError(), counts=False)
    three.cancelled()
    assert guard.stats()["under_way"] == 0
    admitted(guard, 2)
    assert guard.stats()["under_way"] == 0  # dropped permits end too


def test_a_wait_that_is_too_long_is_not_begun() -> None:
    """A turn that will come too late can be seen now: there is time left to ask another LM."""
    guard = a_guard(Clock(), requests_per_minute=60, max_wait=30)
    succeed(guard)
    with pytest.raises(ResourceError, match=r"before the deadline, in 0\.5 s") as caught:
        guard.admit(Deadline.after(0.5))
    assert caught.value.retry_after == pytest.approx(1)


def test_a_deadline_that_has_passed_comes_before_everything() -> None:
    for guard in (a_guard(), a_guard(concurrency=1)):
        with pytest.raises(CallTimeoutError, match="the wait for LM 'fast'") as caught:
            guard.admit(Deadline.after(0), "intents")
        assert caught.value.program == "intents"
        assert guard.stats()["refused"]["deadline"] == 1


def test_waits_by_position() -> None:
    limits = Limits(LimitSettings(requests_per_minute=60, burst=2), 0.0)
    assert [limits.wait(0.0, position) for position in (1, 2, 3, 4)] == [0, 0, 1, 2]
    limits = Limits(LimitSettings(tokens_per_minute=60), 0.0)
    expected = limits.start(0.0)
    limits.end(0.0, 0.0, expected, 3)  # 1 was there: 2 lack, and each takes 3
    assert [limits.wait(0.0, position) for position in (1, 2, 3)] == pytest.approx([2, 5, 8])


def test_without_limits_nothing_is_counted() -> None:
    assert a_guard().stats()["under_way"] is None

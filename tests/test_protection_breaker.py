"""The circuit breaker: against a simple model, and each of its settings."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, multiple, rule

from dspex.config import BreakerSettings
from dspex.errors import LMError
from dspex.protection import NEVER, LMGuard, Permit
from test_protection_tools import Clock, Down, a_guard, admitted, fail, succeed


class Model:
    """A breaker, written down simply: a list of outcomes, and rounds of probes."""

    def __init__(self, given: BreakerSettings) -> None:
        self.given, self.state, self.period = given, "closed", 0
        self.outcomes: list[tuple[int, bool]] = []  # second, success; the window is 30 s in 30 slots
        self.until, self.out, self.good = 0.0, 0, 0

    def lets_in(self, now: float) -> bool:
        if self.state == "half_open" and self.out + self.good < self.given.probes:
            return True
        return self.state == "closed" or now >= self.until

    def let_in(self, now: float) -> int:
        if self.state == "open":
            self.state, self.period, self.out, self.good = "half_open", self.period + 1, 0, 0
        if self.state == "half_open":
            if self.out + self.good >= self.given.probes:
                self.out = 0  # a round that hangs is given up
            self.out += 1
            self.until = now + self.given.cooldown
        return self.period

    def end(self, now: float, period: int, success: bool | None) -> None:
        if period != self.period:
            return
        if self.state == "half_open":
            self.end_probe(now, success)
        elif success is not None:
            self.outcomes.append((int(now), success))
            seen = [ok for second, ok in self.outcomes if int(now) - second < 30]
            failures = seen.count(False)
            if (
                len(seen) >= self.given.min_calls
                and failures
                and failures >= self.given.failure_rate * len(seen)
            ):
                self.open(now)

    def end_probe(self, now: float, success: bool | None) -> None:
        if success is None:
            self.out = max(0, self.out - 1)
        elif not success:
            self.open(now)
        else:
            self.out, self.good = max(0, self.out - 1), self.good + 1
            if self.good >= self.given.probes:
                self.state, self.period, self.outcomes = "closed", self.period + 1, []

    def open(self, now: float) -> None:
        self.state, self.period, self.until = "open", self.period + 1, now + self.given.cooldown


class BreakerMachine(RuleBasedStateMachine):
    """Requests come, end well, badly or without a word, and time passes; now and then they end very late."""

    permits: Any = Bundle("permits")

    @initialize(
        rate=st.sampled_from([0.25, 0.5, 1.0]),
        min_calls=st.integers(1, 5),
        cooldown=st.integers(1, 10),
        probes=st.integers(1, 3),
    )
    def begin(self, rate: float, min_calls: int, cooldown: int, probes: int) -> None:
        given = {"failure_rate": rate, "min_calls": min_calls, "cooldown": cooldown, "probes": probes}
        self.clock = Clock()
        self.guard = a_guard(self.clock, breaker=given)
        self.model = Model(BreakerSettings(**given))

    @rule(halves=st.integers(0, 30))
    def time_passes(self, halves: int) -> None:
        self.clock.sleep(halves / 2)

    @rule(target=permits)
    def admit(self) -> Any:
        now = self.clock.now
        if self.model.lets_in(now):
            assert self.guard.peek() is None
            permit = self.guard.admit(NEVER)
            return permit, self.model.let_in(now)
        with pytest.raises(LMError) as caught:
            self.guard.admit(NEVER)
        assert caught.value.retryable
        assert caught.value.retry_after == self.model.until - now
        assert str(self.guard.peek()) == str(caught.value)
        return multiple()

    @rule(each=consumes(permits), success=st.none() | st.booleans())
    def end(self, each: tuple[Permit, int], success: bool | None) -> None:
        permit, period = each
        if success:
            permit.succeeded()
        elif success is None:
            permit.failed(Down(), counts=False)
        else:
            permit.failed(Down(), counts=True)
        self.model.end(self.clock.now, period, success)

    @rule(each=consumes(permits))
    def drop(self, each: tuple[Permit, int]) -> None:
        each[0].cancelled()
        self.model.end(self.clock.now, each[1], None)

    @invariant()
    def same_state(self) -> None:
        if hasattr(self, "model"):
            assert self.guard.stats()["circuit"] == self.model.state


TestBreaker = BreakerMachine.TestCase
TestBreaker.settings = settings(max_examples=100, stateful_step_count=60, deadline=None)


def opens(guard: LMGuard) -> bool:
    return guard.stats()["circuit"] == "open"


def test_enabled() -> None:
    guard = a_guard(breaker={"min_calls": 1, "enabled": False})
    fail(guard, 50)
    assert guard.peek() is None
    assert guard.stats()["circuit"] == "off"
    guard = a_guard(breaker={"min_calls": 1})
    fail(guard)
    assert opens(guard)


def test_failure_rate() -> None:
    for rate, failures, is_open in [(0.3, 2, False), (0.3, 3, True), (0.7, 6, False), (0.7, 7, True)]:
        guard = a_guard(Clock(), breaker={"failure_rate": rate, "min_calls": 10})
        succeed(guard, 10 - failures)
        fail(guard, failures)
        assert opens(guard) is is_open


def test_a_rate_of_one_needs_failures_only() -> None:
    guard = a_guard(Clock(), breaker={"failure_rate": 1, "min_calls": 2})
    succeed(guard)
    fail(guard, 20)
    assert not opens(guard)


def test_min_calls() -> None:
    for least in (1, 4):
        guard = a_guard(Clock(), breaker={"min_calls": least})
        fail(guard, least - 1)
        assert not opens(guard)
        fail(guard)
        assert opens(guard)


def test_a_success_can_be_the_call_that_is_enough() -> None:
    guard = a_guard(Clock(), breaker={"min_calls": 3})
    fail(guard, 2)
    permits = admitted(guard, 2)
    permits[0].succeeded()
    assert opens(guard)
    assert guard.peek() is not None


def test_window() -> None:
    for window, is_open in [(30, True), (3, False)]:
        clock = Clock()
        guard = a_guard(clock, breaker={"window": window, "min_calls": 2})
        fail(guard)
        clock.sleep(10)
        fail(guard)
        assert opens(guard) is is_open


def test_cooldown() -> None:
    for cooldown in (5.0, 0.5):
        clock = Clock()
        guard = a_guard(clock, breaker={"min_calls": 1, "cooldown": cooldown})
        fail(guard)
        with pytest.raises(LMError, match=r"LM 'fast' kept failing, at last with Down") as caught:
            guard.admit(NEVER, "intents")
        assert (caught.value.retry_after, caught.value.program) == (cooldown, "intents")
        clock.sleep(cooldown - 0.1)
        assert guard.peek() is not None
        clock.sleep(0.1)
        assert guard.peek() is None
        guard.admit(NEVER).succeeded()
        assert guard.stats()["circuit"] == "closed"


def test_probes() -> None:
    for probes in (1, 3):
        clock = Clock()
        guard = a_guard(clock, breaker={"min_calls": 1, "probes": probes})
        fail(guard)
        clock.sleep(5)
        permits = admitted(guard, probes)
        with pytest.raises(LMError):
            guard.admit(NEVER)
        for permit in permits:
            assert guard.stats()["circuit"] == "half_open"
            permit.succeeded()
        assert guard.stats()["circuit"] == "closed"
        admitted(guard, 20)


def test_a_probe_that_fails_opens_it_again() -> None:
    clock = Clock()
    guard = a_guard(clock, breaker={"min_calls": 1, "probes": 3})
    fail(guard)
    clock.sleep(5)
    permits = admitted(guard, 2)
    permits[0].succeeded()
    permits[1].failed(Down(), counts=True)
    assert opens(guard)
    clock.sleep(4.9)
    assert guard.peek() is not None
    assert guard.stats()["opened"] == 2


@pytest.mark.parametrize("end", ["cancelled", "dropped", "not counted"])
def test_a_probe_that_says_nothing_gives_its_place_back(end: str) -> None:
    clock = Clock()
    guard = a_guard(clock, breaker={"min_calls": 1})
    fail(guard)
    clock.sleep(5)
    probe = guard.admit(NEVER)
    assert guard.peek() is not None
    if end == "cancelled":
        probe.cancelled()
    elif end == "not counted":
        probe.failed(Down(), counts=False)
    del probe
    assert guard.peek() is None
    assert guard.stats()["circuit"] == "half_open"


def test_probes_that_hang_do_not_keep_it_half_open_for_ever() -> None:
    clock = Clock()
    guard = a_guard(clock, breaker={"min_calls": 1})
    fail(guard)
    clock.sleep(5)
    hanging = guard.admit(NEVER)
    clock.sleep(4)
    with pytest.raises(LMError) as caught:
        guard.admit(NEVER)
    assert caught.value.retry_after == 1
    clock.sleep(1)
    guard.admit(NEVER).succeeded()
    assert guard.stats()["circuit"] == "closed"
    hanging.failed(Down(), counts=True)  # of a time that is over
    assert guard.stats()["circuit"] == "closed"


def test_a_late_success_of_a_round_that_was_given_up_counts_and_leaves_no_place_too_many() -> None:
    clock = Clock()
    guard = a_guard(clock, breaker={"min_calls": 1, "cooldown": 1, "probes": 3})
    fail(guard)
    clock.sleep(1)
    hanging = admitted(guard, 3)
    clock.sleep(1)
    guard.admit(NEVER).succeeded()
    hanging[0].succeeded()
    third = guard.admit(NEVER)
    with pytest.raises(LMError):
        guard.admit(NEVER)
    third.succeeded()
    assert guard.stats()["circuit"] == "closed"


def test_what_began_before_it_opened_does_not_count_afterwards() -> None:
    clock = Clock()
    guard = a_guard(clock, breaker={"min_calls": 2})
    early = admitted(guard, 4)
    fail(guard, 2)
    early[0].succeeded()
    assert opens(guard)
    early[1].failed(Down(), counts=True)
    assert guard.stats()["opened"] == 1
    clock.sleep(5)
    guard.admit(NEVER).succeeded()
    early[2].failed(Down(), counts=True)
    early[3].failed(Down(), counts=True)
    assert guard.stats()["circuit"] == "closed"


def test_once_closed_it_begins_anew() -> None:
    clock = Clock()
    guard = a_guard(clock, breaker={"min_calls": 2})
    fail(guard, 2)
    clock.sleep(5)
    guard.admit(NEVER).succeeded()
    fail(guard)
    assert guard.stats()["circuit"] == "closed"


def test_what_does_not_count_neither_opens_nor_dilutes() -> None:
    guard = a_guard(Clock(), breaker={"min_calls": 4, "failure_rate": 1})
    fail(guard, 50, counts=False)
    assert not opens(guard)
    fail(guard, 4)
    assert opens(guard)

"""Tries, pauses and fallbacks, in threads and on event loops alike: every test runs both."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dspex.config import BudgetSettings, RetrySettings
from dspex.errors import CallTimeoutError, ConfigError, DspexError, LMError, ResourceError
from dspex.protection import NEVER, Budget, Chain, Deadline, Link, LMGuard, Usage, Verdict
from test_protection_tools import Clock, a_guard, fail

BUSY = Verdict(retryable=True, retry_after=None, counts=True, fall_back=True)
BAD = Verdict(retryable=False, retry_after=None, counts=False, fall_back=False)
NO_KEY = Verdict(retryable=False, retry_after=None, counts=False, fall_back=True)


class Failure(Exception):
    def __init__(self, verdict: Verdict = BUSY, message: str = "") -> None:
        super().__init__(message)
        self.verdict = verdict


def classify(error: BaseException) -> Verdict:
    assert isinstance(error, Failure)
    return error.verdict


class Lab:
    """A chain over LMs that answer what a test has written down, with time that only pauses take."""

    def __init__(self, way: str) -> None:
        self.way = way
        self.clock = Clock()
        self.pauses: list[float] = []
        self.asked: list[str] = []
        self.guards: dict[str, LMGuard] = {}
        self.random = 1.0
        self.script: dict[str, list[Any]] = {}

    def chain(self, *links: Link) -> Chain:
        async def asleep(seconds: float) -> None:
            self._sleep(seconds)

        return Chain(links, classify=classify, rng=lambda: self.random, sleep=self._sleep, asleep=asleep)

    def link(self, name: str = "fast", guard: LMGuard | None = None, **retry: Any) -> Link:
        self.guards[name] = guard or a_guard(self.clock, name=name, breaker={"min_calls": 100})
        return Link(name, self.guards[name], RetrySettings(**retry))

    def run(
        self, chain: Chain, deadline: Deadline = NEVER, budget: Budget | None = None, **script: list[Any]
    ) -> Any:
        self.script = script
        measure: Callable[[Any], Usage] = lambda answer: Usage(10, 0.5)  # noqa: E731
        if self.way == "run":
            return chain.run(self.ask, deadline, "intents", budget, measure)

        async def ask(name: str, deadline: Deadline) -> Any:
            await asyncio.sleep(0)
            return self.ask(name, deadline)

        return asyncio.run(chain.arun(ask, deadline, "intents", budget, measure))

    def ask(self, name: str, deadline: Deadline) -> Any:
        self.asked.append(name)
        outcome = self.script[name].pop(0)
        if callable(outcome):
            outcome = outcome()
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome

    def deadline(self, seconds: float) -> Deadline:
        return Deadline(seconds, self.clock)

    def _sleep(self, seconds: float) -> None:
        self.pauses.append(seconds)
        self.clock.sleep(seconds)


@pytest.fixture(params=["run", "arun"])
def lab(request: pytest.FixtureRequest) -> Lab:
    return Lab(request.param)


def told(error: BaseException) -> str:
    return "; ".join(getattr(error, "__notes__", []))


def test_the_first_answer_costs_nothing_more(lab: Lab) -> None:
    chain = Chain([lab.link()], classify=classify, rng=pytest.fail, sleep=pytest.fail, asleep=pytest.fail)
    assert lab.run(chain, fast=["answer"]) == "answer"
    assert lab.guards["fast"].stats()["succeeded"] == 1


def test_attempts(lab: Lab) -> None:
    for attempts in (1, 2, 5):
        lab.asked.clear()
        chain = lab.chain(lab.link(attempts=attempts))
        errors = [Failure(message=str(i)) for i in range(9)]
        with pytest.raises(Failure) as caught:
            lab.run(chain, fast=list(errors))
        assert caught.value is errors[attempts - 1]
        assert len(lab.asked) == attempts
        assert lab.run(chain, fast=[*errors[: attempts - 1], "answer"]) == "answer"


def test_backoff_doubles_and_max_backoff_ends_that(lab: Lab) -> None:
    chain = lab.chain(lab.link(attempts=7, backoff=0.3, max_backoff=2.0))
    lab.run(chain, fast=[Failure()] * 6 + ["answer"])
    assert lab.pauses == pytest.approx([0.3, 0.6, 1.2, 2.0, 2.0, 2.0])


@given(share=st.floats(0, 1, exclude_max=True), attempts=st.integers(2, 9))
def test_pauses_have_full_jitter(share: float, attempts: int) -> None:
    lab = Lab("run")
    lab.random = share
    chain = lab.chain(lab.link(attempts=attempts))
    lab.run(chain, fast=[Failure()] * (attempts - 1) + ["answer"])
    longest = [min(20.0, 0.5 * 2**n) for n in range(attempts - 1)]
    assert lab.pauses == [pytest.approx(share * each) for each in longest if share * each > 0]


def test_very_many_tries_do_not_overflow(lab: Lab) -> None:
    chain = lab.chain(lab.link(attempts=3000, guard=a_guard()))
    assert lab.run(chain, fast=[Failure()] * 2999 + ["answer"]) == "answer"
    assert max(lab.pauses) == 20.0
    chain = lab.chain(lab.link(attempts=3, backoff=0, guard=a_guard()))
    lab.pauses.clear()
    assert lab.run(chain, fast=[Failure(), Failure(), "answer"]) == "answer"
    assert lab.pauses == []


def test_retry_after_is_waited_for_with_the_jitter_on_top(lab: Lab) -> None:
    chain = lab.chain(lab.link(backoff=1.0))
    lab.random = 0.25
    lab.run(chain, fast=[Failure(BUSY._replace(retry_after=7.0)), "answer"])
    assert lab.pauses == [7.25]


def test_max_retry_after(lab: Lab) -> None:
    late = Failure(BUSY._replace(retry_after=8.0))
    with pytest.raises(Failure):
        lab.run(lab.chain(lab.link(max_retry_after=7.9)), fast=[late])
    assert lab.run(lab.chain(lab.link(max_retry_after=8)), fast=[late, "answer"]) == "answer"
    chain = lab.chain(lab.link(max_retry_after=7.9), lab.link("backup"))
    assert lab.run(chain, fast=[late], backup=["other"]) == "other"


@pytest.mark.parametrize("seconds", [math.nan, math.inf])
def test_a_retry_after_that_is_no_time_ends_the_tries(lab: Lab, seconds: float) -> None:
    with pytest.raises(Failure):
        lab.run(lab.chain(lab.link(max_retry_after=1e9)), fast=[Failure(BUSY._replace(retry_after=seconds))])
    assert (
        lab.run(lab.chain(lab.link()), fast=[Failure(BUSY._replace(retry_after=-5.0)), "answer"]) == "answer"
    )


def test_a_pause_has_to_fit_into_the_deadline(lab: Lab) -> None:
    chain = lab.chain(lab.link(attempts=9, backoff=1.0))
    with pytest.raises(Failure):
        lab.run(chain, lab.deadline(3.0), fast=[Failure()] * 9)
    assert lab.pauses == [1.0]  # 2 s more would be just too late
    chain = lab.chain(lab.link(attempts=9, backoff=1.0), lab.link("backup"))
    assert lab.run(chain, lab.deadline(3.0), fast=[Failure()] * 9, backup=["other"]) == "other"


def test_only_what_can_succeed_is_tried_again(lab: Lab) -> None:
    chain = lab.chain(lab.link(), lab.link("backup"))
    with pytest.raises(Failure) as caught:
        lab.run(chain, fast=[Failure(BAD)])
    assert lab.asked == ["fast"]
    assert told(caught.value) == ""  # nothing to add: one LM, one try


def test_what_is_this_lms_fault_is_asked_of_the_next(lab: Lab) -> None:
    chain = lab.chain(lab.link(), lab.link("backup"), lab.link("last"))
    assert lab.run(chain, fast=[Failure(NO_KEY)], backup=[Failure(NO_KEY)], last=["answer"]) == "answer"
    assert lab.asked == ["fast", "backup", "last"]
    assert lab.pauses == []


def test_each_lm_has_its_own_tries_and_no_pause_comes_before_the_next(lab: Lab) -> None:
    chain = lab.chain(lab.link(attempts=2, backoff=1), lab.link("backup", attempts=3, backoff=4))
    answer = lab.run(chain, fast=[Failure()] * 2, backup=[Failure(), Failure(), "answer"])
    assert answer == "answer"
    assert lab.asked == ["fast", "fast", "backup", "backup", "backup"]
    assert lab.pauses == [1, 4, 8]


def test_the_error_is_that_of_the_lm_asked_last_with_a_note_of_the_tries(lab: Lab) -> None:
    down = a_guard(lab.clock, name="down", breaker={"min_calls": 1})
    fail(down)
    last = Failure(message="nor here")
    chain = lab.chain(lab.link(attempts=2), lab.link("backup", attempts=1), lab.link("down", down))
    with pytest.raises(Failure) as caught:
        lab.run(chain, fast=[Failure(), Failure()], backup=[last])
    assert caught.value is last
    note = told(caught.value)
    assert note.startswith("LMs asked: 'fast' 2 times, at last Failure; 'backup' once, at last Failure; ")
    assert note.endswith(
        "'down' refused: LM 'down' kept failing, at last with Down: it is left alone for 4.5 s"
    )


def test_an_lm_that_refuses_is_passed_over(lab: Lab) -> None:
    down = a_guard(lab.clock, breaker={"min_calls": 1})
    full = a_guard(lab.clock, name="full", concurrency=1, max_wait=0)
    held = full.admit(NEVER)
    fail(down)
    chain = lab.chain(lab.link("down", down), lab.link("full", full), lab.link("backup"))
    assert lab.run(chain, backup=["answer"]) == "answer"
    assert lab.asked == ["backup"]
    held.cancelled()


def test_when_all_refuse_it_is_with_the_shortest_time(lab: Lab) -> None:
    guards = [a_guard(lab.clock, name=name, breaker={"min_calls": 1, "cooldown": s}) for name, s in COOLDOWNS]
    full = a_guard(lab.clock, concurrency=1, max_wait=0)
    held = full.admit(NEVER)
    for guard in guards:
        fail(guard)
    chain = lab.chain(lab.link("full", full), *(lab.link(guard.name, guard) for guard in guards))
    with pytest.raises(LMError) as caught:
        lab.run(chain)
    assert (caught.value.retry_after, caught.value.program, caught.value.retryable) == (3, "intents", True)
    assert told(caught.value).count("refused") == 4
    held.cancelled()


COOLDOWNS = [("a", 9), ("b", 3), ("c", 5)]


def test_a_circuit_that_opens_meanwhile_is_not_waited_for(lab: Lab) -> None:
    """Unless a probe may go by the end of the pause."""
    for cooldown, asked in [(60, 1), (0.5, 3)]:
        lab.asked.clear()
        guard = a_guard(lab.clock, breaker={"min_calls": 1, "cooldown": cooldown})
        with pytest.raises(Failure):
            lab.run(lab.chain(lab.link(guard=guard)), fast=[Failure()] * 3)
        assert len(lab.asked) == asked


def test_counts_reaches_the_breaker(lab: Lab) -> None:
    for verdict, circuit in [(BUSY, "open"), (BAD, "closed")]:
        guard = a_guard(lab.clock, breaker={"min_calls": 1})
        with pytest.raises(Failure):
            lab.run(lab.chain(lab.link(guard=guard)), fast=[Failure(verdict)])
        assert guard.stats()["circuit"] == circuit


def test_without_time_nothing_is_asked(lab: Lab) -> None:
    chain = lab.chain(lab.link(), lab.link("backup"))
    with pytest.raises(CallTimeoutError) as caught:
        lab.run(chain, lab.deadline(0))
    assert caught.value.program == "intents"
    assert lab.asked == []


def test_a_deadline_that_passes_in_a_try_ends_it_with_its_error(lab: Lab) -> None:
    def late() -> Failure:
        lab.clock.sleep(5)
        return Failure(message="too late")

    chain = lab.chain(lab.link(backoff=0), lab.link("backup"))
    with pytest.raises(Failure, match="too late") as caught:
        lab.run(chain, lab.deadline(4), fast=[late])
    assert lab.asked == ["fast"]
    assert "'backup' refused: the wait for LM 'backup' was not over by the deadline" in told(caught.value)


def test_a_deadline_that_passes_while_waiting_says_so(lab: Lab) -> None:
    down = a_guard(name="down", breaker={"min_calls": 1})
    fail(down)
    full = a_guard(concurrency=1)
    held = full.admit(NEVER)
    with pytest.raises(CallTimeoutError):
        lab.run(lab.chain(lab.link("down", down), lab.link("full", full)), Deadline.after(0.02))
    held.cancelled()


@pytest.mark.parametrize("stop", [KeyboardInterrupt, asyncio.CancelledError, SystemExit])
def test_what_is_no_exception_is_passed_on(lab: Lab, stop: type[BaseException]) -> None:
    chain = lab.chain(lab.link(guard=a_guard(concurrency=1, breaker={"min_calls": 1})), lab.link("backup"))
    with pytest.raises(stop):
        lab.run(chain, fast=[stop()])
    stats = lab.guards["fast"].stats()
    assert (stats["cancelled"], stats["under_way"], stats["circuit"]) == (1, 0, "closed")
    assert lab.asked == ["fast"]


def test_what_is_given_up_at_the_deadline_speaks_against_the_lm(lab: Lab) -> None:
    """An LM that hangs is known by nothing else: whoever keeps the deadline cancels the task."""

    def hang() -> BaseException:
        lab.clock.sleep(5)
        return asyncio.CancelledError()

    chain = lab.chain(lab.link(guard=a_guard(breaker={"min_calls": 1})))
    with pytest.raises(asyncio.CancelledError):
        lab.run(chain, lab.deadline(5), fast=[hang])
    stats = lab.guards["fast"].stats()
    assert (stats["failed"], stats["circuit"], stats["last_failure"]) == (1, "open", "CancelledError")


def test_the_place_is_free_during_a_pause_and_after_every_end(lab: Lab) -> None:
    guard = a_guard(lab.clock, concurrency=1)
    seen: list[int] = []
    lab._sleep = lambda seconds: seen.append(guard.stats()["under_way"])  # type: ignore[method-assign]
    chain = lab.chain(lab.link(guard=guard, backoff=1))
    lab.run(chain, fast=[Failure(), "answer"])
    assert seen == [0]
    with pytest.raises(AssertionError):  # classify cannot make sense of it
        lab.run(chain, fast=[ValueError()])
    assert guard.stats()["under_way"] == 0


def test_a_budget_is_looked_at_first_and_charged_with_answers(lab: Lab) -> None:
    budget = Budget(BudgetSettings(tokens=25), lab.clock)
    chain = lab.chain(lab.link())
    for _ in range(2):
        lab.run(chain, budget=budget, fast=[Failure(), "answer"])
    assert budget.stats()["tokens"] == 20  # of the answers, not of the tries
    assert budget.stats()["usd"] == 1.0
    lab.run(chain, budget=budget, fast=["answer"])
    lab.asked.clear()
    with pytest.raises(ResourceError) as caught:
        lab.run(chain, budget=budget, fast=["answer"])
    assert (caught.value.program, lab.asked) == ("intents", [])


def test_tokens_reach_the_guard(lab: Lab) -> None:
    guard = a_guard(lab.clock, tokens_per_minute=60, max_wait=0)
    lab.run(lab.chain(lab.link(guard=guard)), fast=["answer"])  # 10 tokens, 1 was there
    error = guard.peek()
    assert isinstance(error, DspexError)
    assert error.retry_after == pytest.approx(9)


def test_an_answer_that_cannot_be_measured_still_ends_its_permit() -> None:
    guard = a_guard(concurrency=1)
    chain = Chain([Link("fast", guard, RetrySettings())], classify=classify)

    def measure(answer: str) -> Usage:
        raise ValueError(answer)

    with pytest.raises(ValueError, match="answer"):
        chain.run(lambda name, deadline: "answer", NEVER, None, None, measure)
    assert guard.stats()["succeeded"] == 1


def test_real_pauses_are_made() -> None:
    for way in ("run", "arun"):
        lab = Lab(way)
        chain = Chain([lab.link(backoff=0.05)], classify=classify, rng=lambda: 1.0)
        left = Deadline.after(5)
        assert lab.run(chain, left, fast=[Failure(), "answer"]) == "answer"
        assert 4 < (left.left() or 0) < 4.96


@pytest.mark.parametrize("cancelled", [1, 0], ids=["request", "pause"])
def test_cancelling_a_task_cancels_its_request_or_its_pause(cancelled: int) -> None:
    guard = a_guard(concurrency=1)
    chain = Chain([Link("fast", guard, RetrySettings(backoff=30))], classify=classify, rng=lambda: 1.0)

    async def ask(name: str, deadline: Deadline) -> None:
        if cancelled:
            await asyncio.sleep(30)
        raise Failure

    async def main() -> None:
        task = asyncio.ensure_future(chain.arun(ask, NEVER, None, None, lambda answer: Usage()))
        await asyncio.sleep(0.01)
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled()

    asyncio.run(main())
    stats = guard.stats()
    assert (stats["under_way"], stats["cancelled"], stats["failed"]) == (0, cancelled, 1 - cancelled)


@pytest.mark.parametrize(("passed", "outcome"), [(0.5, "cancelled"), (1.5, "failed")])
def test_what_the_deadline_cancels_counts_against_the_lm(lab: Lab, passed: float, outcome: str) -> None:
    """Who waits has cancelled the request: before the deadline for reasons of its own, after it for the LM's."""
    link = lab.link(guard=a_guard(lab.clock, breaker={"min_calls": 1, "cooldown": 30}))

    def cut_off() -> Any:
        lab.clock.sleep(passed)
        raise asyncio.CancelledError

    with pytest.raises(asyncio.CancelledError):
        lab.run(lab.chain(link), lab.deadline(1.0), fast=[cut_off])
    stats = link.guard.stats()
    assert stats[outcome] == stats["cancelled"] + stats["failed"] == 1
    assert stats["circuit"] == ("open" if outcome == "failed" else "closed")


def test_a_chain_without_an_lm_is_refused() -> None:
    with pytest.raises(ConfigError):
        Chain([], classify=classify)

"""From one LM to the next, and how a request ends, in threads and on event loops: most tests run both."""

from __future__ import annotations

import asyncio
import gc
import weakref
from typing import Any

import pytest

from dspex.config import BudgetSettings, RetrySettings
from dspex.errors import CallTimeoutError, ConfigError, DspexError, LMError, ResourceError
from dspex.protection import NEVER, Budget, Chain, Deadline, Link, Usage
from test_protection_tools import BAD, BUSY, NO_KEY, Failure, Lab, a_guard, classify, fail, told


@pytest.fixture(params=["run", "arun"])
def lab(request: pytest.FixtureRequest) -> Lab:
    return Lab(request.param)


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


def test_an_lm_that_has_no_room_meanwhile_is_not_waited_for(lab: Lab) -> None:
    for refusal in (ResourceError("full"), ResourceError("full", retry_after=0.6)):
        guard = a_guard(lab.clock)
        guard.peek = lambda refusal=refusal: refusal  # type: ignore[method-assign,misc]
        chain = lab.chain(lab.link(guard=guard), lab.link("backup"))
        assert lab.run(chain, fast=[Failure()], backup=["other"]) == "other"
    assert lab.pauses == []


def test_the_note_is_there_when_more_than_one_try_was_made(lab: Lab) -> None:
    for names, attempts, note in [
        ("a", 1, ""),
        ("a", 2, "LMs asked: 'a' 2 times, at last Failure"),
        ("ab", 1, "LMs asked: 'a' once, at last Failure; 'b' once, at last Failure"),
    ]:
        chain = lab.chain(*(lab.link(name, attempts=attempts) for name in names))
        with pytest.raises(Failure) as caught:
            lab.run(chain, **{name: [Failure() for _ in range(attempts)] for name in names})
        assert told(caught.value) == note


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


@pytest.mark.parametrize("way", ["run", "arun"])
def test_an_error_goes_with_its_last_reference(way: str) -> None:
    """It does not wait for the collector, with all that its frames hold."""
    chain = Chain([Link("fast", a_guard(), RetrySettings(attempts=2, backoff=0))], classify=classify)

    def ask(name: str, deadline: Deadline) -> Usage:
        raise Failure

    async def aask(name: str, deadline: Deadline) -> Usage:
        raise Failure

    def gone() -> weakref.ref[Failure]:
        try:
            if way == "run":
                chain.run(ask, NEVER, None, None, lambda answer: answer)
            else:
                chain.arun(aask, NEVER, None, None, lambda answer: answer).send(None)
        except Failure as error:
            return weakref.ref(error)
        raise AssertionError("nothing was raised")

    gc.disable()
    try:
        assert gone()() is None
    finally:
        gc.enable()


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
    """Before it, who waits has cancelled the request for reasons of its own."""
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

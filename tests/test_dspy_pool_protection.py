"""Limits, breakers, budgets, retries and fallbacks hold for all workers together."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from dspex.adapters.dspy_pool import DspyPoolAdapter
from dspex.errors import CommunicationError, LMError, ResourceError
from dspex.testing.lm_faults import Status
from dspex.testing.lm_server import LMServer, Request
from dspy_pool_tools import NO_RETRY, echo, error_of, in_background, in_threads, running, settled, until

SIZE = 3
REPLY = "text -> reply"
SERVER = LMServer()
BREAKER = {"min_calls": 4, "failure_rate": 0.5, "window": 60.0, "cooldown": 0.6}


def lms() -> dict[str, Any]:
    """LMs of one server, each with its own model there."""

    def lm(name: str, **settings: Any) -> dict[str, Any]:
        return SERVER.lm_config(**{"model": f"openai/{name}", "retry": NO_RETRY, **settings})

    return {
        "plain": lm("plain", prices=[1000.0, 2000.0]),
        "one": lm("one", limits={"concurrency": 1, "max_wait": 20.0}),
        "two": lm("two", limits={"concurrency": 2}),
        "rate": lm("rate", limits={"requests_per_minute": 1200, "burst": 1}),
        "tokens": lm("tokens", limits={"tokens_per_minute": 60, "max_wait": 0.5}),
        "breaks": lm("breaks", breaker=BREAKER),
        "breaks_one": lm("breaks_one", breaker=BREAKER, limits={"concurrency": 1}),
        "retried": lm("retried", retry={"attempts": 3, "backoff": 0.01}),
        "backed": lm("backed", breaker=BREAKER, fallbacks=["plain"]),
        "full": lm("full", limits={"concurrency": 1, "max_wait": 0.05}, fallbacks=["plain"]),
        "impatient": lm("impatient", limits={"concurrency": 1, "max_wait": 0.05}),
    }


@pytest.fixture(scope="module")
def pool() -> Iterator[DspyPoolAdapter]:
    with SERVER:
        settings = {"lms": lms(), "lm": "plain", "dspy_pool": {"size": SIZE}}
        with DspyPoolAdapter(settings) as adapter:
            yield adapter


@pytest.fixture
def adapter(pool: DspyPoolAdapter) -> Iterator[DspyPoolAdapter]:
    SERVER.wait_idle()
    SERVER.clear()
    SERVER.answers, SERVER.delay = echo, 0.0
    yield pool
    for program in pool.list_programs():
        pool.delete_program(program)
    until(lambda: running(pool) == SIZE)


def guard(adapter: DspyPoolAdapter, lm: str) -> dict[str, Any]:
    found: dict[str, Any] = adapter.get_stats()["lms"][lm]
    return found


def models() -> Counter[str]:
    """How often each LM was asked."""
    return Counter(logged.model for logged in SERVER.requests)


def ask(adapter: DspyPoolAdapter, pid: str, text: Any = "abc") -> Any:
    return adapter.execute_program(pid, {"text": str(text)})


@pytest.fixture
def gate() -> Iterator[threading.Event]:
    """Answers of `held` wait until it is set."""
    event = threading.Event()
    yield event
    event.set()


def held(
    gate: threading.Event, model: str, answers: Callable[[Request], Any] = echo
) -> Callable[[Request], Any]:
    """Answers that wait for the gate when this model is asked."""

    def answer(request: Request) -> Any:
        if request.model == model:
            gate.wait(20)
        return answers(request)

    return answer


def failing(names: str) -> Callable[[Request], Any]:
    return lambda request: Status(503) if request.model == names else echo(request)


def test_the_concurrency_limit(adapter: DspyPoolAdapter) -> None:
    SERVER.delay = 0.02
    pid = adapter.create_program({"signature": REPLY, "lm": "two"})
    in_threads(lambda n: [ask(adapter, pid, n) for _ in range(4)], 6)
    assert SERVER.max_in_flight == 2
    assert SERVER.count == 24
    stats = guard(adapter, "two")
    assert (stats["succeeded"], stats["under_way"], stats["waiting"]) == (24, 0, 0)


def acts(request: Request) -> dict[str, Any]:
    """An agent's LM: two tools, then the answer."""
    if "reply" in request.output_fields:
        return {"reasoning": "", "reply": request.fields["text"][::-1]}
    tool = {"next_tool_name": "add", "next_tool_args": {"a": 1, "b": 2}}
    done = {"next_tool_name": "finish", "next_tool_args": {}}
    return {"next_thought": "", **(done if "observation_1" in request.text else tool)}


AGENT = {"signature": REPLY, "kind": "react", "tools": ["dspy_pool_tools:add"], "lm": "one"}


def test_calls_of_many_requests_do_not_block_each_other(adapter: DspyPoolAdapter) -> None:
    """More calls than workers, each with four requests, and one place at the LM."""
    SERVER.answers = acts
    pid = adapter.create_program(AGENT)
    before = time.monotonic()
    found = in_threads(lambda n: ask(adapter, pid, f"{n}!").reply, 7)
    assert found == [f"!{n}" for n in range(7)]
    assert time.monotonic() - before < 15
    assert SERVER.max_in_flight == 1
    assert SERVER.count == 28


@pytest.mark.parametrize("module", ["Gathering", "Threads"])
def test_requests_of_one_call_do_not_block_each_other(adapter: DspyPoolAdapter, module: str) -> None:
    SERVER.delay = 0.02
    pid = adapter.create_program({"signature": REPLY, "module": f"dspy_pool_tools:{module}", "lm": "one"})
    for timeout in (None, 10.0):
        before = time.monotonic()
        found = adapter.execute_program(pid, {"text": "a"}, {"timeout": timeout} if timeout else None).reply
        assert sorted(found.split()) == sorted((["1", "2"] if module == "Gathering" else ["0", "1", "2"]) + [
            "a"
        ] * (2 if module == "Gathering" else 3))  # fmt: skip
        assert time.monotonic() - before < 5
    assert SERVER.max_in_flight == 1


def test_requests_per_minute(adapter: DspyPoolAdapter) -> None:
    pid = adapter.create_program({"signature": REPLY, "lm": "rate"})
    before = time.monotonic()
    in_threads(lambda n: [ask(adapter, pid, n) for _ in range(2)], 4)
    assert time.monotonic() - before > 7 / 20 - 0.02
    times = [logged.time for logged in SERVER.requests]
    assert times[-1] - times[0] > 6 / 20


def test_tokens_are_counted_when_they_are_known(adapter: DspyPoolAdapter) -> None:
    pid = adapter.create_program({"signature": REPLY, "lm": "tokens"})
    ask(adapter, pid)
    with pytest.raises(ResourceError, match="no turn") as caught:
        ask(adapter, pid)
    assert caught.value.retry_after is not None
    assert caught.value.retry_after > 5
    assert caught.value.program == pid


def test_no_turn_in_time(adapter: DspyPoolAdapter, gate: threading.Event) -> None:
    SERVER.answers = held(gate, "impatient")
    pid = adapter.create_program({"signature": REPLY, "lm": "impatient"})
    first = in_background(lambda: ask(adapter, pid))
    SERVER.wait_for(1)
    with pytest.raises(ResourceError, match="no turn") as caught:
        ask(adapter, pid)
    assert caught.value.retryable
    assert SERVER.count == 1
    gate.set()
    assert first.result().reply == "cba"


def test_an_lm_without_a_turn_falls_back(adapter: DspyPoolAdapter, gate: threading.Event) -> None:
    SERVER.answers = held(gate, "full")
    pid = adapter.create_program({"signature": REPLY, "lm": "full"})
    first = in_background(lambda: ask(adapter, pid))
    SERVER.wait_for(1)
    assert ask(adapter, pid).usage["lms"] == {"plain": 1}
    gate.set()
    assert first.result().usage["lms"] == {"full": 1}


@pytest.mark.parametrize("lm", ["breaks", "breaks_one"])
def test_the_breaker_opens_for_all_workers_and_lets_probes_through(adapter: DspyPoolAdapter, lm: str) -> None:
    SERVER.answers = failing(lm)
    pid = adapter.create_program({"signature": REPLY, "lm": lm})
    in_threads(lambda n: error_of(lambda: ask(adapter, pid)), 4)
    assert SERVER.count == 4
    refusal = adapter.available(pid)
    assert isinstance(refusal, LMError)
    assert "LMServerError" in refusal.message  # what it failed with in a worker
    workers = adapter.get_stats()["pool"]["calls"]
    for _ in range(20):
        with pytest.raises(LMError, match="left alone") as caught:
            ask(adapter, pid)
        assert caught.value.retryable
        assert 0 < (caught.value.retry_after or 0) <= 0.6
        assert caught.value.program == pid
    assert SERVER.count == 4
    assert adapter.get_stats()["pool"]["calls"] == workers  # they were not even asked
    time.sleep(0.62)
    SERVER.delay = 0.1
    errors = in_threads(lambda n: error_of(lambda: ask(adapter, pid)), 3)
    assert [type(error) for error in errors] == [LMError] * 3
    assert SERVER.count == 5  # one probe, of three calls
    time.sleep(0.62)
    SERVER.answers, SERVER.delay = echo, 0.0
    assert ask(adapter, pid).reply == "cba"
    assert guard(adapter, lm)["circuit"] == "closed"


def test_a_circuit_that_opens_ends_the_tries_of_a_call(adapter: DspyPoolAdapter) -> None:
    """The pause before the next try is not waited for when the parent says that there will be none."""
    SERVER.answers = Status(503, retry_after=10)
    settings = SERVER.lm_config(
        model="openai/breaks_now",
        breaker={**BREAKER, "min_calls": 1, "cooldown": 60.0},
        retry={"attempts": 5},
    )
    pid = adapter.create_program({"signature": REPLY, "lm": settings})
    before = time.monotonic()
    with pytest.raises(LMError, match="HTTP 503"):
        ask(adapter, pid)
    assert time.monotonic() - before < 5
    assert SERVER.count == 1


def test_tries_in_the_worker_have_permits_of_their_own(adapter: DspyPoolAdapter) -> None:
    SERVER.answers = [Status(503), Status(429, retry_after=0.01), {"reply": "at last"}]
    pid = adapter.create_program({"signature": REPLY, "lm": "retried"})
    before = guard(adapter, "retried")
    result = ask(adapter, pid)
    assert (result.reply, result.usage["requests"]) == ("at last", 1)
    stats = guard(adapter, "retried")
    assert (stats["failed"] - before["failed"], stats["succeeded"] - before["succeeded"]) == (2, 1)
    SERVER.answers = Status(503)
    with pytest.raises(LMError, match="HTTP 503") as caught:
        ask(adapter, pid)
    assert caught.value.retryable
    assert caught.value.__notes__ == ["LMs asked: 'retried' 3 times, at last LMServerError"]


def test_fallbacks(adapter: DspyPoolAdapter) -> None:
    SERVER.answers = failing("backed")
    pid = adapter.create_program({"signature": REPLY, "lm": "backed"})
    for _ in range(6):
        assert ask(adapter, pid).usage["lms"] == {"plain": 1}
    assert models() == {"backed": 4, "plain": 6}  # then its circuit was open
    assert adapter.available(pid) is None
    assert guard(adapter, "backed")["circuit"] == "open"
    assert guard(adapter, "plain")["failed"] == 0


def test_the_budget_of_a_program(adapter: DspyPoolAdapter) -> None:
    budget = {"budget": {"tokens": 200}}
    agent = {**AGENT, "lm": "plain", "dspy": budget}
    SERVER.answers = acts
    pid = adapter.create_program({**agent, "id": "poor"})
    with pytest.raises(ResourceError, match="the budget is used up") as caught:
        ask(adapter, pid)
    assert (caught.value.program, caught.value.field) == ("poor", "budget.tokens")
    asked = SERVER.count
    assert 1 <= asked < 4  # a later request was refused
    with pytest.raises(ResourceError):
        ask(adapter, pid)
    assert adapter.available(pid) is not None
    assert SERVER.count == asked
    rich = adapter.create_program({**agent, "dspy": {}})
    assert ask(adapter, rich).reply == "cba"


def test_usage_and_cost(adapter: DspyPoolAdapter) -> None:
    SERVER.answers = acts
    pid = adapter.create_program({**AGENT, "lm": "plain"})
    usage = ask(adapter, pid).usage
    assert usage["requests"] == 4
    assert usage["lms"] == {"plain": 4}
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]
    cost = (usage["prompt_tokens"] * 1000 + usage["completion_tokens"] * 2000) / 1e6
    assert usage["usd"] == pytest.approx(cost)
    assert adapter.observed(pid)["usd"] == pytest.approx(cost)
    assert adapter.get_program_info(pid)["calls"] == 1


def test_a_killed_worker_gives_its_place_back(adapter: DspyPoolAdapter) -> None:
    SERVER.delay = 30.0
    acting = adapter.create_program({"signature": "text -> said", "module": "dspy_pool_tools:Acting"})
    session = {"session": "a"}
    worker = int(adapter.execute_program(acting, {"text": "pid"}, session).said)
    pid = adapter.create_program({"signature": REPLY, "lm": "one"})
    lost = in_background(lambda: error_of(lambda: adapter.execute_program(pid, {"text": "x"}, session)))
    SERVER.wait_for(1)
    waiting = in_background(lambda: ask(adapter, pid))  # for the place, in another worker
    until(lambda: guard(adapter, "one")["waiting"] == 1)
    SERVER.delay = 0.0
    os.kill(worker, 9)
    assert waiting.result(10).reply == "cba"
    assert isinstance(lost.result(), CommunicationError)
    assert guard(adapter, "one")["under_way"] == 0


def test_a_worker_that_is_killed_while_it_waits_gets_no_place(
    adapter: DspyPoolAdapter, gate: threading.Event
) -> None:
    SERVER.answers = held(gate, "one")
    acting = adapter.create_program({"signature": "text -> said", "module": "dspy_pool_tools:Acting"})
    session = {"session": "b"}
    worker = int(adapter.execute_program(acting, {"text": "pid"}, session).said)
    pid = adapter.create_program({"signature": REPLY, "lm": "one"})
    settled(adapter)
    first = in_background(lambda: adapter.execute_program(pid, {"text": "first"}, {"session": "c"}))
    SERVER.wait_for(1)
    lost = in_background(lambda: error_of(lambda: adapter.execute_program(pid, {"text": "x"}, session)))
    until(lambda: guard(adapter, "one")["waiting"] == 1)
    os.kill(worker, 9)
    assert isinstance(lost.result(), CommunicationError)
    gate.set()
    assert ask(adapter, pid).reply == "cba"
    assert first.result().reply == "tsrif"
    assert guard(adapter, "one")["under_way"] == 0
    assert SERVER.count == 2


def test_a_cancelled_call_keeps_its_place_until_its_request_ends(
    adapter: DspyPoolAdapter, gate: threading.Event
) -> None:
    SERVER.answers = held(gate, "one", acts)
    pid = adapter.create_program(AGENT)

    async def main() -> None:
        call = asyncio.create_task(adapter.aexecute_program(pid, {"text": "x"}))
        while not SERVER.in_flight:
            await asyncio.sleep(0.005)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        other = asyncio.create_task(adapter.aexecute_program(pid, {"text": "abc"}))
        while not guard(adapter, "one")["waiting"]:
            await asyncio.sleep(0.005)
        assert (SERVER.in_flight, guard(adapter, "one")["under_way"]) == (1, 1)
        gate.set()
        assert (await other).reply == "cba"

    asyncio.run(main())
    assert SERVER.max_in_flight == 1
    assert SERVER.count == 5  # the cancelled call was let send no more


def test_single_flight_and_cache_stand_before_the_pool(adapter: DspyPoolAdapter) -> None:
    SERVER.delay = 0.1
    shared = adapter.create_program({"signature": REPLY, "dspy": {"single_flight": True}})
    found = in_threads(lambda n: ask(adapter, shared), 4)
    assert {result.reply for result in found} == {"cba"}
    assert SERVER.count == 1
    cached = adapter.create_program({"signature": REPLY, "dspy": {"cache": {"size": 10}}})
    assert [ask(adapter, cached).usage["requests"] for _ in range(3)] == [1, 0, 0]
    assert SERVER.count == 2
    adapter.execute_program(cached, {"text": "abc"}, {"lm": "two"})  # of another LM
    assert SERVER.count == 3


def test_requests_of_a_call_that_fails_count(adapter: DspyPoolAdapter) -> None:
    """The LM answered, though nobody can use it."""
    pid = adapter.create_program({"signature": "text -> n: int", "lm": "plain"})
    before = guard(adapter, "plain")
    with pytest.raises(LMError, match="does not fit"):
        ask(adapter, pid)
    after = guard(adapter, "plain")
    assert after["succeeded"] - before["succeeded"] == SERVER.count >= 1
    assert after["cancelled"] == before["cancelled"]

"""Protection on the main path: each setting, seen from outside by what reaches the server."""

from __future__ import annotations

import asyncio
import statistics
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from dspex.adapters.dspy import DspyAdapter
from dspex.errors import CallTimeoutError, DspexError, LMError, ResourceError
from dspex.testing.lm_server import Cut, Hang, LMServer, Malformed, Status
from dspy_adapter_tools import LABEL, NO_RETRY, over, program

ROW = {"text": "x"}
GOOD = {"label": "refund"}
NO_BREAKER = {"enabled": False}


def ways(adapter: DspyAdapter, pid: str, **options: Any) -> list[Callable[[], Any]]:
    return [
        lambda: adapter.execute_program(pid, ROW, options or None),
        lambda: adapter.execute_program(pid, ROW, {"timeout": 20, **options}),
        lambda: asyncio.run(adapter.aexecute_program(pid, ROW, options or None)),
        lambda: adapter.execute_batch(pid, [ROW], options or None)[0],
    ]


def fails(call: Callable[[], Any], error: type[DspexError] = DspexError) -> Any:
    with pytest.raises(error) as caught:
        call()
    return caught.value


def seconds(call: Callable[[], Any]) -> float:
    started = time.monotonic()
    call()
    return time.monotonic() - started


# Retries


def test_attempts(lm_server: LMServer) -> None:
    for attempts in (1, 2, 4):
        retry = {"attempts": attempts, "backoff": 0.0}
        adapter, pid = program(lm_server, lm={"retry": retry, "breaker": NO_BREAKER})
        for bad in (Status(500), Status(429), Status(503), Status(504), Cut(), Malformed()):
            for call in ways(adapter, pid):
                lm_server.answers = bad
                lm_server.clear()
                error = fails(call)
                assert lm_server.count == attempts
                notes = "".join(getattr(error.__cause__, "__notes__", []))
                assert attempts == 1 or f"{attempts} times" in notes
                lm_server.answers = [bad] * (attempts - 1) + [GOOD]
                lm_server.clear()
                assert call().label == "refund"


def test_what_cannot_succeed_is_not_tried_again(lm_server: LMServer) -> None:
    adapter, pid = program(lm_server, lm={"retry": {"attempts": 5, "backoff": 0.0}})
    for code in (400, 401, 403, 404, 422):
        lm_server.answers = Status(code)
        for call in ways(adapter, pid):
            lm_server.clear()
            fails(call, LMError)
            assert lm_server.count == 1
    assert adapter.get_stats()["lms"]["server"]["circuit"] == "closed"  # nor does it speak against the LM


def test_backoff_and_its_limit(lm_server: LMServer) -> None:
    """Pauses are uniform below their limits, so that only sums can be bounded."""
    lm_server.answers = Status(503)
    adapter, pid = program(
        lm_server, lm={"retry": {"attempts": 3, "backoff": 50.0, "max_backoff": 0.05}, "breaker": NO_BREAKER}
    )
    for call in ways(adapter, pid):
        assert seconds(lambda call=call: fails(call)) < 0.6
    slow, other = program(lm_server, lm={"retry": {"attempts": 7, "backoff": 0.05, "max_backoff": 0.05}})
    times = [seconds(lambda: fails(lambda: slow.execute_program(other, ROW)))]
    assert times[0] > 0.02  # below with a probability of 3e-5


def test_retry_after_is_waited_for(lm_server: LMServer) -> None:
    retry = {"attempts": 2, "backoff": 0.0, "max_retry_after": 0.5}
    adapter, pid = program(lm_server, lm={"retry": retry, "breaker": NO_BREAKER})
    for call in ways(adapter, pid):
        lm_server.answers = [Status(429, retry_after=0.2), GOOD]
        lm_server.clear()
        assert call().label == "refund"
        first, second = lm_server.requests
        assert 0.2 <= second.time - first.time < 0.5
        lm_server.answers = Status(429, retry_after=30)  # longer than it may be
        lm_server.clear()
        assert seconds(lambda call=call: fails(call, LMError)) < 0.3
        assert lm_server.count == 1


# The breaker


def opened(lm_server: LMServer, **breaker: Any) -> tuple[DspyAdapter, str]:
    """An adapter whose LM has failed until its circuit opened."""
    lm_server.answers = Status(503)
    settings = {"min_calls": 4, "cooldown": 0.3, **breaker}
    adapter, pid = program(lm_server, lm={"breaker": settings})
    for call in ways(adapter, pid):
        fails(call, LMError)
    assert lm_server.count == 4
    return adapter, pid


def test_an_open_circuit_asks_nobody_but_probes(lm_server: LMServer) -> None:
    adapter, pid = opened(lm_server)
    for call in ways(adapter, pid) * 5:
        error = fails(call, LMError)
        assert "kept failing" in error.message
        assert error.retryable
        assert error.program == pid
        assert 0 < error.retry_after <= 0.3
    assert lm_server.count == 4
    refusal = adapter.available(pid)
    assert isinstance(refusal, LMError)
    assert not adapter.health_check()
    time.sleep(0.31)
    fails(ways(adapter, pid)[0])  # the probe, in vain
    assert lm_server.count == 5
    fails(ways(adapter, pid)[0])
    assert lm_server.count == 5
    lm_server.answers = GOOD
    time.sleep(0.31)
    for call in ways(adapter, pid):
        assert call().label == "refund"
    assert adapter.available(pid) is None
    assert adapter.get_stats()["lms"]["server"]["circuit"] == "closed"


def test_an_open_circuit_refuses_at_once(lm_server: LMServer) -> None:
    adapter, pid = opened(lm_server, cooldown=60.0)
    times = []
    for _ in range(300):
        started = time.perf_counter()
        try:
            adapter.execute_program(pid, ROW)
        except LMError:
            times.append(time.perf_counter() - started)
    p50 = statistics.median(times) * 1e6
    print(f"refused in {p50:.1f} us at p50")
    assert len(times) == 300
    assert p50 < 100
    assert lm_server.count == 4


def test_a_new_default_begins_anew(lm_server: LMServer) -> None:
    settings = {"min_calls": 2, "cooldown": 60.0}
    adapter = DspyAdapter()
    pid = adapter.create_program({"signature": LABEL})
    for answer in (Status(500), GOOD):
        adapter.configure_lm(lm_server.lm_config(retry=NO_RETRY, breaker=settings))
        lm_server.answers = answer
        for call in ways(adapter, pid):
            if answer is GOOD:
                assert call().label == "refund"
            else:
                fails(call)


def test_breakers_are_of_one_lm_and_can_be_off(lm_server: LMServer) -> None:
    lm_server.answers = lambda request: Status(500) if request.model == "bad" else GOOD
    common = {"retry": NO_RETRY, "breaker": {"min_calls": 2}}
    adapter = DspyAdapter(
        {
            "lm": "bad",
            "lms": {
                "bad": lm_server.lm_config(**common, model="openai/bad"),
                "good": lm_server.lm_config(**common),
                "stubborn": lm_server.lm_config(retry=NO_RETRY, model="openai/bad", breaker=NO_BREAKER),
            },
        }
    )
    pid = adapter.create_program({"signature": LABEL})
    for _ in range(4):
        fails(lambda: adapter.execute_program(pid, ROW))
    assert lm_server.count == 2
    assert adapter.execute_program(pid, ROW, {"lm": "good"}).label == "refund"
    lm_server.clear()
    for _ in range(20):
        fails(lambda: adapter.execute_program(pid, ROW, {"lm": "stubborn"}))
    assert lm_server.count == 20


# Limits


def test_concurrency_of_an_lm(lm_server: LMServer) -> None:
    lm_server.answers = GOOD
    lm_server.delay = 0.02
    adapter, pid = program(lm_server, lm={"limits": {"concurrency": 2}}, dspy={"concurrency": 10})

    async def ten() -> None:
        await asyncio.gather(*(adapter.aexecute_program(pid, ROW) for _ in range(10)))

    with ThreadPoolExecutor(12) as threads:
        calls = [threads.submit(call) for call in ways(adapter, pid) * 2]
        calls += [threads.submit(lambda: asyncio.run(ten()))]
        [call.result() for call in calls]
    assert lm_server.max_in_flight == 2
    assert lm_server.count == 18


def test_requests_per_minute(lm_server: LMServer) -> None:
    lm_server.answers = GOOD
    limits = {"requests_per_minute": 600, "burst": 2, "max_wait": 5.0}
    adapter, pid = program(lm_server, lm={"limits": limits}, dspy={"concurrency": 8})
    assert seconds(lambda: adapter.execute_batch(pid, [ROW] * 7)) >= 0.45  # two at once, five at ten a second
    tight, other = program(lm_server, lm={"limits": {"requests_per_minute": 1, "burst": 1, "max_wait": 0.05}})
    tight.execute_program(other, ROW)
    for call in ways(tight, other):
        error = fails(call, ResourceError)
        assert error.retryable
        assert error.program == other
        assert error.retry_after > 10


def test_tokens_per_minute(lm_server: LMServer) -> None:
    lm_server.answers = GOOD
    adapter, pid = program(lm_server, lm={"limits": {"tokens_per_minute": 100, "max_wait": 0.05}})
    first = adapter.execute_program(pid, ROW)
    assert first.usage["total_tokens"] > 50
    error = fails(lambda: [adapter.execute_program(pid, ROW) for _ in range(5)], ResourceError)
    assert error.retry_after is not None
    assert lm_server.count <= 3


def test_a_deadline_ends_the_wait_for_a_turn(lm_server: LMServer) -> None:
    lm_server.answers = Hang(0.5)
    adapter, pid = program(lm_server, lm={"limits": {"concurrency": 1}, "breaker": NO_BREAKER})
    holder = threading.Thread(target=lambda: fails(lambda: adapter.execute_program(pid, ROW)))
    holder.start()
    lm_server.wait_for(1)
    for call in ways(adapter, pid, timeout=0.05)[:1]:
        took = seconds(lambda call=call: fails(call, DspexError))
        assert took < 0.4
    holder.join()
    assert lm_server.count == 1


# Fallbacks


def chain_of(lm_server: LMServer, **first: Any) -> DspyAdapter:
    common: dict[str, Any] = {"retry": NO_RETRY, "breaker": {"min_calls": 3, "cooldown": 60.0}}
    return DspyAdapter(
        {
            "lm": "first",
            "lms": {
                "first": lm_server.lm_config(
                    **{**common, "model": "openai/first", "fallbacks": ["second", "third"], **first}
                ),
                "second": lm_server.lm_config(**common, model="openai/second"),
                "third": lm_server.lm_config(**common, model="openai/third"),
            },
        }
    )


def test_fallbacks_in_their_order(lm_server: LMServer) -> None:
    adapter = chain_of(lm_server)
    pid = adapter.create_program({"signature": LABEL})
    down: set[str] = set()
    lm_server.answers = lambda request: Status(500) if request.model in down else GOOD
    for broken, asked in (
        (set(), ["first"]),
        ({"first"}, ["first", "second"]),
        ({"first", "second"}, ["first", "second", "third"]),
    ):
        down.clear(), down.update(broken)
        adapter.configure_lm(lm_server.lm_config())  # new guards would hide what opens
        for call in ways(adapter, pid, lm="first")[:1]:
            lm_server.clear()
            result = call()
            assert [entry.model for entry in lm_server.requests] == asked
            assert result.usage["lms"] == {asked[-1]: 1}
    down.update({"third"})
    error = fails(lambda: adapter.execute_program(pid, ROW, {"lm": "first"}), LMError)
    notes = "".join(error.__cause__.__notes__)
    assert all(name in notes for name in ("'first'", "'second'", "'third'"))


@pytest.mark.parametrize("code", [401, 404])
def test_an_lm_that_cannot_be_used_is_stood_in_for(lm_server: LMServer, code: int) -> None:
    adapter = chain_of(lm_server)
    pid = adapter.create_program({"signature": LABEL})
    lm_server.answers = lambda request: Status(code) if request.model == "first" else GOOD
    for call in ways(adapter, pid):
        assert call().label == "refund"
    lm_server.answers = Status(400)
    lm_server.clear()
    for call in ways(adapter, pid):  # a bad request is one everywhere
        fails(call, LMError)
    assert lm_server.count == 4


def test_an_open_circuit_and_a_full_lm_are_stood_in_for(lm_server: LMServer) -> None:
    adapter = chain_of(lm_server)
    pid = adapter.create_program({"signature": LABEL})
    lm_server.answers = lambda request: Status(500) if request.model == "first" else GOOD
    for call in ways(adapter, pid) * 3:
        call()
    models = [entry.model for entry in lm_server.requests]
    assert models.count("first") == 3  # then its circuit is open
    assert models.count("second") == 12
    assert adapter.available(pid) is None
    limits = {"limits": {"requests_per_minute": 1, "burst": 1, "max_wait": 0.0}}
    full = chain_of(lm_server, **limits)
    pid = full.create_program({"signature": LABEL})
    lm_server.answers = GOOD
    assert [list(call().usage["lms"]) for call in ways(full, pid)] == [["first"]] + [["second"]] * 3


def test_a_deadline_holds_for_all_of_them(lm_server: LMServer) -> None:
    adapter = chain_of(lm_server)
    pid = adapter.create_program({"signature": LABEL})
    lm_server.answers = Hang()
    for call in ways(adapter, pid, timeout=0.15):
        assert seconds(lambda call=call: fails(call, CallTimeoutError)) < 0.6
    assert {entry.model for entry in lm_server.requests[:3]} == {"first"}


# Budgets


def test_a_budget_of_tokens(lm_server: LMServer) -> None:
    lm_server.answers = GOOD
    adapter = over(lm_server, dspy={"budget": {"tokens": 150, "window": 3600}})
    pids = [adapter.create_program({"signature": LABEL}) for _ in range(2)]
    for pid in pids:  # each has its own
        lm_server.clear()
        for _ in range(5):
            try:
                adapter.execute_program(pid, ROW)
            except ResourceError:
                break
        spent = lm_server.count
        assert 1 <= spent < 5
        for call in ways(adapter, pid):
            error = fails(call, ResourceError)
            assert (error.field, error.program) == ("budget.tokens", pid)
            assert 0 < error.retry_after <= 3700
        assert lm_server.count == spent
        assert isinstance(adapter.available(pid), ResourceError)


def test_a_budget_of_money_and_its_window(lm_server: LMServer) -> None:
    lm_server.answers = GOOD
    lm = {"prices": (1e6, 1e6)}  # a dollar a token
    adapter = over(lm_server, lm=lm)
    pid = adapter.create_program({"signature": LABEL, "dspy": {"budget": {"usd": 1.0, "window": 0.5}}})
    other = adapter.create_program({"signature": LABEL})
    adapter.execute_program(pid, ROW)
    for call in ways(adapter, pid):
        assert fails(call, ResourceError).field == "budget.usd"
    adapter.execute_program(other, ROW)
    time.sleep(0.55)
    adapter.execute_program(pid, ROW)

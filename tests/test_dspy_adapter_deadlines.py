"""Deadlines: they cover everything, end the request that is open, and leave nothing behind."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import dspy
import pytest

from dspex.adapters.dspy import DspyAdapter
from dspex.errors import CallTimeoutError, ConfigError, DspexError
from dspex.testing.lm_server import Hang, LMServer, Slow, Status
from dspy_adapter_tools import LABEL, STRESS, NamedEngine, OnlyAsync, TwoSteps, over, program, wait_until

ROW = {"text": "x"}
SLACK = 1.0  # seconds; two cores are shared by all


def timed(call: Callable[[], Any]) -> tuple[float, DspexError]:
    started = time.monotonic()
    with pytest.raises(DspexError) as caught:
        call()
    return time.monotonic() - started, caught.value


def ways(adapter: DspyAdapter, pid: str, **options: Any) -> list[Callable[[], Any]]:
    return [
        lambda: adapter.execute_program(pid, ROW, options or None),
        lambda: asyncio.run(adapter.aexecute_program(pid, ROW, options or None)),
        lambda: adapter.execute_batch(pid, [ROW], options or None),
    ]


SPECS: dict[str, dict[str, Any]] = {
    "predict": {"signature": LABEL},
    "chain_of_thought": {"signature": LABEL, "kind": "chain_of_thought"},
    "react": {"signature": LABEL, "kind": "react", "tools": ["dspy_adapter_tools:add"]},
    "sync module": {"signature": "text -> topic, reply", "module": TwoSteps()},
    "async module": {"signature": "text -> reply", "module": OnlyAsync()},
}


@pytest.mark.parametrize("kind", SPECS)
def test_an_lm_that_hangs(lm_server: LMServer, kind: str) -> None:
    lm_server.answers = Hang()
    adapter, pid = program(lm_server, {**SPECS[kind], "id": "late"})
    for call in ways(adapter, pid, timeout=0.15):
        lm_server.clear()
        seconds, error = timed(call)
        assert isinstance(error, CallTimeoutError)
        assert 0.14 <= seconds < 0.15 + SLACK
        assert (error.program, error.retryable) == ("late", True)
        assert "0.15 s" in error.message
        lm_server.wait_idle(1)  # the request is cancelled, not left to its end
        assert [entry.outcome for entry in lm_server.requests] == ["gone"]


def test_an_answer_that_drips(lm_server: LMServer) -> None:
    """Its bytes come in time, one by one; the LM's own timeout would never end it."""
    lm_server.answers = Slow(200, answer={"label": "refund"})
    adapter, pid = program(lm_server, lm={"timeout": 0.5})
    for call in ways(adapter, pid, timeout=0.3):
        seconds, error = timed(call)
        assert isinstance(error, CallTimeoutError)
        assert seconds < 0.3 + SLACK
    lm_server.wait_idle(1)


def test_the_deadline_covers_retries_and_their_pauses(lm_server: LMServer) -> None:
    lm_server.answers = Status(503)
    retry = {"attempts": 100, "backoff": 0.1, "max_backoff": 0.1}
    adapter, pid = program(lm_server, lm={"retry": retry, "breaker": {"enabled": False}})
    for call in ways(adapter, pid, timeout=0.5):
        lm_server.clear()
        seconds, _ = timed(call)
        assert seconds < 0.5 + SLACK
        assert lm_server.count > 2
    lm_server.answers = Status(503, retry_after=0.4)
    adapter, pid = program(lm_server, lm={"retry": {**retry, "backoff": 0.0}, "breaker": {"enabled": False}})
    for call in ways(adapter, pid, timeout=0.6):  # a second pause does not fit: that is told at once
        lm_server.clear()
        seconds, _ = timed(call)
        assert seconds < 0.7 + SLACK
        assert lm_server.count == 2


def test_a_deadline_of_the_program_and_of_the_configuration(lm_server: LMServer) -> None:
    lm_server.answers = Hang()
    adapter = over(lm_server, dspy={"timeout": 0.15})
    common = adapter.create_program({"signature": LABEL})
    own = adapter.create_program({"signature": LABEL, "dspy": {"timeout": 0.3}})
    for pid, limit in ((common, 0.15), (own, 0.3)):
        for call in ways(adapter, pid):
            seconds, error = timed(call)
            assert isinstance(error, CallTimeoutError)
            assert limit - 0.01 <= seconds < limit + SLACK
    seconds, error = timed(lambda: adapter.execute_program(own, ROW, {"timeout": 0.05}))
    assert seconds < 0.05 + SLACK
    assert "0.05 s" in error.message


@pytest.mark.parametrize("timeout", [0, -1, float("nan"), float("inf"), "1", True, [1]])
def test_timeouts_that_are_none(lm_server: LMServer, timeout: Any) -> None:
    adapter, pid = program(lm_server)
    for call in ways(adapter, pid, timeout=timeout):
        with pytest.raises(ConfigError, match="timeout is a number of seconds above 0") as caught:
            call()
        assert (caught.value.field, caught.value.program) == ("timeout", pid)
    with pytest.raises(ConfigError):
        adapter.create_program({"signature": LABEL, "dspy": {"timeout": timeout}})
    assert lm_server.count == 0


def test_a_deadline_far_away(lm_server: LMServer) -> None:
    lm_server.answers = {"label": "refund"}
    adapter, pid = program(lm_server)
    for call in ways(adapter, pid, timeout=1e12):
        call()


def threads() -> set[threading.Thread]:
    return {each for each in threading.enumerate() if each.name.startswith("dspex-dspy")}


@pytest.mark.parametrize("kind", ["predict", "react", "sync module"])
def test_what_timed_out_does_not_pile_up(lm_server: LMServer, kind: str) -> None:
    count = round(100 * STRESS)
    lm_server.answers = Hang()
    adapter, pid = program(lm_server, SPECS[kind], lm={"breaker": {"enabled": False}})
    before, descriptors = threads(), len(os.listdir("/proc/self/fd"))

    def call(number: int) -> None:
        with pytest.raises(CallTimeoutError):
            ways(adapter, pid, timeout=0.05)[number % 2]()

    with ThreadPoolExecutor(10) as callers:
        list(callers.map(call, range(count)))
    wait_until(lambda: len(threads() - before) <= 1)  # the loop of the requests
    lm_server.wait_idle(1)
    wait_until(lambda: len(os.listdir("/proc/self/fd")) < descriptors + 20)
    assert {entry.outcome for entry in lm_server.requests} <= {"gone"}
    lm_server.answers = {"label": "refund", "topic": "t", "reply": "r"} | {
        "next_thought": "", "next_tool_name": "finish", "next_tool_args": {}, "reasoning": "",
    }  # fmt: skip
    adapter.execute_program(pid, ROW, {"timeout": 5})
    adapter.close()


def test_a_tool_that_blocks_is_left_behind_and_can_ask_nobody(lm_server: LMServer) -> None:
    held = threading.Event()
    ended = threading.Event()

    class Blocks(dspy.Module):
        def __init__(self) -> None:
            super().__init__()
            self.ask = dspy.Predict("text -> reply")

        def forward(self, text: str) -> Any:
            held.wait(10)
            try:
                return self.ask(text=text)
            finally:
                ended.set()

    lm_server.answers = {"reply": "too late"}
    adapter, pid = program(lm_server, {"signature": "text -> reply", "module": Blocks()})
    for call in ways(adapter, pid, timeout=0.1):
        held.clear(), ended.clear()
        seconds, error = timed(call)
        assert isinstance(error, CallTimeoutError)
        assert seconds < 0.1 + SLACK
        held.set()
        assert ended.wait(5)
    assert lm_server.count == 0


def test_code_that_catches_everything_ends_too(lm_server: LMServer) -> None:
    """Nobody waits for it any more: errors that it could catch would let it go on for ever."""
    ended = threading.Event()

    class Stubborn(dspy.Module):
        def __init__(self) -> None:
            super().__init__()
            self.ask = dspy.Predict("text -> reply")

        def forward(self, text: str) -> Any:
            try:
                while True:
                    try:
                        return self.ask(text=text)
                    except Exception:
                        time.sleep(0.01)
            finally:
                ended.set()

    lm_server.answers = Hang()
    adapter, pid = program(lm_server, {"signature": "text -> reply", "module": Stubborn()})
    for call in ways(adapter, pid, timeout=0.1):
        ended.clear()
        _, error = timed(call)
        assert isinstance(error, CallTimeoutError)
        assert ended.wait(5)


def test_an_engine_that_blocks(lm_server: LMServer) -> None:
    engine = NamedEngine("slow", pause=1.6)
    adapter = DspyAdapter({"lms": {"slow": {"model": "test/slow", "options": {"engine": engine}}}})
    pid = adapter.create_program({"signature": "text -> label"})
    for call in ways(adapter, pid, timeout=0.1):
        seconds, error = timed(call)
        assert isinstance(error, CallTimeoutError)
        assert seconds < 0.1 + SLACK
    assert adapter.execute_program(pid, ROW, {"timeout": 5}).label == "slow"


@pytest.mark.parametrize("kind", ["predict", "react", "sync module"])
def test_cancelling_the_task_cancels_the_request(lm_server: LMServer, kind: str) -> None:
    lm_server.answers = Hang()
    adapter, pid = program(lm_server, SPECS[kind])

    async def cancelled(options: dict[str, Any] | None) -> None:
        call = asyncio.ensure_future(adapter.aexecute_program(pid, ROW, options))
        await asyncio.to_thread(lm_server.wait_for, 1)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        await asyncio.to_thread(lm_server.wait_idle, 1)

    for options in (None, {"timeout": 30}):
        lm_server.clear()
        asyncio.run(cancelled(options))
        assert [entry.outcome for entry in lm_server.requests] == ["gone"]
    guard = adapter.get_stats()["lms"]["server"]
    wait_until(lambda: adapter.get_stats()["lms"]["server"]["cancelled"] == 2)
    assert guard["failed"] == 0
    assert adapter.get_stats()["errors"] == {}


@pytest.mark.parametrize("kind", ["predict", "sync module"])
def test_ctrl_c_ends_a_call_with_a_deadline(lm_server: LMServer, kind: str) -> None:
    lm_server.answers = Hang()
    adapter, pid = program(lm_server, SPECS[kind])

    def press() -> None:
        lm_server.wait_for(1)
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

    presser = threading.Thread(target=press)
    presser.start()
    started = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        adapter.execute_program(pid, ROW, {"timeout": 30})
    assert time.monotonic() - started < 2
    presser.join()
    lm_server.wait_idle(1)
    assert [entry.outcome for entry in lm_server.requests] == ["gone"]


def test_what_the_deadline_cut_off_speaks_against_the_lm(lm_server: LMServer) -> None:
    lm_server.answers = Hang()
    adapter, pid = program(lm_server, lm={"breaker": {"min_calls": 3, "cooldown": 30}})
    calls = ways(adapter, pid, timeout=0.05)
    for call in calls:
        timed(call)
    assert adapter.get_stats()["lms"]["server"]["circuit"] == "open"
    assert adapter.get_stats()["lms"]["server"]["failed"] == 3


def test_late_calls_are_observed_with_the_time_they_had(lm_server: LMServer) -> None:
    lm_server.answers = Hang()
    adapter, pid = program(lm_server)
    assert adapter.observed(pid) == {"latency_ms": None, "usd": None}
    for call in ways(adapter, pid, timeout=0.1):
        timed(call)
    latency = adapter.observed(pid)["latency_ms"]
    assert latency is not None
    assert 90 < latency < 100 + 1000 * SLACK

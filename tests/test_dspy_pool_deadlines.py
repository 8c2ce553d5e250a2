"""Calls end by their deadlines: in good order where that can be, and else with their worker."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from typing import Any

import pytest

from dspex.adapters.dspy_pool import DspyPoolAdapter
from dspex.errors import CallTimeoutError, CommunicationError, ConfigError
from dspex.testing.lm_faults import Hang
from dspy_pool_tools import (
    LABEL,
    NO_RETRY,
    SERVER,
    borrowed,
    echo,
    error_of,
    in_background,
    in_threads,
    running,
    until,
)

SLACK = 0.5  # seconds that a late call may take beyond its deadline, on a busy machine
ACTING = {"signature": "text -> said", "module": "dspy_pool_tools:Acting"}


@pytest.fixture
def adapter() -> Iterator[DspyPoolAdapter]:
    with borrowed() as adapter:
        yield adapter


def late(adapter: DspyPoolAdapter, pid: str, seconds: float, text: str = "x", how: str = "sync") -> Any:
    """The error of a call that is not over by its deadline, after a look at when it came."""
    before = time.monotonic()
    error = error_of(lambda: call(adapter, pid, text, {"timeout": seconds}, how))
    took = time.monotonic() - before
    assert isinstance(error, CallTimeoutError)
    assert seconds * 0.85 - 0.05 < took < seconds + SLACK
    assert (error.program, error.retryable) == (pid, True)
    return error


def call(adapter: DspyPoolAdapter, pid: str, text: str, options: dict[str, Any], how: str) -> Any:
    if how == "sync":
        return adapter.execute_program(pid, {"text": text}, options)
    if how == "async":
        return asyncio.run(adapter.aexecute_program(pid, {"text": text}, options))
    return adapter.execute_batch(pid, [{"text": text}], options)


def timeouts(adapter: DspyPoolAdapter) -> int:
    """Calls so far whose worker was killed."""
    found: int = adapter.get_stats()["pool"]["timeouts"]
    return found


@pytest.mark.parametrize("how", ["sync", "async", "batch"])
@pytest.mark.parametrize("spec", [{"signature": LABEL}, {"module": "dspy_pool_tools:Wrapping"}])
def test_an_lm_that_hangs_costs_no_worker(adapter: DspyPoolAdapter, spec: dict[str, Any], how: str) -> None:
    SERVER.answers = Hang()
    pid = adapter.create_program(spec)
    workers, before = adapter.pool.pids(), timeouts(adapter)
    late(adapter, pid, 0.3, how=how)
    SERVER.wait_idle(2)  # the request was cut off
    assert (adapter.pool.pids(), timeouts(adapter)) == (workers, before)
    SERVER.answers = {"label": "refund"}
    assert adapter.execute_program(pid, {"text": "x"}, {"timeout": 5.0}).label == "refund"


def test_waiting_for_a_worker_counts(adapter: DspyPoolAdapter) -> None:
    """The deadline of a call that has waited is no later in the worker, so that it ends in good order."""
    SERVER.answers = Hang()
    pid = adapter.create_program({"signature": LABEL})
    workers, before = adapter.pool.pids(), timeouts(adapter)
    # Two at a time: the third waits for 0.8 s and then hangs; the last two are never begun.
    seconds = [0.8, 0.8, 1.6, 0.3, 0.3]

    def one(n: int) -> None:
        time.sleep(0.03 * n)
        late(adapter, pid, seconds[n])

    in_threads(one, 5)
    assert SERVER.count == 3
    assert (adapter.pool.pids(), timeouts(adapter)) == (workers, before)


@pytest.mark.parametrize(("text", "how"), [("sleep 60", "sync"), ("spin", "sync"), ("spin", "async")])
def test_code_that_is_stuck_is_ended_with_its_worker(adapter: DspyPoolAdapter, text: str, how: str) -> None:
    pid = adapter.create_program(ACTING)
    session = {"session": "stuck"}
    worker = int(adapter.execute_program(pid, {"text": "pid"}, session).said)
    before = timeouts(adapter)
    options = {"timeout": 0.3, **session}
    start = time.monotonic()
    assert isinstance(error_of(lambda: call(adapter, pid, text, options, how)), CallTimeoutError)
    assert time.monotonic() - start < 0.3 + SLACK
    assert timeouts(adapter) == before + 1
    assert worker not in adapter.pool.pids()
    assert adapter.execute_program(pid, {"text": "reverse abc"}, session).said == "cba"
    until(lambda: running(adapter) == 2)


def test_code_that_ends_soon_after_its_deadline_keeps_its_worker(adapter: DspyPoolAdapter) -> None:
    """The worker's deadline is a little before the one of the call."""
    pid = adapter.create_program(ACTING)
    workers = adapter.pool.pids()
    late(adapter, pid, 2.0, "sleep 1.8")  # the worker's is 0.2 s before it, and was counted from sooner
    assert adapter.pool.pids() == workers


def test_a_tool_that_is_stuck(adapter: DspyPoolAdapter) -> None:
    SERVER.answers = {"next_thought": "", "next_tool_name": "stall", "next_tool_args": {}}
    pid = adapter.create_program(
        {"signature": "text -> reply", "kind": "react", "tools": ["dspy_pool_tools:stall"]}
    )
    before = timeouts(adapter)
    late(adapter, pid, 0.3)
    assert timeouts(adapter) == before + 1


def test_tries_and_places_are_waited_for_until_the_deadline(adapter: DspyPoolAdapter) -> None:
    SERVER.answers = Hang(0.1)  # then the connection is cut
    settings = SERVER.lm_config(retry={"attempts": 100, "backoff": 0.001}, breaker={"enabled": False})
    pid = adapter.create_program({"signature": LABEL, "lm": settings})
    before = timeouts(adapter)
    start = time.monotonic()
    with pytest.raises((CallTimeoutError, CommunicationError)):
        adapter.execute_program(pid, {"text": "x"}, {"timeout": 0.5})
    assert time.monotonic() - start < 0.5 + SLACK
    assert SERVER.count >= 3
    SERVER.answers = Hang()
    limited = SERVER.lm_config(limits={"concurrency": 1}, retry=NO_RETRY)
    pid = adapter.create_program({"signature": LABEL, "lm": limited})
    first = in_background(lambda: late(adapter, pid, 0.6))
    SERVER.wait_for(1)
    late(adapter, pid, 0.3)  # it never gets the place
    first.result()
    assert timeouts(adapter) == before


def test_the_deadline_of_the_settings(adapter: DspyPoolAdapter) -> None:
    SERVER.answers = Hang()
    pid = adapter.create_program({"signature": LABEL, "dspy": {"timeout": 0.2}})
    start = time.monotonic()
    with pytest.raises(CallTimeoutError, match=r"of 0\.\d+ s"):
        adapter.execute_program(pid, {"text": "x"})
    assert time.monotonic() - start < 0.2 + SLACK
    late(adapter, pid, 0.4)  # the call's own comes before it
    for wrong in (0, -1, True, "1", float("nan"), float("inf")):
        with pytest.raises(ConfigError) as caught:
            adapter.execute_program(pid, {"text": "x"}, {"timeout": wrong})
        assert (caught.value.field, caught.value.program) == ("timeout", pid)


def test_a_call_without_a_deadline_is_left_alone(adapter: DspyPoolAdapter) -> None:
    pid = adapter.create_program(ACTING)
    assert adapter.execute_program(pid, {"text": "sleep 0.3"}).said == "slept"
    SERVER.answers = echo
    slow = adapter.create_program({"signature": "text -> reply"})
    SERVER.delay = 0.3
    assert adapter.execute_program(slow, {"text": "abc"}).reply == "cba"

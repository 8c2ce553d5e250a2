"""Calls on a pool of worker processes: answers, errors, deadlines, and what takes a worker's place."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from dspex.errors import (
    CallTimeoutError,
    CommunicationError,
    ConfigError,
    DspexError,
    InputError,
    InternalError,
    LMError,
    ResourceError,
)
from dspex.processes import Later, ProcessPool
from processes_tools import after, in_background, in_threads, is_alive, pool, until


def test_a_call_comes_back() -> None:
    with pool(handler_settings={"a": 1}) as p:
        assert p.call("echo", [1, "two", {"three": b"3"}]) == [1, "two", {"three": b"3"}]
        assert p.call("settings") == {"a": 1}
        assert p.call("pid") in p.pids()
        assert p.call("pid") != os.getpid()


def test_all_workers_are_there_at_once() -> None:
    with pool(size=3) as p:
        assert len(set(p.pids())) == 3
        assert p.stats()["workers"] == p.stats()["idle"] == 3


def test_calls_of_many_threads_do_not_mix() -> None:
    with pool(size=3) as p:

        def work(number: int) -> None:
            for n in range(number, number + 200):
                answer, square, _ = p.call("square", n)
                assert (answer, square) == (n, n * n)

        in_threads(work, 8)
        assert p.stats()["calls"] == 1600


def test_workers_work_side_by_side() -> None:
    with pool(size=4) as p:
        start = time.monotonic()
        pids = in_threads(lambda _: p.call("sleep", 0.4), 4)
        assert time.monotonic() - start < 1.3
        assert len(set(pids)) == 4


def test_the_worker_that_has_worked_last_is_taken() -> None:
    with pool(size=3) as p:
        assert len({p.call("pid") for _ in range(20)}) == 1


def test_errors_are_those_of_the_handler() -> None:
    with pool() as p:
        pids = p.pids()
        with pytest.raises(LMError) as caught:
            p.call("raise_own")
        assert (caught.value.retryable, caught.value.retry_after) == (True, 1.5)
        with pytest.raises(InternalError, match="ValueError"):
            p.call("raise", "x")
        with pytest.raises(CallTimeoutError, match="inside the worker"):
            p.call("raise_timeout")
        with pytest.raises(InternalError, match="SystemExit"):
            p.call("system_exit")
        with pytest.raises(CommunicationError, match="cannot be sent"):
            p.call("unsendable")
        assert p.pids() == pids  # none of this is a reason to replace a worker
        assert p.stats()["calls"] == 5


def test_what_cannot_be_sent_takes_no_worker() -> None:
    with pool(capacity=0) as p:
        held = in_background(lambda: p.call("sleep", 0.3))
        until(lambda: not p.stats()["idle"])
        with pytest.raises(CommunicationError, match="cannot be sent") as caught:
            p.call("echo", object())
        assert not caught.value.retryable
        held.result()


def test_questions_and_news() -> None:
    news: list[Any] = []
    with pool(
        on_ask=lambda op, payload: [op, payload], on_tell=lambda op, payload: news.append(payload)
    ) as p:
        assert p.call("ask", 3) == ["question", 3]
        assert p.call("tell", 3) == 3
        assert news == [0, 1, 2]
        own: list[Any] = []
        p.call("tell", 2, on_tell=lambda op, payload: own.append(payload))
        assert (news, own) == ([0, 1, 2], [0, 1])


def test_a_question_that_waits_does_not_hold_up_what_is_told() -> None:
    go = threading.Event()
    with pool(
        on_ask=lambda op, payload: Later(lambda: go.wait(4)), on_tell=lambda op, payload: go.set()
    ) as p:
        assert p.call("ask_and_release", deadline=after(5)) == [True]


# Deadlines


@pytest.mark.parametrize(
    ("op", "payload"), [("sleep", 60), ("spin", 60), ("hold_gil", 10**15), ("stop", None)]
)
def test_a_stuck_call_ends_at_its_deadline_and_its_worker_with_it(op: str, payload: Any) -> None:
    with pool() as p:
        (stuck,) = p.pids()
        start = time.monotonic()
        with pytest.raises(CallTimeoutError) as caught:
            p.call(op, payload, deadline=after(0.2), program="p")
        took = time.monotonic() - start
        assert 0.19 < took < 2.0
        assert caught.value.retryable
        assert caught.value.program == "p"
        until(lambda: not is_alive(stuck))
        assert p.call("pid", deadline=after(10)) != stuck
        assert p.stats()["timeouts"] == 1


def test_the_deadline_holds_while_waiting() -> None:
    with pool() as p:
        held = in_background(lambda: p.call("sleep", 0.5))
        until(lambda: not p.stats()["idle"])
        start = time.monotonic()
        with pytest.raises(CallTimeoutError, match="waiting for a worker"):
            p.call("echo", 1, deadline=after(0.1), program="p")
        assert 0.09 < time.monotonic() - start < 0.4
        held.result()
        assert p.call("echo", 1) == 1
        assert p.stats()["lost"] == 0


def test_a_worker_knows_how_long_it_has() -> None:
    with pool() as p:
        assert p.call("left") is None
        assert 3 < p.call("left", deadline=after(5)) <= 5


def test_a_deadline_that_has_passed_costs_no_worker() -> None:
    with pool() as p:
        with pytest.raises(CallTimeoutError):
            p.call("sleep", 1, deadline=after(0.0))
        assert p.call("echo", 1) == 1
        assert (p.stats()["calls"], p.stats()["timeouts"], p.stats()["lost"]) == (1, 0, 0)


# Deaths


@pytest.mark.parametrize(("op", "payload"), [("exit", 0), ("kill", None), ("garbage", bytes(100))])
def test_a_worker_that_dies_is_replaced_and_the_call_says_so(op: str, payload: Any) -> None:
    with pool(size=2) as p:
        before = p.pids()
        with pytest.raises(CommunicationError, match="may have been begun") as caught:
            p.call(op, payload, program="p")
        assert caught.value.retryable
        assert caught.value.program == "p"
        until(lambda: p.stats()["workers"] == 2)
        assert len(set(p.pids()) & set(before)) == 1
        stats = p.stats()
        assert (stats["broken"], stats["lost"], stats["started"]) == (1, 1, 3)


def test_an_idle_worker_that_dies_is_noticed_at_once_and_replaced() -> None:
    with pool(size=2, ping_interval=1000.0) as p:
        before = p.pids()
        for pid in before:
            os.kill(pid, signal.SIGKILL)
        until(lambda: p.stats()["lost"] == 2)  # and not at a ping, in 1000 s
        assert p.call("echo", 1, deadline=after(10)) == 1
        until(lambda: p.stats()["workers"] == 2)
        assert not set(before) & set(p.pids())


def test_a_call_that_was_not_begun_is_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    with pool(size=2, ping_interval=1000.0) as p:
        monkeypatch.setattr(p._fleet, "lost", lambda member: None)  # nobody notices before the call does
        for pid in p.pids():
            os.kill(pid, signal.SIGKILL)
            until(lambda pid=pid: not is_alive(pid))
        assert p.call("echo", 1, deadline=after(10)) == 1
        assert p.stats()["repeated"] == 2
        assert p.stats()["broken"] == 0


def test_a_stopped_idle_worker_is_found_by_its_pings() -> None:
    with pool(ping_interval=0.05, ping_timeout=1.0) as p:
        (stopped,) = p.pids()
        until(lambda: p.stats()["pings"] > 2)
        os.kill(stopped, signal.SIGSTOP)
        until(lambda: p.pids() and p.pids() != [stopped], 10)
        assert not is_alive(stopped)
        assert p.call("echo", 1) == 1


# Starts that fail


STARTS: list[tuple[str, type[DspexError], str]] = [
    ("no_such_module:make", ConfigError, "no_such_module"),
    ("toy_broken:make", ConfigError, "this module is broken"),
    ("toy_handlers:make_error", ConfigError, "ValueError: no"),
    ("toy_handlers:make_nothing", InputError, "these settings are wrong"),
    ("toy_handlers:make_crash", CommunicationError, "exit code 7"),
]


@pytest.mark.parametrize(("handler", "error", "message"), STARTS, ids=[each[0] for each in STARTS])
def test_a_pool_that_cannot_start_says_why(handler: str, error: type[DspexError], message: str) -> None:
    threads = threading.active_count()
    with pytest.raises(error, match=message):
        pool(handler, size=2)
    assert threading.active_count() == threads


@pytest.mark.parametrize("handler", ["toy_handlers", ":make", "toy_handlers:", "", None, len])
def test_a_handler_is_an_import_path(handler: Any) -> None:
    with pytest.raises(ConfigError) as caught:
        ProcessPool(handler)
    assert caught.value.field == "handler"


def test_settings_are_checked() -> None:
    with pytest.raises(ConfigError, match="sise"):
        ProcessPool("toy_handlers:make", {"sise": 3})


def test_a_start_that_takes_too_long_is_given_up() -> None:
    with pytest.raises(ResourceError, match=r"not ready within 0\.3 s"):
        pool("toy_handlers:make_slowly", handler_settings=30.0, start_timeout=0.3)


def test_slow_starts_run_side_by_side() -> None:
    start = time.monotonic()
    with pool("toy_handlers:make_slowly", handler_settings=1.5, size=4):
        assert time.monotonic() - start < 5.5  # one after another: 6 s


def test_replacements_that_cannot_start_fail_those_who_wait_and_are_tried_again(tmp_path: Path) -> None:
    there = tmp_path / "there"
    there.touch()
    with pool("toy_handlers:make_while_present", handler_settings=str(there), size=2) as p:
        there.unlink()
        held = in_background(lambda: p.call("sleep", 60, deadline=after(60)))
        until(lambda: p.stats()["idle"] == 1)
        time.sleep(0.1)  # the call is running now
        for pid in p.pids():
            os.kill(pid, signal.SIGKILL)
        with pytest.raises(CommunicationError, match="may have been begun"):
            held.result()
        start = time.monotonic()
        with pytest.raises(CommunicationError, match="no worker process can be started") as caught:
            p.call("echo", 1, program="p")
        assert time.monotonic() - start < 5
        assert "cannot be made: FileNotFoundError" in caught.value.message
        assert (caught.value.retryable, caught.value.program) == (True, "p")
        assert caught.value.retry_after is not None
        refusal = p.refusal()
        assert refusal is None or "can be started" in refusal.message
        assert not p.health()
        until(lambda: p.stats()["failed_starts"] >= 3)
        there.touch()
        until(lambda: p.stats()["workers"] == 2, 10)  # without anybody calling
        assert p.call("echo", 1) == 1
        assert p.refusal() is None
        assert p.health()


def test_starts_that_fail_become_rarer(tmp_path: Path) -> None:
    there = tmp_path / "there"
    there.touch()
    with pool("toy_handlers:make_while_present", handler_settings=str(there)) as p:
        there.unlink()
        start = time.monotonic()
        os.kill(p.pids()[0], signal.SIGKILL)
        until(lambda: p.stats()["failed_starts"] >= 5)
        assert time.monotonic() - start > 1.5  # pauses of 0.1, 0.2, 0.4 and 0.8 s, and the starts themselves


# Replacement in time


def test_a_worker_is_replaced_after_so_many_calls() -> None:
    with pool(max_calls=5) as p:
        (first,) = p.pids()
        assert [p.call("pid") for _ in range(5)] == [first] * 5
        until(lambda: p.pids() and p.pids() != [first])
        until(lambda: not is_alive(first))
        stats = p.stats()
        assert (stats["retired"], stats["started"], stats["lost"]) == (1, 2, 0)


def test_the_old_worker_goes_on_until_the_new_one_is_ready() -> None:
    with pool("toy_handlers:make_slowly", handler_settings=0.8, max_calls=1) as p:
        (first,) = p.pids()
        p.call("pid")
        assert p.call("pid", deadline=after(0.7)) == first  # nobody waits for the replacement
        until(lambda: p.pids() and p.pids() != [first])


def test_a_worker_that_grows_is_replaced_after_the_call() -> None:
    with pool(max_memory_mib=100) as p:
        (first,) = p.pids()
        assert p.call("grow", 1) == first
        assert p.stats()["retired"] == 0
        assert p.call("grow", 120) == first
        until(lambda: p.pids() and p.pids() != [first])
        assert p.stats()["retired"] == 1


def test_retirement_under_load_loses_no_call() -> None:
    with pool(size=2, max_calls=20) as p:

        def work(number: int) -> None:
            for n in range(150):
                assert p.call("echo", [number, n]) == [number, n]

        in_threads(work, 4)
        until(lambda: p.stats()["workers"] == 2)
        stats = p.stats()
        assert stats["calls"] == 600
        assert stats["retired"] >= 2
        assert (stats["broken"], stats["lost"]) == (0, 0)


# How it stands


def test_health_asks_every_worker() -> None:
    with pool(size=2, ping_timeout=0.3) as p:
        health = p.health()
        assert (health.ok, health.checked) == (True, 2)
        assert bool(health)
        os.kill(p.pids()[0], signal.SIGSTOP)
        health = p.health()
        assert not health
        assert "no answer from worker 1" in health.reason
        until(lambda: p.stats()["workers"] == 2 and bool(p.health()))


def test_health_asks_busy_workers_too() -> None:
    with pool(size=2, ping_timeout=0.5) as p:
        calls = [in_background(lambda: p.call("sleep", 1.0)) for _ in range(2)]
        until(lambda: not p.stats()["idle"])
        time.sleep(0.05)
        assert p.health().reason == "each of 2 workers answers"
        os.kill(p.pids()[1], signal.SIGSTOP)
        start = time.monotonic()
        assert "no answer from worker 2" in p.health().reason
        assert time.monotonic() - start < 0.9
        os.kill(p.pids()[1], signal.SIGCONT)
        for call in calls:
            call.result()


def test_saturation_and_stats() -> None:
    with pool(size=2) as p:
        assert p.saturation == 0.0
        held = [in_background(lambda: p.call("sleep", 0.4)) for _ in range(3)]
        until(lambda: p.stats()["waiting"] == 1)
        assert p.saturation == 1.0
        assert p.stats()["busy"] == 2
        for each in held:
            each.result()
        assert p.saturation == 0.0
        assert 100 < p.stats()["mean_ms"] * 3 < 1000

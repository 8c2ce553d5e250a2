"""Waiting for a worker: the line, its bounds, overflow workers, and sessions that stick."""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from typing import Any

import pytest

from dspex.errors import CallTimeoutError, CommunicationError, InputError, PoolSaturated
from processes_tools import Outcome, after, in_background, in_threads, pool, scaled, until


def hold(p: Any, seconds: float, count: int = 1, **options: Any) -> list[Outcome]:
    """Keeps so many workers busy from here on."""
    before = p.stats()["busy"]
    held = [in_background(lambda: p.call("sleep", seconds, **options)) for _ in range(count)]
    until(lambda: p.stats()["busy"] >= before + count)
    time.sleep(0.02)  # the calls are running now
    return held


def test_one_more_than_the_capacity_is_refused_with_a_time_to_come_back() -> None:
    with pool(capacity=2) as p:
        p.call("sleep", 0.1)
        assert p.refusal() is None
        held = hold(p, 1.0)
        waiting = [in_background(lambda: p.call("echo", 1)) for _ in range(2)]
        until(lambda: p.stats()["waiting"] == 2)
        start = time.monotonic()
        with pytest.raises(PoolSaturated, match="2 calls wait") as caught:
            p.call("echo", 1, program="p")
        assert time.monotonic() - start < 0.4
        assert caught.value.retryable
        assert caught.value.program == "p"
        assert caught.value.retry_after is not None
        assert 0.001 < caught.value.retry_after < 2
        assert isinstance(p.refusal(), PoolSaturated)
        for each in (*held, *waiting):
            each.result()
        assert p.refusal() is None
        assert p.stats()["saturated"] == 1


def test_a_capacity_of_none_lets_nobody_wait() -> None:
    with pool(capacity=0) as p:
        held = hold(p, 0.2)
        with pytest.raises(PoolSaturated):
            p.call("echo", 1)
        held[0].result()
        assert p.call("echo", 1) == 1


def test_a_call_without_a_deadline_waits_for_so_long_and_no_longer() -> None:
    with pool(max_wait=0.1) as p:
        held = hold(p, 0.5)
        start = time.monotonic()
        with pytest.raises(PoolSaturated, match=r"within 0\.1 s"):
            p.call("echo", 1)
        assert 0.09 < time.monotonic() - start < 0.4
        assert p.stats()["saturated"] == 1
        assert p.call("echo", 1, deadline=after(5)) == 1  # it has a limit of its own
        held[0].result()


def test_who_came_first_is_served_first() -> None:
    served: list[int] = []
    with pool() as p:
        held = hold(p, 1.0)  # until all of them wait
        waiting = []
        for number in range(10):
            waiting.append(in_background(lambda n=number: served.append(p.call("echo", n))))
            until(lambda n=number: p.stats()["waiting"] == n + 1)
        for each in (*held, *waiting):
            each.result()
    assert served == list(range(10))


def test_who_gave_up_is_not_served() -> None:
    with pool() as p:
        held = hold(p, 0.3)
        impatient = in_background(lambda: p.call("echo", 1, deadline=after(0.05)))
        patient = in_background(lambda: p.call("echo", 2))
        with pytest.raises(CallTimeoutError):
            impatient.result()
        assert p.stats()["waiting"] == 1
        assert patient.result() == 2
        held[0].result()
        assert p.stats()["idle"] == 1


def test_calls_that_wait_for_their_sessions_worker_count_though_others_are_idle() -> None:
    with pool(size=2, capacity=1) as p:
        held = hold(p, 0.3, session="s")
        waiting = in_background(lambda: p.call("echo", 1, session="s"))
        until(lambda: p.stats()["waiting"] == 1)
        with pytest.raises(PoolSaturated):
            p.call("echo", 2, session="s")
        assert p.call("echo", 3) == 3
        assert waiting.result() == 1
        held[0].result()


# Overflow


def test_overflow_workers_come_when_calls_wait_and_go_when_they_are_idle() -> None:
    with pool(size=1, max_size=3, idle_timeout=3.0) as p:
        held = hold(p, 2.0)  # an interpreter has started by then
        assert p.stats()["starting"] == 0  # nobody waits
        assert p.call("echo", 1) == 1  # by another worker
        assert not held[0].done
        assert p.stats()["overflow"] == 1
        held[0].result()
        assert p.stats()["workers"] == 2
        until(lambda: p.stats()["workers"] == 1)
        assert p.stats()["dismissed"] == 1
        assert p.stats()["lost"] == 0
        assert p.call("echo", 1) == 1


def test_no_more_overflow_workers_come_than_there_may_be() -> None:
    with pool(size=1, max_size=2, idle_timeout=5.0) as p:
        assert len(set(in_threads(lambda _: p.call("sleep", 0.3), 6))) == 2
        assert p.stats()["workers"] == 2
        assert p.stats()["overflow"] == 1


def test_one_overflow_worker_on_its_way_is_enough_for_one_call() -> None:
    with pool("toy_handlers:make_slowly", handler_settings=0.4, size=1, max_size=3) as p:
        held = hold(p, 0.3)
        for _ in range(3):
            with pytest.raises(CallTimeoutError):
                p.call("echo", 1, deadline=after(0.02))
        assert p.stats()["overflow"] == 1
        held[0].result()


def test_without_room_nobody_overflows() -> None:
    with pool(size=1) as p:
        assert len(set(in_threads(lambda _: p.call("sleep", 0.02), 6))) == 1


# Sessions


def test_a_session_stays_with_its_worker() -> None:
    with pool(size=3) as p:
        seen: dict[str, set[int]] = {}

        def work(number: int) -> None:
            dice = random.Random(number)
            for _ in range(40):
                session = dice.choice("abcdef")
                pid, _ = p.call("count", session, session=session)
                seen.setdefault(session, set()).add(pid)

        in_threads(work, 6)
        assert {len(pids) for pids in seen.values()} == {1}
        assert p.stats()["sessions"] == 6


def test_sessions_are_spread() -> None:
    with pool(size=3) as p:
        pids = [p.call("pid", session=f"s{n}") for n in range(9)]
        assert sorted(pids.count(pid) for pid in set(pids)) == [3, 3, 3]


def test_calls_of_a_session_run_one_after_another_in_order() -> None:
    with pool(size=2) as p:
        p.call("echo", session="a")
        held = hold(p, 0.2, session="a")
        served: list[int] = []
        waiting = []
        for number in range(5):
            waiting.append(in_background(lambda n=number: served.append(p.call("echo", n, session="a"))))
            until(lambda n=number: p.stats()["waiting"] == n + 1)
        assert p.stats()["idle"] == 1  # the other worker is free, and not theirs
        assert p.call("echo", 1, session="b") == 1
        for each in (*held, *waiting):
            each.result()
    assert served == list(range(5))


def test_a_new_session_that_waits_twice_gets_one_worker() -> None:
    with pool(size=2) as p:
        held = hold(p, 0.2, count=2)
        waiting = [in_background(lambda: p.call("count", "new", session="new")) for _ in range(6)]
        until(lambda: p.stats()["waiting"] == 6)
        counts = [each.result() for each in waiting]
        assert len({pid for pid, _ in counts}) == 1
        assert sorted(count for _, count in counts) == [1, 2, 3, 4, 5, 6]
        for each in held:
            each.result()


def test_a_session_moves_when_its_worker_dies() -> None:
    with pool(size=2, setup=[("learn", "the program")]) as p:
        first, count = p.call("count", "s", session="s")
        assert (count, p.call("known", session="s")) == (1, [first, ["the program"]])
        os.kill(first, signal.SIGKILL)
        until(lambda: p.stats()["lost"] == 1)
        second, count = p.call("count", "s", session="s")
        assert second != first
        assert count == 1
        assert p.call("known", session="s") == [second, ["the program"]]  # every worker knows it
        assert p.call("count", "s", session="s") == [second, 2]


def test_calls_that_wait_for_a_worker_that_dies_go_to_another() -> None:
    with pool(size=2) as p:
        first = p.call("pid", session="s")
        (second,) = set(p.pids()) - {first}
        held = hold(p, 60, session="s")
        waiting = [in_background(lambda: p.call("pid", session="s")) for _ in range(3)]
        until(lambda: p.stats()["waiting"] == 3)
        os.kill(first, signal.SIGKILL)
        assert {each.result(5) for each in waiting} == {second}
        with pytest.raises(CommunicationError):
            held[0].result()


def test_a_retired_workers_sessions_move() -> None:
    with pool(size=2, max_calls=3) as p:
        first = p.call("pid", session="s")
        for _ in range(2):
            assert p.call("pid", session="s") == first
        until(lambda: first not in p.pids())
        second = p.call("pid", session="s")
        assert second != first
        assert p.call("pid", session="s") == second


def test_a_session_is_forgotten_after_its_time_to_live() -> None:
    with pool(session_ttl=0.6) as p:

        def only_one() -> bool:
            assert p.stats()["sessions"] > 0, "it is used all the time"
            p.call("echo", session="s")
            return bool(p.stats()["sessions"] == 1)

        p.call("echo", session="s")
        p.call("echo", session="t")
        assert p.stats()["sessions"] == 2
        until(only_one)
        until(lambda: p.stats()["sessions"] == 0, 3.0)  # without a call, and before a ping is due


def test_the_time_to_live_begins_when_a_call_has_ended() -> None:
    with pool(session_ttl=0.15) as p:
        p.call("sleep", 0.4, session="s")
        assert p.stats()["sessions"] == 1


@pytest.mark.parametrize("session", [3, b"s", ["s"]])
def test_a_session_is_named_by_a_string(session: Any) -> None:
    with pool() as p, pytest.raises(InputError) as caught:
        p.call("echo", session=session, program="p")
    assert (caught.value.field, caught.value.program) == ("session", "p")


def test_nobody_is_forgotten_under_all_of_it_at_once() -> None:
    """Sessions, deadlines, overflow, retirement and deaths together: every call ends, and nobody waits."""
    outcomes: dict[str, int] = {}
    lock = threading.Lock()
    options = {"max_size": 4, "max_calls": 30, "idle_timeout": 0.05, "session_ttl": 0.05, "capacity": 6}
    with pool(size=2, **options) as p:

        def work(number: int) -> None:
            dice = random.Random(number)
            for n in range(scaled(60)):
                session = dice.choice([None, None, "a", "b", "c"])
                deadline = after(dice.choice([0.002, 0.02, 5.0]))
                op = "exit" if dice.random() < 0.02 else "square"
                payload = 1 if op == "exit" else n
                try:
                    answer = p.call(op, payload, session=session, deadline=deadline)
                    assert answer[:2] == [n, n * n]
                    outcome = "answered"
                except (CallTimeoutError, PoolSaturated, CommunicationError) as error:
                    outcome = type(error).__name__
                with lock:
                    outcomes[outcome] = outcomes.get(outcome, 0) + 1

        in_threads(work, 8)
        assert sum(outcomes.values()) == 8 * scaled(60)
        assert outcomes["answered"] > scaled(60)
        assert p.stats()["waiting"] == 0
        until(lambda: p.stats()["workers"] == p.stats()["idle"] == 2)

"""The ends: draining, closing, dropping, forking, the interpreter's own; and that nothing is left behind."""

from __future__ import annotations

import gc
import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from dspex.errors import CommunicationError, ResourceError
from processes_tools import (
    after,
    children,
    clean_run,
    descriptors,
    in_background,
    in_threads,
    is_alive,
    linux,
    pool,
    run_script,
    until,
)


def refused(p: Any) -> str:
    with pytest.raises(ResourceError) as caught:
        p.call("echo", 1)
    assert not caught.value.retryable
    return caught.value.message


@linux
def test_nothing_is_left_after_close() -> None:
    before = descriptors(), children(), threading.active_count()
    for _ in range(3):
        with pool(size=3, max_size=4) as p:
            in_threads(lambda n: p.call("echo", n), 8)
            with pytest.raises(CommunicationError):
                p.call("exit", 1)
            with pytest.raises(TimeoutError):
                p.call("sleep", 60, deadline=after(0.05))
        assert (descriptors(), children(), threading.active_count()) == before


@linux
def test_nothing_piles_up_while_workers_come_and_go() -> None:
    threads = threading.active_count()
    with pool(size=2) as p:
        p.call("echo", 1)
        before = descriptors(), len(children())
        for _ in range(12):
            with pytest.raises(CommunicationError):
                p.call("exit", 1, deadline=after(10))
        until(lambda: p.stats()["workers"] == 2)
        until(lambda: (descriptors(), len(children())) == before)
        assert threading.active_count() < threads + 10


def test_close_lets_calls_end() -> None:
    p = pool()
    running = in_background(lambda: p.call("sleep", 0.3))
    until(lambda: p.stats()["busy"])
    assert p.close(5)
    running.result()
    assert "closed" in refused(p)
    assert p.closed
    assert p.close()


def test_close_breaks_off_what_takes_longer() -> None:
    p = pool()
    running = in_background(lambda: p.call("sleep", 60))
    until(lambda: p.stats()["busy"])
    time.sleep(0.05)
    waiting = in_background(lambda: p.call("echo", 1))
    until(lambda: p.stats()["waiting"])
    start = time.monotonic()
    assert not p.close(0.1)
    assert time.monotonic() - start < 2
    for each in (running, waiting):
        with pytest.raises(ResourceError, match="closed") as caught:
            each.result()
        assert not caught.value.retryable


def test_close_from_many_threads_and_from_within_a_call() -> None:
    p = pool(size=2)
    in_threads(lambda _: p.close(), 5)
    with pytest.raises(ResourceError):
        p.broadcast("learn", 1)
    p = pool()
    closed: list[bool] = []
    in_background(lambda: p.call("tell", 1, on_tell=lambda op, payload: closed.append(p.close(0.1)))).result()
    assert closed == [False]
    assert "closed" in refused(p)


def test_close_while_workers_start() -> None:
    p = pool("toy_handlers:make_slowly", handler_settings=0.5, size=2)
    for pid in p.pids():
        os.kill(pid, signal.SIGKILL)
    until(lambda: p.stats()["starting"] == 2)
    start = time.monotonic()
    p.close()
    assert time.monotonic() - start < 3
    assert p.pids() == []


def test_drain_waits_for_what_was_taken_and_takes_no_more() -> None:
    with pool() as p:
        running = in_background(lambda: p.call("sleep", 0.3))
        until(lambda: p.stats()["busy"])
        waiting = in_background(lambda: p.call("echo", 1))
        until(lambda: p.stats()["waiting"])
        assert not p.drain(0.05)
        assert "closed" in refused(p)
        assert p.closed
        assert p.drain()
        assert waiting.result() == 1
        running.result()
    assert p.drain()


def test_a_signals_handler_may_close_the_pool() -> None:
    code = """
import os, signal, threading, time
from dspex.errors import ResourceError
from processes_tools import pool
p = pool(size=2)
signal.signal(signal.SIGUSR1, lambda *_: p.close(0))
threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGUSR1)).start()
try:
    while True:
        p.call("echo", 1)
except ResourceError as error:
    print(error.message)
p = pool(size=2)
with p._fleet.lock:  # in the worst moment
    os.kill(os.getpid(), signal.SIGUSR1)
assert p.closed and not p.pids()
"""
    assert "closed" in clean_run(code)


def test_a_pool_may_be_collected_at_the_worst_moment() -> None:
    with pool() as p:
        supervisor = p._supervisor

        def collected() -> None:
            with supervisor._pulling:  # as in the middle of waking it
                supervisor.ask_to_close()

        in_background(collected).result(5)
        until(lambda: p.closed)


def test_idle_workers_end_in_good_order_when_the_interpreter_does(tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    clean_run(f"from processes_tools import pool; p = pool('toy_bare:make', handler_settings={str(trace)!r})")
    assert trace.read_text() == "ended"


def test_ctrl_c_during_a_call_costs_one_worker() -> None:
    code = """
import os, signal, threading
from processes_tools import after, pool, until
signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in what runs in the background
p = pool()
before = p.pids()
threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT)).start()
try:
    p.call("sleep", 60)
except KeyboardInterrupt:
    print("interrupted")
assert p.call("pid", deadline=after(10)) not in before
threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT)).start()
held = threading.Thread(target=p.call, args=("sleep", 0.5))
held.start()
until(lambda: not p.stats()["idle"])
try:
    p.call("echo", 1)
except KeyboardInterrupt:
    print("interrupted while waiting")
held.join()
assert p.call("echo", 1) == 1
assert p.stats()["idle"] == 1
"""
    assert clean_run(code) == "interrupted\ninterrupted while waiting\n"


# Without closing

END = {
    "nothing": "",
    "a call in a daemon thread": "threading.Thread(target=call, args=('sleep', 60), daemon=True).start()",
    "a hanging C call": "threading.Thread(target=call, args=('hold_gil', 10**15), daemon=True).start()",
    "an async call": """
loop = asyncio.new_event_loop()
task = loop.create_task(p.acall('sleep', 60))
task._log_destroy_pending = False
loop.run_until_complete(asyncio.sleep(0.1))
""",
    "the pool dropped": "del p",
    "workers starting": "[os.kill(pid, 9) for pid in p.pids()]",
    "sys.exit": "sys.exit()",
    "closed": "p.close()",
}


@linux
@pytest.mark.parametrize("end", END.values(), ids=END.keys())
def test_the_interpreter_ends_at_once_without_a_word_and_takes_its_workers(end: str) -> None:
    code = f"""
import asyncio, os, sys, threading, time
from dspex.errors import ResourceError
from processes_tools import pool
p = pool(size=2)
print(*p.pids(), flush=True)
def call(op, payload):
    try:
        p.call(op, payload)
    except ResourceError:
        pass  # it was closed
{end}
time.sleep(0.1)
"""
    start = time.monotonic()
    pids = [int(pid) for pid in clean_run(code).split()]
    assert time.monotonic() - start < 6
    until(lambda: not any(map(is_alive, pids)), 3)


@linux
@pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGTERM])
def test_a_parent_that_is_killed_takes_its_workers(signum: int) -> None:
    code = f"""
import os, threading, time
from processes_tools import pool, until
p = pool(size=3)
print(*p.pids(), flush=True)
threading.Thread(target=p.call, args=("sleep", 60), daemon=True).start()
threading.Thread(target=p.call, args=("hold_gil", 10**15), daemon=True).start()
time.sleep(0.2)
os.kill(os.getpid(), {int(signum)})
time.sleep(60)
"""
    done = run_script(code)
    assert done.returncode == -signum
    until(lambda: not any(is_alive(int(pid)) for pid in done.stdout.split()), 5)


@linux
@pytest.mark.parametrize("cycle", [False, True])
def test_a_pool_that_is_dropped_ends_its_workers(cycle: bool) -> None:
    before = descriptors(), children(), threading.active_count()
    p = pool(size=2)
    if cycle:
        p.me = p  # type: ignore[attr-defined]
    p.call("echo", 1)
    pids = p.pids()
    del p
    gc.collect()
    until(lambda: not any(map(is_alive, pids)), 5)
    until(lambda: (descriptors(), children(), threading.active_count()) == before, 5)


# Forks

FORK = """
import os, signal, sys, threading, time, traceback
from dspex.errors import ResourceError
from processes_tools import after, children, descriptors, in_background, pool, until

def in_child(work, end=os._exit):
    pid = os.fork()
    if pid == 0:
        signal.alarm(10)
        try:
            work()
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        end(0)
    return pid

def assert_ended(pid):
    assert os.waitpid(pid, 0)[1] == 0
"""


@linux
@pytest.mark.parametrize("end", ["os._exit", "sys.exit"])
def test_a_forked_child_is_told_so_and_harms_nothing(end: str) -> None:
    code = f"""
p = pool(size=2)
held = in_background(lambda: p.call("sleep", 0.5))
until(lambda: p.stats()["busy"])

def child():
    for use in (lambda: p.call("echo", 1), lambda: p.broadcast("learn", 1)):
        try:
            use()
        except ResourceError as error:
            assert "forked" in error.message and not error.retryable, error
        else:
            raise AssertionError("not refused")
    assert p.refusal() is not None and not p.health() and p.pids() is not None
    assert p.close() and p.drain(0)
    sockets = [os.readlink(f"/proc/self/fd/{{fd}}") for fd in os.listdir("/proc/self/fd") if fd != "3"
               and os.path.exists(f"/proc/self/fd/{{fd}}")]
    assert not any("pidfd" in each or "socket" in each for each in sockets), sockets
    with pool() as own:
        assert own.call("echo", 1) == 1

assert_ended(in_child(child, {end}))
assert p.call("echo", 1) == 1
held.result()
assert len(p.pids()) == 2
p.close()
"""
    assert clean_run(FORK + code) == ""


@linux
def test_a_fork_at_any_moment() -> None:
    code = """
p = pool(size=2)
stop = threading.Event()

def load():
    while not stop.is_set():
        p.call("echo", 1)

threads = [threading.Thread(target=load) for _ in range(3)]
for thread in threads:
    thread.start()

def child():
    try:
        p.call("echo", 1)
    except ResourceError:
        p.close()
    else:
        raise AssertionError("not refused")

for _ in range(20):
    assert_ended(in_child(child))
stop.set()
for thread in threads:
    thread.join()
stats = p.stats()
assert (stats["broken"], stats["lost"], stats["timeouts"]) == (0, 0, 0), stats
p.close()
"""
    assert clean_run(FORK + code) == ""


@linux
def test_workers_go_with_their_parent_though_a_forked_child_lives_on() -> None:
    code = """
p = pool(size=2)
print(*p.pids(), flush=True)
child = os.fork()
if child == 0:
    os.closerange(0, 3)
    time.sleep(3)
    os._exit(0)
os.kill(os.getpid(), 9)
"""
    done = run_script(FORK + code)
    until(lambda: not any(is_alive(int(pid)) for pid in done.stdout.split()), 2)

"""Forks of a process with pools: the child is told, makes its own, and ends; the parent notices nothing.

Each script is a process of its own: nothing else is to be forked along.

DSPEX_STRESS=20 multiplies counts by 20.
"""

from __future__ import annotations

import os
import sys

import pytest

from test_pool_tools import run_script, scaled

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")

START = """
import asyncio, concurrent.futures, gc, os, random, signal, sys, threading, time, traceback
import dspex
from dspex.errors import ResourceError
from test_pool_tools import LONG, hold, settled, simple, texts
program, rows = simple(), texts(1000)
truth = [program.predict(row) for row in rows]

def in_child(work, end=None):
    '''Forks; what the child's work raises ends it with code 1, and a child that hangs ends the script.'''
    pid = os.fork()
    if pid == 0:
        signal.alarm(8)
        if end is None:  # through the interpreter's own end
            work()
            sys.exit(0)
        try:
            work()
        except BaseException:
            traceback.print_exc()
            end(1)
        end(0)
    return pid

def assert_ended(*pids):
    for pid in pids:
        assert os.waitpid(pid, 0)[1] == 0

def refused(use):
    try:
        use()
    except ResourceError as error:
        assert not error.retryable and "forked" in error.message, error
        return
    raise AssertionError("it was not refused")
"""


def check(code: str) -> None:
    done = run_script(START + code, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


ENDS = ["None", "os._exit"]


@pytest.mark.parametrize("end", ENDS)
def test_the_child_is_told_that_the_pool_is_its_parents(end: str) -> None:
    check(f"""
pool = dspex.Pool(size=2)
session = pool.session("a")
held = hold(pool, 0.3)
waiting = pool.submit(program, rows[0])
ended = pool._probe
async def acall():
    await pool.acall(program, rows[0])
async def amap():
    async for _ in pool.amap(program, rows):
        pass
def child():
    for use in (
        lambda: pool.submit(program, rows[0]),
        lambda: pool.call(program, rows[0]),
        lambda: pool.batch(program, rows),
        lambda: program.batch(rows[:2], pool=pool),
        lambda: asyncio.run(acall()),
        lambda: asyncio.run(amap()),
        lambda: pool.session("b"),
        lambda: session.submit(program, rows[0]),
        lambda: pool.resize(3),
        lambda: pool.drain(),
        lambda: waiting.result(),
        lambda: waiting.exception(60),
        lambda: held[0].result(),
    ):
        refused(use)
    assert pool.closed and repr(pool) == "<dspex.Pool closed>"
    assert not held[0].done()
    begin = time.monotonic()
    assert pool.close() and pool.close(0)
    with pool:
        pass
    assert time.monotonic() - begin < 1
assert_ended(in_child(child, {end}))
assert waiting.result() == truth[0]  # the parent's goes on
assert not pool.closed
assert [probe.result() for probe in held]
assert pool.call(program, rows[1]) == truth[1]
assert pool.close()
""")


@pytest.mark.parametrize("end", ENDS)
def test_the_child_makes_its_own_pools(end: str) -> None:
    check(f"""
assert program.batch(rows) == truth
parents = dspex.default_pool()
async def on_a_loop(pool):
    assert await asyncio.gather(*(pool.acall(program, row) for row in rows)) == truth
    assert await asyncio.wrap_future(pool.submit(program, rows[0])) == truth[0]
def use(pool):
    assert pool.batch(program, rows) == truth
    futures = [pool.submit(program, row) for row in rows]
    assert len(concurrent.futures.wait(futures, 10).done) == len(rows)
    called = threading.Event()
    pool._probe(sleep=0.01).add_done_callback(lambda future: called.set())
    assert called.wait(10)
    asyncio.run(on_a_loop(pool))
    assert pool.session("a").call(program, rows[0]) == truth[0]
use(parents)
def child():
    assert program.batch(rows) == truth
    assert dspex.default_pool() is not parents and dspex.default_pool() is dspex.default_pool()
    use(dspex.default_pool())
    with dspex.Pool(size=2) as own:
        use(own)
        def grandchild():
            refused(lambda: own.submit(program, rows[0]))
            use(dspex.Pool(size=1))
        assert_ended(in_child(grandchild, {end}))
        use(own)
assert_ended(*(in_child(child, {end}) for _ in range(2)))
assert dspex.default_pool() is parents
use(parents)
""")


@pytest.mark.parametrize("end", ENDS)
def test_what_waits_in_the_parent_does_not_hold_up_the_child(end: str) -> None:
    """Futures, callbacks and loops that will never hear of anything in the child."""
    check(f"""
pool = dspex.Pool(size=1, capacity=5000)
hold(pool, 0.5)
futures = [pool.submit(program, row) for row in rows]
seen = []
for future in futures[:100]:
    future.add_done_callback(seen.append)
def child():
    global pool, futures
    assert not any(future.done() for future in futures)
    del futures
    gc.collect()
    refused(lambda: pool.submit(program, rows[0]))
    del pool
    gc.collect()
    assert program.batch(rows) == truth
begin = time.monotonic()
assert_ended(in_child(child, {end}), in_child(lambda: None, {end}))
assert time.monotonic() - begin < 5
assert [future.result() for future in futures] == truth
while len(seen) < 100:
    time.sleep(0.001)
""")


@pytest.mark.parametrize("end", ENDS)
def test_forks_in_the_middle_of_everything(end: str) -> None:
    """Other threads submit, wait, call back, make and close pools, run loops and batches meanwhile."""
    check(f"""
pool = dspex.Pool(size=2, capacity=64)
stop, errors = threading.Event(), []
async def on_a_loop():
    await asyncio.gather(*(pool.acall(program, row) for row in rows[:100]))
def submit():
    concurrent.futures.wait([pool.submit(program, row) for row in rows[:100]])
def session():
    pool.session(str(random.random())).call(program, rows[0])
    pool.stats()
def other_pools():
    with dspex.Pool(size=2) as own:
        own.submit(program, rows[0]).add_done_callback(id)
def work(task):
    try:
        while not stop.is_set():
            task()
    except BaseException as error:
        errors.append(error)
tasks = [submit, session, other_pools, lambda: asyncio.run(on_a_loop()), lambda: program.batch(rows * 3)]
threads = [threading.Thread(target=work, args=(task,)) for task in tasks]
for thread in threads:
    thread.start()
def child():
    refused(lambda: pool.submit(program, rows[0]))
    refused(lambda: pool.session("a"))
    assert program.batch(rows) == truth
    assert dspex.default_pool().submit(program, rows[0]).result() == truth[0]
    called = threading.Event()
    dspex.default_pool()._probe().add_done_callback(lambda future: called.set())
    assert called.wait(10)
    pool.close()
try:
    for _ in range({scaled(12)}):
        time.sleep(0.01 * random.random())
        assert_ended(in_child(child, {end}))
finally:
    stop.set()
    for thread in threads:
        thread.join(20)
assert not errors, errors
assert pool.close()
""")


def test_the_child_may_ask_for_figures() -> None:
    """Whatever the parent's threads were at."""
    check(f"""
pool = dspex.Pool(size=2)
stop = threading.Event()
def work():
    while not stop.is_set():
        pool.session("a")
        pool.stats()
threads = [threading.Thread(target=work) for _ in range(2)]
for thread in threads:
    thread.start()
def child():
    for _ in range(3):
        pool.size, pool.max_size, pool.workers, pool.queued, pool.closed, repr(pool)
        pool.stats()
try:
    for _ in range({scaled(30)}):
        time.sleep(0.003 * random.random())
        assert_ended(in_child(child, os._exit))
finally:
    stop.set()
    for thread in threads:
        thread.join()
""")


def test_a_fork_while_another_thread_closes_the_pool() -> None:
    check("""
pool = dspex.Pool(size=1)
hold(pool, 0.5)
thread = threading.Thread(target=pool.close)
thread.start()
time.sleep(0.05)
assert_ended(in_child(pool.close, None), in_child(pool.close, os._exit), in_child(lambda: None, None))
thread.join()
""")


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_processes_of_multiprocessing(method: str) -> None:
    """Programs go over by pickling, or are inherited; each process uses a pool of its own."""
    if sys.platform == "darwin" and method == "fork":
        pytest.skip("not safe there")
    check(f"""
import multiprocessing
from test_pool_fork import answers
if __name__ == "__main__":
    assert program.batch(rows) == truth
    with dspex.Pool(size=2) as pool:
        held = hold(pool, 0.3)
        context = multiprocessing.get_context({method!r})
        with context.Pool(2) as processes:
            labels = processes.starmap(answers, [(program, rows)] * 4)
        assert labels == [[result.label for result in truth]] * 4
        assert all(probe.result() for probe in held)
""")


def answers(program: object, rows: list[dict[str, str]]) -> list[str]:
    """For test_processes_of_multiprocessing: run in another process."""
    return [result.label for result in program.batch(rows)]  # type: ignore[attr-defined]

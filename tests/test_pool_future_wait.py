"""The standard library waits for futures of the pool, and Ctrl-C ends every wait."""

from __future__ import annotations

import asyncio
import concurrent.futures
import random
import threading
from collections.abc import Callable
from concurrent.futures import ALL_COMPLETED, FIRST_COMPLETED, FIRST_EXCEPTION, as_completed, wait
from typing import Any

import pytest

from dspex import Pool
from dspex.errors import CallTimeoutError, InternalError, ResourceError
from dspex.pool import Future
from test_pool_tools import clean_run, hold, in_threads, let_go, linux, scaled, simple, still, texts

MODES = [ALL_COMPLETED, FIRST_COMPLETED, FIRST_EXCEPTION]


# --- concurrent.futures.wait


@pytest.mark.parametrize("mode", MODES)
def test_waiting_for_what_has_ended_returns_at_once(mode: str) -> None:
    with Pool(size=2) as pool:
        probes = [pool._probe() for _ in range(5)]
        for probe in probes:
            probe.result()
        for _ in range(2):
            assert wait(probes, 10, mode) == (set(probes), set())
        assert wait([], 10, mode) == (set(), set())


@pytest.mark.parametrize("mode", MODES)
def test_waiting_for_what_does_not_end_takes_as_long_as_allowed(mode: str) -> None:
    with Pool(size=2) as pool:
        held = hold(pool)
        assert wait(held, 0.05, mode) == (set(), set(held))
        assert still(held)
        assert wait(held, 20, ALL_COMPLETED) == (set(held), set())
        let_go(held)


def test_waiting_for_all_beside_one_that_has_ended_waits_for_all() -> None:
    with Pool(size=2) as pool:
        ended = pool._probe()
        ended.result()
        others = [pool._probe(sleep=0.02), pool._probe(sleep=0.2)]
        assert wait([ended, *others], 20) == ({ended, *others}, set())


def test_waiting_for_all_while_they_end() -> None:
    rng = random.Random(5)
    with Pool(size=2) as pool:
        for _ in range(scaled(300)):
            probes = [pool._probe(busy=rng.choice((0, 1e-6, 2e-5))) for _ in range(30)]
            assert wait(probes, 20) == (set(probes), set())


@pytest.mark.parametrize("rounds", [pytest.param(1, id="once"), pytest.param(3, id="again and again")])
def test_waiting_for_the_first(rounds: int) -> None:
    with Pool(size=2) as pool:
        held = hold(pool)
        later = [pool._probe() for _ in range(5)]
        later[2].cancel()
        for _ in range(rounds):
            done, not_done = wait([*held, *later], 20, FIRST_COMPLETED)
            assert done == {later[2]}
            assert not_done == {*held, *later} - done
        assert still(held)
        let_go(held)
        done, _ = wait([*held, *later[:2]], 20, FIRST_COMPLETED)
        assert done <= {*held, *later[:2]}
        assert done


@pytest.mark.parametrize("fault", ["error", "death"])
def test_waiting_for_the_first_error(fault: Any) -> None:
    with Pool(size=1) as pool:
        probes = [pool._probe(sleep=0.05), pool._probe(fault=fault), pool._probe(sleep=0.3)]
        done, not_done = wait(probes, 20, FIRST_EXCEPTION)
        assert (done, not_done) == ({probes[0], probes[1]}, {probes[2]})
        assert probes[1].exception() is not None
        done, not_done = wait([probes[0], probes[2]], 20, FIRST_EXCEPTION)  # none: then all
        assert not not_done


def test_waiting_beside_futures_of_an_executor() -> None:
    release = threading.Event()
    with Pool(size=1) as pool, concurrent.futures.ThreadPoolExecutor(1) as executor:
        theirs = executor.submit(release.wait, 20)
        (ours,) = hold(pool, 0.05)
        assert wait([ours, theirs], 20, FIRST_COMPLETED) == ({ours}, {theirs})
        release.set()
        assert wait([ours, theirs], 20) == ({ours, theirs}, set())


def test_many_threads_wait_for_the_same_futures() -> None:
    with Pool(size=2) as pool:
        for _ in range(scaled(30)):
            probes = [pool._probe(busy=1e-5) for _ in range(20)]
            in_threads(lambda number, p=probes: _assert_all(wait(p, 20), p))
            in_threads(lambda number, p=probes: _assert_all(wait(p, 20, FIRST_EXCEPTION), p))


def _assert_all(outcome: Any, futures: list[Any]) -> None:
    assert outcome == (set(futures), set())


# --- as_completed


def test_as_completed_gives_each_once_as_they_end() -> None:
    with Pool(size=1) as pool:
        before = [pool._probe() for _ in range(3)]
        before[-1].result()
        held = hold(pool, 0.1)
        waiting = [pool._probe(fault="error" if i == 1 else "none") for i in range(4)]
        waiting[3].cancel()
        seen = list(as_completed([*before, *held, *waiting], 20))
        assert sorted(map(id, seen)) == sorted(map(id, [*before, *held, *waiting]))
        assert set(seen[:4]) == {*before, waiting[3]}
        assert seen[4:] == [*held, *waiting[:3]]


def test_as_completed_while_they_end_and_more_than_once() -> None:
    rng = random.Random(6)
    with Pool(size=2) as pool:
        for _ in range(scaled(300)):
            probes = [pool._probe(busy=rng.choice((0, 1e-6, 2e-5))) for _ in range(30)]
            for _ in range(2):
                seen = list(as_completed(probes, 20))
                assert len(seen) == 30
                assert set(seen) == set(probes)


def test_as_completed_in_vain() -> None:
    with Pool(size=1) as pool:
        ended = pool._probe()
        ended.result()
        (held,) = hold(pool)
        futures = as_completed([ended, held], 0.05)
        assert next(futures) is ended
        with pytest.raises(TimeoutError, match=r"1 \(of 2\) futures unfinished"):
            next(futures)
        assert held.running()


# --- asyncio.wrap_future


def test_wrapped_futures_have_their_results_on_the_loop() -> None:
    async def main(pool: Pool) -> None:
        rows = texts(100)
        calls = [asyncio.wrap_future(pool.submit(simple(), row)) for row in rows]
        assert await asyncio.gather(*calls) == [simple().predict(row) for row in rows]
        with pytest.raises(InternalError):
            await asyncio.wrap_future(pool._probe(fault="error"))
        with pytest.raises(ResourceError):
            await asyncio.wrap_future(pool._probe(fault="death"))
        (held,) = hold(pool)
        ours = [pool._probe(), pool._probe(), pool._probe(timeout=0)]
        wrapped = [asyncio.wrap_future(each) for each in ours]
        wrapped[0].cancel()  # goes through to the call
        assert ours[1].cancel()  # and comes back
        with pytest.raises(asyncio.CancelledError):
            await wrapped[1]
        assert ours[0].cancelled()
        assert held.running()
        with pytest.raises(CallTimeoutError):
            await wrapped[2]

    with Pool(size=1) as pool:
        asyncio.run(main(pool))


def test_an_executor_can_wait_for_the_pool() -> None:
    with Pool(size=1) as pool, concurrent.futures.ThreadPoolExecutor(4) as executor:
        rows = texts(200)
        futures = [pool.submit(simple(), row) for row in rows]
        assert list(executor.map(Future.result, futures)) == [simple().predict(row) for row in rows]


# --- Ctrl-C

SCRIPT = """
import os, signal, sys, threading, time
import dspex
from concurrent.futures import as_completed, wait
from test_pool_tools import hold, simple, texts
program, rows = simple(), texts(1000)

def seconds_to_interrupt(call, after):
    sent = []
    def send():
        sent.append(time.monotonic())
        os.kill(os.getpid(), signal.SIGINT)
    timer = threading.Timer(after, send)
    timer.start()
    try:
        call()
    except KeyboardInterrupt:
        return time.monotonic() - sent[0]
    finally:
        timer.join()
    raise AssertionError("it was not interrupted")
"""

WAITS: dict[str, str] = {
    "result": "held[0].result()",
    "result with a timeout": "held[0].result(60)",
    "exception": "held[0].exception()",
    "call": "pool.call(program, rows[0])",
    "session": "pool.session('a').call(program, rows[0])",
    "wait": "wait(held)",
    "as_completed": "list(as_completed(held))",
    "submit to a full pool": "[pool._probe() for _ in range(10)]",
    "submit to a full pool, with a timeout": "[pool._probe(timeout=60) for _ in range(10)]",
    "submit to a full session": "[pool._probe(strand=strand) for _ in range(10)]",
    "drain": "pool.drain()",
    "close": "pool.close()",
}


@linux
def test_ctrl_c_ends_every_wait() -> None:
    waits = "".join(f"    {name!r}: lambda pool: {wait},\n" for name, wait in WAITS.items())
    clean_run(f"""{SCRIPT}
waits = {{
{waits}}}
pool = dspex.Pool(size=1, capacity=4)
strand = pool.session("full")._strand
held = hold(pool, 30)
for _ in range(4):
    pool._probe(strand=strand)
pool._probe()
took = {{}}
for name, call in waits.items():
    took[name] = seconds_to_interrupt(lambda: call(pool), 0.05)
assert held[0].running()
assert max(took.values()) < 0.5, took
os._exit(0)
""")


@linux
@pytest.mark.parametrize("sizes", [(1, "None"), (2, "None"), (2, "lambda share: None")], ids=str)
def test_ctrl_c_ends_a_long_batch_and_the_pool_goes_on(sizes: tuple[int, str]) -> None:
    size, progress = sizes
    out = clean_run(f"""{SCRIPT}
pool = dspex.Pool(size={size})
many = rows * 3000
took = []
for turn in range(3):
    batch = lambda: program.batch(many, pool=pool, progress={progress})
    took.append(seconds_to_interrupt(batch, 0.15 + turn / 20))
    assert program.batch(rows, pool=pool) == [program.predict(row) for row in rows]
    assert pool.call(program, rows[0]) == program.predict(rows[0])
pool.close()
stats = pool.stats()
assert stats.accepted == stats.total.ended, stats
print(min(took))
""")
    assert float(out) < 0.2  # 0.1 is promised


def test_callers_in_other_threads_are_not_disturbed_by_ctrl_c() -> None:
    """The main thread alone is interrupted."""
    clean_run(f"""{SCRIPT}
pool = dspex.Pool(size=1)
answers = []
held = hold(pool, 0.4)
other = threading.Thread(target=lambda: answers.append(pool.call(program, rows[0])))
other.start()
assert seconds_to_interrupt(lambda: pool._probe().result(), 0.1) < 0.5
assert held[0].running() and not answers
other.join()
assert answers == [program.predict(rows[0])]
""")


USES: list[Callable[[Any], Any]] = [repr, bool, hash]


@pytest.mark.parametrize("use", USES)
def test_futures_are_plain_objects_otherwise(use: Callable[[Any], Any]) -> None:
    with Pool(size=1) as pool:
        assert use(pool._probe())

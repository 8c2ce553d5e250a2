"""Single calls while a large batch is under way on the same workers."""

from __future__ import annotations

import contextlib
import itertools
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from benchmarks.pool.batches import in_chunks
from benchmarks.pool.programs import Fitted
from benchmarks.rounds import Block, Figures, Plan, latencies
from benchmarks.sections import Section
from dspex import Pool

PAUSE_S = 500e-6
ROWS = 50_000


@contextlib.contextmanager
def in_the_background(work: Callable[[], Any]) -> Iterator[list[int]]:
    """`work`, over and over, in another thread; how often it was done is in the list in the end."""
    stop, done = threading.Event(), [0]

    def run() -> None:
        while not stop.is_set():
            work()
            done[0] += 1

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield done
    finally:
        stop.set()
        thread.join()


def now_and_then(call: Callable[[], Any], seconds: float) -> Figures:
    clock, end = time.perf_counter_ns, time.perf_counter() + seconds
    found: list[int] = []
    while len(found) < 5 or time.perf_counter() < end:
        time.sleep(PAUSE_S)
        begin = clock()
        call()
        found.append(clock() - begin)
    return latencies(found)


def measure(plan: Plan, fitted: Fitted) -> Section:
    program, inputs, rows = fitted.program, itertools.cycle(fitted.rows), fitted.many(ROWS)
    seconds = 2 * plan.block_s
    peer = "executor.submit, executor.map under way"
    with contextlib.ExitStack() as stack:
        pool = stack.enter_context(Pool(size=2))
        executor = stack.enter_context(ThreadPoolExecutor(2))

        def beside(call: Callable[[], Any], work: Callable[[], Any] | None) -> Block:
            def block() -> Figures:
                if work is None:
                    return now_and_then(call, seconds)
                with in_the_background(work):
                    time.sleep(0.01)
                    return now_and_then(call, seconds)

            return block

        def batch() -> Any:
            return program.batch(rows, pool=pool)

        def mapped() -> Any:
            return in_chunks(executor, program, rows)

        def through_pool() -> Any:
            return pool.call(program, next(inputs))

        def through_executor() -> Any:
            return executor.submit(program.predict, next(inputs)).result()

        def directly() -> Any:
            return program.predict(next(inputs))

        blocks = {
            peer: beside(through_executor, mapped),
            "executor.submit, nothing else": beside(through_executor, None),
            "pool.call, batch under way": beside(through_pool, batch),
            "pool.call, nothing else": beside(through_pool, None),
            "direct call, batch under way": beside(directly, batch),
            "direct call, nothing else": beside(directly, None),
        }
        return Section(
            "Single calls beside a large batch",
            plan.in_turn(blocks),
            peer=peer,
            compared="p50 µs",
            note=f"Batches of {ROWS:,} rows of {fitted.name} from another thread, on the same two workers; a "
            f"call each {PAUSE_S * 1e6:g} µs. A direct call waits for nothing but the GIL.",
        )

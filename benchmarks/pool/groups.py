"""Many threads that wait for single calls: what running calls together is worth."""

from __future__ import annotations

import contextlib
import itertools
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import numpy as np

from benchmarks.pool.programs import Fitted, Inputs
from benchmarks.rounds import Block, Figures, Plan, latencies, side_by_side
from benchmarks.sections import Section
from dspex import Pool

THREADS = 32
WINDOWS = (0.0, 100e-6, 500e-6)


def closed_loops(call: Callable[[Inputs], Any], rows: list[Inputs], seconds: float) -> Figures:
    def produce(end: float) -> list[int]:
        clock, found = time.perf_counter_ns, []
        own = itertools.cycle(rows)
        while time.perf_counter() < end:
            row = next(own)
            begin = clock()
            call(row)
            found.append(clock() - begin)
        return found

    found, passed = side_by_side(THREADS, produce, seconds)
    every = np.concatenate(found)
    return {"calls/s": len(every) / passed} | latencies(every)


def on_pool(pool: Pool, program: Any, rows: list[Inputs], seconds: float) -> Figures:
    before = pool.stats().total
    figures = closed_loops(lambda row: pool.call(program, row), rows, seconds)
    after = pool.stats().total
    groups = after.groups - before.groups
    return figures | {"calls a group": (after.grouped - before.grouped) / groups if groups else 1.0}


def measure(plan: Plan, fitted: Fitted) -> Section:
    program, rows, seconds = fitted.program, fitted.rows, 2 * plan.block_s
    with contextlib.ExitStack() as stack:
        executor = stack.enter_context(ThreadPoolExecutor(2))
        peer = "executor, 2 workers"
        blocks: dict[str, Block] = {
            peer: lambda: closed_loops(
                lambda row: executor.submit(program.predict, row).result(), rows, seconds
            ),
            "direct calls": lambda: closed_loops(program.predict, rows, seconds),
        }
        for window in WINDOWS:
            pool = stack.enter_context(Pool(size=2, window=window))
            blocks[f"pool, window {window * 1e6:g} µs"] = partial(on_pool, pool, program, rows, seconds)
        return Section(
            "Running calls together: 32 threads",
            plan.in_turn(blocks),
            peer=peer,
            compared="calls/s",
            higher=True,
            note=f"Each thread waits for one call of {fitted.name} before it makes the next; 2 workers.",
        )

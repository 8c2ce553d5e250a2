"""Many tasks that do nothing, from several threads: what handing over costs when nobody waits for each."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import numpy as np

from benchmarks.pool.handoff import noop
from benchmarks.rounds import Block, Figures, Plan, latencies, side_by_side
from benchmarks.sections import Section, Target
from dspex import Pool

WINDOW = 1000
PRODUCERS, WORKERS = (1, 2, 4), (1, 2)
THREADS = (1, 2, 4, 8)
CAPACITIES = (4, 16, 64, 256, 1024, 4096, 16_384)


def windows(producers: int, submit: Callable[[], Any], seconds: float) -> Figures:
    """Each thread submits a window of tasks, then takes their results, and so on."""

    def produce(end: float) -> int:
        done = 0
        while time.perf_counter() < end:
            futures = [submit() for _ in range(WINDOW)]
            for future in futures:
                future.result()
            done += WINDOW
        return done

    counts, passed = side_by_side(producers, produce, seconds)
    return {"tasks/s": sum(counts) / passed}


def one_by_one(threads: int, call: Callable[[], Any], seconds: float) -> Figures:
    """Each thread waits for its task before it submits the next."""

    def produce(end: float) -> list[int]:
        clock, found = time.perf_counter_ns, []
        while time.perf_counter() < end:
            for _ in range(16):
                begin = clock()
                call()
                found.append(clock() - begin)
        return found

    found, passed = side_by_side(threads, produce, seconds)
    every = np.concatenate(found)
    return {"tasks/s": len(every) / passed} | latencies(every)


def throughput(plan: Plan) -> Section:
    blocks: dict[str, Block] = {}
    peers = {}
    with contextlib.ExitStack() as stack:
        for workers in WORKERS:
            pool = stack.enter_context(Pool(size=workers))
            executor = stack.enter_context(ThreadPoolExecutor(workers))
            for producers in PRODUCERS:
                name = f"{producers} producers, {workers} workers"
                blocks[f"pool, {name}"] = partial(windows, producers, pool._probe, plan.block_s)
                blocks[f"executor, {name}"] = partial(
                    windows, producers, partial(executor.submit, noop), plan.block_s
                )
                peers[f"pool, {name}"] = peers[f"executor, {name}"] = f"executor, {name}"
        section = Section(
            "No-op tasks in windows of 1,000",
            plan.in_turn(blocks),
            peer=next(iter(peers.values())),
            compared="tasks/s",
            higher=True,
            peers=peers,
            note="Each producer submits 1,000 no-ops, then takes their results. Beside a "
            "`ThreadPoolExecutor` with as many workers and producers.",
        )
    section.targets = [
        Target(f"no-op tasks/s, {name.removeprefix('pool, ')}, beside the executor", section.ratios(name), 10)
        for name in section.cases
        if name.startswith("pool, 4")
    ]
    return section


def by_threads(plan: Plan) -> Section:
    blocks: dict[str, Block] = {}
    with contextlib.ExitStack() as stack:
        pool, executor = stack.enter_context(Pool(size=2)), stack.enter_context(ThreadPoolExecutor(2))
        for threads in THREADS:
            blocks[f"pool, {threads} threads"] = partial(
                one_by_one, threads, lambda: pool._probe().result(), plan.block_s
            )
            blocks[f"executor, {threads} threads"] = partial(
                one_by_one, threads, lambda: executor.submit(noop).result(), plan.block_s
            )
        return Section(
            "No-op tasks one by one, by threads",
            plan.in_turn(blocks),
            peer="executor, 1 threads",
            compared="tasks/s",
            higher=True,
            peers={name: f"executor, {name.split(', ')[1]}" for name in blocks},
            note="Each thread waits for the result before it submits the next; 2 workers.",
        )


def by_capacity(plan: Plan) -> Section:
    blocks: dict[str, Block] = {}
    with contextlib.ExitStack() as stack:
        for capacity in CAPACITIES:
            pool = stack.enter_context(Pool(size=2, capacity=capacity))
            blocks[f"{capacity} places"] = partial(windows, 4, pool._probe, plan.block_s)
        return Section(
            "No-op tasks, by the capacity of the queue",
            plan.in_turn(blocks),
            peer="1024 places",
            compared="tasks/s",
            higher=True,
            note='4 producers with windows of 1,000, 2 workers, policy "block".',
        )

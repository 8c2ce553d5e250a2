"""More work than can be done: how much of it is done in time, how long it waits, and that none is lost.

The peak is what a closed loop gets done. Then tasks arrive as a Poisson process at a share of the peak,
whether those before them have ended or not. Goodput: tasks that were done while they arrived, a second.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from benchmarks.rounds import Block, Figures, Plan
from benchmarks.sections import Section, Target
from dspex import Pool
from dspex.errors import PoolSaturated

LOADS = (0.5, 1.0, 2.0)
PLACES, ROOMY = 16, 65_536
DEADLINE_S = 5e-3


@dataclass(frozen=True)
class Kind:
    """A kind of task.

    Attributes:
        title: of its section.
        short: of its targets.
        task: what the probe is told.
        workers: how many run it.
        spins: whether the generator of arrivals has a core to itself and spins; else it sleeps between them.
    """

    title: str
    short: str
    task: dict[str, float]
    workers: int
    spins: bool


BUSY = Kind("tasks that compute for 200 µs, one worker", "computing", {"busy": 200e-6}, 1, True)
ASLEEP = Kind("tasks that sleep for 1 ms, two workers", "sleeping", {"sleep": 1e-3}, 2, False)


def arrivals(rate: float, seconds: float, spins: bool, seed: int) -> Iterator[float]:
    """Gives each arrival's time when it has come; late ones at once."""
    gaps = np.random.default_rng(seed).exponential(1 / rate, max(1, round(rate * seconds)))
    begin = time.perf_counter()
    for at in (begin + np.cumsum(gaps)).tolist():
        while (left := at - time.perf_counter()) > 0:
            if not spins:
                time.sleep(left)
        yield at


def closed_loop(kind: Kind, seconds: float) -> Figures:
    """The peak: the queue is never empty, and submitting waits for room."""
    with Pool(size=kind.workers, capacity=64) as pool:
        begin = time.perf_counter()
        while (passed := time.perf_counter() - begin) < seconds:
            pool._probe(**kind.task)  # type: ignore[arg-type]
        done = pool.stats().total.done
    return {"done/s": done / passed}


def open_loop(
    kind: Kind, rate: float, seconds: float, seeds: Iterator[int], *, policy: str, deadline_s: float | None
) -> Figures:
    """Tasks that arrive at this rate."""
    capacity = PLACES if policy == "reject" else ROOMY
    offered = rejected = 0
    pool = Pool(size=kind.workers, capacity=capacity, policy=policy)
    with pool:
        begin = time.perf_counter()
        for _ in arrivals(rate, seconds, kind.spins, next(seeds)):
            offered += 1
            try:
                pool._probe(timeout=deadline_s, **kind.task)  # type: ignore[arg-type]
            except PoolSaturated:
                rejected += 1
        passed = time.perf_counter() - begin
        done = pool.stats().total.done
        drained = pool.drain(10)
        stats = pool.stats()
    total = stats.total
    lost = (
        abs(offered - rejected - stats.accepted)
        + abs(stats.accepted - total.ended)
        + abs(stats.rejected - rejected)
    )
    lost += abs(total.ended - total.done - total.failed - total.cancelled - total.expired) + (not drained)
    return {
        "done/s": done / passed,
        "offered/s": offered / passed,
        "rejected %": 100 * rejected / offered,
        "expired %": 100 * total.expired / offered,
        "wait p50 ms": stats.wait.percentile(50) * 1000,
        "wait p99 ms": stats.wait.percentile(99) * 1000,
        "lost": float(lost),
    }


def in_executor(kind: Kind, rate: float, seconds: float, seeds: Iterator[int]) -> Figures:
    """A `ThreadPoolExecutor`, whose queue has no end; waits from arrival to begin."""
    waits: list[float] = []

    def task(at: float) -> None:
        waits.append(time.perf_counter() - at)
        time.sleep(kind.task["sleep"])

    executor = ThreadPoolExecutor(kind.workers)
    futures = []
    begin = time.perf_counter()
    for at in arrivals(rate, seconds, kind.spins, next(seeds)):
        futures.append(executor.submit(task, at))
    passed = time.perf_counter() - begin
    done = sum(future.done() for future in futures)
    executor.shutdown(wait=True)
    return {
        "done/s": done / passed,
        "offered/s": len(futures) / passed,
        "rejected %": 0.0,
        "expired %": 0.0,
        "wait p50 ms": float(np.percentile(waits, 50)) * 1000,
        "wait p99 ms": float(np.percentile(waits, 99)) * 1000,
        "lost": 0.0,
    }


def measure(plan: Plan, kind: Kind) -> Section:
    seconds = 0.25 if plan.quick else 0.8
    peak = "peak, closed loop"
    seeds = iter(range(1_000_000))
    capacity = plan.in_turn({peak: lambda: closed_loop(kind, seconds)}, rounds=1)[peak]["done/s"][0]
    blocks: dict[str, Block] = {peak: lambda: closed_loop(kind, seconds)}
    ways: dict[str, Callable[..., Figures]] = {
        f"rejects, {PLACES} places": _way(kind, "reject", None),
        f"deadline of {DEADLINE_S * 1000:g} ms": _way(kind, "block", DEADLINE_S),
    }
    for load in LOADS:
        for way, run in ways.items():
            blocks[f"{load:g}x, {way}"] = partial(run, load * capacity, seconds, seeds)
    if "sleep" in kind.task:
        blocks["1x, executor"] = lambda: in_executor(kind, capacity, seconds, seeds)
        blocks["2x, executor"] = lambda: in_executor(kind, 2 * capacity, seconds, seeds)
    section = Section(
        f"Overload: {kind.title}",
        plan.in_turn(blocks, rounds=max(2, plan.rounds // 2)),
        peer=peak,
        compared="done/s",
        higher=True,
        note="Waits are of tasks that were run. Lost: submissions and tasks that no counter accounts for.",
    )
    section.targets = _targets(kind, section, ways)
    return section


def _way(kind: Kind, policy: str, deadline_s: float | None) -> Callable[..., Figures]:
    def run(rate: float, seconds: float, seeds: Iterator[int]) -> Figures:
        return open_loop(kind, rate, seconds, seeds, policy=policy, deadline_s=deadline_s)

    return run


def _targets(kind: Kind, section: Section, ways: dict[str, Any]) -> list[Target]:
    lost = [value for series in section.cases.values() for value in series.get("lost", [])]
    found = [
        Target(f"goodput of {kind.short} tasks at 2x, {way}, of the peak", section.ratios(f"2x, {way}"), 0.95)
        for way in ways
    ]
    return [
        *found,
        Target(f"{kind.short} tasks lost, at worst", [max(lost)], 0, at_least=False, unit=""),
    ]


def sections(plan: Plan) -> list[Section]:
    return [measure(plan, BUSY), measure(plan, ASLEEP)]

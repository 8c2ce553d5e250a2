"""One task at a time: from handing it over to its result, by workers that spin and that sleep."""

from __future__ import annotations

import contextlib
import itertools
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

from benchmarks.pool import bare
from benchmarks.pool.programs import Fitted
from benchmarks.rounds import Block, Figures, Plan, latencies, time_calls
from benchmarks.sections import Section, Target
from dspex import Pool

ONE_CORE = "executor, no-op, all on one core"
EXECUTOR, PINGPONG = "executor, no-op", "bare threads in C++, spinning"
PARKED_PINGPONG = "bare threads in C++, parking"
SPIN = 200e-6
"""Longer than anything here takes: workers never sleep between two calls."""


def noop() -> None:
    return None


def measure(plan: Plan, fitted: Fitted) -> Section:
    program, inputs = fitted.program, itertools.cycle(fitted.rows)
    with contextlib.ExitStack() as stack:
        executor = stack.enter_context(ThreadPoolExecutor(1))
        spinning, default, parking = (
            stack.enter_context(Pool(size=1, spin=spin)) for spin in (SPIN, 20e-6, 0.0)
        )
        pinned = stack.enter_context(Pool(size=1, spin=SPIN, pin=True))
        pinned_parking = stack.enter_context(Pool(size=1, spin=0.0, pin=True))
        with last_core():  # threads stay on the core that they are made on
            cramped = stack.enter_context(Pool(size=1))
            cramped_executor = stack.enter_context(ThreadPoolExecutor(1))
            cramped_executor.submit(noop).result()

        def timed(call: Callable[[], Any]) -> Block:
            return lambda: latencies(time_calls(call, plan.block_s / 2))

        def timed_apart(call: Callable[[], Any]) -> Block:
            return lambda: _on_the_last_core(lambda: latencies(time_calls(call, plan.block_s / 2)))

        blocks: dict[str, Block] = {
            EXECUTOR: timed(lambda: executor.submit(noop).result()),
            "pool, no-op, spinning": timed(lambda: spinning._probe().result()),
            "pool, no-op, default spin": timed(lambda: default._probe().result()),
            "pool, no-op, parking": timed(lambda: parking._probe().result()),
            "pool, no-op, spinning, pinned": timed(lambda: pinned._probe().result()),
            "pool, no-op, parking, pinned": timed(lambda: pinned_parking._probe().result()),
            "pool, no-op, spinning, both pinned": timed_apart(lambda: pinned._probe().result()),
            "pool, no-op, parking, both pinned": timed_apart(lambda: pinned_parking._probe().result()),
            ONE_CORE: timed_apart(lambda: cramped_executor.submit(noop).result()),
            "pool, no-op, default spin, all on one core": timed_apart(lambda: cramped._probe().result()),
            "direct call": timed(lambda: program.predict(next(inputs))),
            "executor, call": timed(lambda: executor.submit(program.predict, next(inputs)).result()),
            "pool, call, spinning": timed(lambda: spinning.call(program, next(inputs))),
            "pool, call, parking": timed(lambda: parking.call(program, next(inputs))),
        }
        if bare.available():
            blocks |= {
                PINGPONG: partial(bare.hand_off, "bare", "spinning", plan.block_s / 2),
                PARKED_PINGPONG: partial(bare.hand_off, "bare", "parking, any core", plan.block_s / 2),
                "pool without Python, spinning": partial(bare.hand_off, "pool", "spinning", plan.block_s / 2),
            }
        for block in blocks.values():  # threads start, caches fill
            block()
        section = Section(
            "Hand-off, one at a time",
            plan.in_turn(blocks),
            peer=EXECUTOR,
            compared="p50 µs",
            peers=dict.fromkeys(
                ["direct call", "executor, call", "pool, call, spinning", "pool, call, parking"],
                "executor, call",
            )
            | dict.fromkeys([ONE_CORE, "pool, no-op, default spin, all on one core"], ONE_CORE),
            note=f"No-ops are `_probe()`; calls are of {fitted.name}, on one worker. Spinning: nobody "
            f"sleeps between two tasks (spin={SPIN:g}); parking: everybody does (spin=0). Both pinned: the "
            "caller, too, on a core of its own.",
        )
    section.targets = _targets(section)
    return section


def _targets(section: Section) -> list[Target]:
    spin, park = "pool, no-op, spinning", "pool, no-op, parking"
    found = [
        Target("hand-off of a no-op, spinning, beside the executor", section.ratios(spin), 8),
        Target(
            "hand-off of a no-op, on one core, beside the executor",
            section.ratios("pool, no-op, default spin, all on one core"),
            1,
        ),
        Target("hand-off of a no-op, parking, beside the executor", section.ratios(park), 8),
    ]
    if PINGPONG in section.cases:
        for own, peer in ((spin, PINGPONG), (park, PARKED_PINGPONG)):
            how = own.rsplit(", ", 1)[1]
            found.append(
                Target(
                    f"hand-off of a no-op, {how}, in those of bare threads",
                    section.ratios(peer, own), 2, at_least=False,
                )
            )  # fmt: skip
    return found


def _on_the_last_core(block: Callable[[], Figures]) -> Figures:
    with last_core():
        return block()


@contextlib.contextmanager
def last_core() -> Iterator[None]:
    """This thread on the last core; a pool's first pinned worker is on the first."""
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(cores)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, cores)

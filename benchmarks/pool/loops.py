"""A thousand calls at once on an event loop."""

from __future__ import annotations

import asyncio
import importlib.util
import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

from benchmarks.pool.programs import Fitted, Inputs
from benchmarks.rounds import Block, Figures, Plan, latencies
from benchmarks.sections import Section, Target, quotient
from dspex import Pool

CALLS = 1000
Call = Callable[[Inputs], Awaitable[Any]]


async def nothing(row: Inputs) -> None:
    """What there is to be gained at most."""


async def burst(call: Call, rows: list[Inputs]) -> float:
    """Calls a second, of as many as there are rows."""
    begin = time.perf_counter()
    await asyncio.gather(*[call(row) for row in rows])
    return len(rows) / (time.perf_counter() - begin)


async def from_creation(call: Call, rows: list[Inputs]) -> list[int]:
    """Nanoseconds from the creation of each call to its result."""
    clock, found = time.perf_counter_ns, [0] * len(rows)

    async def one(i: int, row: Inputs, created: int) -> None:
        await call(row)
        found[i] = clock() - created

    await asyncio.gather(*[one(i, row, clock()) for i, row in enumerate(rows)])
    return found


def measure(plan: Plan, fitted: Fitted) -> Section:
    program, rows = fitted.program, fitted.many(CALLS)
    runners: list[asyncio.Runner] = []
    blocks: dict[str, Block] = {}
    factories: dict[str, Any] = {"asyncio": None}
    if importlib.util.find_spec("uvloop") is not None:
        import uvloop

        factories["uvloop"] = uvloop.new_event_loop
    with Pool() as pool:
        for flavour, factory in factories.items():
            runner = asyncio.Runner(loop_factory=factory)
            runners.append(runner)
            loop = runner.get_loop()

            def in_executor(row: Inputs, loop: Any = loop) -> Awaitable[Any]:
                found: Awaitable[Any] = loop.run_in_executor(None, program.predict, row)
                return found

            ways: dict[str, Call] = {
                "a coroutine that does nothing": nothing,
                "run_in_executor": in_executor,
                "program.acall": lambda row: program.acall(**row),
                "pool.acall": lambda row: pool.acall(program, row),
            }
            for way, call in ways.items():
                blocks[f"{way}, {flavour}"] = partial(_block, plan, runner, call, rows)
        for block in blocks.values():
            block()
        cases = plan.in_turn(blocks)
    for runner in runners:
        runner.close()
    section = Section(
        "Event loops: 1,000 calls at once",
        cases,
        peer="run_in_executor, asyncio",
        compared="calls/s",
        higher=True,
        peers={name: f"run_in_executor, {name.split(', ')[1]}" for name in cases},
        note=f"Calls of {fitted.name}; latencies from the creation of the coroutine to its result. "
        + ("" if "uvloop" in factories else "uvloop is not installed."),
    )
    for name in cases:
        if "acall" in name:
            peer = cases[section.peer_of(name)]
            delay = quotient(cases[name]["p99 µs"], peer["p50 µs"])
            section.targets += [
                Target(f"calls/s of {name}, beside run_in_executor", section.ratios(name), 10),
                Target(f"p99 of {name}, in p50s of run_in_executor", delay, 1, at_least=False),
            ]
    return section


def _block(plan: Plan, runner: asyncio.Runner, call: Call, rows: list[Inputs]) -> Figures:
    rates: list[float] = []
    delays: list[int] = []
    end = time.perf_counter() + plan.block_s
    while not rates or time.perf_counter() < end:
        rates.append(runner.run(burst(call, rows)))
        delays += runner.run(from_creation(call, rows))
    return {"calls/s": float(sorted(rates)[len(rates) // 2])} | latencies(delays)

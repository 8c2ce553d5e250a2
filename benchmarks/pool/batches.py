"""`Program.batch`: on one core and on two, beside loops and an executor; and from how few rows it pays."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from benchmarks import timing
from benchmarks.pool.programs import Fitted, Inputs
from benchmarks.rounds import Block, Figures, Plan, repeated
from benchmarks.sections import Section, Target, difference
from dspex import Pool

CHUNK = 256
SIZES = (2, 3, 4, 6, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096)
PAUSE_S = 1e-3
LOOP, ONE, TWO = "loop of predict", "batch, one core", "batch, two cores"


def in_chunks(executor: ThreadPoolExecutor, program: Any, rows: list[Inputs]) -> list[Any]:
    """What one would write with `concurrent.futures`."""
    predict = program.predict

    def answer(chunk: list[Inputs]) -> list[Any]:
        return [predict(row) for row in chunk]

    chunks = [rows[i : i + CHUNK] for i in range(0, len(rows), CHUNK)]
    return [result for part in executor.map(answer, chunks) for result in part]


def throughput(plan: Plan, fitted: Fitted) -> Section:
    program, rows = fitted.program, fitted.rows
    with contextlib.ExitStack() as stack:
        one, two = stack.enter_context(Pool(size=1)), stack.enter_context(Pool(size=2))
        pinned = stack.enter_context(Pool(size=2, pin=True))
        executor = stack.enter_context(ThreadPoolExecutor(2))

        def block(answer: Callable[[], Any]) -> Block:
            def work() -> int:
                return len(answer())

            return lambda: {"rows/s": repeated(work, plan.block_s)}

        predict = program.predict
        blocks = {
            LOOP: block(lambda: [predict(row) for row in rows]),
            "executor.map, 2 workers": block(lambda: in_chunks(executor, program, rows)),
            ONE: block(lambda: program.batch(rows, pool=one)),
            TWO: block(lambda: program.batch(rows, pool=two)),
            "batch, two cores, pinned": block(lambda: program.batch(rows, pool=pinned)),
        }
        for each in blocks.values():
            each()
        section = Section(
            f"Batches: {fitted.name}",
            plan.in_turn(blocks),
            peer=LOOP,
            compared="rows/s",
            higher=True,
            note=f"{len(rows):,} rows at once, the texts of `dev`. The executor gets chunks of {CHUNK} rows.",
        )
    section.targets = [
        Target(f"batch on two cores beside one, {fitted.name}", section.ratios(TWO, ONE), 1.85)
    ]
    return section


def single_rows(plan: Plan, fitted: Fitted) -> Section:
    program = fitted.program
    lists = [[row] for row in fitted.rows]

    def timed(call: Callable[[Any], Any], arguments: list[Any]) -> Block:
        def block() -> Figures:
            found: list[Any] = []
            end = time.perf_counter() + plan.block_s / 2
            while not found or time.perf_counter() < end:
                found.append(timing.time_calls(call, arguments))
            calls = (np.concatenate(found) - timing.clock_ns()) / 1000
            return {"p50 µs": float(np.percentile(calls, 50)), "p99 µs": float(np.percentile(calls, 99))}

        return block

    predict, batch = f"predict(row), {fitted.name}", f"batch([row]), {fitted.name}"
    cases = plan.in_turn({predict: timed(program.predict, fitted.rows), batch: timed(program.batch, lists)})
    more = difference(cases[batch]["p50 µs"], cases[predict]["p50 µs"])
    target = Target(
        f"batch of one row, more than a direct call, {fitted.name}", more, 1, at_least=False, unit=" µs"
    )
    return Section("Batches of one row", cases, peer=predict, compared="p50 µs", targets=[target])


def crossover(plan: Plan, fitted: Fitted, pause_s: float = 0.0) -> Section:
    """Batches of so many rows, and loops over the same rows: one after the other, or with pauses between."""
    program, predict = fitted.program, fitted.program.predict
    sizes = [n for n in SIZES if n <= 4 * len(fitted.rows) and (n >= 8 or not pause_s)]

    def loop(rows: list[Inputs]) -> list[Any]:
        return [predict(row) for row in rows]

    def timed(answer: Callable[[Any], Any], parts: list[list[Inputs]]) -> Block:
        def block() -> Figures:
            clock, seconds = time.perf_counter_ns, plan.block_s / (1 if pause_s else 4)
            found: list[int] = []
            end = time.perf_counter() + seconds
            while len(found) < 3 or time.perf_counter() < end:
                for part in parts:
                    if pause_s:
                        time.sleep(pause_s)
                    begin = clock()
                    answered = answer(part)
                    found.append(clock() - begin)
                    del answered
                    if time.perf_counter() >= end and len(found) >= 3:
                        break
            return {"µs a row": (float(np.median(found)) - timing.clock_ns()) / len(parts[0]) / 1000}

        return block

    blocks: dict[str, Block] = {}
    with Pool(size=2) as pool:
        for n in sizes:
            source = fitted.many(max(n, len(fitted.rows)))
            parts = [source[i : i + n] for i in range(0, len(source) - n + 1, n)]
            blocks[f"loop, {n} rows"] = timed(loop, parts)
            blocks[f"batch, {n} rows"] = timed(lambda rows: program.batch(rows, pool=pool), parts)
        for block in blocks.values():
            block()
        section = Section(
            f"From how few rows a batch pays: {fitted.name}" + (", rarely" if pause_s else ""),
            plan.in_turn(blocks),
            peer=f"loop, {sizes[0]} rows",
            compared="µs a row",
            peers={name: f"loop, {name.split(', ')[1]}" for name in blocks},
            note=f"Two cores; p50 of a whole batch, by its rows; {_how_often(pause_s)}.",
        )
    least = [section.ratios(f"batch, {n} rows") for n in sizes if n >= 4]
    worst = min(least, key=lambda ratios: timing.spread(ratios)[0])
    # A ratio of 1 is not reached where both do the same thing: what cannot be told apart counts as equal.
    section.targets = [
        Target(f"{section.title.lower()}: the worst from 4 rows, beside the loop", worst, 0.98)
    ]
    return section


def _how_often(pause_s: float) -> str:
    if not pause_s:
        return "one after the other"
    return f"{pause_s * 1000:g} ms of sleep before each, so that workers sleep and caches cool"

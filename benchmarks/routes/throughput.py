"""Calls a second through worker processes: more of them for an LM that takes its time, and for DSPy code that
computes.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

from benchmarks.rounds import Block, Figures, Plan, side_by_side
from benchmarks.routes.engines import LM_S
from benchmarks.routes.programs import ENGINES, INSTANT, INTENTS, TEXTS, config, lm
from benchmarks.sections import Section, Target
from dspex.adapters.dspy_pool import DspyPoolAdapter

CALLERS = 8


def sections(plan: Plan) -> Iterator[Section]:
    yield by_workers(
        plan,
        f"an LM of {LM_S * 1000:.0f} ms",
        lm(f"{ENGINES}:late"),
        {"signature": INTENTS},
        workers=4,
        at_least=3.8,
    )
    yield by_workers(
        plan,
        "a DSPy module that computes",
        lm(INSTANT),
        {"signature": INTENTS, "module": f"{ENGINES}:Computes"},
        workers=2,
        at_least=1.8,
    )


def by_workers(
    plan: Plan,
    title: str,
    asked: Mapping[str, Any],
    program: Mapping[str, Any],
    *,
    workers: int,
    at_least: float,
) -> Section:
    """So many workers beside one."""
    one, many = "1 worker", f"{workers} workers"
    seconds = 4 * plan.block_s if plan.quick else 2.0
    with contextlib.ExitStack() as stack:
        blocks: dict[str, Block] = {}
        for name, size in ((one, 1), (many, workers)):
            adapter = stack.enter_context(DspyPoolAdapter(config(asked, dspy_pool={"size": size})))
            adapter.create_program({"id": "intents", **program})
            blocks[name] = partial(_block, adapter, seconds)
        for block in blocks.values():
            block()
        cases = plan.in_turn(blocks)
    section = Section(
        f"Worker processes: {title}",
        cases,
        peer=one,
        compared="calls/s",
        higher=True,
        note=f"{CALLERS} threads that call one time after the other.",
    )
    section.targets = [Target(f"calls/s of {title}, {many} beside one", section.ratios(many), at_least)]
    return section


def _block(adapter: DspyPoolAdapter, seconds: float) -> Figures:
    def work(end: float) -> int:
        done = 0
        while time.perf_counter() < end:
            adapter.execute_program("intents", TEXTS[done % len(TEXTS)])
            done += 1
        return done

    counts, passed = side_by_side(CALLERS, work, seconds)
    return {"calls/s": sum(counts) / passed}

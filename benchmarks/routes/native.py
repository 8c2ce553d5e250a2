"""A native answer by every way that leads to one: what the ways cost."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

from benchmarks import timing
from benchmarks.rounds import Call, Plan
from benchmarks.routes.programs import INSTANT, config, fitted, lm, sure
from benchmarks.sections import Section, Target
from dspex import Client
from dspex.adapters.hybrid import HybridAdapter
from dspex.adapters.native import NativeAdapter

DIRECT, ADAPTER, NATIVE_CLIENT = "Program.predict", "native adapter", "client on the native adapter"
MOST_US = 0.3


def ways() -> dict[str, Callable[[], Any]]:
    """What makes each way's adapter or client. Without an LM there is no gate."""
    gated = config(lm(INSTANT))
    return {
        ADAPTER: NativeAdapter,
        NATIVE_CLIENT: lambda: Client(config={}),
        "hybrid adapter, no LM": lambda: HybridAdapter({}),
        "client, auto, no LM": lambda: Client(config={}),
        "hybrid adapter, gate": lambda: HybridAdapter(gated),
        "client, auto, gate": lambda: Client(config=gated),
    }


def caller(way: str, program: Any, stack: contextlib.ExitStack) -> Call:
    """What takes inputs and calls the program by this way; all through one function more, of equal weight."""
    if way == DIRECT:
        predict = program.predict
        return lambda row: predict(row)
    made = stack.enter_context(ways()[way]())
    spec = {"id": "intents", "program": program}
    made.create_program({**spec, "adapter": "native"} if way == NATIVE_CLIENT else spec)
    execute, program_id = made.execute_program, "intents"
    return lambda row: execute(program_id, row)


def sections(plan: Plan) -> Iterator[Section]:
    program = fitted()
    rows = sure(program)
    with contextlib.ExitStack() as stack:
        calls = {way: caller(way, program, stack) for way in (DIRECT, *ways())}
        with timing.one_core():
            cases = plan.calls_in_turn(calls, rows, rounds=3 * plan.rounds)
    section = Section(
        "A native answer, by its way",
        cases,
        peer=ADAPTER,
        compared="p50 µs",
        note=f"{len(rows)} texts of which the program is sure enough for the gate; one core.",
    )
    section.targets = [
        Target.at_most(f"p50 of {name}, above the native adapter", section.above_peer(name), MOST_US, " µs")
        for name in cases
        if name not in (DIRECT, ADAPTER)
    ]
    yield section

"""How many instructions a native call takes by each way, which does not depend on what else the machine does.

The difference of many calls and twice as many, counted by valgrind's callgrind, each in a process of its own.
As a command it is that process: `python -m benchmarks.routes.instructions WAY CALLS FILE`.
"""

from __future__ import annotations

import contextlib
import shutil
import sys
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import dspex
from benchmarks.counting import counted
from benchmarks.rounds import Figures, Plan, say
from benchmarks.routes.native import ADAPTER, DIRECT, caller, ways
from benchmarks.routes.programs import fitted, sure
from benchmarks.sections import Section

CALLS = 2000
FIGURE = "instructions a call"


def sections(plan: Plan) -> Iterator[Section]:
    if shutil.which("valgrind") is None:
        say("instructions: valgrind is not installed")
        return
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "intents.dspex")
        fitted().save(file)
        cases = plan.once({way: partial(_a_call, way, file) for way in (DIRECT, *ways())})
    yield Section(
        "Instructions of a native answer, by its way",
        cases,
        peer=ADAPTER,
        compared=FIGURE,
        note=f"Counted by callgrind over {CALLS} calls; valgrind shows an older processor than there may be.",
    )


def _a_call(way: str, file: Path) -> Figures:
    once, twice = (
        counted("benchmarks.routes.instructions", way, calls, file) for calls in (CALLS, 2 * CALLS)
    )
    return {FIGURE: (twice - once) / CALLS}


def call(way: str, calls: int, file: str) -> None:
    program = dspex.load(file)
    rows = sure(program)[:20]
    with contextlib.ExitStack() as stack:
        execute = caller(way, program, stack)
        for number in range(calls):
            execute(rows[number % len(rows)])


if __name__ == "__main__":
    call(sys.argv[1], int(sys.argv[2]), sys.argv[3])

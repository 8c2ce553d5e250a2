"""What the gate's score costs a native call."""

from __future__ import annotations

import contextlib
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dspex
from benchmarks import timing
from benchmarks.counting import counted
from benchmarks.distill.plan import Plan
from benchmarks.distill.served import live, live_home
from benchmarks.distill.tables import Table
from benchmarks.distill.tasks import load, signature
from benchmarks.rounds import Series, say
from benchmarks.sections import Target, difference

SETS = ("banking77", "clinc150", "ag_news_small")
PLAIN, GATED, LIVE = "no gate", "gate", "live"
SERVED = "clinc150"
MOST_US = 0.2
MOST_LIVE_US = 0.3
CALLS = 2000


def tables(plan: Plan) -> Iterator[Table]:
    """Times and instructions of `Program.predict`, with a gate and without, of the same rows."""
    table = Table(
        "A native call with the gate's score",
        (
            "set",
            "no gate, p50 µs",
            "gate, p50 µs",
            "more, p50 µs",
            "no gate, instructions",
            "gate, instructions",
        ),
        note="`Program.predict` over the texts of `dev`, fitted on `train`, in turn on one core; "
        f"instructions counted by callgrind over {CALLS} calls.",
    )
    for name in SETS[: 1 if plan.quick else None]:
        data = load(name)
        programs = {
            PLAIN: dspex.fit(signature(data.classes), data.train),
            GATED: dspex.fit(signature(data.classes), data.train, gate=True),
        }
        rows = [{"text": text} for text in dict.fromkeys(data.dev_texts)]
        calls: dict[str, Any] = {case: _caller(program) for case, program in programs.items()}
        with timing.one_core():
            cases: dict[str, Series] = plan.rounds.calls_in_turn(calls, rows, rounds=3 * plan.rounds.rounds)
        more = difference(cases[GATED]["p50 µs"], cases[PLAIN]["p50 µs"])
        counted = {case: None if plan.quick else instructions(programs[case], name) for case in programs}
        table.add(name, cases[PLAIN]["p50 µs"], cases[GATED]["p50 µs"], more, counted[PLAIN], counted[GATED])
        table.targets.append(
            Target.at_most(f"{name}: the gate, above a native call, p50", more, MOST_US, " µs")
        )
    yield table
    yield _live(plan)


def _live(plan: Plan) -> Table:
    """A live program's native answer beside the same program called by itself."""
    table = Table(
        "A native answer of a live program",
        (
            "set",
            "Program, p50 µs",
            "LiveProgram, p50 µs",
            "more, p50 µs",
            "Program, p99 µs",
            "LiveProgram, p99 µs",
        ),
        note="`predict` in the live stage, nothing audited; the texts of `dev` that it answers natively, in "
        "turn on one core; made from `train`.",
    )
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        live_home(Path(folder), SERVED, 10_000)
        program = live(folder, stack=stack, lifecycle={"automatic": False, "audit_share": 0.0})
        file = max(Path(folder, "versions").glob("*.dspex"))
        texts = [{"text": text} for text in dict.fromkeys(load(SERVED).dev_texts)]
        rows = [row for row in texts if program.predict(row).route == "native"]
        calls = {PLAIN: _caller(dspex.load(file)), LIVE: _caller(program)}
        with timing.one_core():
            cases = plan.rounds.calls_in_turn(calls, rows, rounds=3 * plan.rounds.rounds)
    p50, p99 = ({case: cases[case][f"{name} µs"] for case in calls} for name in ("p50", "p99"))
    more = difference(p50[LIVE], p50[PLAIN])
    table.add(SERVED, p50[PLAIN], p50[LIVE], more, p99[PLAIN], p99[LIVE])
    what = "LiveProgram.predict, above Program.predict, p50"
    table.targets.append(Target.at_most(what, more, MOST_LIVE_US, " µs"))
    return table


def _caller(program: Any) -> Any:
    predict = program.predict
    return lambda row: predict(row)


def instructions(program: Any, name: str) -> float | None:
    """Instructions of a call, over the first texts of `dev`; None without valgrind."""
    if shutil.which("valgrind") is None:
        say("instructions: valgrind is not installed")
        return None
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "program.dspex")
        program.save(file)
        once, twice = (counted("benchmarks.distill.gate", file, name, calls) for calls in (CALLS, 2 * CALLS))
    return (twice - once) / CALLS


def call(file: str, name: str, calls: str) -> None:
    predict = dspex.load(file).predict
    rows = [{"text": text} for text in load(name).dev_texts[:500]]
    for number in range(int(calls)):
        predict(rows[number % len(rows)])


if __name__ == "__main__":
    call(*sys.argv[1:])

"""What a refit of 10,000 rows beside the service does to the tail of its calls."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from benchmarks.distill.plan import Plan
from benchmarks.distill.served import home_of, live_home
from benchmarks.distill.tables import Table
from benchmarks.rounds import OTHERS, Figures, Load
from benchmarks.sections import Target

SET, ROWS, RATE = "clinc150", 10_000, 5000
MOST = 1.20
ALONE, BESIDE = "alone", "beside a refit"
DUE = "due to answered, p99 µs"


def tables(plan: Plan) -> Iterator[Table]:
    """The same process under load by turns alone and beside a refit."""
    seconds, rounds = (2.0, 2) if plan.quick else (4.0, plan.rounds.rounds)
    names = ("", "due to answered, p50 µs", DUE, "call, p50 µs", "call, p99 µs", "calls/s", OTHERS)
    with tempfile.TemporaryDirectory() as folder:
        learned, service = Path(folder, "learned"), Path(folder, "service")
        home_of(learned, SET, ROWS)
        live_home(service, SET, ROWS)
        found: dict[str, list[Figures]] = {ALONE: [], BESIDE: []}
        lengths: list[float] = []

        def block(case: str) -> Figures:
            if case == ALONE:
                return process.load(seconds)
            home = Path(folder, "round")
            shutil.copytree(learned, home)
            with Refit(home) as refit:
                figures = process.load(seconds)
            lengths.append(refit.seconds)
            shutil.rmtree(home)
            return figures

        with Service(service) as process:
            process.load(0.5)
            for number in range(rounds):
                for case in (ALONE, BESIDE) if number % 2 else (BESIDE, ALONE):
                    found[case].append(_in_quiet(plan, partial(block, case)))
    table = Table(
        f"A refit of {ROWS:,} rows beside {RATE:,} calls/s",
        names,
        note=f"`LiveProgram.predict` in the live stage, CLINC150, in one process with an open loop: calls "
        f"are due every {1e6 / RATE:.0f} µs, and the time runs from then. `python -m dspex.distill.job` "
        f"learns from {ROWS:,} rows beside it, at niceness 19 with one thread, and outlasts each block of "
        f"{seconds:g} s. "
        "Fitted on `train`, called with the texts of `dev`.",
    )
    for case, figures in found.items():
        table.add(case, *([each[name] for each in figures] for name in names[1:]))
    table.add("refit, s", *[None] * 5, None)
    table.lines[-1][1] = lengths
    ratios = [b[DUE] / a[DUE] for a, b in zip(found[ALONE], found[BESIDE], strict=True)]
    table.targets.append(Target.at_most("p99 beside a refit, as a multiple of that alone", ratios, MOST, "x"))
    yield table


def _in_quiet(plan: Plan, block: Callable[[], Figures]) -> Figures:
    """A block's figures; repeated while others are busy and patience is left."""
    rounds = plan.rounds
    while True:
        begin = time.perf_counter()
        figures = block()
        if figures[OTHERS] < rounds.quiet_below or rounds.waited_s >= rounds.patience_s:
            return figures
        rounds.waited_s += time.perf_counter() - begin


class Service:
    """The process that is called."""

    def __init__(self, home: Path) -> None:
        command = [sys.executable, "-m", "benchmarks.distill.load", "live", str(home), SET, str(RATE)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def __enter__(self) -> Service:
        self._line()
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(60)

    def load(self, seconds: float) -> Figures:
        assert self._process.stdin is not None
        load = Load()
        self._process.stdin.write(f"{seconds}\n")
        self._process.stdin.flush()
        figures: Figures = json.loads(self._line())
        return figures | {OTHERS: load.others()}

    def _line(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError("the process under load has ended")
        return line


class Refit:
    """A learning process; it has to be there from the beginning to the end of the block."""

    seconds = 0.0

    def __init__(self, home: Path) -> None:
        self._command = [sys.executable, "-m", "dspex.distill.job", str(home)]

    def __enter__(self) -> Refit:
        self._begin = time.perf_counter()
        self._process = subprocess.Popen(self._command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        time.sleep(0.5)  # its imports are part of it, but not of each round alike
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        outlasted = self._process.poll() is None
        code = self._process.wait(600)
        self.seconds = time.perf_counter() - self._begin
        if kind is None and (code or not outlasted):
            raise RuntimeError(f"the refit ended with {code} after {self.seconds:.1f} s, within the block")

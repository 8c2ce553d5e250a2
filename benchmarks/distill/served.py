"""Homes and programs in the live stage, with gold labels as the teacher."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.datasets import Row
from benchmarks.distill.tasks import load, signature, split
from dspex.distill.live import LiveProgram
from dspex.distill.settings import DistillSettings
from dspex.distill.store import Store
from dspex.distill.trace import Answer, Trace

SHARE = 0.2


class Gold:
    """A teacher that says the labels of rows. Attributes: asked, how often it was."""

    def __init__(self, rows: Sequence[Row]) -> None:
        self._answers = {row["text"]: row["label"] for row in rows}
        self.asked = 0

    def ask(self, inputs: Mapping[str, Any]) -> Answer:
        self.asked += 1
        return Answer({"label": self._answers[inputs["text"]]})

    async def aask(self, inputs: Mapping[str, Any]) -> Answer:
        return self.ask(inputs)


def home_of(home: Path, name: str, count: int) -> None:
    """Makes a home with so many traces and no version."""
    data = load(name)
    drawn = random.Random(0).sample(data.train, count)  # a file may be sorted by class
    fit_rows, calibrate_rows = split(drawn, SHARE, 0)
    rows: list[Trace] = [*fit_rows, *(replace(each, role="calibrate") for each in calibrate_rows)]
    with Store.open(home, signature(data.classes)) as store:
        store.add(rows)


def live_home(home: Path, name: str, count: int) -> None:
    """Makes a home whose first version is live."""
    home_of(home, name, count)
    with contextlib.ExitStack() as stack:
        program = live(str(home), stack=stack, lifecycle={"start": "live"})
        program.learn(wait=True)
        status = program.status()
        if status["stage"] != "live":
            raise RuntimeError(f"the version is not live: {status}")


def live(
    home: str | Path | None,
    *,
    name: str = "clinc150",
    stack: contextlib.ExitStack | None = None,
    **settings: Any,
) -> LiveProgram:
    """The program of a home, which learns only when told to; closed with the stack, or never."""
    data = load(name)
    store = Store.open(home, signature(data.classes))
    given = DistillSettings.of({"learning": {"automatic": False}, **settings})
    program = LiveProgram(store, Gold([*data.train, *data.dev]), given, seed=0)
    if stack is not None:
        stack.enter_context(store)
        stack.enter_context(program)
    return program

"""One call by each route; what they cost beside each other is measured by `python -m benchmarks.routes`."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from itertools import cycle
from typing import Any

import pytest

from benchmarks.routes import native
from benchmarks.routes.programs import INSTANT, INTENTS, TEXTS, config, lm, sure
from dspex.adapters.base import Adapter
from dspex.adapters.dspy import DspyAdapter
from dspex.adapters.dspy_pool import DspyPoolAdapter

ONE_WORKER = config(lm(INSTANT), dspy_pool={"size": 1})


@pytest.fixture
def stack() -> Iterator[contextlib.ExitStack]:
    with contextlib.ExitStack() as stack:
        yield stack


@pytest.mark.parametrize("way", [native.DIRECT, *native.ways()])
def test_native_answer(benchmark: Any, program: Any, stack: contextlib.ExitStack, way: str) -> None:
    call, row = native.caller(way, program, stack), cycle(sure(program)).__next__
    benchmark(lambda: call(row()))


@pytest.mark.parametrize("adapter", [DspyAdapter, DspyPoolAdapter])
def test_answer_of_an_lm(benchmark: Any, stack: contextlib.ExitStack, adapter: type[Adapter]) -> None:
    made, row = stack.enter_context(adapter(ONE_WORKER)), cycle(TEXTS).__next__  # type: ignore[call-arg]
    program_id = made.create_program({"signature": INTENTS})
    benchmark(lambda: made.execute_program(program_id, row()))

"""One call, and many rows."""

from __future__ import annotations

import asyncio
from itertools import cycle
from typing import Any

import pytest


def next_row(texts: list[str]) -> Any:
    """A different row at each call, as traffic is."""
    return cycle([{"text": text} for text in texts]).__next__


def of_length(texts: list[str], characters: int) -> list[str]:
    """Distinct texts of exactly this many characters."""
    joined = [" ".join(texts[i:] + texts[:i]) for i in range(len(texts))]
    return [(text * (characters // len(text) + 1))[:characters] for text in joined]


def test_single_call(benchmark: Any, program: Any, texts: list[str]) -> None:
    row, predict = next_row(texts), program.predict
    benchmark(lambda: predict(row()))


def test_single_call_by_keyword(benchmark: Any, program: Any, texts: list[str]) -> None:
    row = next_row(texts)
    benchmark(lambda: program(**row()))


def test_single_call_and_everything_it_knows(benchmark: Any, program: Any, texts: list[str]) -> None:
    row, predict = next_row(texts), program.predict

    def call() -> tuple[Any, float, Any]:
        result = predict(row())
        return result["label"], result.confidence, result.probabilities("label")

    benchmark(call)


@pytest.mark.parametrize("characters", [16, 64, 256, 1024, 16_384])
def test_single_call_by_length(benchmark: Any, program: Any, texts: list[str], characters: int) -> None:
    row, predict = next_row(of_length(texts, characters)), program.predict
    benchmark(lambda: predict(row()))


@pytest.mark.parametrize("rows", [100, 10_000])
def test_batch(benchmark: Any, program: Any, texts: list[str], rows: int) -> None:
    many = [{"text": texts[i % len(texts)]} for i in range(rows)]
    benchmark(program.batch, many)


def test_acall(benchmark: Any, program: Any, texts: list[str]) -> None:
    row = next_row(texts)
    with asyncio.Runner() as runner:
        benchmark(lambda: runner.run(program.acall(**row())))


def test_explain(benchmark: Any, program: Any, texts: list[str]) -> None:
    row = next_row(texts)
    benchmark(lambda: program.explain(**row()))

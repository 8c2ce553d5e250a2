"""Fitting on the example set that dspex ships."""

from __future__ import annotations

from typing import Any

import dspex
from dspex import demo


def test_fit(benchmark: Any, train: list[dict[str, str]]) -> None:
    benchmark.pedantic(dspex.fit, args=(demo.SIGNATURE, train), rounds=5)


def test_fit_on_one_thread(benchmark: Any, train: list[dict[str, str]]) -> None:
    benchmark.pedantic(dspex.fit, args=(demo.SIGNATURE, train), kwargs={"threads": 1}, rounds=5)


def test_partial_fit(benchmark: Any, train: list[dict[str, str]]) -> None:
    half = len(train) // 2

    def fitted_on_half() -> tuple[tuple[Any, Any], dict[str, Any]]:
        return (dspex.fit(demo.SIGNATURE, train[:half]), train[half:]), {}

    benchmark.pedantic(lambda program, more: program.partial_fit(more), setup=fitted_on_half, rounds=5)

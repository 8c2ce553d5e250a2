"""Fixtures of the benchmark suites: `pytest benchmarks --benchmark-only`. They need no data set."""

from __future__ import annotations

from typing import Any

import pytest

import dspex
from dspex import demo


@pytest.fixture(scope="session")
def train() -> list[dict[str, str]]:
    rows: list[dict[str, str]] = demo.split()[0]
    return rows


@pytest.fixture(scope="session")
def texts() -> list[str]:
    """Distinct short texts that the program has not seen."""
    return [row["text"] for row in demo.split()[1]]


@pytest.fixture(scope="session")
def program(train: list[dict[str, str]]) -> Any:
    return dspex.fit(demo.SIGNATURE, train)

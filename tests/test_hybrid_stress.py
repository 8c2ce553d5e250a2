"""The hybrid adapter under load: every call ends once, inside its time, and is counted once.

DSPEX_STRESS=20 multiplies the counts by 20.
"""

from __future__ import annotations

import asyncio
import os
import random
import threading
import time
from collections import Counter
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from dspex.adapters.hybrid import HybridAdapter
from dspex.errors import CallTimeoutError, CommunicationError, DspexError, LMError, PoolSaturated
from hybrid_tools import BLANK, SPEC, SURE, UNSURE, FakeDspy, hybrid, outcome_of

STRESS = float(os.environ.get("DSPEX_STRESS", "1"))
CALLS = max(1, round(600 * STRESS))
THREADS = 8
ERRORS = (LMError, CallTimeoutError, CommunicationError, PoolSaturated)


class Moody(FakeDspy):
    """Fails in a third of its calls, and is slow in some."""

    def __init__(self, name: str, seed: int) -> None:
        super().__init__(self._moody, name=name)
        self._dice = random.Random(seed)
        self._lock = threading.Lock()

    def _moody(self, inputs: Mapping[str, Any]) -> Any:
        with self._lock:
            roll = self._dice.random()
        if roll < 0.1:
            time.sleep(0.01)
        return ERRORS[int(roll * 100) % len(ERRORS)] if roll < 0.33 else "limit"


def loaded(**routing: Any) -> HybridAdapter:
    adapter = hybrid(
        {"dspy_pool": True, "hedge_after_ms": 2, **routing},
        dspy=Moody("dspy", 1),
        dspy_pool=Moody("dspy_pool", 2),
    )
    adapter.create_program(SPEC)
    return adapter


def check(adapter: HybridAdapter, outcomes: list[Any], *, fallback: bool) -> None:
    stats = adapter.get_stats()
    errors = [each for each in outcomes if isinstance(each, DspexError)]
    routes = Counter(str(each.route) for each in outcomes if not isinstance(each, DspexError))
    assert stats["calls"] == len(outcomes)
    assert stats["routing"]["routes"] == dict(routes)
    assert sum(stats["errors"].values()) == len(errors)
    assert all(isinstance(each, ERRORS) for each in errors)
    degraded = sum(each.route.degraded for each in outcomes if not isinstance(each, DspexError))
    assert (stats["routing"]["degraded"], degraded > 0) == (degraded, fallback)
    hedges = stats["routing"]["hedges"]
    assert hedges["started"] == hedges["won"] + hedges["lost"] > 0


@pytest.mark.parametrize("fallback", [True, False])
def test_threads(fallback: bool) -> None:
    adapter = loaded(fallback=fallback)
    rows = [(SURE, UNSURE, UNSURE, BLANK)[number % 4] for number in range(CALLS)]
    with ThreadPoolExecutor(THREADS) as threads:
        outcomes = list(threads.map(lambda row: outcome_of(lambda: adapter.execute_program("p", row)), rows))
    check(adapter, outcomes, fallback=fallback)


@pytest.mark.parametrize("fallback", [True, False])
def test_tasks(fallback: bool) -> None:
    adapter = loaded(fallback=fallback)

    async def one(row: Mapping[str, Any]) -> Any:
        try:
            return await adapter.aexecute_program("p", row)
        except DspexError as error:
            return error

    async def main() -> list[Any]:
        return await asyncio.gather(*(one((SURE, UNSURE, BLANK)[n % 3]) for n in range(CALLS // 2)))

    check(adapter, asyncio.run(main()), fallback=fallback)

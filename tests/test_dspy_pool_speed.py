"""What several workers gain. The figures are in docs/dspy-pool.md; here they have wide bounds, because other
work may go on beside the tests.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable
from typing import Any

from dspex.adapters.dspy import DspyAdapter
from dspex.testing.lm_server import LMServer
from dspy_pool_tools import borrowed, echo, in_threads, over

REPLY = {"signature": "text -> reply", "id": "it"}
ENGINE = {"model": "openai/x", "options": {"engine": "dspy_pool_tools:instant"}}


def seconds(work: Callable[[], Any]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def best_ratio(one: Callable[[], Any], many: Callable[[], Any], enough: float, tries: int = 10) -> float:
    """How much faster `many` is, in the best of some tries."""
    best = 0.0
    for _ in range(tries):
        best = max(best, seconds(one) / seconds(many))
        if best >= enough:
            break
    return best


def test_four_workers_wait_for_an_lm_at_once(lm_server: LMServer) -> None:
    lm_server.answers = echo
    with over(lm_server, dspy_pool={"size": 4}) as adapter:
        adapter.create_program(REPLY)
        rows = [{"text": str(n)} for n in range(12)]
        adapter.execute_batch("it", rows)
        lm_server.delay = 0.05

        def one() -> None:
            for row in rows:
                adapter.execute_program("it", row)

        assert best_ratio(one, lambda: adapter.execute_batch("it", rows), 3.0) >= 2.5


def test_work_in_python_runs_on_several_cores() -> None:
    with borrowed() as adapter:
        adapter.create_program({"signature": "text -> said", "module": "dspy_pool_tools:Acting", "id": "it"})

        def call(_: int) -> tuple[float, float]:
            began, ended = adapter.execute_program("it", {"text": "work 600000"}).said.split()
            return float(began), float(ended)

        def together() -> float:
            spans = in_threads(call, 2)
            return min(ended for _, ended in spans) - max(began for began, _ in spans)

        assert max(together() for _ in range(6)) > 0  # seconds, on the clock of the machine
        if os.getloadavg()[0] < 1:  # else others have the other core
            ratio = best_ratio(lambda: (call(0), call(1)), lambda: in_threads(call, 2), 1.6)
            assert ratio >= 1.3


def test_a_call_in_a_worker_costs_little_more(lm_server: LMServer) -> None:
    """With an LM that answers at once; wanted are 300 µs."""
    with borrowed() as adapter, DspyAdapter() as local:
        for each in (adapter, local):
            each.configure_lm(ENGINE)
            each.create_program(REPLY)
            each.execute_program("it", {"text": "abc"})
        more, enough = [], []
        for _ in range(5):
            took: dict[Any, list[float]] = {adapter: [], local: []}
            for _ in range(40):
                for each, times in took.items():
                    times.append(seconds(lambda each=each: each.execute_program("it", {"text": "abc"})))
            more.append(statistics.median(took[adapter]) - statistics.median(took[local]))
            enough.append(max(1e-3, 2 * statistics.median(took[local])))  # on a slow machine both take longer
        assert any(seconds < limit for seconds, limit in zip(more, enough, strict=True)), more

"""Hedging in the hybrid adapter: DSPy in this process is started beside a pool that does not come back."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from dspex import Pool
from dspex.adapters.base import Adapter
from dspex.adapters.hybrid import HybridAdapter
from dspex.adapters.native_pool import NativePoolAdapter
from dspex.errors import CommunicationError, LMError, PoolSaturated
from dspex.result import Result
from hybrid_tools import SPEC, SURE, UNSURE, FakeDspy, config, hybrid

AFTER, NEVER = {"hedge_after_ms": 15}, {"hedge_after_ms": 10_000}
#: Seconds; within SOON a hedge has begun, and failed if it does so at once.
SLOW, SOON, QUICK = 0.6, 0.3, 0.0


def sync(adapter: HybridAdapter, inputs: Any, options: Any = None) -> Result:
    return adapter.execute_program("p", inputs, options)


def tasks(adapter: HybridAdapter, inputs: Any, options: Any = None) -> Result:
    return asyncio.run(adapter.aexecute_program("p", inputs, options))


ways = pytest.mark.parametrize("call", [sync, tasks])
Call = Callable[..., Result]


def ready(
    answer: Any = "limit", delay: float = QUICK, hedge: Any = "card_lost", **routing: Any
) -> tuple[HybridAdapter, FakeDspy, FakeDspy]:
    pool, dspy = FakeDspy(answer, name="dspy_pool", delay=delay), FakeDspy(hedge)
    adapter = hybrid({**AFTER, "dspy_pool": True, **routing}, dspy=dspy, dspy_pool=pool)
    adapter.create_program(SPEC)
    return adapter, pool, dspy


def hedges(adapter: HybridAdapter) -> dict[str, int]:
    found: dict[str, int] = adapter.get_stats()["routing"]["hedges"]
    return found


@ways
def test_a_pool_in_time_is_alone(call: Call) -> None:
    adapter, _, dspy = ready(**NEVER)
    assert call(adapter, UNSURE).route == "dspy_pool"
    assert dspy.asked == []
    assert hedges(adapter) == {"started": 0, "won": 0, "lost": 0}


@ways
def test_a_slow_pool_loses(call: Call) -> None:
    adapter, pool, _ = ready(delay=SLOW)
    result = call(adapter, UNSURE)
    assert (result.label, str(result.route), result.route.degraded) == ("card_lost", "dspy", False)
    assert result.route.reason.endswith("is below 0.9; dspy_pool had not answered after 15 ms")
    assert hedges(adapter) == {"started": 1, "won": 1, "lost": 0}
    stats = adapter.get_stats()
    assert (stats["calls"], stats["routing"]["routes"], stats["routing"]["deferred"]) == (1, {"dspy": 1}, 1)
    assert pool.cancelled == (1 if call is tasks else 0)


@ways
def test_the_hedge_loses(call: Call) -> None:
    adapter, _, dspy = ready(delay=SOON)
    dspy.delay = SOON + SLOW
    assert call(adapter, UNSURE).label == "limit"
    assert hedges(adapter) == {"started": 1, "won": 0, "lost": 1}


@ways
@pytest.mark.parametrize("error", [PoolSaturated("full"), CommunicationError("the worker died")])
def test_a_pool_that_breaks_has_its_hedge_at_once(call: Call, error: Exception) -> None:
    adapter, _, _ = ready(error, hedge_after_ms=10_000)
    assert call(adapter, UNSURE).route == "dspy"


@ways
def test_a_pool_that_says_it_is_full_has_its_hedge_at_once(call: Call) -> None:
    adapter, pool, dspy = ready(PoolSaturated("full"), hedge_after_ms=10_000)
    pool.refusal = PoolSaturated("full")
    assert call(adapter, UNSURE).route == "dspy"
    dspy.refusal = LMError("the circuit is open")
    assert "the circuit is open" in call(adapter, UNSURE).route.reason
    alone = hybrid({"dspy_pool": True}, dspy_pool=pool)
    alone.create_program({**SPEC, "id": "q"})
    assert alone.execute_program("q", UNSURE).route.degraded


@ways
def test_an_lm_that_fails_is_not_asked_again(call: Call) -> None:
    adapter, _, dspy = ready(LMError("down"), **NEVER)
    assert call(adapter, UNSURE).route.degraded
    assert dspy.asked == []


@ways
def test_both_failing_fall_back(call: Call) -> None:
    adapter, _, dspy = ready(LMError("down"), delay=SOON, hedge=LMError("down too"))
    result = call(adapter, UNSURE)
    assert (str(result.route), result.route.degraded) == ("native", True)
    assert "[lm] down" in result.route.reason
    assert len(dspy.asked) == 1


@ways
def test_the_hedge_has_what_is_left_of_the_time(call: Call) -> None:
    adapter, _, dspy = ready(delay=SLOW)
    call(adapter, UNSURE, {"timeout": 1.0, "session": "s"})
    ((_, options),) = dspy.asked
    assert options == {"timeout": pytest.approx(0.985)}
    call(adapter, UNSURE, {"timeout": 0.015})  # over before a hedge would begin
    assert len(dspy.asked) == 1


@ways
def test_a_named_pool_has_no_hedge(call: Call) -> None:
    adapter, _, dspy = ready(delay=0.05)
    assert call(adapter, SURE, {"backend": "dspy_pool"}).route == "dspy_pool"
    assert dspy.asked == []


# The native pool


def busy_pool(seconds: float, after: dict[str, Any] = AFTER) -> tuple[HybridAdapter, FakeDspy, Pool]:
    pool, dspy = Pool(size=1, max_size=1), FakeDspy("card_lost")
    backends: dict[str, Adapter] = {"native_pool": NativePoolAdapter(pool), "dspy": dspy}
    adapter = HybridAdapter(config(native_pool=True, **after), backends=backends)
    adapter.create_program(SPEC)
    pool._probe(sleep=seconds)
    return adapter, dspy, pool


@ways
def test_a_busy_native_pool(call: Call) -> None:
    adapter, _, pool = busy_pool(SLOW)
    result = call(adapter, SURE)
    assert (str(result.route), result.label) == ("dspy", "card_lost")
    assert result.route.reason == "native_pool had not answered after 15 ms"
    adapter.close()
    pool.close()


@ways
def test_an_unsure_native_answer_waits_for_the_hedge_that_runs(call: Call) -> None:
    adapter, dspy, pool = busy_pool(SOON)
    dspy.delay = SLOW
    result = call(adapter, UNSURE)
    assert (str(result.route), result.label) == ("dspy", "card_lost")
    assert len(dspy.asked) == 1  # not once more for the gate
    adapter.close()
    pool.close()


@ways
def test_an_unsure_native_answer_whose_hedge_has_failed(call: Call) -> None:
    adapter, dspy, pool = busy_pool(SOON)
    dspy.answer = LMError("down")
    result = call(adapter, UNSURE)
    assert (str(result.route), result.route.degraded) == ("native", True)
    assert "but dspy failed: [lm] down" in result.route.reason
    assert len(dspy.asked) == 1
    adapter.close()
    pool.close()


@ways
def test_a_native_pool_in_time(call: Call) -> None:
    adapter, _, pool = busy_pool(0.0, NEVER)
    assert call(adapter, SURE).route == "native_pool"
    assert call(adapter, UNSURE).route == "dspy"
    assert hedges(adapter)["started"] == 0
    adapter.close()
    pool.close()

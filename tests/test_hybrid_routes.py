"""Where the hybrid adapter sends calls: what is named, rules, wishes, pools, resources."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from dspex import Pool
from dspex.adapters.base import Adapter
from dspex.adapters.hybrid import HybridAdapter
from dspex.adapters.hybrid.program import PASSING
from dspex.adapters.native_pool import NativePoolAdapter
from dspex.errors import CallTimeoutError, ConfigError, LMError, PoolSaturated, ProgramError, ResourceError
from hybrid_tools import BLANK, SPEC, SURE, UNSURE, FakeDspy, config, fitted, hybrid, no_lm_error

OPEN = {"id": "open", "signature": "question -> answer"}


def routes(adapter: HybridAdapter, program: str = "p", inputs: Any = SURE) -> list[str]:
    """Those of a call, a task and a batch."""
    return [
        str(adapter.execute_program(program, inputs).route),
        str(asyncio.run(adapter.aexecute_program(program, inputs)).route),
        str(adapter.execute_batch(program, [inputs])[0].route),
    ]


def made(routing: dict[str, Any] | None = None, spec: dict[str, Any] = SPEC, **more: Any) -> HybridAdapter:
    adapter = hybrid(routing, **more)
    adapter.create_program(spec)
    return adapter


# What is named


@pytest.mark.parametrize("backend", ["native", "native_pool", "dspy", "dspy_pool"])
def test_a_named_backend_and_no_other(backend: str) -> None:
    for adapter in (
        made({"backend": backend, "prefer": "dspy", "rules": [{"use": "dspy"}]}),
        made(spec={**SPEC, "routing": {"backend": backend}}),
        made(spec={**SPEC, "adapter": backend}),
    ):
        assert routes(adapter) == [backend] * 3
        assert routes(adapter, inputs=UNSURE) == [backend] * 3  # no gate
        assert adapter.execute_program("p", SURE).route.reason == "it is set for the program"
        assert adapter.get_program_info("p")["backend"] == backend
        adapter.close()


def test_a_call_names_a_backend() -> None:
    adapter = made({"backend": "dspy"})
    for backend in ("native", "native_pool", "dspy", "dspy_pool"):
        options = {"backend": backend}
        results = [
            adapter.execute_program("p", UNSURE, options),
            asyncio.run(adapter.aexecute_program("p", UNSURE, options)),
            adapter.execute_batch("p", [UNSURE], options)[0],
        ]
        assert [(str(r.route), r.route.reason) for r in results] == [(backend, "the call names it")] * 3
    with pytest.raises(ConfigError) as caught:
        adapter.execute_program("p", SURE, {"backend": "dspi"})
    assert (caught.value.field, caught.value.hint) == ("backend", "Did you mean 'dspy'?")
    adapter.close()


def test_nothing_stands_in_for_a_named_backend() -> None:
    dspy = FakeDspy(LMError("down"))
    adapter = made(dspy=dspy)
    assert adapter.execute_program("p", UNSURE).route.degraded
    with pytest.raises(LMError):
        adapter.execute_program("p", UNSURE, {"backend": "dspy"})
    with pytest.raises(LMError):
        adapter.execute_batch("p", [UNSURE], {"backend": "dspy"})
    dspy.refusal = LMError("open")
    with pytest.raises(LMError, match="down"):  # it is asked all the same
        adapter.execute_program("p", UNSURE, {"backend": "dspy"})


def test_a_backend_that_cannot_run_the_program() -> None:
    adapter = made(spec=OPEN)
    for backend in ("native", "native_pool"):
        with pytest.raises(ProgramError, match="'answer' is free text") as caught:
            adapter.execute_program("open", {"question": "why?"}, {"backend": backend})
        assert caught.value.program == "open"
        with pytest.raises(ProgramError, match="cannot run the program"):
            adapter.create_program({**OPEN, "id": "q", "adapter": backend})
    assert adapter.list_programs() == ["open"]
    with pytest.raises(ConfigError, match="'native'"):
        adapter.create_program({**SPEC, "id": "q", "adapter": "nativ"})


# Rules


def test_rules_by_operation_program_kind_signature_and_tag() -> None:
    rules = [
        {"when": {"operation": "batch"}, "use": "native_pool"},
        {"when": {"tag": "dear"}, "use": "dspy"},
        {"when": {"program": "pool-*"}, "use": "dspy_pool"},
        {"when": {"signature": "not native"}, "use": "dspy_pool"},
        {"name": "by kind", "when": {"kind": "predict"}, "use": "dspy"},
    ]
    adapter = hybrid({"rules": rules})
    number = {"signature": "text -> n: int", "examples": [{"text": f"t{i}", "n": i % 2} for i in range(30)]}
    adapter.create_program(SPEC)
    adapter.create_program({**SPEC, "id": "dear", "tags": ["x", "dear"]})
    adapter.create_program({**SPEC, "id": "pool-1"})
    adapter.create_program(OPEN)
    adapter.create_program({**number, "id": "number"})
    assert routes(adapter) == ["native", "native", "native_pool"]
    assert routes(adapter, "dear") == ["dspy", "dspy", "native_pool"]
    assert routes(adapter, "pool-1") == ["dspy_pool", "dspy_pool", "native_pool"]
    assert routes(adapter, "open", {"question": "why?"}) == ["dspy_pool"] * 3
    assert str(adapter.execute_program("dear", SURE).route.reason) == "rule 1 says dspy"
    assert routes(adapter, "number") == ["dspy", "dspy", "native_pool"]
    assert adapter.execute_program("number", SURE).route.reason == "rule 'by kind' says dspy"
    info = adapter.get_program_info("dear")["program"]["routes"]
    assert info["batch"] == {"backend": "native_pool", "reason": "rule 0 says native_pool", "degraded": False}
    adapter.close()


def test_the_gate_holds_behind_a_rule() -> None:
    adapter = made({"rules": [{"name": "cheap", "use": "native_pool"}]})
    result = adapter.execute_program("p", SURE)
    assert result.route.reason == "rule 'cheap' says native_pool, confidence at least 0.9"
    assert routes(adapter, inputs=UNSURE) == ["dspy"] * 3
    adapter.close()


def test_a_native_rule_for_what_is_not_native() -> None:
    adapter = made({"rules": [{"use": "native"}]}, OPEN)
    assert routes(adapter, "open", {"question": "why?"}) == ["dspy"] * 3


def test_own_rules_come_before_the_common_ones() -> None:
    adapter = hybrid({"rules": [{"use": "dspy"}]})
    adapter.create_program({**SPEC, "routing": {"rules": [{"when": {"operation": "call"}, "use": "native"}]}})
    assert routes(adapter) == ["native", "dspy", "dspy"]
    assert adapter.execute_program("p", SURE).route.reason.startswith("own rule 0 says native")


def test_a_bad_rule_is_refused_when_it_is_loaded() -> None:
    with pytest.raises(ConfigError, match="contradict") as caught:
        hybrid({"rules": [{"use": "dspy"}, {"use": "native"}]})
    assert caught.value.field == "routing.rules.1"
    with pytest.raises(ConfigError, match="contradict") as caught:
        hybrid().create_program({**SPEC, "routing": {"rules": [{"use": "dspy"}, {"use": "native"}]}})
    assert caught.value.program == "p"


def test_a_dspy_rule_without_an_lm() -> None:
    rules = [{"use": "dspy"}]
    adapter = made({"rules": rules}, lm=False)
    result = adapter.execute_program("p", UNSURE)
    assert (str(result.route), result.route.degraded) == ("native", True)
    assert result.route.reason == "rule 0 says dspy, but no LM is configured"
    assert adapter.get_stats()["routing"] == {
        "routes": {"native": 1},
        "deferred": 0,
        "fallbacks": 0,
        "degraded": 1,
        "hedges": {"started": 0, "won": 0, "lost": 0},
        "coverage": 0.0,
    }
    dspy = FakeDspy()
    dspy.refusal = no_lm_error()
    strict = hybrid({"rules": rules, "fallback": False}, dspy=dspy, lm=False)
    with pytest.raises(ConfigError, match="no language model"):
        strict.create_program(SPEC)
    assert (strict.list_programs(), dspy.specs) == ([], {})


# Wishes


@pytest.mark.parametrize(
    ("prefer", "route"),
    [
        (None, "native"),
        ("native", "native"),
        ("speed", "native"),
        ("cost", "native"),
        ("dspy", "dspy"),
        ("quality", "dspy"),
    ],
)
def test_preferences(prefer: str | None, route: str) -> None:
    adapter = made({"prefer": prefer})
    assert routes(adapter) == [route] * 3
    assert routes(adapter, inputs=UNSURE) == ["dspy"] * 3
    if prefer:
        assert f"routing.prefer is '{prefer}'" in adapter.execute_program("p", SURE).route.reason


def test_a_preference_that_cannot_be_had() -> None:
    adapter = made({"prefer": "quality"}, lm=False)
    route = adapter.execute_program("p", UNSURE).route
    assert (str(route), route.degraded) == ("native", True)
    assert route.reason == "routing.prefer is 'quality', but no LM is configured"


def test_dspy_first_falls_back_to_native() -> None:
    dspy = FakeDspy(CallTimeoutError("too late"))
    adapter = made({"prefer": "dspy"}, dspy=dspy)
    for result in (
        adapter.execute_program("p", SURE),
        asyncio.run(adapter.aexecute_program("p", SURE)),
        adapter.execute_batch("p", [SURE])[0],
    ):
        assert (str(result.route), result.route.degraded, result.label) == ("native", True, "refund")
        assert result.route.reason.startswith("routing.prefer is 'dspy', but dspy failed: [timeout]")
    with pytest.raises(CallTimeoutError):
        adapter.execute_program("p", BLANK)
    with pytest.raises(CallTimeoutError):
        adapter.execute_batch("p", [SURE, BLANK])


def test_a_latency_budget_is_the_deadline_of_dspy() -> None:
    dspy = FakeDspy()
    adapter = made({"latency_budget_ms": 250}, dspy=dspy)
    adapter.execute_program("p", UNSURE)
    adapter.execute_program("p", UNSURE, {"timeout": 2.0})
    asyncio.run(adapter.aexecute_program("p", UNSURE))
    adapter.execute_batch("p", [UNSURE])
    adapter.execute_program("p", UNSURE, {"backend": "dspy"})  # named: no wish holds
    assert [options for _, options in dspy.asked] == [
        {"timeout": 0.25},
        {"timeout": 2.0},
        {"timeout": 0.25},
        {"timeout": 0.25},
        {},
    ]


def test_dspy_that_was_too_slow_of_late_is_asked_now_and_then() -> None:
    dspy = FakeDspy()
    adapter = made({"latency_budget_ms": 250}, dspy=dspy)
    dspy.seen = {"latency_ms": 400.0, "usd": None}
    results = [adapter.execute_program("p", UNSURE) for _ in range(2 * PASSING)]
    assert len(dspy.asked) == 2
    assert results[0].route.degraded
    assert "but DSPy takes 400 ms, more than the budget of 250 ms" in results[0].route.reason
    dspy.seen = {"latency_ms": 200.0, "usd": None}
    assert adapter.execute_program("p", UNSURE).route == "dspy"


def test_what_has_no_other_way_is_asked_however_slow() -> None:
    dspy = FakeDspy("because")
    dspy.seen = {"latency_ms": 400.0, "usd": None}
    adapter = made({"latency_budget_ms": 250}, OPEN, dspy=dspy)
    assert routes(adapter, "open", {"question": "why?"}) == ["dspy"] * 3
    assert [options for _, options in dspy.asked] == [{"timeout": 0.25}] * 3


def test_max_cost() -> None:
    dspy = FakeDspy()
    adapter = made({"max_cost": 0.01}, dspy=dspy)
    adapter.create_program(OPEN)
    assert adapter.execute_program("p", UNSURE).route == "dspy"
    dspy.seen = {"latency_ms": None, "usd": 0.02}
    for result in (adapter.execute_program("p", UNSURE), adapter.execute_batch("p", [UNSURE])[0]):
        assert (str(result.route), result.route.degraded) == ("native", True)
        assert "but a call of DSPy costs $0.02, more than max_cost $0.01" in result.route.reason
    for call in (
        lambda: adapter.execute_program("open", {"question": "why?"}),
        lambda: adapter.execute_batch("open", [{"question": "why?"}]),
        lambda: adapter.execute_program("p", BLANK),
    ):
        with pytest.raises(ResourceError, match="more than max_cost") as caught:
            call()
        assert not caught.value.retryable
    assert len(dspy.asked) == 1


# Pools


def test_pools_in_place_of_this_thread_and_process() -> None:
    dspy, pool = FakeDspy(), FakeDspy(name="dspy_pool")
    adapter = made({"native_pool": True, "dspy_pool": True}, dspy=dspy, dspy_pool=pool)
    assert routes(adapter) == ["native_pool"] * 3
    assert routes(adapter, inputs=UNSURE) == ["dspy_pool"] * 3
    assert adapter.execute_program("p", SURE, {"timeout": 5, "session": "s"}).route == "native_pool"
    adapter.execute_program("p", UNSURE, {"timeout": 5, "session": "s"})
    assert pool.asked[-1][1] == {"timeout": 5, "session": "s"}
    assert dspy.asked == []
    assert adapter.get_stats()["routing"]["routes"] == {"native_pool": 4, "dspy_pool": 4}
    adapter.close()


def full_pool() -> tuple[Pool, list[Any]]:
    """A pool that takes nothing more, and what keeps it busy."""
    pool = Pool(size=1, max_size=1, capacity=1, policy="reject")
    busy = [pool._probe(sleep=0.4)]
    while pool.stats().queued:  # until the worker has taken it
        time.sleep(0.001)
    return pool, [*busy, pool._probe(sleep=0.0)]


@pytest.mark.parametrize("fallback", [True, False])
def test_a_full_native_pool_leaves_the_call_to_the_caller(fallback: bool) -> None:
    pool, busy = full_pool()
    backends: dict[str, Adapter] = {"native_pool": NativePoolAdapter(pool), "dspy": FakeDspy()}
    adapter = HybridAdapter(config(native_pool=True, fallback=fallback), backends=backends)
    adapter.create_program(SPEC)
    if not fallback:
        with pytest.raises(PoolSaturated):
            adapter.execute_program("p", SURE)
    else:
        for result in (
            adapter.execute_program("p", SURE),
            adapter.execute_program("p", SURE, {"timeout": 1}),
            asyncio.run(adapter.aexecute_program("p", SURE)),
        ):
            assert (str(result.route), result.route.degraded) == ("native", False)
            assert "but the native pool is full" in result.route.reason
            assert result.label == fitted().predict(SURE).label
        assert adapter.execute_program("p", UNSURE).route == "dspy"
    for task in busy:
        task.result(5)
    adapter.close()
    pool.close()

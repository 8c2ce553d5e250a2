"""The hybrid adapter's gate: native answers that may stand, and what becomes of those that may not."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from dspex.adapters.hybrid import HybridAdapter
from dspex.errors import (
    CallTimeoutError,
    CommunicationError,
    ConfigError,
    DspexError,
    InputError,
    LMError,
    PoolSaturated,
    ProgramError,
    ResourceError,
)
from dspex.program import Program
from dspex.result import Result, Route
from dspex.routing import Gate
from hybrid_tools import (
    BLANK,
    ROW,
    SPEC,
    SURE,
    UNSURE,
    FakeDspy,
    config,
    fitted,
    hybrid,
    no_lm_error,
    once_then,
)

Call = Callable[..., Result]


def sync(adapter: HybridAdapter, inputs: Any, options: Any = None) -> Result:
    return adapter.execute_program("p", inputs, options)


def tasks(adapter: HybridAdapter, inputs: Any, options: Any = None) -> Result:
    return asyncio.run(adapter.aexecute_program("p", inputs, options))


def batch(adapter: HybridAdapter, inputs: Any, options: Any = None) -> Result:
    return adapter.execute_batch("p", [inputs], options)[0]


ways = pytest.mark.parametrize("call", [sync, tasks, batch])


def ready(routing: dict[str, Any] | None = None, **more: Any) -> tuple[HybridAdapter, FakeDspy]:
    dspy = FakeDspy(more.pop("answer", "limit"))
    adapter = hybrid(routing, dspy=dspy, **more)
    adapter.create_program(SPEC)
    return adapter, dspy


@pytest.mark.parametrize(
    ("confidence", "threshold", "doubt"),
    [
        (0.41, 0.9, "native confidence 0.41 is below 0.9"),
        (0.9, 0.9, None),
        (0.95, 0.9, None),
        (0.8996, 0.9, "native confidence 0.8996 is below 0.9"),
        (0.89999999, 0.9, "native confidence 0.89999999 is below 0.9"),
        (None, 0.9, None),
        (0.0, 0.0, None),
        (0.999, 1.0, "native confidence 0.999 is below 1"),
    ],
)
def test_doubts(confidence: float | None, threshold: float, doubt: str | None) -> None:
    answer = Result({"label": "refund"}, route=Route("native"), confidence=confidence)
    assert Gate(threshold).doubt(answer) == doubt


@ways
def test_sure_answers_stand(call: Call) -> None:
    adapter, dspy = ready()
    result = call(adapter, SURE)
    assert (result.label, str(result.route)) == ("refund", "native")
    assert result.route.reason == "native comes first, confidence at least 0.9"
    assert not result.route.degraded
    assert result.probabilities("label")
    assert dspy.asked == []


@ways
def test_unsure_ones_are_asked_of_dspy(call: Call) -> None:
    adapter, dspy = ready()
    confidence = fitted().predict(UNSURE).confidence
    result = call(adapter, UNSURE)
    assert (result.label, str(result.route)) == ("limit", "dspy")
    assert result.route.reason == f"native confidence {confidence:.2f} is below 0.9"
    assert (result.route.degraded, result.usage) == (False, {"requests": 1, "usd": None})
    assert dspy.asked == [(UNSURE, {})]
    assert adapter.get_stats()["routing"]["deferred"] == 1


@ways
def test_the_threshold(call: Call) -> None:
    low, dspy = ready({"threshold": 0.1})
    assert call(low, UNSURE).route == "native"
    off, _ = ready({"threshold": None})
    assert call(off, UNSURE).route == "native"
    strict, dspy = ready({"threshold": 1.0})
    assert call(strict, SURE).route == "dspy"
    assert len(dspy.asked) == 1


def test_a_programs_own_threshold() -> None:
    adapter, _ = ready()
    adapter.create_program({**SPEC, "id": "own", "routing": {"threshold": 0.1}})
    assert adapter.execute_program("own", UNSURE).route == "native"
    assert adapter.execute_program("p", UNSURE).route == "dspy"
    with pytest.raises(ConfigError) as caught:
        adapter.create_program({**SPEC, "id": "q", "routing": {"threshold": 2}})
    assert caught.value.field == "routing.threshold"


@ways
def test_without_an_lm_every_answer_stands(call: Call) -> None:
    adapter, dspy = ready(lm=False)
    result = call(adapter, UNSURE)
    assert (str(result.route), result.route.reason) == (
        "native",
        "no LM is configured: every native answer stands",
    )
    with pytest.raises(InputError, match="empty"):
        call(adapter, BLANK)
    assert (dspy.specs, dspy.asked) == ({}, [])


@ways
def test_numbers_have_no_confidence_and_stand(call: Call) -> None:
    adapter = hybrid(dspy=(dspy := FakeDspy()))
    rows = [{"text": f"{word} text {i}", "score": float(i % 3)} for i, word in enumerate("abc" * 8)]
    adapter.create_program({"id": "p", "signature": "text -> score: float", "examples": rows})
    result = call(adapter, UNSURE)
    assert (str(result.route), result.confidence) == ("native", None)
    assert dspy.specs == {}


@ways
def test_texts_that_native_programs_cannot_answer_are_asked_of_dspy(call: Call) -> None:
    adapter, dspy = ready()
    for inputs in (BLANK, {"text": "\u200b \u200b"}):
        result = call(adapter, inputs)
        assert str(result.route) == "dspy"
        assert "text" in result.route.reason
    assert dspy.asked == [(BLANK, {}), ({"text": "\u200b \u200b"}, {})]


@ways
@pytest.mark.parametrize("inputs", [{}, {"text": 3}, {"text": "a", "b": 1}, {"txt": "a"}, None, ["text"]])
def test_wrong_inputs_are_nobodys(call: Call, inputs: Any) -> None:
    adapter, dspy = ready()
    with pytest.raises(InputError) as caught:
        call(adapter, inputs)
    assert caught.value.program == "p"
    assert dspy.asked == []
    assert adapter.get_stats()["errors"] == {"input": 1}


FAILURES = [
    LMError("the LM refused"),
    ResourceError("no turn"),
    PoolSaturated("full"),
    CallTimeoutError("too late"),
    CommunicationError("cut"),
]


@ways
@pytest.mark.parametrize("error", FAILURES, ids=lambda error: error.category)
def test_native_stands_in_when_dspy_fails(call: Call, error: DspexError) -> None:
    adapter, _ = ready(answer=error)
    result = call(adapter, UNSURE)
    assert (str(result.route), result.route.degraded) == ("native", True)
    assert result.label == fitted().predict(UNSURE).label
    assert f", but dspy failed: [{error.category}] {error.message}" in result.route.reason
    assert "is below 0.9" in result.route.reason
    routing = adapter.get_stats()["routing"]
    assert (routing["deferred"], routing["fallbacks"], routing["degraded"]) == (1, 1, 1)
    assert routing["coverage"] == 0.0


@ways
@pytest.mark.parametrize("error", FAILURES, ids=lambda error: error.category)
def test_without_fallback_the_error_is_raised(call: Call, error: DspexError) -> None:
    adapter, _ = ready({"fallback": False}, answer=error)
    with pytest.raises(type(error)) as caught:
        call(adapter, UNSURE)
    assert caught.value.program == "p"
    assert call(adapter, SURE).route == "native"


@ways
@pytest.mark.parametrize(
    "error", [ConfigError("no such LM"), InputError("too long"), ProgramError("a tool raised")]
)
def test_some_errors_of_dspy_are_the_callers(call: Call, error: DspexError) -> None:
    adapter, _ = ready(answer=error)
    with pytest.raises(type(error)):
        call(adapter, UNSURE)


@ways
def test_there_is_no_falling_back_on_what_native_programs_cannot_answer(call: Call) -> None:
    adapter, _ = ready(answer=LMError("down"))
    with pytest.raises(LMError):
        call(adapter, BLANK)


@ways
def test_dspy_that_says_it_would_refuse_is_not_asked(call: Call) -> None:
    adapter, dspy = ready()
    dspy.refusal = LMError("the circuit is open", retryable=True)
    result = call(adapter, UNSURE)
    assert (str(result.route), result.route.degraded) == ("native", True)
    assert "but DSPy is not available: the circuit is open" in result.route.reason
    assert dspy.asked == []
    assert call(adapter, BLANK).route == "dspy"  # there is nothing to fall back to: it may be let in
    dspy.refusal = None
    assert call(adapter, UNSURE).route == "dspy"


@ways
def test_refusals_do_not_matter_without_fallback(call: Call) -> None:
    adapter, dspy = ready({"fallback": False})
    dspy.refusal = no_lm_error()
    assert call(adapter, UNSURE).route == "dspy"


def test_the_next_call_is_asked_again() -> None:
    adapter, dspy = ready(answer=once_then(LMError("down"), "limit"))
    assert [str(sync(adapter, UNSURE).route) for _ in range(2)] == ["native", "dspy"]
    assert len(dspy.asked) == 2


def test_the_native_path_is_the_programs_own_method() -> None:
    """Nothing stands between a call and the program where nothing per call can change the route."""
    adapter, _ = ready(lm=False)
    held = adapter._store.items["p"]
    assert isinstance(held.predict.__self__, Program)  # type: ignore[attr-defined]
    off, _ = ready({"threshold": None})
    assert isinstance(off._store.items["p"].predict.__self__, Program)  # type: ignore[attr-defined]


def test_options_of_a_call_reach_dspy() -> None:
    adapter, dspy = ready()
    sync(adapter, UNSURE, {"timeout": 3.0, "lm": "fast", "session": "s"})
    tasks(adapter, UNSURE, {"timeout": 2.0})
    batch(adapter, UNSURE, {"timeout": 1.0, "lm": "fast"})
    sync(adapter, UNSURE, {"timeout": None, "lm": None})
    assert [options for _, options in dspy.asked] == [
        {"timeout": 3.0, "lm": "fast"},  # sessions are for pools
        {"timeout": 2.0},
        {"timeout": 1.0, "lm": "fast"},
        {},
    ]
    assert sync(adapter, SURE, {"timeout": 3.0}).route == "native"
    for bad in ({"timeout": 0}, {"timeout": "1"}, {"timeout": True}, {"timeout": float("inf")}):
        with pytest.raises(ConfigError) as caught:
            sync(adapter, ROW, bad)
        assert (caught.value.field, caught.value.program) == ("timeout", "p")
    with pytest.raises(ConfigError, match="on_error"):
        sync(adapter, ROW, {"on_error": "collect"})  # a batch's


@ways
def test_an_lm_that_only_the_call_names(call: Call) -> None:
    adapter, dspy = ready(lm=False)
    dspy.refusal = no_lm_error()  # says the backend, of a call that names none
    assert call(adapter, UNSURE).route == "native"
    found = adapter.explain("p", UNSURE, options={"lm": "openai/fast"})
    assert (str(found.route), found.steps[4].found) == ("dspy", "the call names an LM")
    result = call(adapter, UNSURE, {"lm": "openai/fast"})
    assert str(result.route) == "dspy"
    assert dspy.asked == [(UNSURE, {"lm": "openai/fast"})]
    assert call(adapter, UNSURE).route == "native"


def test_a_cancelled_task_is_counted_once() -> None:
    adapter, dspy = ready()
    dspy.delay = 5.0

    async def main() -> None:
        task = asyncio.ensure_future(adapter.aexecute_program("p", UNSURE))
        await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    assert dspy.cancelled == 1
    assert adapter.get_stats()["calls"] == 1
    assert adapter.get_stats()["routing"]["routes"] == {}


def test_config_as_an_object() -> None:
    from dspex.config import Config

    with HybridAdapter(Config.of(config(threshold=0.1)), backends={"dspy": FakeDspy()}) as adapter:
        adapter.create_program(SPEC)
        assert adapter.execute_program("p", UNSURE).route == "native"

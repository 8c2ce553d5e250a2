"""Explanations: each step that was considered, and the route that the call then takes."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dspex.errors import ConfigError, DspexError, InputError, LMError, ProgramError
from dspex.routing import BACKENDS
from hybrid_tools import BLANK, SPEC, SURE, UNSURE, FakeDspy, fitted, hybrid, outcome_of

OPEN = {"id": "open", "signature": "question -> answer"}


def test_an_unsure_answer() -> None:
    adapter = hybrid(dspy=(dspy := FakeDspy()))
    adapter.create_program(SPEC)
    before = adapter.get_stats()
    found = adapter.explain("p", UNSURE)
    confidence = fitted().predict(UNSURE).confidence
    assert (found.program, found.operation, str(found.route)) == ("p", "call", "dspy")
    assert found.confidence == confidence
    assert [(step.name, step.backend) for step in found.steps] == [
        ("explicit", None),
        ("rules", None),
        ("eligibility", None),
        ("wishes", None),
        ("resources", None),
        ("default", "native"),
        ("gate", "dspy"),
        ("resources", "dspy"),
    ]
    assert found.steps[-2].found == found.route.reason == f"native confidence {confidence:.2f} is below 0.9"
    assert (dspy.asked, adapter.get_stats()) == ([], before)


def test_it_can_be_printed_and_sent() -> None:
    rules = [
        {"when": {"tag": "x"}, "use": "dspy"},
        {"name": "mine", "when": {"operation": "batch"}, "use": "dspy"},
    ]
    adapter = hybrid({"rules": rules})
    adapter.create_program(SPEC)
    found = adapter.explain("p", SURE, operation="batch")
    assert str(found).splitlines() == [
        "batch of 'p'",
        "  explicit   no backend is named",
        "  rules      rule 0 does not fit: no tag is 'x'",
        "  rules      rule 'mine' says dspy -> dspy",
        "  resources  DSPy can be asked -> dspy",
        "  = dspy: rule 'mine' says dspy",
    ]
    data = json.loads(json.dumps(found.to_dict()))
    assert data["route"] == "dspy"
    assert data["steps"][2] == {"name": "rules", "found": "rule 'mine' says dspy", "backend": "dspy"}


@pytest.mark.parametrize(
    ("routing", "lm", "words"),
    [
        ({}, True, "confidence 1.00 is enough"),
        ({"threshold": None}, True, "none: routing.threshold is off"),
        ({}, False, "none: no LM is configured"),
        ({"backend": "native"}, True, "none: the backend was named"),
    ],
)
def test_what_the_gate_finds(routing: dict[str, Any], lm: bool, words: str) -> None:
    adapter = hybrid(routing, lm=lm)
    adapter.create_program(SPEC)
    found = adapter.explain("p", SURE)
    assert (found.steps[-1].name, found.steps[-1].found) == ("gate", words)
    assert found.route == "native"


def test_numbers_have_no_gate() -> None:
    adapter = hybrid()
    rows = [{"text": f"text {i}", "score": float(i % 3)} for i in range(24)]
    adapter.create_program({"id": "p", "signature": "text -> score: float", "examples": rows})
    found = adapter.explain("p", SURE)
    assert (found.steps[-1].found, found.confidence) == ("none: numbers have no confidence", None)


def test_dspy_that_is_not_available() -> None:
    dspy = FakeDspy()
    adapter = hybrid(dspy=dspy)
    adapter.create_program(SPEC)
    adapter.create_program(OPEN)
    dspy.refusal = LMError("the circuit is open")
    found = adapter.explain("p", UNSURE)
    assert (str(found.route), found.route.degraded) == ("native", True)
    assert found.steps[-1].found == "DSPy is not available: the circuit is open"
    assert "native, degraded: native confidence" in str(found)
    alone = adapter.explain("open", {"question": "why?"})
    assert alone.route == "dspy"
    assert alone.steps[-1].found.endswith("the circuit is open; there is nothing to fall back to")


def test_errors_are_those_of_the_call() -> None:
    adapter = hybrid(lm=False)
    adapter.create_program(SPEC)
    with_lm = hybrid()
    with_lm.create_program(OPEN)
    with pytest.raises(InputError) as caught:
        adapter.explain("p", {"text": 3})
    assert (caught.value.field, caught.value.program) == ("text", "p")
    with pytest.raises(InputError, match="empty"):
        adapter.explain("p", BLANK)
    with pytest.raises(InputError):
        with_lm.explain("open", {})
    with pytest.raises(ProgramError):
        adapter.explain("q", SURE)
    with pytest.raises(ProgramError, match="'answer' is free text"):
        with_lm.explain("open", {"question": "x"}, options={"backend": "native"})
    with pytest.raises(ConfigError, match="'acall'"):
        adapter.explain("p", SURE, operation="acal")
    for options in ({"backend": "dspi"}, {"bakend": "dspy"}):
        with pytest.raises(ConfigError):
            adapter.explain("p", SURE, options=options)


_RULES = st.lists(
    st.fixed_dictionaries(
        {
            "when": st.dictionaries(
                st.sampled_from(["operation", "tag", "signature", "program", "kind"]), st.just(""), max_size=2
            ),
            "use": st.sampled_from(BACKENDS),
        }
    ),
    max_size=3,
)
_VALUES = {
    "operation": st.sampled_from(["call", "batch"]),
    "tag": st.sampled_from(["a", "b", "*"]),
    "signature": st.sampled_from(["native", "not native", "text -> *"]),
    "program": st.sampled_from(["p", "o*"]),
    "kind": st.sampled_from(["classify", "predict"]),
}


@st.composite
def routings(draw: Any) -> dict[str, Any]:
    rules = [
        {"when": {key: draw(_VALUES[key]) for key in rule["when"]}, "use": rule["use"]}
        for rule in draw(_RULES)
    ]
    return {
        "rules": rules,
        "backend": draw(st.sampled_from([None, None, *BACKENDS])),
        "prefer": draw(st.sampled_from([None, "native", "dspy", "quality", "cost"])),
        "threshold": draw(st.sampled_from([None, 0.1, 0.9, 1.0])),
        "fallback": draw(st.booleans()),
        "max_cost": draw(st.sampled_from([None, 0.01])),
        "dspy_pool": draw(st.booleans()),
    }


@settings(max_examples=600, deadline=None)
@given(
    routings(),
    st.sampled_from([SURE, UNSURE, BLANK]),
    st.sampled_from(["call", "batch"]),
    st.sampled_from([None, None, *BACKENDS]),
    st.booleans(),
    st.booleans(),
    st.booleans(),
)
def test_calls_go_where_the_explanation_says(
    routing: dict[str, Any],
    inputs: Any,
    operation: str,
    backend: str | None,
    lm: bool,
    dear: bool,
    down: bool,
) -> None:
    fakes = [FakeDspy(), FakeDspy(name="dspy_pool")]
    for fake in fakes:
        fake.seen = {"latency_ms": None, "usd": 0.5 if dear else None}
        fake.refusal = LMError("open") if down else None
    try:
        adapter = hybrid(routing, dspy=fakes[0], dspy_pool=fakes[1], lm=lm, native_pool={"size": 1})
        adapter.create_program({**SPEC, "examples": None, "program": fitted(), "tags": ["a"]})
    except ConfigError:  # rules that make no sense
        return
    options = {} if backend is None else {"backend": backend}
    explained = outcome_of(lambda: adapter.explain("p", inputs, operation, options))
    if operation == "call":
        outcome = outcome_of(lambda: adapter.execute_program("p", inputs, options or None))
    else:
        outcome = outcome_of(lambda: adapter.execute_batch("p", [inputs], options or None)[0])
    adapter.close()
    if isinstance(explained, DspexError):
        assert type(outcome) is type(explained)
    elif isinstance(outcome, DspexError):  # what DSPy itself will say is not known ahead
        assert explained.steps[-1].found.endswith("the call is refused")
    else:
        route, found = outcome.route, explained.route
        assert (str(route), route.reason, route.degraded) == (str(found), found.reason, found.degraded)

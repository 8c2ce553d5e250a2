"""The router by itself, over programs that are only facts: its order, and what it asks of whom."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest

from dspex.config import RoutingSettings
from dspex.errors import ConfigError, InputError, LMError, ProgramError
from dspex.result import Result, Route
from dspex.routing import OPERATIONS, Facts, Gate, Look, Means, Policy, Router, Step

FACTS = Facts("p", "classify", "text -> label: Literal['a']", True, ("x",))
BOTH = Means(native=True, lm="an LM is configured")
NATIVE = Means(native=True)
DSPY = Means(native=False, obstacle="kind 'react' runs on DSPy", lm="an LM is configured")


@dataclass
class Paper:
    """A program on paper."""

    means: Means = BOTH
    facts: Facts = FACTS
    gate: Gate | None = field(default_factory=lambda: Gate(0.9))
    answer: Result | str = "the text is empty"
    looks: Look = field(default_factory=Look)
    looked: list[str] = field(default_factory=list)

    def native_answer(self, inputs: Mapping[str, Any]) -> Result | str:
        return self.answer

    def look(self, backend: str) -> Look:
        self.looked.append(backend)
        return self.looks


def answer(confidence: float | None) -> Result:
    return Result({"label": "a"}, route=Route("native"), confidence=confidence)


def router(**settings: Any) -> Router:
    return Router(Policy.of(RoutingSettings.of(settings, at="routing")))


@pytest.mark.parametrize(
    ("settings", "means", "backend", "decided", "step"),
    [
        ({"backend": "dspy", "rules": [{"use": "native"}]}, BOTH, "dspy_pool", "dspy_pool", "explicit"),
        ({"backend": "dspy", "rules": [{"use": "native"}]}, BOTH, None, "dspy", "explicit"),
        ({"rules": [{"use": "dspy"}], "prefer": "native"}, BOTH, None, "dspy", "rules"),
        ({"rules": [{"use": "native"}], "prefer": "native"}, DSPY, None, "dspy", "eligibility"),
        ({"prefer": "quality"}, DSPY, None, "dspy", "eligibility"),
        ({"prefer": "quality"}, BOTH, None, "dspy", "wishes"),
        ({"prefer": "quality"}, NATIVE, None, "native", "wishes"),
        ({}, NATIVE, None, "native", "resources"),
        ({}, BOTH, None, "native", "default"),
        ({"native_pool": True}, BOTH, None, "native_pool", "default"),
        ({"dspy_pool": True}, DSPY, None, "dspy_pool", "eligibility"),
    ],
)
def test_the_order(
    settings: dict[str, Any], means: Means, backend: str | None, decided: str, step: str
) -> None:
    steps: list[Step] = []
    decision = router(**settings).decide(FACTS, means, "call", backend, steps)
    assert (decision.backend, steps[-1].name, steps[-1].backend) == (decided, step, decided)
    assert all(each.backend is None for each in steps[:-1])
    order = ["explicit", "rules", "eligibility", "wishes", "resources", "default"]
    assert [each.name for each in steps] == order[: order.index(step) + 1]
    assert decision == router(**settings).decide(FACTS, means, "call", backend)
    assert decision.binding is (step == "explicit")


def test_rules_by_operation() -> None:
    picks = router(rules=[{"when": {"operation": "batch"}, "use": "dspy"}])
    assert {each: picks.decide(FACTS, BOTH, each).backend for each in OPERATIONS} == {
        "call": "native",
        "acall": "native",
        "batch": "dspy",
    }


def test_a_backend_that_is_none_or_cannot() -> None:
    with pytest.raises(ConfigError, match="Did you mean 'dspy'"):
        router().decide(FACTS, BOTH, "call", "dspi")
    with pytest.raises(ProgramError, match="kind 'react' runs on DSPy"):
        router().decide(FACTS, DSPY, "call", "native")


@pytest.mark.parametrize(
    ("look", "step", "words", "strict", "passing"),
    [
        (Look(usd=0.2), "wishes", "costs $0.2, more than max_cost $0.1", True, False),
        (Look(latency_ms=60.0), "wishes", "takes 60 ms, more than the budget of 50 ms", False, True),
        (Look(refusal=LMError("open")), "resources", "not available: open", False, False),
        # cost before time before refusals
        (Look(LMError("open"), 60.0, 0.2), "wishes", "costs", True, False),
        (Look(LMError("open"), 60.0, 0.05), "wishes", "takes", False, True),
    ],
)
def test_what_bars_dspy(look: Look, step: str, words: str, strict: bool, passing: bool) -> None:
    bar = router(latency_budget_ms=50, max_cost=0.1).bar(look)
    assert bar is not None
    assert (bar.step, bar.strict, bar.passing) == (step, strict, passing)
    assert words in bar.reason


def test_what_does_not() -> None:
    assert router(latency_budget_ms=50, max_cost=0.1).bar(Look(None, 50.0, 0.1)) is None
    assert router().bar(Look(None, 5000.0, 10.0)) is None


@pytest.mark.parametrize(
    ("program", "settings", "route", "degraded", "last"),
    [
        (Paper(answer=answer(0.95)), {}, "native", False, "gate"),
        (Paper(answer=answer(0.5)), {}, "dspy", False, "resources"),
        (Paper(answer=answer(None)), {}, "native", False, "gate"),
        (Paper(), {}, "dspy", False, "resources"),
        (Paper(answer=answer(0.5), looks=Look(LMError("open"))), {}, "native", True, "resources"),
        (Paper(looks=Look(LMError("open"))), {}, "dspy", False, "resources"),
        (Paper(answer=answer(0.5), looks=Look(usd=1)), {"max_cost": 0.5}, "native", True, "wishes"),
        (
            Paper(answer=answer(0.5), looks=Look(LMError("o"))),
            {"fallback": False},
            "dspy",
            False,
            "resources",
        ),
        (Paper(DSPY), {"dspy_pool": True}, "dspy_pool", False, "resources"),
    ],
)
def test_explanations(
    program: Paper, settings: dict[str, Any], route: str, degraded: bool, last: str
) -> None:
    found = router(**settings).explain(program, {"text": "x"})
    assert (str(found.route), found.route.degraded, found.steps[-1].name) == (route, degraded, last)
    assert found.steps[-1].backend == route


def test_what_has_no_answer_at_all() -> None:
    with pytest.raises(InputError, match="empty"):
        router().explain(Paper(NATIVE, gate=None), {"text": ""})


def test_a_named_backend_is_not_looked_at() -> None:
    program = Paper(answer=answer(0.5), looks=Look(LMError("open")))
    assert router().explain(program, {"text": "x"}, backend="dspy").route == "dspy"
    assert router().explain(program, {"text": "x"}, backend="native").route == "native"
    assert program.looked == []

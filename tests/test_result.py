"""The one result shape: a read-only mapping that is cheap to make, prints well, and travels."""

from __future__ import annotations

import copy
import json
import pickle
from collections.abc import Mapping
from typing import Any

import pytest

from dspex import Program, Result, Route
from fit_tools import LABEL, MIXED, inputs_of, mixed, quick, topical

ROUTE = Route("mock", reason="a test")
ROWS = mixed(45)
PROGRAM = quick(MIXED, ROWS)


def native() -> Result:
    return PROGRAM.predict(inputs_of(PROGRAM, ROWS[0]))


def made() -> Result:
    """A result like `native()`, as adapters in Python make one."""
    given = native()
    names = [name for name in given if name in ("label", "urgent", "tags")]
    shares = {name: given.probabilities(name) for name in names}
    return Result(given.to_dict(), route=ROUTE, probabilities=shares, confidence=given.confidence)


both = pytest.mark.parametrize("make", [native, made])


@both
def test_values_by_attribute_and_by_name(make: Any) -> None:
    result = make()
    assert list(result) == ["label", "urgent", "price", "stars", "tags"]
    for name in result:
        assert getattr(result, name) == result[name]
    assert [type(result[name]) for name in result] == [str, bool, float, int, list]
    for absent in ("nothing", "", "__nothing__"):
        with pytest.raises(KeyError):
            result[absent]
        with pytest.raises(AttributeError, match="label"):
            getattr(result, absent)
    with pytest.raises(KeyError):
        result[0]


@both
def test_a_result_is_a_mapping(make: Any) -> None:
    result = make()
    plain = result.to_dict()
    assert isinstance(result, Mapping)
    assert dict(result) == plain == {**result} == {name: result[name] for name in result}
    assert len(result) == 5
    assert "label" in result
    assert "nothing" not in result
    assert list(result.keys()) == list(plain)
    assert list(result.values()) == list(plain.values())
    assert list(result.items()) == list(plain.items())
    assert result.get("label") == result.label
    assert (result.get("nothing"), result.get("nothing", 3)) == (None, 3)
    assert json.loads(json.dumps(plain)) == plain


@both
def test_a_result_matches_mapping_patterns(make: Any) -> None:
    match make():
        case {"label": str(label), "urgent": bool()}:
            assert label == made().label
        case _:
            pytest.fail("a result is no mapping to a match statement")


@both
def test_a_result_cannot_be_changed(make: Any) -> None:
    result = make()
    before = result.to_dict()
    with pytest.raises((TypeError, AttributeError)):
        result["label"] = "x"
    with pytest.raises((TypeError, AttributeError)):
        del result["label"]
    for name in ("label", "new", "confidence", "route", "usage"):
        with pytest.raises((TypeError, AttributeError)):
            setattr(result, name, "x")
    result.to_dict()["label"] = "x"
    result.probabilities("label")["refund"] = 7.0
    assert result.to_dict() == before
    assert result.probabilities("label")["refund"] <= 1


@both
def test_probabilities_and_confidence(make: Any) -> None:
    result = make()
    assert list(result.probabilities("label")) == ["refund", "card_lost", "limit"]
    assert sum(result.probabilities("label").values()) == pytest.approx(1, abs=1e-5)
    assert list(result.probabilities("urgent")) == [False, True]
    assert result.probabilities("urgent")[result.urgent] >= 0.5
    tags = result.probabilities("tags")
    right = 1.0
    for tag, p in tags.items():
        right *= p if tag in result.tags else 1 - p
    own = (result.probabilities("label")[result.label], result.probabilities("urgent")[result.urgent], right)
    assert result.confidence == pytest.approx(min(own), rel=1e-5)
    for absent in ("price", "stars", "nothing"):
        with pytest.raises(KeyError):
            result.probabilities(absent)
    with pytest.raises(TypeError):
        result.probabilities(None)


@both
def test_equality_is_of_values(make: Any) -> None:
    result = make()
    assert result == make() == result.to_dict()
    assert result == Result(result.to_dict(), route=Route("elsewhere"))
    assert result.to_dict() == result
    assert result != Result(result.to_dict() | {"urgent": not result.urgent}, route=ROUTE)
    assert result != {**result, "more": 1}
    assert result != "label"
    assert result is not None
    with pytest.raises(TypeError):
        hash(result)


@both
def test_it_prints_well(make: Any) -> None:
    result = make()
    text = repr(result)
    assert text.startswith(f"Result(label={result.label!r}, urgent={result.urgent}, price=")
    assert f"confidence={result.confidence:.3f}" in text
    assert text.endswith(f"route={str(result.route)!r})")
    assert repr(Result({"a": 1}, route=Route("mock"))) == "Result(a=1, route='mock')"
    assert {"label", "tags", "confidence", "probabilities", "to_dict"} <= set(dir(result))


@both
@pytest.mark.parametrize("how", [copy.copy, copy.deepcopy, lambda r: pickle.loads(pickle.dumps(r))])
def test_it_travels(make: Any, how: Any) -> None:
    result = make()
    other = how(result)
    assert type(other) is Result
    assert other == result
    assert list(other) == list(result)
    assert (other.confidence, other.usage) == (result.confidence, result.usage)
    assert (other.route, other.route.reason, other.route.degraded) == (
        result.route, result.route.reason, result.route.degraded,
    )  # fmt: skip
    for name in ("label", "urgent", "tags"):
        assert other.probabilities(name) == result.probabilities(name)
    with pytest.raises(KeyError):
        other.probabilities("price")


def test_a_result_outlives_its_program() -> None:
    program = quick()
    result = program(text="refund my money back")
    del program
    assert result.label == "refund"
    assert set(result.probabilities("label")) == {"refund", "card_lost", "limit"}


def test_a_native_result_says_so() -> None:
    result = native()
    assert result.route == "native"
    assert isinstance(result.route, Route)
    assert result.route.reason
    assert not result.route.degraded
    assert result.usage is None


def test_a_route_is_a_string_with_a_reason() -> None:
    route = Route("dspy", reason="the gate deferred", degraded=True)
    assert route == "dspy"
    assert {route: 1}["dspy"] == 1
    for other in (pickle.loads(pickle.dumps(route)), copy.deepcopy(route)):
        assert (other, other.reason, other.degraded) == ("dspy", "the gate deferred", True)
    assert (Route("x").reason, Route("x").degraded) == ("", False)


def test_usage_is_kept() -> None:
    result = Result({"a": 1}, route=ROUTE, usage={"tokens": 7})
    assert result.usage == {"tokens": 7}
    assert result.confidence is None


CLASHES = [
    "confidence",
    "keys",
    "values",
    "items",
    "get",
    "route",
    "usage",
    "probabilities",
    "to_dict",
    "self",
]


@pytest.mark.parametrize("name", [*CLASHES, "inputs", "name", "row", "cls"])
def test_fields_named_like_ours(name: str) -> None:
    rows = [{name: row["text"], "label": row["label"]} for row in topical(30)]
    program = quick(f"{name} -> label: str", rows)
    assert program(**{name: "refund my money back"}).label == "refund"
    assert program.predict({name: "refund"}) == program.batch([{name: "refund"}])[0]
    assert sum(r.weight for r in program.explain(**{name: "refund"})["label"]) != 0

    rows = [{"text": row["text"], name: row["label"]} for row in topical(30)]
    result = quick(f"text -> {name}: str", rows)(text="refund my money back")
    assert result[name] == "refund"
    assert result.to_dict() == dict(result) == {name: "refund"}
    assert 0 < result.confidence <= 1  # still ours, as an attribute
    assert result.probabilities(name)["refund"] == result.confidence
    assert result.route == "native"
    assert pickle.loads(pickle.dumps(result)) == result


def test_a_fresh_and_an_asked_result_agree() -> None:
    """Single values are read from the answer itself until the whole mapping has been built."""
    first, second = native(), native()
    one_by_one = {name: first[name] for name in ("tags", "stars", "price", "urgent", "label")}
    assert second.to_dict() == one_by_one == first.to_dict()
    assert [first[name] for name in second] == list(second.values())


def test_programs_give_results_of_this_one_class() -> None:
    assert isinstance(PROGRAM, Program)
    assert type(native()) is type(made()) is Result
    assert LABEL.endswith(str(quick(LABEL).signature.to_string().split("->")[1]))

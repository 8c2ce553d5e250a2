"""Values cross to another process and come back equal, in their own types, or are refused before they go."""

from __future__ import annotations

import datetime
import decimal
import enum
import json
import math
import uuid
from dataclasses import dataclass
from typing import Any, Literal, Optional

import msgspec
import numpy as np
import pydantic
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typing_extensions import TypedDict

from dspex.checks import check_inputs, check_outputs
from dspex.errors import CommunicationError, InputError, LMError
from dspex.result import Result, Route
from dspex.signature import Signature
from dspex.testing.cases import CASES, Case, Tone
from dspex.wire import from_wire, result_from_wire, result_to_wire, to_wire


class Item(pydantic.BaseModel):
    name: str
    price: decimal.Decimal
    at: datetime.datetime | None = None
    tags: set[str] = set()


class Special(Item):
    extra: int = 3


class Prompted(pydantic.BaseModel):
    """Writes itself as DSPy's types do, in a form that nobody reads."""

    url: str
    inner: list[Item] = []

    @pydantic.model_serializer()
    def to_prompt(self) -> str:
        return f"<<{self.url}>>"


@dataclass
class Point:
    x: float
    y: float


class Words(TypedDict):
    one: str
    other: list[int]


class Plain:
    """Nothing that pydantic can write."""


ITEM = Item(
    name="bell", price=decimal.Decimal("1.10"), at=datetime.datetime(2024, 2, 29, 1, 2, 3, 4), tags={"a"}
)


def crossed(data: Any) -> Any:
    """What arrives: through msgpack, and it is JSON-able as well."""
    packed = msgspec.msgpack.decode(msgspec.msgpack.encode(data))
    assert json.loads(json.dumps(packed)) == packed
    return packed


def one(annotation: Any) -> Signature:
    return Signature.of({"inputs": {"x": annotation}, "outputs": {"y": "bool"}})


def round_trip(annotation: Any, value: Any) -> Any:
    signature = one(annotation)
    values = check_inputs(signature, {"x": value})
    return from_wire(signature.inputs, crossed(to_wire(signature.inputs, values)))["x"]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_every_case_of_the_conformance_suite(case: Case) -> None:
    signature = case.parsed
    for example in case.examples:
        inputs = check_inputs(signature, {name: example[name] for name in signature.inputs})
        outputs = check_outputs(signature, {name: example[name] for name in signature.outputs})
        for fields, values in ((signature.inputs, inputs), (signature.outputs, outputs)):
            back = from_wire(fields, crossed(to_wire(fields, values)))
            assert back == values
            assert [type(each) for each in back.values()] == [type(each) for each in values.values()]


VALUES: list[tuple[Any, Any]] = [
    (str, ""),
    (str, "naïve \ud800 text"),
    (int, 2**63 - 1),
    (int, -(2**70)),
    (int, 2**1000),
    (float, 5e-324),
    (float, -0.0),
    (bool, True),
    (list[float], [0.1, -1e300]),
    (Literal["a", None, True, 7], None),
    (Literal["a", None, True, 7], True),
    (Literal["a", None, True, 7], 7),
    (Tone, Tone.CALM),
    (list[Tone], [Tone.ANGRY, Tone.CALM]),
    (list[Literal[1, 2]], []),
    (bytes, b"\x00\xff"),
    (bytes | None, b"\x80"),
    (dict[str, bytes], {"a": b"\xfe"}),
    (dict[str, list[int]], {"a": [1, 2], "b": []}),
    (dict[int, str], {1: "a"}),
    (tuple[int, str], (1, "a")),
    (set[int], {3, 1}),
    (frozenset[str], frozenset({"a"})),
    (Optional[str], None),  # noqa: UP045
    (int | str, "3"),
    (int | str, 3),
    (list[int | None], [1, None]),
    (list[list[dict[str, float]]], [[{"a": 1.5}], []]),
    (dict[str, Any], {"a": [1, 2.0, "x", None, True]}),
    (Any, {"a": [1, {"b": 2.5}]}),
    (datetime.datetime, datetime.datetime(2024, 1, 2, 3, 4, 5, 6, tzinfo=datetime.UTC)),
    (datetime.datetime, datetime.datetime(1, 1, 1)),
    (datetime.date, datetime.date(2024, 2, 29)),
    (datetime.time, datetime.time(23, 59, 59, 999_999)),
    (datetime.timedelta, datetime.timedelta(days=-1, microseconds=7)),
    (decimal.Decimal, decimal.Decimal("0.10")),
    (uuid.UUID, uuid.UUID(int=7)),
    (complex, 1 + 2j),
    (dict[str, float], {"a": math.inf}),
    (Item, ITEM),
    (list[Item], [ITEM, Item(name="x", price=decimal.Decimal(0))]),
    (dict[str, Item | None], {"a": ITEM, "b": None}),
    (Special, Special(name="x", price=decimal.Decimal(1), extra=4)),
    (Prompted, Prompted(url="data:x", inner=[ITEM])),
    (list[Prompted], [Prompted(url="u")]),
    (Point, Point(1.5, 2.0)),
    (Words, {"one": "a", "other": [1]}),
    (list[int], [2**100]),
]


@pytest.mark.parametrize(("annotation", "value"), VALUES, ids=lambda each: repr(each)[:40])
def test_a_value_comes_back_equal(annotation: Any, value: Any) -> None:
    back = round_trip(annotation, value)
    assert back == value
    assert type(back) is type(value)


def test_a_nan_inside_a_value_stays_one() -> None:
    assert math.isnan(round_trip(dict[str, float], {"a": math.nan})["a"])


def test_an_array_comes_back_as_an_array() -> None:
    back = round_trip(np.ndarray, np.array([1.5, 2.5], dtype=np.float32))
    assert isinstance(back, np.ndarray)
    assert back.tolist() == [1.5, 2.5]


REFUSED: list[tuple[Any, Any]] = [
    (Item, Special(name="x", price=decimal.Decimal(1))),  # the subclass's own part would be lost
    (Any, (1, 2)),  # would come back as a list
    (Any, {1: "a"}),  # with another key
    (dict[str, Any], {"a": datetime.date(2024, 1, 1)}),  # as a string
    (datetime.date | str, "2024-01-01"),  # as a date
    (Plain, Plain()),
    (Any, Plain()),
    (Any, lambda: 3),
]


@pytest.mark.parametrize(("annotation", "value"), REFUSED, ids=lambda each: repr(each)[:40])
def test_what_would_not_come_back_equal_is_refused(annotation: Any, value: Any) -> None:
    fields = one(annotation).inputs
    with pytest.raises(InputError) as caught:
        to_wire(fields, {"x": value}, program="p")
    assert (caught.value.field, caught.value.program, caught.value.retryable) == ("x", "p", False)
    with pytest.raises(LMError):
        to_wire(fields, {"x": value}, error=LMError)


def test_a_value_that_contains_itself_is_refused() -> None:
    loop: list[Any] = []
    loop.append(loop)
    with pytest.raises(InputError):
        to_wire(one(Any).inputs, {"x": loop})


def test_an_unknown_field_is_refused_on_both_sides() -> None:
    fields = one(str).inputs
    with pytest.raises(InputError, match="'x'"):
        to_wire(fields, {"xx": "a"})
    with pytest.raises(CommunicationError):
        from_wire(fields, {"xx": "a"})


BAD: list[tuple[Any, Any]] = [
    (str, 3),
    (str, {"json": 3}),
    (str, {"json": "{"}),
    (int, "3"),
    (int, True),
    (float, "nan"),
    (float, math.nan),
    (bool, 1),
    (list[float], []),
    (list[float], [None]),
    (Literal["a", "b"], "c"),
    (list[Literal["a", "b"]], "a"),
    (list[Literal["a", "b"]], ["a", "a"]),
    (list[Literal["a", "b"]], 3),
    (Item, "{}"),
    (Item, 3),
    (datetime.date, '"tomorrow"'),
    (dict[str, int], '{"a": "1"}'),
]


@pytest.mark.parametrize(("annotation", "data"), BAD, ids=repr)
def test_what_is_no_value_of_its_field_is_no_value(annotation: Any, data: Any) -> None:
    with pytest.raises(CommunicationError) as caught:
        from_wire(one(annotation).inputs, {"x": data}, program="p")
    assert (caught.value.field, caught.value.program, caught.value.retryable) == ("x", "p", False)


@pytest.mark.parametrize("data", [None, [], "x", 3])
def test_values_are_a_mapping(data: Any) -> None:
    with pytest.raises(CommunicationError):
        from_wire(one(str).inputs, data)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)


@settings(max_examples=50, deadline=None)
@given(st.dictionaries(st.text(), json_values))
def test_any_json_comes_back(value: dict[str, Any]) -> None:
    assert round_trip(dict[str, Any], value) == value


@given(st.integers(-(10**300), 10**300), st.floats(allow_nan=False, allow_infinity=False), st.text())
def test_any_scalar_comes_back(whole: int, number: float, text: str) -> None:
    assert round_trip(int, whole) == whole
    assert round_trip(float, number) == number
    assert round_trip(str, text) == text


# --- results ----------------------------------------------------------------------------------------------


class Answer(enum.Enum):
    YES = True
    NO = None


OUTPUTS = Signature.of(
    {
        "inputs": {"x": "str"},
        "outputs": {
            "label": Answer,
            "urgent": bool,
            "stars": Literal[1, 2],
            "tags": list[Tone],
            "note": str,
            "item": Item | None,
        },
    }
).outputs
RESULT = Result(
    {"label": Answer.NO, "urgent": False, "stars": 2, "tags": [Tone.CALM], "note": "n", "item": ITEM},
    route=Route("dspy", reason="asked", degraded=True),
    probabilities={
        "label": {Answer.YES: 0.25, Answer.NO: 0.75},
        "urgent": {False: 1.0, True: 0.0},
        "stars": {1: 0.1, 2: 0.9},
        "tags": {Tone.CALM: 0.8, Tone.ANGRY: 0.1},
    },
    confidence=0.72,
    usage={"tokens": 7, "usd": None, "lms": {"a/b": {"input": 3}}},
)


def assert_equal(one: Result, other: Result) -> None:
    assert list(one) == list(other)
    assert one == other
    assert [type(one[name]) for name in one] == [type(other[name]) for name in other]
    assert one.confidence == other.confidence
    assert one.usage == other.usage
    assert (one.route, one.route.reason, one.route.degraded) == (
        other.route,
        other.route.reason,
        other.route.degraded,
    )
    for name in one:
        assert _odds(one, name) == _odds(other, name)


def _odds(result: Result, name: str) -> Any:
    try:
        return [(type(key), key, share) for key, share in result.probabilities(name).items()]
    except KeyError:
        return None


def test_a_result_comes_back_whole() -> None:
    assert_equal(result_from_wire(OUTPUTS, crossed(result_to_wire(OUTPUTS, RESULT))), RESULT)


def test_a_bare_result_comes_back_whole() -> None:
    bare = Result({"note": "n"}, route=Route("mock"))
    assert_equal(result_from_wire(OUTPUTS, crossed(result_to_wire(OUTPUTS, bare))), bare)


@pytest.mark.parametrize("key", ["values", "probabilities", "confidence", "route", "usage"])
@pytest.mark.parametrize("data", [3, [3], {"a": 3}, ...])
def test_a_misshapen_result_is_an_error(key: str, data: Any) -> None:
    whole = crossed(result_to_wire(OUTPUTS, RESULT))
    if data is ...:
        del whole[key]
    else:
        whole[key] = data
    if (key, data) in (("confidence", 3), ("usage", {"a": 3})):
        return
    with pytest.raises(CommunicationError):
        result_from_wire(OUTPUTS, whole)


@pytest.mark.parametrize("data", [None, [], "x", 3])
def test_a_result_is_a_mapping(data: Any) -> None:
    with pytest.raises(CommunicationError):
        result_from_wire(OUTPUTS, data)


def test_a_result_that_cannot_travel_is_refused() -> None:
    odd = Result({"item": Special(name="x", price=decimal.Decimal(1))}, route=Route("dspy"))
    with pytest.raises(LMError, match="'item'"):
        result_to_wire(OUTPUTS, odd, error=LMError)

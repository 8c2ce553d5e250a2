"""Examples, options and signatures that cannot be learned from: an error that says where, and the way out."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import dspex
from dspex.errors import ConfigError, DspexError, InputError, SignatureError
from fit_tools import LABEL, topical

ROWS = topical(9)
NAN = float("nan")


def broken(row: int, **changes: Any) -> list[dict[str, Any]]:
    return [each | changes if i == row else each for i, each in enumerate(ROWS)]


def without(row: int, name: str) -> list[dict[str, Any]]:
    return [{k: v for k, v in each.items() if i != row or k != name} for i, each in enumerate(ROWS)]


def numeric(kind: str, values: list[Any]) -> tuple[str, list[dict[str, Any]]]:
    return f"x: {kind} -> label: bool", [{"x": x, "label": i % 2 == 0} for i, x in enumerate(values)]


def outputs(declared: str, values: list[Any]) -> tuple[str, list[dict[str, Any]]]:
    return f"text -> y: {declared}", [{"text": f"word {i}", "y": y} for i, y in enumerate(values)]


Case = tuple[str, Any, str | None, int | None, str]
EXAMPLES: dict[str, Case] = {
    # name: signature, examples, field, row, what the message holds
    "missing input": (LABEL, without(4, "text"), "text", 4, "missing"),
    "missing output": (LABEL, without(0, "label"), "label", 0, "missing"),
    "input of a wrong type": (LABEL, broken(3, text=7), "text", 3, "int"),
    "input None": (LABEL, broken(8, text=None), "text", 8, "NoneType"),
    "empty text": (LABEL, broken(2, text=" \n"), "text", 2, "empty"),
    "label outside the Literal": (LABEL, broken(5, label="refunds"), "label", 5, "not one of its classes"),
    "label of a wrong type": (LABEL, broken(5, label=3), "label", 5, "not one of its classes"),
    "learned label of a wrong type": ("text -> label", broken(6, label=3), "label", 6, "int"),
    "bool as text": (*outputs("bool", [True, "yes", False]), "y", 1, "str"),
    "float as text": (*outputs("float", [1.0, 2.0, "3"]), "y", 2, "str"),
    "target NaN": (*outputs("float", [1.0, NAN, 2.0]), "y", 1, "finite"),
    "int with a fraction": (*outputs("int", [1, 2.5, 3]), "y", 1, "float"),
    "labels that are no list": (*outputs("list[Literal['a', 'b']]", [["a"], "b", []]), "y", 1, "str"),
    "unknown label in a list": (*outputs("list[Literal['a', 'b']]", [["a"], ["c"]]), "y", 1, "not one of"),
    "NaN": (*numeric("float", [1.0, 2.0, NAN]), "x", 2, "finite"),
    "infinity": (*numeric("float", [1.0, float("-inf"), 3.0]), "x", 1, "finite"),
    "bool as a number": (*numeric("int", [1, True, 3]), "x", 1, "bool"),
    "NaN in a vector": (*numeric("list[float]", [[1.0, 2.0], [1.0, NAN]]), "x", 1, "element 1"),
    "NaN in a NumPy vector": (*numeric("list[float]", [np.ones(2), np.array([NAN, 0])]), "x", 1, "element 0"),
    "ragged vectors": (*numeric("list[float]", [[1.0, 2.0], [2.0, 3.0], [1.0]]), "x", 2, "dimensions"),
    "an empty vector": (*numeric("list[float]", [[], []]), "x", 0, "of type"),
    "a matrix": (*numeric("list[float]", [np.ones((2, 2))] * 2), "x", 0, ""),
    "shares that do not sum to one": (
        LABEL,
        broken(1, label={"refund": 0.5, "limit": 0.4}),
        "label",
        1,
        "0.9",
    ),
    "a negative share": (LABEL, broken(1, label={"refund": 1.5, "limit": -0.5}), "label", 1, "probability"),
    "a share of no class": (LABEL, broken(1, label={"refund": 0.5, "x": 0.5}), "label", 1, "not one of"),
    "a share that is no number": (LABEL, broken(1, label={"refund": "1"}), "label", 1, "probability"),
    "a share NaN": (LABEL, broken(1, label={"refund": NAN, "limit": 1.0}), "label", 1, "probability"),
    "no shares": (LABEL, broken(1, label={}), "label", 1, "sum to 0"),
    "ragged columns": (LABEL, {"text": ["a", "b"], "label": ["refund"]}, None, None, "different lengths"),
    "no such column": (LABEL, {"texts": ["a"], "label": ["refund"]}, "text", None, "no column"),
    "a column that is text": (LABEL, {"text": "a", "label": ["refund"]}, "text", None, "str"),
    "no examples": (LABEL, [], None, None, "no examples"),
    "no rows in the columns": (LABEL, {"text": [], "label": []}, None, None, "no examples"),
    "examples that are text": (LABEL, "examples.jsonl", None, None, "str"),
    "examples that are a number": (LABEL, 3, None, None, "int"),
    "an example that is a pair": (LABEL, [ROWS[0], ("text", "refund")], None, 1, "tuple"),
    "one class only": (LABEL, [ROWS[0]] * 5, "label", None, "every example has the class 'refund'"),
    "one learned class": ("text -> label", [ROWS[0]] * 5, "label", None, "class 'refund'"),
    "one bool only": (*outputs("bool", [True, True]), "y", None, "class True"),
    "one number only": (*outputs("float", [0.1, 0.1, 0.1]), "y", None, "value 0.1"),
    "a number too large": (*numeric("float", [1.0, 1e300, 2.0]), "x", 1, "too large"),
    "a number too large in a vector": (*numeric("list[float]", [[1.0], [-1e31]]), "x", 1, "too large"),
    "a target too large": (*outputs("float", [1.0, 2.0, -1e300]), "y", 2, "too large"),
    "the same labels everywhere": (
        *outputs("list[Literal['a', 'b']]", [["a", "b"]] * 3),
        "y",
        None,
        "same labels",
    ),
    "no labels anywhere": (*outputs("list[Literal['a', 'b']]", [[], []]), "y", None, "same labels"),
}


def must_not_start(share: float) -> None:
    raise AssertionError("the work has begun")


@pytest.mark.parametrize("name", EXAMPLES)
def test_bad_examples(name: str) -> None:
    signature, examples, field, row, said = EXAMPLES[name]
    with pytest.raises(InputError) as caught:
        dspex.fit(signature, examples, threads=1, progress=must_not_start)
    error = caught.value
    assert (error.category, error.field, error.row) == ("input", field, row)
    assert said in error.message
    assert error.hint
    assert not error.retryable


WEIGHTS: dict[str, tuple[Any, int | None]] = {
    "too few": ([1.0] * 8, None),
    "too many": ([1.0] * 10, None),
    "negative": ([1.0] * 8 + [-1.0], 8),
    "NaN": ([1.0, NAN] + [1.0] * 7, 1),
    "infinite": ([float("inf")] + [1.0] * 8, 0),
    "all zero": ([0.0] * 9, None),
    "text": (["1"] * 8 + ["x"], None),
    "a matrix": (np.ones((9, 1)), None),
}


@pytest.mark.parametrize("name", WEIGHTS)
def test_bad_weights(name: str) -> None:
    weights, row = WEIGHTS[name]
    with pytest.raises(InputError) as caught:
        dspex.fit(LABEL, ROWS, sample_weight=weights, threads=1, progress=must_not_start)
    assert (caught.value.field, caught.value.row) == ("sample_weight", row)
    assert caught.value.hint


OPTIONS: list[dict[str, Any]] = [
    {"epochs": 3},
    {"max_epoch": 3},
    {"c": 0},
    {"c": NAN},
    {"c": "1"},
    {"class_weight": "balance"},
    {"min_n": 0},
    {"min_n": 2.0},
    {"max_n": 17},
    {"min_n": 4, "max_n": 3},
    {"bigrams": 1},
    {"skipgrams": "yes"},
    {"char_weight": -1},
    {"char_power": 2},
    {"folds": 1},
    {"folds": True},
    {"max_epochs": 0},
    {"tolerance": 0},
    {"min_pair_df": 0},
    {"max_units": 0},
    {"seed": -1},
    {"seed": 1.0},
    {"seed": 2**63},
    {"threads": 0},
    {"threads": 1.5},
    {"threads": True},
]


@pytest.mark.parametrize("options", OPTIONS, ids=repr)
def test_bad_options(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError) as caught:
        dspex.fit(LABEL, ROWS, **({"threads": 1} | options), progress=must_not_start)
    assert caught.value.category == "config"
    assert caught.value.field in options
    assert caught.value.hint


@pytest.mark.parametrize(
    ("signature", "field"),
    [
        ("text -> label: dict", "label"),
        ("text -> label: list[int]", "label"),
        ("text: list[str] -> label: bool", "text"),
        ("image: dspy.Image -> label: bool", "image"),
        ("text -> label: bool, why: dict[str, str]", "why"),
    ],
)
def test_signatures_that_are_not_native(signature: str, field: str) -> None:
    with pytest.raises(SignatureError) as caught:
        dspex.fit(signature, [{"text": "a", "image": "b", "label": True}], progress=must_not_start)
    assert (caught.value.category, caught.value.field) == ("signature", field)
    assert caught.value.hint


def test_the_first_bad_row_of_many_is_named() -> None:
    rows = topical(3000)
    rows[2345] = rows[2345] | {"label": "nonsense"}
    rows[2346] = {}
    with pytest.raises(DspexError) as caught:
        dspex.fit(LABEL, iter(rows), progress=must_not_start)
    assert (caught.value.row, caught.value.field) == (2345, "label")
    assert "row 2345" in str(caught.value)


def test_large_numbers_are_learned_from() -> None:
    rows = [{"x": 1e29 * (i % 2) + 1e20 * i, "y": -1e29 * (i % 2) + i} for i in range(20)]
    program = dspex.fit("x: float -> y: float", rows, threads=1)
    assert program(x=1e29).y == pytest.approx(-1e29, rel=0.1)
    assert program(x=0.0).y == pytest.approx(0, abs=1e28)

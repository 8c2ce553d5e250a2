"""The forms of a signature that are mappings, and their refusals."""

from __future__ import annotations

import contextlib
import enum
from typing import Any, Literal, Optional

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dspex.errors import SignatureError
from dspex.signature import Field, Signature


class Intent(enum.Enum):
    REFUND = "refund"
    CARD = "card lost"


class Level(enum.IntEnum):
    LOW = 1
    HIGH = 2


class Odd(enum.Enum):
    A = 1.5


class Empty(enum.Enum):
    pass


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


def only_output(spec: Any) -> Field:
    return next(iter(Signature.of(spec).outputs.values()))


def outputs(**values: Any) -> dict[str, Any]:
    return {"inputs": {"text": "str"}, "outputs": values}


def test_the_short_mapping_equals_its_string() -> None:
    spec = {
        "inputs": {"text": "str", "vector": "numpy.ndarray", "age": int},
        "outputs": {"label": ["a", "b"], "many": "list[Literal['x', 'y']]", "ok": "bool", "score": float},
    }
    assert Signature.of(spec) == Signature.of(
        "text, vector: np.ndarray, age: int -> "
        "label: Literal['a', 'b'], many: list[Literal['x', 'y']], ok: bool, score: float"
    )


def test_the_list_form_with_descriptions() -> None:
    s = Signature.of(
        {
            "name": "Triage",
            "instructions": "Sort the mail.",
            "inputs": [{"name": "text", "type": "string", "description": "the mail"}],
            "outputs": [
                {"name": "label", "type": "str", "classes": ["a", "b"], "desc": "where to", "prefix": "To:"},
                {"name": "tags", "type": "list[string]", "classes": ("x", "y")},
                {"name": "n", "type": "integer", "description": None},
            ],
        }
    )
    assert (s.name, s.instructions) == ("Triage", "Sort the mail.")
    assert s.inputs["text"].desc == "the mail"
    assert (s.outputs["label"].desc, s.outputs["label"].prefix) == ("where to", "To:")
    assert s.outputs["label"].annotation == Literal["a", "b"]
    assert s.outputs["tags"].annotation == list[Literal["x", "y"]]
    assert (s.outputs["n"].desc, s.outputs["n"].prefix) == ("${n}", "N:")
    assert [f.kind for f in s.outputs.values()] == ["class", "multilabel", "int"]


@pytest.mark.parametrize(
    ("value", "kind", "classes"),
    [
        ("string", "text", None),
        ("integer", "int", None),
        ("number", "float", None),
        ("boolean", "bool", None),
        ("any", "other", None),
        ("map", "other", None),
        ("embedding", "vector", None),
        (str, "text", None),
        (np.ndarray, "vector", None),
        (list[float], "vector", None),
        (Any, "other", None),
        (Optional[int], "other", None),  # noqa: UP045
        (int | None, "other", None),
        (Literal["a", "b"], "class", ("a", "b")),
        (list[Literal["a", "b"]], "multilabel", ("a", "b")),
        (Intent, "class", (Intent.REFUND, Intent.CARD)),
        (list[Intent], "multilabel", (Intent.REFUND, Intent.CARD)),
        (Level, "class", (Level.LOW, Level.HIGH)),
        (Literal[Intent.CARD], "class", (Intent.CARD,)),
        (Odd, "other", None),
        ({"classes": [1, 2]}, "class", (1, 2)),
        ({"type": "int", "classes": [1, 2]}, "class", (1, 2)),
        ({"type": ["a"]}, "class", ("a",)),
        (["a", None, True], "class", ("a", None, True)),
        (("a", np.str_("b")), "class", ("a", "b")),
        (frozenset, "other", None),
    ],
)
def test_values_of_a_mapping(value: Any, kind: str, classes: tuple[Any, ...] | None) -> None:
    field = only_output(outputs(label=value))
    assert (field.kind, field.classes) == (kind, classes)
    assert [type(c) for c in field.classes or ()] == [type(c) for c in classes or ()]


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ({}, "no 'inputs'"),
        ({"inputs": {"a": "str"}}, "no 'outputs'"),
        ({"inputs": {}, "outputs": {"b": "str"}}, "no input field"),
        ({"inputs": {"a": "str"}, "outputs": []}, "no output field"),
        ({"inputs": {"a": "str"}, "outputs": {"a": "str"}}, "already"),
        ({"inputs": {"fi": "str", "\ufb01": "str"}, "outputs": {"b": "str"}}, "already"),
        ({"inputs": {"a": "str"}, "output": {"b": "str"}}, "unknown key 'output'"),
        ({"inputs": "a", "outputs": {"b": "str"}}, "mapping or a list"),
        ({"inputs": ["a"], "outputs": {"b": "str"}}, "inputs[0] must be a mapping"),
        ({"inputs": [{"type": "str"}], "outputs": {"b": "str"}}, "inputs[0] has no 'name'"),
        ({"inputs": [{"name": "a"}], "outputs": {"b": "str"}}, "neither a type nor classes"),
        ({"inputs": [{"name": 3, "type": "str"}], "outputs": {"b": "str"}}, "must be a str"),
        ({"inputs": {"a": "str"}, "outputs": {"b": "str"}, "name": 3}, "name must be a str"),
        ({"inputs": {"a": "str"}, "outputs": {"b": "str"}, "name": " "}, "name is empty"),
        ({"inputs": {"a": "str"}, "outputs": {"b": "str"}, "instructions": 3}, "instructions must be a str"),
        (outputs(class_="str", label="refund"), "unknown type 'refund'"),
        (outputs(label="a, b"), "does not belong"),
        (outputs(label=""), "type is missing"),
        (outputs(label=None), "no type"),
        (outputs(label=3), "no type"),
        (outputs(label=[]), "no classes"),
        (outputs(label=["a", "a"]), "listed twice"),
        (outputs(label=[1, True]), "equal in Python"),
        (outputs(label=Literal[1, True]), "equal in Python"),
        (outputs(label=Literal[1] | Literal[True]), "equal in Python"),
        (outputs(label=[1.5]), "cannot be a class"),
        (outputs(label=[np.int64(1)]), "cannot be a class"),
        (outputs(label=[Intent.CARD]), "cannot be a class"),
        (outputs(label={"a", "b"}), "must be a list"),
        (outputs(label=Empty), "no members"),
        (outputs(label={"type": "str", "kind": "x"}), "unknown key 'kind'"),
        (outputs(label={"type": "str", "desc": "x", "description": "y"}), "one description"),
        (outputs(label={"type": "str", "desc": 3}), "must be a str"),
        (outputs(label={"type": "str", "classes": "ab"}), "must be a list"),
        (outputs(label={"type": "int", "classes": ["a"]}), "is no int"),
        (outputs(label={"type": "bool", "classes": [1]}), "is no bool"),
        (outputs(label={"type": "float", "classes": ["a"]}), "cannot have classes"),
        (outputs(label={"type": "Literal['a']", "classes": ["a"]}), "cannot have classes"),
        (outputs(**{"not a name": "str"}), "not a field name"),
        (outputs(lambda_="str", **{"lambda": "str"}), "Python's own"),
        (None, "cannot be read"),
        (3, "cannot be read"),
        (b"a -> b", "cannot be read"),
        (["a", "b"], "cannot be read"),
        (Intent, "cannot be read"),
    ],
)
def test_bad_specs_are_refused(spec: Any, words: str) -> None:
    with pytest.raises(SignatureError) as caught:
        Signature.of(spec)
    assert words in caught.value.message
    assert caught.value.hint


def test_errors_in_mappings_name_the_field_and_the_nearest_key() -> None:
    with pytest.raises(SignatureError) as caught:
        Signature.of(outputs(label={"typ": "str"}))
    assert caught.value.field == "label"
    assert caught.value.hint == "Did you mean 'type'?"


@settings(max_examples=150, deadline=None)
@given(inputs=JSON, labels=JSON)
def test_any_json_is_a_signature_or_a_signature_error(inputs: Any, labels: Any) -> None:
    for spec in (
        {"inputs": inputs, "outputs": {"label": labels}},
        {"inputs": {"a": inputs}, "outputs": labels},
    ):
        with contextlib.suppress(SignatureError):
            Signature.of(spec)

"""Signatures as values: equal, unchangeable, copied, stored and read back from data that may be hostile."""

from __future__ import annotations

import copy
import enum
import json
import pickle
import sys
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dspex.errors import SignatureError
from dspex.signature import Signature


class Intent(enum.Enum):
    REFUND = "refund"
    CARD = "card lost"


class Odd(enum.Enum):
    A = 1.5


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


def outputs(**values: Any) -> dict[str, Any]:
    return {"inputs": {"text": "str"}, "outputs": values}


def test_signatures_are_values() -> None:
    a = Signature.of("text -> label: Literal['a', 'b']")
    b = Signature.of({"inputs": {"text": "str"}, "outputs": {"label": ["a", "b"]}, "name": "Other"})
    assert a == b
    assert hash(a) == hash(b)
    assert len({a, b}) == 1
    assert Signature.of(a) is a
    assert a != Signature.of("text -> label: Literal['b', 'a']")
    assert a != Signature.of("text -> label: Literal['a', 'c']")
    assert Signature.of("t -> x: Literal[1]") != Signature.of("t -> x: Literal[True]")
    assert Signature.of("a, b -> c") != Signature.of("b, a -> c")
    assert a != "text -> label: Literal['a', 'b']"
    assert repr(a) == "Signature(\"text -> label: Literal['a', 'b']\")"


@pytest.mark.parametrize("name", ["inputs", "outputs", "instructions", "name", "other"])
def test_signatures_cannot_be_changed(name: str) -> None:
    s = Signature.of("text -> label")
    with pytest.raises(AttributeError):
        setattr(s, name, None)
    with pytest.raises(AttributeError):
        delattr(s, name)
    with pytest.raises(AttributeError):
        setattr(s.inputs["text"], name, None)
    with pytest.raises(TypeError):
        s.inputs["more"] = s.inputs["text"]  # type: ignore[index]


@pytest.mark.parametrize(
    "spec",
    [
        "text, n: int -> label: Literal['a', None, 2], v: np.ndarray, image: list[dspy.Image]",
        outputs(a=Intent, b=list[Intent], c={"type": "str", "description": "x"}),
    ],
)
def test_copies_and_pickles_are_equal(spec: Any) -> None:
    s = Signature.of(spec)
    for made in (pickle.loads(pickle.dumps(s)), copy.copy(s), copy.deepcopy(s)):
        assert made == s
        assert hash(made) == hash(s)
        assert [f.classes for f in made.fields.values()] == [f.classes for f in s.fields.values()]
    learned = Signature.of("text -> label").with_classes("label", ["a"])
    assert pickle.loads(pickle.dumps(learned)) == learned


def test_an_enum_is_given_only_to_an_output_with_its_values() -> None:
    s = Signature.of("text -> label, fixed: Literal['a', 'b'], intent: Literal['refund', 'card lost']")
    assert s.with_classes("intent", Intent).outputs["intent"].classes == tuple(Intent)
    for field in ("label", "fixed"):
        with pytest.raises(SignatureError, match="not the classes") as caught:
            s.with_classes(field, Intent)
        assert caught.value.field == field


STORED = [
    "text -> label: Literal['a', 'b']",
    "a, b: int, c: np.ndarray, d: List[float] -> e: Literal['x->y', -1, True], f: list[Literal['\\ud800']]",
    "a -> b: Optional[Literal['x']], c: dspy.Image, d: dict[str, Any], f: Union[int, str, None]",
    "a -> b: tuple[int, ...], c: tuple[()], d: Sequence[int], e: NoneType, f: pathlib.Path, g: Literal[b'x']",
    "a -> b: dspy.Code['python'], c: list[dspy.Image] | None, d: List[Literal['p', 'q']]",
    "a -> b: Literal['\\0', '\\n', None], c: datetime.date",
]


@pytest.mark.parametrize("text", STORED)
def test_strings_and_dicts_read_back_as_equal(text: str) -> None:
    s = Signature.of(text)
    assert Signature.of(s.to_string()) == s
    data = json.loads(json.dumps(s.to_dict()))
    back = Signature.from_dict(data)
    assert back == s
    assert [f.annotation for f in back.fields.values()] == [f.annotation for f in s.fields.values()]
    assert back.to_dict() == data


def test_to_string_as_shown_in_the_docs() -> None:
    assert Signature.of("text->label:Literal['a','b']").to_string() == "text -> label: Literal['a', 'b']"
    assert Signature.of(outputs(label=Intent)).to_string() == "text -> label: Literal['refund', 'card lost']"


def test_everything_but_the_enum_itself_is_stored() -> None:
    s = Signature.of(
        {
            "inputs": {"text": {"type": "str", "description": "the mail", "prefix": "Mail:"}},
            "outputs": {"label": Intent, "many": list[Intent], "own": dict[str, Odd], "free": "str"},
            "instructions": "Sort it.\n  Well.",
            "name": "Triage",
        }
    ).with_classes("free", ["x", "y"])
    back = Signature.from_dict(json.loads(json.dumps(s.to_dict())))
    assert (back.name, back.instructions) == (s.name, s.instructions)
    assert back.inputs["text"] == s.inputs["text"]
    assert back.outputs["free"] == s.outputs["free"]
    assert back.outputs["own"] == s.outputs["own"]
    assert repr(back.outputs["own"].annotation) == s.outputs["own"].type_name
    label = back.outputs["label"]
    assert label.classes == ("refund", "card lost")
    assert label.values == s.outputs["label"].values
    assert label.enum == f"{__name__}.Intent"
    assert back != s
    assert back.with_classes("label", Intent).with_classes("many", Intent) == s
    assert back.to_dict() == s.to_dict()


def test_unimportable_types_are_not_imported_on_load() -> None:
    data = Signature.of("a -> b: dspy.Image").to_dict()
    data["outputs"][0] |= {"type": "antigravity.Thing", "opaque": True}
    back = Signature.from_dict(data)
    assert "antigravity" not in sys.modules
    assert back.outputs["b"].kind == "other"
    assert back.to_dict() == data
    del data["outputs"][0]["opaque"]
    with pytest.raises(SignatureError, match="unknown type"):
        Signature.from_dict(data)
    assert "antigravity" not in sys.modules


def stored() -> dict[str, Any]:
    s = Signature.of("text, n: int -> label: Literal['a', 'b'], free, many: list[Literal['x']]")
    return s.with_classes("free", ["x", "y"]).to_dict()


def test_damaged_data_is_refused() -> None:
    changes: list[tuple[list[Any], Any]] = [
        (["name"], None),
        (["name"], ""),
        (["instructions"], 3),
        (["inputs"], {}),
        (["inputs"], []),
        (["more"], 1),
        (["inputs", 0], "text"),
        (["inputs", 0, "name"], "label"),
        (["inputs", 0, "name"], "_x"),
        (["inputs", 0, "name"], ["x"]),
        (["inputs", 0, "type"], "os.system"),
        (["inputs", 0, "type"], 3),
        (["inputs", 0, "type"], "Literal"),
        (["inputs", 0, "description"], None),
        (["inputs", 0, "classes"], ["a"]),
        (["inputs", 0, "learned"], True),
        (["inputs", 0, "enum"], "x.Y"),
        (["inputs", 0, "opaque"], True),
        (["inputs", 0, "more"], True),
        (["outputs", 0, "classes"], []),
        (["outputs", 0, "classes"], "ab"),
        (["outputs", 0, "classes"], ["a", "a"]),
        (["outputs", 0, "classes"], [1, True]),
        (["outputs", 0, "classes"], [1.5]),
        (["outputs", 0, "classes"], [["a"]]),
        (["outputs", 0, "learned"], True),
        (["outputs", 0, "type"], "str"),
        (["outputs", 0, "type"], "Literal['a', 'c']"),
        (["outputs", 1, "learned"], False),
        (["outputs", 1, "classes"], [1]),
        (["outputs", 1, "classes"], None),
        (["outputs", 1, "type"], "int"),
    ]
    for path, value in changes:
        data: Any = stored()
        place = data
        for key in path[:-1]:
            place = place[key]
        place[path[-1]] = value
        with pytest.raises(SignatureError) as caught:
            Signature.from_dict(data)
        assert caught.value.hint, path
    for key in ("name", "instructions", "inputs", "outputs"):
        with pytest.raises(SignatureError):
            Signature.from_dict({k: v for k, v in stored().items() if k != key})
    for data in (None, [], "x", 3):
        with pytest.raises(SignatureError):
            Signature.from_dict(data)


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_any_change_of_stored_data_is_read_or_refused(data: st.DataObject) -> None:
    tree: Any = stored()
    place = tree
    while True:
        key = data.draw(st.sampled_from(list(place) if isinstance(place, dict) else list(range(len(place)))))
        if not isinstance(place[key], dict | list) or not place[key] or data.draw(st.booleans()):
            break
        place = place[key]
    place[key] = data.draw(JSON | st.sampled_from(["Literal", "list[Literal]", "str", "list[str]", "int"]))
    try:
        made = Signature.from_dict(tree)
    except SignatureError:
        return
    assert Signature.from_dict(made.to_dict()) == made

"""The string form of signatures, what they say of themselves, and native eligibility."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dspex.errors import SignatureError
from dspex.signature import Eligibility, Field, Signature


def only_output(spec: str) -> Field:
    return next(iter(Signature.of(spec).outputs.values()))


def test_the_string_form_gives_names_roles_types_and_defaults() -> None:
    s = Signature.of("subject, body: str -> label: Literal['a','b'], urgent: bool, score: float")
    assert list(s.inputs) == ["subject", "body"]
    assert list(s.outputs) == ["label", "urgent", "score"]
    assert [f.kind for f in s.fields.values()] == ["text", "text", "class", "bool", "float"]
    assert [f.role for f in s.fields.values()] == ["input", "input", "output", "output", "output"]
    assert s.outputs["label"].classes == ("a", "b")
    assert s.outputs["label"].annotation == Literal["a", "b"]
    assert s.inputs["body"].desc == "${body}"
    assert s.inputs["body"].prefix == "Body:"
    assert s.name == "StringSignature"
    assert s.instructions == (
        "Given the fields `subject`, `body`, produce the fields `label`, `urgent`, `score`."
    )


@pytest.mark.parametrize(
    ("text", "kind", "classes"),
    [
        ("str", "text", None),
        ("Text", "text", None),
        ("bool", "bool", None),
        ("int", "int", None),
        ("float", "float", None),
        ("np.ndarray", "vector", None),
        ("numpy.ndarray", "vector", None),
        ("list[float]", "vector", None),
        ("List[float]", "vector", None),
        ("Literal['a', \"it's\"]", "class", ("a", "it's")),
        ("typing.Literal['a']", "class", ("a",)),
        ("Literal[-1, 0, 2]", "class", (-1, 0, 2)),
        ("Literal[True, None, 'x', 7]", "class", (True, None, "x", 7)),
        ("Literal['x->y', 'a, b', ':', '=', '[', '#']", "class", ("x->y", "a, b", ":", "=", "[", "#")),
        ("Literal['日本', '\\ud800', '\\'']", "class", ("日本", "\ud800", "'")),
        ("Literal['']", "class", ("",)),
        ("Optional[Literal['b', 'a']]", "class", ("b", "a", None)),
        ("Literal['b'] | Literal['a', 'b'] | None", "class", ("b", "a", None)),
        ("list[Literal['b', 'a']]", "multilabel", ("b", "a")),
        ("List[Literal['b', 'a']]", "multilabel", ("b", "a")),
        ("list[str]", "other", None),
        ("set[Literal['a']]", "other", None),
        ("Literal[b'x']", "other", None),
        ("Optional[int]", "other", None),
        ("dict[str, list[int]]", "other", None),
        ("tuple[int, ...]", "other", None),
        ("datetime.datetime", "other", None),
        ("dspy.Image", "other", None),
        ("list[dspy.Image] | None", "other", None),
        ("dspy.Code['python']", "other", None),
        ("Any", "other", None),
        ("NoneType", "other", None),
    ],
)
def test_kinds_and_classes_of_types(text: str, kind: str, classes: tuple[Any, ...] | None) -> None:
    field = only_output(f"text -> label: {text}")
    assert field.kind == kind
    assert field.classes == classes
    assert [type(c) for c in field.classes or ()] == [type(c) for c in classes or ()]


def test_the_order_of_classes_survives_the_cache_of_typing() -> None:
    first = only_output("t -> label: List[Literal['p', 'q']]")
    second = only_output("t -> label: List[Literal['q', 'p']]")
    assert (first.classes, second.classes) == (("p", "q"), ("q", "p"))
    assert first != second
    for field in (first, second):
        stored = Signature([Signature.of("t -> x").inputs["t"], field]).to_dict()
        assert Signature.from_dict(json.loads(json.dumps(stored))).outputs["label"].classes == field.classes


def test_layout_does_not_matter() -> None:
    plain = Signature.of("subject, body -> label: Literal['a', 'b'], urgent: bool")
    spread = Signature.of("  subject ,\n\tbody,\r\n->\n label : Literal[\n 'a',\n 'b',\n ]\n ,urgent:bool,\n")
    assert spread == plain
    assert Signature.of("text->label") == Signature.of("text -> label: str")


@pytest.mark.parametrize(
    ("text", "column", "carets", "words"),
    [
        ("", 1, 1, "no '->'"),
        ("text", 5, 1, "no '->'"),
        ("a -> b -> c", 8, 2, "second '->'"),
        (" -> b", 2, 1, "no input"),
        ("a ->", 5, 1, "no output"),
        (", -> b", 1, 1, "name is missing"),
        ("a,, b -> c", 3, 1, "name is missing"),
        ("a, b, a -> c", 7, 1, "already"),
        ("a -> b, c, b", 12, 1, "already"),
        ("text -> text", 9, 4, "already"),
        ("class -> b", 1, 5, "Python's own"),
        ("_a -> b", 1, 2, "underscore"),
        ("2a -> b", 1, 2, "not a field name"),
        ("my-field -> b", 1, 8, "not a field name"),
        ("a b -> c", 1, 3, "not a field name"),
        ("*a -> b", 1, 2, "not a field name"),
        ("signature -> b", 1, 9, "DSPy keeps"),
        ("a: int = 3 -> b", 8, 4, "default"),
        ("a -> b = 'x'", 8, 5, "default"),
        ("a -> b:", 7, 1, "type is missing"),
        ("a -> b: strng", 9, 5, "unknown type 'strng'"),
        ("a -> b: list[strng]", 14, 5, "unknown type"),
        ("日本: strng -> b", 5, 5, "unknown type"),
        ("a -> b: os.PathLike", 9, 11, "unknown type"),
        ("a -> b: dspy._private.X", 9, 15, "unknown type"),
        ("a -> b: datetime", 9, 8, "unknown type"),
        ("a -> b: 'int'", 9, 5, "without quotes"),
        ("a -> b: 3", 9, 1, "a value"),
        ("a -> b: None", 9, 4, "None is no type"),
        ("a -> b: Literal", 9, 7, "in brackets"),
        ("a -> b: Optional", 9, 8, "in brackets"),
        ("a -> b: List", 9, 4, "in brackets"),
        ("a -> b: Optional[int, str]", 9, 18, "cannot be made"),
        ("a -> b: list[int, str]", 9, 14, "cannot be made"),
        ("a -> b: dict[str]", 9, 9, "cannot be made"),
        ("a -> b: int[str]", 9, 8, "cannot be made"),
        ("a -> b: f(x)", 9, 4, "no type"),
        ("a -> b: lambda: 1", 9, 9, "no type"),
        ("a -> b: int if 1 else str", 9, 17, "no type"),
        ("a -> b: Literal['x', 'y', 'x']", 27, 3, "listed twice"),
        ("a -> b: Literal[1, True]", 20, 4, "equal in Python"),
        ("a -> b: Literal[False, 0]", 24, 1, "equal in Python"),
        ("a -> b: Literal[1.5]", 17, 3, "only strings"),
        ("a -> b: Literal[red]", 17, 3, "only strings"),
        ("a -> b: Literal[f'x']", 17, 4, "only strings"),
        ("a -> b: Literal['x' 'y']", 21, 3, "comma is missing"),
        ("a -> b: Literal['x'", 16, 1, "never closed"),
        ("a -> b: Literal'x']", 19, 1, "closes nothing"),
        ("a -> b: Literal('x']", 20, 1, "closes nothing"),
        ("it's -> b", 3, 1, "quote is never closed"),
        ("a -> b: Literal['x\ny']", 17, 1, "quote is never closed"),
        ("a -> b # why", 8, 1, "comment"),
        ("a -> b: Literal['\0']", 18, 1, "cannot stand here"),
        ("a -> b: Literal['\ud800']", 18, 1, "cannot stand here"),
        ("a -> b: " + "list[" * 40 + "]" * 40, 173, 1, "too deep"),
        ("a -> b: " + "int|" * 5000 + "int", 9, 1, "too complex"),
        ("a -> b: " + "~" * 100_000 + "1", 9, 1, None),
    ],
)
def test_bad_strings_are_refused_with_the_place(
    text: str, column: int, carets: int, words: str | None
) -> None:
    with pytest.raises(SignatureError) as caught:
        Signature.of(text)
    error = caught.value
    assert error.hint
    assert words is None or words in error.message
    first, _, caret, _ = error.message.split("\n")
    assert first.endswith(f"column {column}:")
    assert caret.strip() == "^" * carets


def test_the_caret_stands_below_the_place_also_in_a_later_line_or_a_long_one() -> None:
    with pytest.raises(SignatureError) as caught:
        Signature.of("subject: str,\nbody: integr -> label")
    assert "line 2, column 7" in caught.value.message
    assert "\n    body: integr -> label\n          ^^^^^^\n" in caught.value.message
    assert caught.value.field == "body"
    classes = ", ".join(f"'class {i}'" for i in range(150))
    with pytest.raises(SignatureError) as caught:
        Signature.of(f"text -> label: Literal[{classes}, 'class 7'], score: float")
    _, shown, caret, _ = caught.value.message.split("\n")
    assert shown[caret.index("^") : caret.index("^") + 9] == "'class 7'"
    assert len(shown) < 130


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("a -> b: strng", "Did you mean 'str'?"),
        ("a -> b: string", "Write str"),
        ("a -> b: any", "Write Any"),
        ("a -> b: date", "Write datetime.date"),
        ("a -> b: Ticket", "dspy.Signature class"),
        ("a -> b: List", "or list"),
        ("a b -> c", "put a comma between"),
        ("my-field -> c", "'my_field'"),
        ("class -> c", "'class_'"),
        ("a -> b: Literal[red]", "'red' in quotes"),
    ],
)
def test_hints_say_what_to_write(text: str, hint: str) -> None:
    with pytest.raises(SignatureError) as caught:
        Signature.of(text)
    assert hint in (caught.value.hint or "")


def test_a_signature_of_absurd_length_is_refused_before_it_is_read() -> None:
    with pytest.raises(SignatureError, match="characters"):
        Signature.of("a" * 2_000_000)


@settings(max_examples=300, deadline=None)
@given(st.text(alphabet=st.sampled_from("ab_1 ,:->[]()'\"|=#\\\n\0éLiteral日"), max_size=40))
def test_any_text_is_a_signature_or_a_signature_error(text: str) -> None:
    try:
        made = Signature.of(text)
    except SignatureError:
        return
    assert Signature.of(made.to_string()) == made


def test_every_native_kind_is_eligible() -> None:
    s = Signature.of(
        "a, b: int, c: float, d: bool, e: np.ndarray, f: list[float] -> "
        "g: Literal['x', 'y'], h: bool, i: int, j: float, k: list[Literal['x', 'y']]"
    )
    assert s.native_eligibility()
    assert s.native_eligibility().ok is True
    assert s.native_eligibility().field is None


@pytest.mark.parametrize(
    ("text", "field", "words"),
    [
        ("text -> summary", "summary", "dspex.fit takes its classes from examples"),
        ("text -> tags: list[str]", "tags", "list[Literal[...]]"),
        ("image: dspy.Image -> label: bool", "image", "dspy.Image"),
        ("level: Literal['a'] -> label: bool", "level", "a native input is"),
        ("tags: list[str] -> label: bool", "tags", "a native input is"),
        ("text -> vector: np.ndarray", "vector", "numpy.ndarray"),
        ("text -> ok: bool, extra: dict[str, int], summary", "extra", "dict[str, int]"),
        ("text -> n: Optional[int]", "n", "Optional[int]"),
    ],
)
def test_the_first_field_in_the_way_is_named(text: str, field: str, words: str) -> None:
    verdict = Signature.of(text).native_eligibility()
    assert not verdict
    assert verdict.field == field
    assert words in verdict.reason
    assert verdict == Eligibility(False, field, verdict.reason)


def test_learned_classes_make_text_eligible() -> None:
    s = Signature.of("text -> label, tags: list[str], ok: bool")
    full = s.with_classes("label", ["b", "a"]).with_classes("tags", ("x",))
    assert full.native_eligibility()
    assert [f.kind for f in full.outputs.values()] == ["class", "multilabel", "bool"]
    assert full.outputs["label"].classes == ("b", "a")
    assert full.outputs["label"].annotation is str
    assert full.outputs["label"].learned
    assert full != s
    assert full.with_classes("label", ["a"]).outputs["label"].classes == ("a",)
    assert s.outputs["label"].classes is None


@pytest.mark.parametrize(
    ("field", "classes", "words"),
    [
        ("lable", ["a"], "no output 'lable'"),
        ("text", ["a"], "no output 'text'"),
        ("ok", ["a"], "has the type 'bool'"),
        ("fixed", ["a"], "has the type"),
        ("label", [], "no classes"),
        ("label", ["a", "a"], "listed twice"),
        ("label", [1], "cannot be a class"),
        ("label", [None], "cannot be a class"),
        ("label", "ab", "must be a list"),
        ("label", {"a", "b"}, "must be a list"),
        ("label", 3, "must be a list"),
    ],
)
def test_bad_learned_classes(field: str, classes: Any, words: str) -> None:
    s = Signature.of("text -> label, ok: bool, fixed: Literal['a', 'b']")
    with pytest.raises(SignatureError) as caught:
        s.with_classes(field, classes)
    assert words in caught.value.message
    assert caught.value.field == field
    assert caught.value.hint


def test_nothing_here_imports_dspy() -> None:
    code = (
        "import sys\n"
        "from dspex.signature import Signature\n"
        "s = Signature.of('a, i: dspy.Image -> b: Literal[1, 2]')\n"
        "Signature.from_dict(s.to_dict()).native_eligibility()\n"
        "try: Signature.of(object())\n"
        "except Exception: pass\n"
        "heavy = {'dspy', 'pydantic', 'sklearn', 'scipy'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)

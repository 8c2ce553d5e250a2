"""A signature string gives what DSPy derives from it; DSPy's classes are read, and made, without loss."""

from __future__ import annotations

import enum
import keyword
import pickle
import typing
import warnings
from typing import Any, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of DSPy's own dependencies
    import dspy
    from dspy.signatures.signature import infer_prefix as dspy_prefix

from dspex._signature_names import RESERVED, infer_prefix
from dspex.errors import SignatureError
from dspex.signature import Signature

# DSPy warns of names such as "copy", which hide a method of its base class and work all the same.
pytestmark = pytest.mark.filterwarnings("ignore")


class Intent(enum.Enum):
    REFUND = "refund"
    CARD = "card"


class Person(dspy.Type):
    name: str


def assert_same(ours: Signature, theirs: Any) -> None:
    assert ours.instructions == theirs.instructions
    assert list(ours.inputs) == list(theirs.input_fields)
    assert list(ours.outputs) == list(theirs.output_fields)
    for name, info in theirs.fields.items():
        field = ours.fields[name]
        assert field.annotation == info.annotation, name
        assert field.desc == info.json_schema_extra["desc"]
        assert field.prefix == info.json_schema_extra["prefix"]
        assert field.role == info.json_schema_extra["__dspy_field_type"]


LISTED = [
    "question -> answer",
    "question: str -> answer: str",
    "subject, body -> label: Literal['a','b'], urgent: bool, score: float",
    "a:int,b:float->c:bool",
    "  a ,\n b -> c , ",
    "camelCase, HTMLParser, text2number, a1b2C3, X, aB, snake_case_text, ABc, a__b, x_, Ünï2Çode -> y1",
    "copy, json, type, self, match, print -> int",
    "café, 日本, ﬁ -> naïve",
    "a: list -> b: list[str], c: List[int], d: dict, e: dict[str, list[int]], f: Dict[str, Any], g: Any",
    "a: Optional[int] -> b: int | None, c: None | int, d: Union[int, str, None], e: str | int, f: Union[int]",
    "a: tuple -> b: tuple[int, ...], c: tuple[int, str], d: Tuple[int], e: tuple[()], f: set[int]",
    "a: bytes -> b: complex, c: frozenset, d: FrozenSet[str], e: Type[int], f: Iterable[str]",
    "a: datetime.datetime -> b: datetime.date, c: decimal.Decimal, d: uuid.UUID, e: pathlib.Path",
    "a: typing.List[str] -> b: typing.Literal['a'], c: typing.Any, d: str",
    "a -> b: NoneType",
    "a -> b: collections.abc.Sequence[int]",
    "a -> b: Literal['x', 2, True, None]",
    "a -> b: Literal[b'x'], c: Literal[('p', 'q')], d: Literal['it\\'s', \"q\", '''t''', r'\\d', u'u']",
    "a -> b: Optional[Literal['x', 'y']], c: Literal['x'] | Literal['y'], d: float | Literal['z'], e: Text",
    "a -> b: list[Literal['x', 'y']], c: list[Optional[Literal['x']]], d: dict[Literal['k'], list[float]]",
]


@pytest.mark.parametrize("text", LISTED)
def test_listed_strings(text: str) -> None:
    assert_same(Signature.of(text), dspy.Signature(text))


@pytest.mark.parametrize("text", [t for t in LISTED if "NoneType" not in t])
def test_the_dspy_class_made_of_a_string_is_dspys_own(text: str) -> None:
    made = Signature.of(text).to_dspy()
    theirs = dspy.Signature(text)
    assert_same(Signature.of(text), made)
    assert made.__name__ == theirs.__name__
    for name, info in theirs.fields.items():
        # DSPy marks an untyped input, so as not to warn of other types; here an untyped input is a str.
        ours = {**made.fields[name].json_schema_extra, "IS_TYPE_UNDEFINED": None}
        assert ours == {**info.json_schema_extra, "IS_TYPE_UNDEFINED": None}


NAMES = st.one_of(
    st.from_regex(r"[a-zA-Z][a-zA-Z0-9_]{0,12}", fullmatch=True),
    st.text(alphabet=st.sampled_from("aZ09_éßñ日٣"), min_size=1, max_size=8),
).filter(
    lambda n: n.isidentifier() and not n.startswith("_") and not keyword.iskeyword(n) and n not in RESERVED
)

VALUES = st.one_of(
    st.text(max_size=6).map(repr).filter(lambda t: "->" not in t),
    st.integers(min_value=2, max_value=99).map(repr),
    st.sampled_from(["True", "False", "None"]),
)
LITERALS = st.lists(VALUES, min_size=1, max_size=4, unique_by=eval).map(lambda v: f"Literal[{', '.join(v)}]")
PLAIN = st.sampled_from(
    [
        "str",
        "int",
        "float",
        "bool",
        "bytes",
        "list",
        "dict",
        "tuple",
        "Any",
        "datetime.date",
        "complex",
        "Text",
    ]
)
TYPES = st.recursive(
    PLAIN | LITERALS,
    lambda t: st.one_of(
        st.tuples(st.sampled_from(["list", "List", "Optional", "Sequence", "typing.List", "tuple"]), t).map(
            lambda p: f"{p[0]}[{p[1]}]"
        ),
        st.tuples(st.sampled_from(["dict", "Dict", "Union", "tuple"]), t, t).map(
            lambda p: f"{p[0]}[{p[1]},{p[2]}]"
        ),
        st.tuples(t, t).map(" | ".join),
        t.map(lambda x: f"{x}|None"),
    ),
    max_leaves=4,
)
FIELDS = st.lists(
    st.tuples(NAMES, st.none() | TYPES, st.sampled_from(["", " ", "\n "])),
    min_size=2,
    max_size=6,
    unique_by=lambda f: f[0],
)


@st.composite
def signature_strings(draw: st.DrawFn) -> str:
    fields = draw(FIELDS)
    cut = draw(st.integers(1, len(fields) - 1))
    texts = [f"{name}{gap}" if type_ is None else f"{name}{gap}:{gap}{type_}" for name, type_, gap in fields]
    return f"{', '.join(texts[:cut])} -> {','.join(texts[cut:])}"


@settings(max_examples=200, deadline=None)
@given(signature_strings())
def test_generated_strings(text: str) -> None:
    ours = Signature.of(text)
    assert_same(ours, dspy.Signature(text))
    assert Signature.of(ours.to_string()) == ours
    back = Signature.from_dict(ours.to_dict())
    assert back == ours
    for name, field in ours.fields.items():
        assert back.fields[name].annotation == field.annotation
        assert back.fields[name].classes == field.classes


@settings(max_examples=500, deadline=None)
@given(st.text(alphabet=st.sampled_from("aAbBzZ019_éÉ٣日"), max_size=12))
def test_prefixes(name: str) -> None:
    assert infer_prefix(name) == dspy_prefix(name) + ":"


@pytest.mark.parametrize("name", sorted(RESERVED))
def test_reserved_names_are_those_that_dspy_cannot_hold(name: str) -> None:
    with pytest.raises(Exception):  # noqa: B017, PT011 - a TypeError or a ValueError, deep inside
        dspy.Signature(f"{name} -> zz").fields  # noqa: B018


@pytest.mark.parametrize(
    "name", [n for n in dir(dspy.Signature) if not n.startswith("_") and n not in RESERVED]
)
def test_other_names_of_dspys_own_methods_work(name: str) -> None:
    text = f"{name} -> zz"
    assert_same(Signature.of(text), dspy.Signature(text))


# --- DSPy's classes -------------------------------------------------------------------------------------


class Triage(dspy.Signature):
    """Sort the mail.

    Carefully.
    """

    label: Literal["b", "a"] = dspy.OutputField(desc="where to")
    text = dspy.InputField()
    intent: Intent = dspy.OutputField()
    score: float = dspy.OutputField(ge=0, le=1, description="how sure")
    tags: list[Intent] = dspy.OutputField()
    sender: Person = dspy.InputField()
    image: dspy.Image | None = dspy.InputField()


def test_a_dspy_class_is_read() -> None:
    s = Signature.of(Triage)
    assert_same(s, Triage)
    assert s.name == "Triage"
    assert s.instructions == "Sort the mail.\n\nCarefully."
    assert list(s.fields) == ["text", "sender", "image", "label", "intent", "score", "tags"]
    assert s.outputs["label"].classes == ("b", "a")
    assert s.outputs["intent"].classes == tuple(Intent)
    assert s.outputs["tags"].kind == "multilabel"
    assert s.outputs["score"].constraints == "greater than or equal to: 0, less than or equal to: 1"
    assert s.native_eligibility().field == "sender"
    assert s.to_dspy() is Triage
    assert pickle.loads(pickle.dumps(s)) == s


def test_a_dspy_class_survives_storing_up_to_its_enums_and_own_types() -> None:
    s = Signature.of(Triage)
    back = Signature.from_dict(s.to_dict())
    back = back.with_classes("intent", Intent).with_classes("tags", Intent)
    assert back == s
    with pytest.raises(SignatureError, match="known by name only") as caught:
        back.to_dspy()
    assert caught.value.field == "sender"


def test_a_class_is_rebuilt_with_descriptions_prefixes_and_constraints() -> None:
    base = Triage.delete("sender")
    again = pickle.loads(pickle.dumps(Signature.of(base))).to_dspy()
    assert again is not base
    assert_same(Signature.of(base), again)
    assert again.fields["score"].json_schema_extra == base.fields["score"].json_schema_extra


def test_dspys_own_types_are_found_when_dspy_is_needed() -> None:
    made = Signature.of(
        "a: dspy.Image, h: dspy.History -> b: list[dspy.Image], c: Optional[dspy.Code]"
    ).to_dspy()
    assert made.fields["a"].annotation is dspy.Image
    assert made.fields["h"].annotation is dspy.History
    assert made.fields["b"].annotation == list[dspy.Image]
    assert made.fields["c"].annotation == typing.Optional[dspy.Code]  # noqa: UP045
    assert (
        Signature.of("x -> a: dspy.Image").outputs["a"]
        == Signature.of(dspy.Signature("x -> a: dspy.Image")).outputs["a"]
    )
    code = Signature.of("x -> c: dspy.Code['java']").to_dspy().fields["c"].annotation
    assert issubclass(code, dspy.Code)
    for bad in ("dspy.Imag", "dspy.settings"):
        with pytest.raises(SignatureError, match="has no type"):
            Signature.of(f"x -> a: {bad}").to_dspy()


def test_vectors_become_lists_for_dspy() -> None:
    made = Signature.of("v: np.ndarray -> w: list[float]").to_dspy()
    assert [f.annotation for f in made.fields.values()] == [list[float], list[float]]


def test_learned_classes_stay_text_for_dspy() -> None:
    made = Signature.of("text -> label").with_classes("label", ["a"]).to_dspy()
    assert made.fields["label"].annotation is str


def test_changed_signatures_make_new_dspy_classes() -> None:
    class Free(dspy.Signature):
        text: str = dspy.InputField()
        label: str = dspy.OutputField()

    learned = Signature.of(Free).with_classes("label", ["a"])
    assert learned.to_dspy() is not Free
    assert learned.to_dspy().__name__ == "Free"


def test_what_is_no_signature_class_is_refused() -> None:
    class Defaulted(dspy.Signature):
        text: str = dspy.InputField(default="x")
        label: bool = dspy.OutputField()

    with pytest.raises(SignatureError, match="default value") as caught:
        Signature.of(Defaulted)
    assert caught.value.field == "text"
    with pytest.raises(SignatureError, match="no input field"):
        Signature.of(dspy.Signature)
    with pytest.raises(SignatureError) as caught:
        Signature.of(dspy.Predict("text -> label"))
    assert "program.signature" in (caught.value.hint or "")
    for other in (Person, Intent, dspy.Example(text="x"), dspy):
        with pytest.raises(SignatureError, match="cannot be read"):
            Signature.of(other)

"""Signatures, inputs and answers of a language model, made up from a seed. Holds no tests."""

from __future__ import annotations

import enum
import json
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

import dspy
import pydantic

WORDS = (
    "card",
    "refund",
    "lost it",
    "a b",
    "ü",
    "naïve",
    "x-1",
    "0",
    "none",
    "Yes",
    "true story",
    "[1]",
    "{}",
    "",
)


class Mood(enum.Enum):
    """An Enum of text."""

    GOOD = "good"
    BAD = "very bad"


class Grade(enum.Enum):
    """An Enum of numbers."""

    ONE = 1
    TWO = 2


class Point(pydantic.BaseModel):
    """A model."""

    x: int
    label: str = "here"
    tags: list[str] = []


@dataclass
class Kind:
    """One type of field.

    Attributes:
        text: as it is written in a signature string; None: it cannot be.
        annotation: the Python type.
        value: makes a value, for an input.
        answers: makes what an LM may say for one.
        misfits: what an LM may say that is none.
    """

    text: str | None
    annotation: Any
    value: Callable[[random.Random], Any] | None
    answers: Callable[[random.Random], str] | None = None
    misfits: tuple[str, ...] = ()


def word(dice: random.Random) -> str:
    return " ".join(dice.choice(WORDS[:-1]) for _ in range(dice.randint(1, 4)))


def number(dice: random.Random) -> int:
    return dice.choice([0, 1, -1, 7, 2**40, -(2**70), dice.randint(-1000, 1000)])


def real(dice: random.Random) -> float:
    return dice.choice([0.0, -0.5, 1e300, 3.0, dice.random()])


def words(dice: random.Random) -> list[str]:
    return [word(dice) for _ in range(dice.randint(0, 3))]


def maybe(make: Callable[[random.Random], Any]) -> Callable[[random.Random], Any]:
    return lambda dice: None if dice.random() < 0.3 else make(dice)


def some(values: tuple[Any, ...]) -> Callable[[random.Random], Any]:
    return lambda dice: dice.choice(values)


def as_json(make: Callable[[random.Random], Any]) -> Callable[[random.Random], str]:
    return lambda dice: json.dumps(make(dice))


def distinct(values: tuple[Any, ...]) -> Callable[[random.Random], list[Any]]:
    return lambda dice: dice.sample(values, dice.randint(0, len(values)))


LABELS = ("refund", "card lost", "other", "it's")
NUMBERS = (1, 2, 30)

KINDS: dict[str, Kind] = {
    "text": Kind("str", str, word, word),
    "bool": Kind(
        "bool", bool, some((True, False)), some(("True", "False", "true", "no")), ("perhaps", "2.5")
    ),
    "int": Kind("int", int, number, lambda dice: str(number(dice)), ("many", "1.5", "")),
    "float": Kind("float", float, real, lambda dice: str(real(dice)), ("much", "1,5")),
    "texts": Kind("list[str]", list[str], words, as_json(words), ("{1: ", "7", "[1]")),
    "class": Kind(
        f"Literal{list(LABELS)!r}",
        Literal[LABELS],
        some(LABELS),
        lambda dice: dice.choice(('"{}"', "{}", "'{}'")).format(dice.choice(LABELS[:3])),
        ("refunds", "REFUND", ""),
    ),
    "number class": Kind(
        "Literal[1, 2, 30]",
        Literal[NUMBERS],
        some(NUMBERS),
        lambda dice: str(dice.choice(NUMBERS)),
        ("3", "one"),
    ),
    "labels": Kind(
        f"list[Literal{list(LABELS)!r}]",
        list[Literal[LABELS]],  # type: ignore[valid-type]
        distinct(LABELS),
        as_json(distinct(LABELS)),
        ('["refunds"]', "none of them"),
    ),
    "enum": Kind(None, Mood, some(tuple(Mood)), some(("good", "very bad", "GOOD")), ("bad", "7")),
    "number enum": Kind(None, Grade, some(tuple(Grade)), some(("ONE", "2", "TWO")), ("3", "three")),
    "maybe int": Kind(
        "Optional[int]", int | None, maybe(number), some(("null", "5", "-3", "None")), ("five",)
    ),
    "maybe text": Kind("Optional[str]", str | None, maybe(word), some(("null", "None", "yes", "5"))),
    "maybe class": Kind(
        "Optional[Literal['a', 'b']]",
        Literal["a", "b"] | None,
        maybe(some(("a", "b"))),
        some(("a", "null")),
        ("c",),
    ),
    "counts": Kind(
        "dict[str, int]",
        dict[str, int],
        lambda dice: {word(dice): number(dice) for _ in range(2)},
        as_json(lambda dice: {word(dice): number(dice) for _ in range(2)}),
        ('{"a": "b"}', "[1]"),
    ),
    "point": Kind(
        None,
        Point,
        lambda dice: Point(x=dice.randint(0, 9), tags=words(dice)),
        lambda dice: dice.choice(('{"x": 3}', '{"x": "4", "label": "ü"}', '{"x": 1, "tags": ["a"]}')),
        ('{"label": "no x"}', '{"x": "far"}', "there"),
    ),
    "points": Kind(
        None,
        list[Point],
        lambda dice: [Point(x=dice.randint(0, 9))],
        some(("[]", '[{"x": 3}]')),
        ('[{"y": 3}]', "{}"),
    ),
    "vector": Kind("list[float]", list[float], lambda dice: [real(dice) for _ in range(dice.randint(1, 4))]),
}
INPUTS = list(KINDS)
OUTPUTS = [name for name, kind in KINDS.items() if kind.answers is not None]


@dataclass
class Case:
    """A signature, and a call of it."""

    inputs: dict[str, Kind] = field(default_factory=dict)
    outputs: dict[str, Kind] = field(default_factory=dict)
    values: dict[str, Any] = field(default_factory=dict)
    answers: dict[str, str] = field(default_factory=dict)
    instructions: str | None = None

    @property
    def written(self) -> bool:
        """Whether it can be written as a string."""
        return all(kind.text is not None for kind in (*self.inputs.values(), *self.outputs.values()))

    def as_string(self) -> str:
        sides = [
            ", ".join(name if kind.text == "str" else f"{name}: {kind.text}" for name, kind in side.items())
            for side in (self.inputs, self.outputs)
        ]
        return " -> ".join(sides)

    def as_mapping(self) -> dict[str, Any]:
        sides = {"inputs": self.inputs, "outputs": self.outputs}
        types = {
            side: {name: kind.annotation for name, kind in kinds.items()} for side, kinds in sides.items()
        }
        return types | ({} if self.instructions is None else {"instructions": self.instructions})

    def as_class(self) -> Any:
        fields = {name: (kind.annotation, dspy.InputField()) for name, kind in self.inputs.items()}
        fields |= {
            name: (kind.annotation, dspy.OutputField(desc=f"the {name}"))
            for name, kind in self.outputs.items()
        }
        return dspy.Signature(fields, self.instructions or "Answer.")

    def said(self, answers: dict[str, str] | None = None) -> str:
        """What the LM says."""
        parts = [f"[[ ## {name} ## ]]\n{text}" for name, text in (answers or self.answers).items()]
        return "\n\n".join([*parts, "[[ ## completed ## ]]"])


def case(seed: int) -> Case:
    dice = random.Random(seed)
    made = Case(instructions=None if dice.random() < 0.5 else "Do as you are told.")
    for n in range(dice.randint(1, 3)):
        made.inputs[f"in_{n}"] = KINDS[dice.choice(INPUTS)]
    for n in range(dice.randint(1, 3)):
        made.outputs[f"out_{n}"] = KINDS[dice.choice(OUTPUTS)]
    for name, kind in made.inputs.items():
        assert kind.value is not None
        made.values[name] = kind.value(dice)
    for name, kind in made.outputs.items():
        assert kind.answers is not None
        made.answers[name] = kind.answers(dice)
    return made


class Scripted:
    """An engine that says what it is told to, and keeps what it was asked."""

    def __init__(self) -> None:
        self.text = ""
        self.asked: list[Any] = []

    def complete(self, request: Any) -> Any:
        self.asked.append(request.messages)
        return dspy.lm15.Response(
            id=None,
            model=request.model,
            message=dspy.lm15.Message.assistant(self.text),
            finish_reason="stop",
            usage=dspy.lm15.Usage(input_tokens=1, output_tokens=1, total_tokens=2),
        )

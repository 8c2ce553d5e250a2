"""Small programs that every adapter is tried on: one per kind of output, and some shapes of input."""

from __future__ import annotations

import enum
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from dspex.signature import Signature

__all__ = ["CASES", "WRONG_VALUES", "Case", "Tone", "case"]

_ROWS = 48
_TOPICS = {
    "refund": "please send my money back for this order",
    "card_lost": "the card was stolen and must be blocked",
    "limit": "raise the daily transfer ceiling of our account",
}
_FILLER = ["hello", "today", "again", "thanks", "soon", "quickly", "kindly", "really", "also", "then"]


class Tone(enum.Enum):
    """An Enum whose values are not its names."""

    CALM = "calm tone"
    ANGRY = "angry tone"


@dataclass(frozen=True)
class Case:
    """A signature with examples that a fitted program can learn.

    Attributes:
        name: short, for test ids.
        signature: in a form that `Signature.of` takes.
        examples: mappings of inputs and outputs together.
    """

    name: str
    signature: Any
    examples: tuple[Mapping[str, Any], ...]

    @property
    def parsed(self) -> Signature:
        """The signature, read."""
        return Signature.of(self.signature)

    def rows(self) -> list[dict[str, Any]]:
        """The inputs of the examples."""
        names = self.parsed.inputs
        return [{name: example[name] for name in names} for example in self.examples]

    def __str__(self) -> str:
        return self.name


#: Per kind of input field, values that are no value of it.
WRONG_VALUES: Mapping[str, tuple[Any, ...]] = {
    "text": (3, None, ["a"], b"bytes"),
    "bool": ("yes", None, 2),
    "int": ("1", None, 1.5),
    "float": ("1.0", None, float("nan"), float("inf")),
    "vector": ("abc", None, ["a", "b", "c"], [0.0, float("nan"), 0.0], []),
}


def _text(topic: str, dice: random.Random) -> str:
    words = _TOPICS[topic].split() + dice.sample(_FILLER, 3)
    dice.shuffle(words)
    return " ".join(words)


def _case(name: str, signature: Any, example: Callable[[str, random.Random], Mapping[str, Any]]) -> Case:
    dice = random.Random(name)  # seeded by the name: the same rows in every process
    topics = list(_TOPICS)
    return Case(name, signature, tuple(example(topics[i % len(topics)], dice) for i in range(_ROWS)))


def _several(topic: str, dice: random.Random) -> Mapping[str, Any]:
    return {
        "subject": topic.replace("_", " "),
        "body": _text(topic, dice),
        "label": topic,
        "urgent": topic == "card_lost",
        "score": float(len(topic)),
    }


def _mixed(topic: str, dice: random.Random) -> Mapping[str, Any]:
    return {
        "text": _text(topic, dice),
        "amount": dice.uniform(0, 100),
        "count": dice.randrange(5),
        "paid": topic == "refund",
        "label": topic,
    }


def _vector(topic: str, dice: random.Random) -> Mapping[str, Any]:
    centre = list(_TOPICS).index(topic)
    return {"vec": [float(i == centre) + dice.gauss(0, 0.1) for i in range(3)], "label": topic}


_LABELS = "Literal['refund', 'card_lost', 'limit']"
_ENUM = {"inputs": {"text": "str"}, "outputs": {"tone": Tone}}
_STARS = {"refund": 1, "card_lost": 2, "limit": 3}

CASES: tuple[Case, ...] = (
    _case("literal", f"text -> label: {_LABELS}", lambda t, d: {"text": _text(t, d), "label": t}),
    _case(
        "enum", _ENUM, lambda t, d: {"text": _text(t, d), "tone": Tone.CALM if t == "limit" else Tone.ANGRY}
    ),
    _case("bool", "text -> urgent: bool", lambda t, d: {"text": _text(t, d), "urgent": t == "card_lost"}),
    _case("stars", "text -> stars: Literal[1, 2, 3]", lambda t, d: {"text": _text(t, d), "stars": _STARS[t]}),
    _case(
        "multilabel",
        "text -> topics: list[Literal['money', 'card', 'loss']]",
        lambda t, d: {
            "text": _text(t, d),
            "topics": {"refund": ["money"], "card_lost": ["card", "loss"], "limit": []}[t],
        },
    ),
    _case("float", "text -> score: float", lambda t, d: {"text": _text(t, d), "score": 0.5 * _STARS[t]}),
    _case("int", "text -> count: int", lambda t, d: {"text": _text(t, d), "count": 10 * _STARS[t]}),
    _case("several", f"subject, body -> label: {_LABELS}, urgent: bool, score: float", _several),
    _case("mixed", f"text, amount: float, count: int, paid: bool -> label: {_LABELS}", _mixed),
    _case("vector", f"vec: list[float] -> label: {_LABELS}", _vector),
)


def case(name: str) -> Case:
    """The case of that name."""
    return next(each for each in CASES if each.name == name)

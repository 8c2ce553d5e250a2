"""The options of fitting, checked in one place."""

from __future__ import annotations

import dataclasses
import math
import os
from dataclasses import dataclass
from typing import Any

from dspex.errors import ConfigError, nearest

__all__ = ["FitOptions"]


@dataclass(frozen=True, slots=True, kw_only=True)
class FitOptions:
    """How a program is fitted. The defaults suit texts from a few words to a few hundred.

    Attributes:
        c: inverse strength of regularisation, relative to the default of each model; > 0.
        class_weight: "balanced" weighs classes by the inverse of their frequency; None leaves them.
        min_n, max_n: shortest and longest character n-gram, in characters of the blank-padded word.
        bigrams: whether pairs of neighbouring words are features.
        skipgrams: whether pairs with one word between them are.
        char_weight: weight of character n-grams beside words, 0 to 10; None chooses by the texts' length.
        char_power: an n-gram of a word of g n-grams weighs char_weight * g^-char_power; None chooses, too.
        folds: parts for the held-out calibration, 2 to 10; None takes 3, and 5 with a gate, which also learns
            from them.
        max_epochs: passes over the rows at most, for each model.
        tolerance: a model is done when a pass moves its dual by less than this share.
        min_pair_df: pairs of words in fewer rows than this are left out.
        max_units: words and pairs kept at most; the rarest go first.
        gate: whether to fit the gate of `Result.score` too, which takes about twice as long.
        novelty: with a gate, the share of the examples, the ones least like the others, that score 0; so does
            every input that is as little like them. 0 to 0.5.
    """

    c: float = 1.0
    class_weight: str | None = None
    min_n: int = 2
    max_n: int = 5
    bigrams: bool = True
    skipgrams: bool = False
    char_weight: float | None = None
    char_power: float | None = None
    folds: int | None = None
    max_epochs: int = 40
    tolerance: float = 0.02
    min_pair_df: int = 1
    max_units: int = 1 << 19
    gate: bool = False
    novelty: float = 0.05

    def __post_init__(self) -> None:
        for name, low, high in _RANGES:
            value = getattr(self, name)
            if name in ("char_weight", "char_power", "folds") and value is None:
                continue
            wanted = float if name in _FLOATS else int
            if isinstance(value, bool) or not isinstance(value, int if wanted is int else (int, float)):
                raise _bad(name, value, f"a{'n integer' if wanted is int else ' number'}")
            if not (math.isfinite(value) and low <= value <= high):
                raise _bad(name, value, f"from {low} to {high}")
        for name in ("bigrams", "skipgrams", "gate"):
            if not isinstance(getattr(self, name), bool):
                raise _bad(name, getattr(self, name), "True or False")
        if self.class_weight not in (None, "balanced"):
            raise _bad("class_weight", self.class_weight, "None or 'balanced'")
        if self.min_n > self.max_n:
            raise _bad("min_n", self.min_n, f"at most max_n, {self.max_n}")

    @classmethod
    def of(cls, options: dict[str, Any]) -> FitOptions:
        """Options from keyword arguments.

        Raises:
            ConfigError: an option that does not exist, or a value out of range.
        """
        known = [f.name for f in dataclasses.fields(cls)]
        for name in options:
            if name not in known:
                raise ConfigError(f"fit has no option {name!r}", field=name, hint=nearest(name, known))
        return cls(**options)

    def for_texts(self, mean_chars: float, *, choice: bool) -> FitOptions:
        """These options with an open `char_weight`, `char_power` and `folds` settled for such texts.

        The shorter the text, the more its n-grams must say what its words do not. In cross-validation on
        single intents (about 50 characters) heavy n-grams won, on reviews and news (100 to 250) light ones;
        on several intents a text, and on numbers, the middle.

        Args:
            mean_chars: mean characters of a row's texts.
            choice: whether an output picks one of three classes or more.
        """
        weight, power = (2.5, 0.5) if mean_chars < 80 and choice else (0.35 if choice else 0.5, 0.0)
        return dataclasses.replace(
            self,
            char_weight=weight if self.char_weight is None else self.char_weight,
            char_power=power if self.char_power is None else self.char_power,
            folds=(5 if self.gate else 3) if self.folds is None else self.folds,
        )

    def text(self) -> dict[str, Any]:
        """What the compiled core must know to take the same features from a text again."""
        assert self.char_weight is not None  # settled by for_texts
        assert self.char_power is not None
        return {
            "min_n": self.min_n,
            "max_n": self.max_n,
            "word_weight": 1.0,
            "bigram_weight": 1.0 if self.bigrams else 0.0,
            "skip_weight": 0.5 if self.skipgrams else 0.0,
            "char_weight": float(self.char_weight),
            "char_power": float(self.char_power),
        }

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


_FLOATS = ("c", "char_weight", "char_power", "tolerance", "novelty")
_RANGES: tuple[tuple[str, float, float], ...] = (
    ("c", 1e-6, 1e6),
    ("min_n", 1, 16),
    ("max_n", 1, 16),
    ("char_weight", 0, 10),
    ("char_power", 0, 1),
    ("folds", 2, 10),
    ("max_epochs", 1, 100_000),
    ("tolerance", 1e-9, 1),
    ("novelty", 0, 0.5),
    ("min_pair_df", 1, 1 << 30),
    ("max_units", 1, 1 << 28),
)


def _bad(name: str, value: object, wanted: str) -> ConfigError:
    return ConfigError(f"option {name!r} is {value!r}", field=name, hint=f"It takes {wanted}")


def thread_count(threads: int | None) -> int:
    """The number of threads to use; None means all cores this process may run on.

    Raises:
        ConfigError: not a whole number of at least 1.
    """
    if threads is None:
        return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if isinstance(threads, bool) or not isinstance(threads, int) or threads < 1:
        raise _bad("threads", threads, "a whole number of at least 1")
    return threads

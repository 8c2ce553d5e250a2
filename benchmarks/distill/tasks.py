"""Data sets as traces, and teachers that err."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from functools import cache
from typing import Literal

import dspex
from benchmarks import datasets
from benchmarks.datasets import DataSet, Row
from dspex.distill.trace import Answer, Trace
from dspex.signature import Signature

Noise = Literal["random", "confusable"]

load = cache(datasets.load)


def signature(classes: Sequence[str]) -> Signature:
    return Signature.of({"inputs": {"text": "str"}, "outputs": {"label": list(classes)}})


def traces(rows: Sequence[Row]) -> list[Trace]:
    """Rows as a teacher's answers."""
    return [Trace({"text": row["text"]}, Answer({"label": row["label"]})) for row in rows]


def split(rows: Sequence[Row], share: float, seed: int) -> tuple[list[Trace], list[Trace]]:
    """Rows to learn from and rows that certify: a coin for each row, as for each call; with a share of 1 all
    certify.
    """
    coins = random.Random(seed)
    given: tuple[list[Trace], list[Trace]] = ([], [])
    for trace in traces(rows):
        given[coins.random() < share].append(trace)
    return given


class Teacher:
    """Says the label of a row, or, with a chance of `rate`, another.

    Args:
        rate: share of wrong answers, over the rows of the set.
        noise: "random": every row is as likely to be answered wrongly, with any other class. "confusable":
            the more often a model confuses a class, the more often this teacher does, and with the same
            classes; by held-out predictions on `train`.
    """

    def __init__(self, data: DataSet, rate: float = 0.0, noise: Noise = "random", seed: int = 0) -> None:
        self._coins = random.Random(f"{seed} {noise}")
        self._others = {name: Counter({b: 1 for b in data.classes if b != name}) for name in data.classes}
        self._rates = dict.fromkeys(data.classes, rate)
        if noise == "confusable" and rate:
            mistaken = confusions(data.name)
            seen = Counter(row["label"] for row in data.train)
            self._others = {name: mistaken[name] or self._others[name] for name in data.classes}
            self._rates = _scaled({a: mistaken[a].total() / seen[a] for a in data.classes}, seen, rate)

    def answers(self, rows: Sequence[Row]) -> list[Row]:
        """The rows with its answers in place of their labels."""
        return [{"text": row["text"], "label": self._answer(row["label"])} for row in rows]

    def _answer(self, label: str) -> str:
        if self._coins.random() >= self._rates[label]:
            return label
        others = self._others[label]
        return self._coins.choices(list(others), list(others.values()))[0]


def _scaled(rates: dict[str, float], seen: Counter[str], rate: float) -> dict[str, float]:
    """Rates in proportion to these, none above a half, which make `rate` over all rows."""
    factor = rate / (sum(rates[name] * seen[name] for name in seen) / seen.total())
    for _ in range(50):
        scaled = {name: min(0.5, factor * each) for name, each in rates.items()}
        factor *= rate / (sum(scaled[name] * seen[name] for name in seen) / seen.total())
    return scaled


@cache
def confusions(name: str) -> dict[str, Counter[str]]:
    """Class -> the classes that a model takes it for, and how often; each half of `train` by a model of the
    other.
    """
    data = load(name)
    rows = list(data.train)
    random.Random(0).shuffle(rows)
    halves = rows[::2], rows[1::2]
    found: dict[str, Counter[str]] = {each: Counter() for each in data.classes}
    for own, other in (halves, halves[::-1]):
        program = dspex.fit("text -> label: str", own)
        said = program.batch([{"text": row["text"]} for row in other])
        for row, result in zip(other, said, strict=True):
            if result["label"] != row["label"]:
                found[row["label"]][result["label"]] += 1
    return found

"""The oracle of the gate: its features, and the score that they give; see `reference`."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .reference import Model, answers, logits, ngram_weight, units, unpack_rows

__all__ = ["MAX_ROWS", "familiarity", "features", "score", "standing"]

Floats = NDArray[np.float64]
_TOP = 4  # the feature that is the largest logit
MAX_ROWS = 64  # of weights, of which the evidence is summed
_BLOCK = 64  # units that are looked up together


class Standing(NamedTuple):
    """Where an answer stands among the logits of its head."""

    column: int
    sign: int
    top: float
    margin: float


def standing(head: Mapping[str, Any], own: Floats) -> Standing:
    """Of the logits [columns] of one head."""
    kind = head["kind"]
    if kind == "choice":
        second, top = np.sort(own)[-2:]
        return Standing(int(own.argmax()), 1, float(top), float(top - second))
    if kind == "binary":
        size = abs(float(own[0]))
        return Standing(0, 1 if own[0] >= 0 else -1, size / 2, size)
    if kind == "number":
        return Standing(0, 1, float(own[0]), abs(float(own[0])))
    limit = math.log(head["threshold"] / (1 - head["threshold"]))
    return Standing(int(own.argmax()), 1, float(own.max()), float(np.abs(own - limit).min()))


def _rows(model: Model, inputs: Mapping[str, Any]) -> Iterator[tuple[str, float, float, Floats]]:
    """(kind, known, norm2, weights) of each row in the core's order: of 64 units the known, then n-grams.

    Unknown words and pairs come with a norm of 0 and without weights.
    """
    norm2, weights = unpack_rows(model.arrays["rows"], len(model.arrays["bias"]))
    for field, name in enumerate(name for name, kind, _ in model.inputs if kind == "text"):
        stream = units(inputs[name], field, model.text)
        while block := list(islice(stream, _BLOCK)):
            kinds = ["word" if unit.kind == "word" else "pair" for unit in block]
            found = [model.find(unit.hash) for unit in block]
            for kind, row in zip(kinds, found, strict=True):
                if row is not None:
                    yield kind, 1.0, float(norm2[row]), weights[row]
            for kind, row, unit in zip(kinds, found, block, strict=True):
                if row is not None:
                    continue
                yield kind, 0.0, 0.0, np.empty(0)
                factor = ngram_weight(len(unit.spelled), model.text)
                for row in filter(lambda r: r is not None, map(model.find, unit.spelled)):
                    yield "ngram", 0.0, float(factor**2 * norm2[row]), factor * weights[row]


def features(model: Model, inputs: Mapping[str, Any]) -> list[Floats]:
    """[features] of each head of one call."""
    z = logits(model, inputs)
    rows = list(_rows(model, inputs))
    out, at = [], 0
    for head in model.heads:
        own = z[at : at + head["columns"]]
        _, confidence = answers(_only(model, head), own)
        where = standing(head, own)
        out.append(_features(where, confidence, rows, at + where.column))
        at += head["columns"]
    return out


def _only(model: Model, head: Mapping[str, Any]) -> Model:
    return Model(model.inputs, [head], model.arrays, model.text)


def _features(
    at: Standing, confidence: float | None, rows: list[tuple[str, float, float, Floats]], column: int
) -> Floats:
    norm2 = sum(row[2] for row in rows)
    inverse = 1 / math.sqrt(norm2) if norm2 > 0 else 0.0
    said = [at.sign * float(row[3][column]) * inverse for row in rows if len(row[3])][:MAX_ROWS]
    up = [s for s in said if s > 0]
    squares = sum(s * s for s in said)

    def count(kind: str, known: float) -> int:
        return sum(row[0] == kind and row[1] == known for row in rows)

    words, pairs = count("word", 1) + count("word", 0), count("pair", 1) + count("pair", 0)
    sure = 0.5 if confidence is None else min(max(confidence, 1e-6), 1 - 1e-6)
    return np.array(
        [
            1,
            math.log(sure / (1 - sure)),
            -math.log(sure),
            at.margin,
            at.top,
            sum(up),
            sum(up) - max(up, default=0),
            sum(up) ** 2 / squares if squares > 0 else 0,
            max(up) / sum(up) if up else 0,
            len(up) / len(said) if said else 0,
            math.log(1 + len(up)),
            count("word", 0) / words if words else 0,
            min(count("word", 0), 3),
            count("pair", 0) / pairs if pairs else 0,
            math.log(1 + count("pair", 1)),
            math.log(max(words, 1)),
        ]
    )


def score(model: Model, seen: list[Floats], floor: float | None = None) -> float:
    """The score of features: the least over the heads; 0 where the familiarity is below the floor."""
    if floor is not None and familiarity(model, seen) < floor:
        return 0.0
    return min(1 / (1 + math.exp(-odds)) for odds in _log_odds(model, seen))


def familiarity(model: Model, seen: list[Floats]) -> float:
    """How like the examples an input with these features is: the least over the heads."""
    return min(
        odds + float(own[_TOP]) if head["kind"] == "choice" else odds
        for head, own, odds in zip(model.heads, seen, _log_odds(model, seen), strict=True)
    )


def _log_odds(model: Model, seen: list[Floats]) -> list[float]:
    tables = np.asarray(model.arrays["gate"], np.float64).reshape(len(model.heads), 3, -1)
    return [
        float(weights @ np.clip(own, low, high))
        for own, (weights, low, high) in zip(seen, tables, strict=True)
    ]

"""The oracle of training: the matrix of features, what the solver minimises, and how it becomes a model."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .reference import Unit, ngram_weight, units

__all__ = ["Corpus", "fold_model", "objective"]

Floats = NDArray[np.float64]
_WEIGHT_OF = {"word": "word_weight", "bigram": "bigram_weight", "skipgram": "skip_weight"}


class Corpus:
    """The training texts as a matrix of features.

    Attributes:
        hashes: of the units, in the order they are met.
        frequency: rows that each unit is in.
        members: features of each unit: itself, then its n-grams, as often as they occur.
        values: their values: weight of the kind of feature times smoothed inverse document frequency.
        feature_hashes: the units', then the n-grams'.
        idf: of every feature.
        matrix: [rows, features]; a row's features over the root of the sum of its units' squared norms.
    """

    def __init__(
        self,
        texts: Sequence[Sequence[str]],
        options: Mapping[str, Any],
        min_pair_df: int = 1,
        max_units: int = 1 << 20,
    ) -> None:
        rows = [
            [unit for field, text in enumerate(row) for unit in units(text, field, options)]
            for row in zip(*texts, strict=True)
        ]
        kept = _select(rows, min_pair_df, max_units)
        self.hashes = list(kept)
        self.frequency = [sum(any(u.hash == h for u in row) for row in rows) for h in self.hashes]
        grams = dict.fromkeys(g for unit in kept.values() for g in unit.spelled)
        self.feature_hashes = [*self.hashes, *grams]
        position = {gram: len(kept) + i for i, gram in enumerate(grams)}
        self.members = [[i, *(position[g] for g in u.spelled)] for i, u in enumerate(kept.values())]
        self.idf = self._idf(len(rows))
        self.values = [self._values(i, unit, options) for i, unit in enumerate(kept.values())]
        index = {h: i for i, h in enumerate(self.hashes)}
        self.matrix = self._matrix([[index[u.hash] for u in row if u.hash in kept] for row in rows])

    def _idf(self, rows: int) -> Floats:
        df = np.zeros(len(self.feature_hashes))
        for members, frequency in zip(self.members, self.frequency, strict=True):
            df[sorted(set(members))] += frequency
        return np.asarray(np.log((1 + rows) / (1 + np.minimum(df, rows))) + 1)

    def _values(self, index: int, unit: Unit, options: Mapping[str, Any]) -> Floats:
        members = self.members[index]
        weights = np.full(len(members), ngram_weight(len(members) - 1, options))
        weights[0] = options[_WEIGHT_OF[unit.kind]]
        return np.asarray(self.idf[members] * weights)

    def _matrix(self, rows: list[list[int]]) -> Floats:
        matrix = np.zeros((len(rows), len(self.feature_hashes)))
        for x, row in zip(matrix, rows, strict=True):
            for unit in row:
                np.add.at(x, self.members[unit], self.values[unit])
            norm2 = sum(float(self.values[unit] @ self.values[unit]) for unit in row)
            x /= math.sqrt(norm2) if norm2 > 0 else 1
        return matrix


def _select(rows: Iterable[list[Unit]], min_pair_df: int, max_units: int) -> dict[int, Unit]:
    """The units by hash, in the order they are met: all words, pairs of enough rows; the rarest go first."""
    met: dict[int, Unit] = {}
    frequency: dict[int, int] = {}
    for row in rows:
        for unit in dict.fromkeys(row):
            met.setdefault(unit.hash, unit)
            frequency[unit.hash] = frequency.get(unit.hash, 0) + 1
    kept = [h for h, unit in met.items() if unit.kind == "word" or frequency[h] >= min_pair_df]
    common = set(sorted(kept, key=lambda h: -frequency[h])[:max_units])
    return {h: met[h] for h in kept if h in common}


def objective(loss: str, weights: Floats, x: Floats, targets: Floats, costs: Floats) -> tuple[float, Floats]:
    """(value, gradient) of 1/2 |W|^2 + sum_i cost_i loss(W x_i, target_i), which the solver minimises.

    It is strongly convex with modulus 1: its minimum is at most 1/2 |gradient|^2 below the value.

    Args:
        loss: "hinge" (squared, and for targets between 0 and 1 the squared distance), "squared", "logistic"
            or "softmax".
        weights: [features, columns].
        x: [rows, features].
        targets: [rows, columns].
        costs: [rows].
    """
    score = x @ weights
    if loss == "hinge":
        side = 2 * targets - 1
        lack = np.where(np.isin(targets, (0, 1)), np.maximum(1 - side * score, 0) * side, side - score)
        each, slope = lack**2, -2 * lack
    elif loss == "squared":
        each, slope = (targets - score) ** 2, 2 * (score - targets)
    elif loss == "logistic":
        each = np.logaddexp(0, score) - targets * score
        slope = 1 / (1 + np.exp(-score)) - targets
    else:
        log_sum = np.logaddexp.reduce(score, axis=1, keepdims=True)
        each, slope = targets * (log_sum - score), np.exp(score - log_sum) - targets
    value = 0.5 * float((weights**2).sum()) + float((costs[:, None] * each).sum())
    return value, np.asarray(weights + x.T @ (costs[:, None] * slope))


def fold_model(corpus: Corpus, weights: Floats) -> tuple[list[int], Floats, Floats]:
    """(hashes, norm2, weights) of the finished rows: units, most frequent first, then n-grams.

    A unit's row is the sum of its features' weights times their values; an n-gram's is its weight times idf.
    """
    order = sorted(range(len(corpus.hashes)), key=lambda i: -corpus.frequency[i])
    spellers = range(len(corpus.hashes), len(corpus.feature_hashes))
    hashes = [corpus.hashes[i] for i in order] + [corpus.feature_hashes[f] for f in spellers]
    norm2 = [float((corpus.values[i] ** 2).sum()) for i in order] + [corpus.idf[f] ** 2 for f in spellers]
    rows = [corpus.values[i] @ weights[corpus.members[i]] for i in order]
    rows += [corpus.idf[f] * weights[f] for f in spellers]
    return hashes, np.array(norm2), np.array(rows)

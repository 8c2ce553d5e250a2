"""The union logistic regression written by hand: dicts for the vocabulary, NumPy for the sums.

It runs the fitted model of `sklearn_union_lr`, without scikit-learn, as fast as plain Python and NumPy go.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from benchmarks.datasets import Row
from benchmarks.peers._union import softmax
from benchmarks.peers.base import Floats, Peer

_WORDS = re.compile(r"\b\w\w+\b").findall


class Half:
    """One TF-IDF block of the union: its vocabulary, its idf, and its first row in the matrix."""

    def __init__(self, vectorizer: Any, first_row: int) -> None:
        self.rows = {str(gram): int(i) + first_row for gram, i in vectorizer.vocabulary_.items()}
        self.idf = np.asarray(vectorizer.idf_, dtype=np.float32)
        self.first_row = first_row
        self.sublinear = bool(vectorizer.sublinear_tf)

    def weigh(self, grams: list[str]) -> tuple[Any, Any]:
        """Rows of the matrix and their TF-IDF values at unit norm."""
        lookup = self.rows.get
        counts = Counter(map(lookup, grams))
        counts.pop(None, None)
        rows = np.fromiter(counts.keys(), dtype=np.intp, count=len(counts))
        values = np.fromiter(counts.values(), dtype=np.float32, count=len(counts))
        if self.sublinear and len(counts) < len(grams):  # log(1) + 1 = 1: only repeats change
            np.log(values, out=values)
            values += 1.0
        values *= self.idf[rows - self.first_row]
        norm = float(values.dot(values)) ** 0.5
        if norm:
            values /= norm
        return rows, values


class NumpyByHand(Peer):
    name = "numpy_by_hand"
    requires = ("sklearn",)
    import_statement = "import numpy"
    same_model_as = "sklearn_union_lr"
    timed_texts = 300

    def fit(self, rows: Sequence[Row]) -> None:
        from benchmarks.peers.sklearn_union_lr_peer import UnionLR

        teacher = UnionLR(self.task, self.classes, self.settings)
        teacher.fit(rows)
        self.adopt(teacher)

    def adopt(self, other: Peer) -> None:
        features, model = (step for _, step in other.pipeline.steps)  # type: ignore[attr-defined]
        words, chars = (block for _, block in features.transformer_list)
        if chars.analyzer != "char_wb":
            raise ValueError("numpy_by_hand cuts characters inside words only (char_wb)")
        self.words = Half(words, 0)
        self.chars = Half(chars, len(words.vocabulary_))
        weights = model.coef_.astype(np.float32)
        biases = model.intercept_.astype(np.float32)
        if len(weights) == 1:  # two classes have one row of weights in scikit-learn
            weights, biases = np.vstack([-weights, weights]), np.concatenate([-biases, biases])
        self.matrix = np.ascontiguousarray(weights.T)
        self.biases = biases
        self.temperature = getattr(other, "temperature", 1.0)

    def logits(self, text: str) -> Any:
        text = text.lower()
        words = _WORDS(text)
        grams = words + [f"{a} {b}" for a, b in pairwise(words)]
        rows, values = self.words.weigh(grams)
        more_rows, more_values = self.chars.weigh(_char_grams(text))
        total = values @ self.matrix[rows]
        total += more_values @ self.matrix[more_rows]
        total += self.biases
        return total

    def predict_one(self, inputs: Mapping[str, Any]) -> Any:
        return self.classes[int(self.logits(inputs["text"]).argmax())]

    def predict_many(self, texts: Sequence[str]) -> list[Any]:
        return [self.classes[int(self.logits(text).argmax())] for text in texts]

    def probabilities(self, texts: Sequence[str]) -> Floats | None:
        logits = np.array([self.logits(text) for text in texts], dtype=np.float64)
        return softmax(logits * self.temperature)

    def model_bytes(self) -> int | None:
        vocabulary = sum(len(gram.encode()) for half in (self.words, self.chars) for gram in half.rows)
        return int(vocabulary + self.matrix.nbytes + self.words.idf.nbytes + self.chars.idf.nbytes)

    def version(self) -> str:
        return f"numpy {np.__version__}"


def _char_grams(text: str) -> list[str]:
    """All 2 to 5 grams of each word with a space on both sides, a short word's own whole only once."""
    grams: list[str] = []
    for word in text.split():
        padded = f" {word} "
        size = len(padded)
        for n in range(2, min(5, size) + 1):
            grams += [padded[i : i + n] for i in range(size - n + 1)]
    return grams


PEER = NumpyByHand

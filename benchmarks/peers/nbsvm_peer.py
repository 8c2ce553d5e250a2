"""NB-SVM (Wang and Manning 2012): a linear SVM on word presence scaled by naive Bayes' log-count ratios."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from benchmarks.peers._union import UnionPeer
from benchmarks.peers.base import Settings


class Estimator:
    """Texts in; one binary SVM per class, each on features scaled by that class's own ratios."""

    def __init__(self, c: float, smoothing: float = 1.0) -> None:
        from sklearn.feature_extraction.text import CountVectorizer

        self.c = c
        self.smoothing = smoothing
        self.presence = CountVectorizer(
            ngram_range=(1, 2), binary=True, token_pattern=r"\b\w+\b", dtype=np.float64
        )

    def fit(self, texts: Sequence[str], target: Any) -> Estimator:
        from sklearn.svm import LinearSVC

        rows = self.presence.fit_transform(texts)
        classes = int(target.max()) + 1
        counts = np.vstack([np.asarray(rows[target == k].sum(axis=0)).ravel() for k in range(classes)])
        counts += self.smoothing
        weights, biases = [], []
        for k in [1] if classes == 2 else range(classes):
            inside, outside = counts[k], counts.sum(axis=0) - counts[k]
            ratio = np.log((inside / inside.sum()) / (outside / outside.sum()))
            svm = LinearSVC(C=self.c).fit(rows.multiply(ratio).tocsr(), target == k)
            weights.append(svm.coef_[0] * ratio)
            biases.append(svm.intercept_[0])
        self.weights = np.ascontiguousarray(np.array(weights).T)
        self.biases = np.array(biases)
        return self

    def decision_function(self, texts: Sequence[str]) -> Any:
        values = self.presence.transform(texts) @ self.weights + self.biases
        return values.ravel() if values.shape[1] == 1 else values

    def predict(self, texts: Sequence[str]) -> Any:
        values = self.decision_function(texts)
        return (values > 0).astype(int) if values.ndim == 1 else values.argmax(axis=1)


class NBSVM(UnionPeer):
    name = "nbsvm"
    import_statement = "import sklearn.feature_extraction.text"
    defaults: ClassVar[Settings] = {"C": 0.1}
    grid = tuple({"C": c} for c in (0.01, 0.03, 0.1, 0.3, 1.0))

    def make(self) -> Any:
        return Estimator(self.settings["C"])


PEER = NBSVM

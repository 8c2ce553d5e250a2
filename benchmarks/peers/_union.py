"""What the scikit-learn peers share: the word + character TF-IDF union, and temperature scaling."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from benchmarks.datasets import Row
from benchmarks.peers.base import Floats, Peer, labels_of, texts_of


def union_features(analyzer: str = "char_wb", dtype: type = np.float64) -> Any:
    """Word 1-2 grams and character 2-5 grams, each TF-IDF weighted with unit norm, side by side.

    Sublinear counts: never worse than plain ones here, by cross-validation.
    """
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.pipeline import FeatureUnion

    words = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, dtype=dtype)
    chars = TfidfVectorizer(analyzer=analyzer, ngram_range=(2, 5), sublinear_tf=True, dtype=dtype)
    return FeatureUnion([("words", words), ("chars", chars)])


def margins(estimator: Any, texts: Sequence[str]) -> Floats:
    """Decision values (texts, classes); a binary estimator's one value z becomes (-z, z)."""
    values = np.asarray(estimator.decision_function(texts), dtype=np.float64)
    return np.column_stack([-values, values]) if values.ndim == 1 else values


def softmax(logits: Floats) -> Floats:
    shifted = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(shifted / shifted.sum(axis=1, keepdims=True))


def out_of_fold(make: Callable[[], Any], texts: Sequence[str], target: Any, stratify: bool) -> Floats:
    """Decision values of every row from a model that has not seen it (3 folds)."""
    from sklearn.model_selection import KFold, StratifiedKFold

    folds = (StratifiedKFold if stratify else KFold)(3, shuffle=True, random_state=0)
    found: Floats | None = None
    for seen, unseen in folds.split(np.zeros(len(texts)), target if stratify else None):
        estimator = make().fit([texts[i] for i in seen], target[seen])
        values = margins(estimator, [texts[i] for i in unseen])
        if found is None:
            found = np.zeros((len(texts), values.shape[1]))
        found[unseen] = values
    assert found is not None
    return found


def best_temperature(logits: Floats, target: Any) -> float:
    """The factor on the logits that makes the target likeliest."""
    from scipy.optimize import minimize_scalar

    def loss(log_factor: float) -> float:
        likelihood = softmax(logits * np.exp(log_factor))[np.arange(len(target)), target]
        return float(-np.log(likelihood + 1e-30).mean())

    return float(np.exp(minimize_scalar(loss, bounds=(-3, 5), method="bounded").x))


def best_threshold(values: Floats, target: Any) -> float:
    """The decision threshold, one for all labels, with the best micro-F1."""

    def micro_f1(threshold: float) -> float:
        said = values > threshold
        return float(2 * (said & (target > 0)).sum() / max(1, said.sum() + target.sum()))

    return float(max(np.linspace(-2.0, 1.0, 61), key=micro_f1))


class UnionPeer(Peer):
    """A scikit-learn pipeline on text; subclasses say which estimator ends it."""

    requires = ("sklearn",)
    slow_to_fit = True
    timed_texts = 100

    def make(self) -> Any:
        """An unfitted pipeline of one estimator per task "single" or "score"."""
        raise NotImplementedError

    def fit(self, rows: Sequence[Row]) -> None:
        self.temperature = 1.0
        self.threshold = 0.0
        self.pipeline = self._make_for_task().fit(texts_of(rows), self.target(rows))

    def calibrate(self, rows: Sequence[Row]) -> None:
        if self.task == "score":
            return
        texts, target = texts_of(rows), self.target(rows)
        values = out_of_fold(self._make_for_task, texts, target, stratify=self.task == "single")
        if self.task == "single":
            self.temperature = best_temperature(values, target)
        else:
            self.threshold = best_threshold(values, target)

    def predict_one(self, inputs: Mapping[str, Any]) -> Any:
        return self.predict_many([inputs["text"]])[0]

    def predict_many(self, texts: Sequence[str]) -> list[Any]:
        if self.task == "multi":
            return [self._names(row) for row in self.pipeline.decision_function(texts) > self.threshold]
        found = self.pipeline.predict(texts)
        return [self.classes[i] for i in found] if self.task == "single" else list(found)

    def probabilities(self, texts: Sequence[str]) -> Floats | None:
        if self.task != "single":
            return None
        return softmax(margins(self.pipeline, texts) * self.temperature)

    def model_bytes(self) -> int | None:
        return len(pickle.dumps(self.pipeline, protocol=5))

    def target(self, rows: Sequence[Row]) -> Any:
        index = {name: i for i, name in enumerate(self.classes)}
        labels = labels_of(rows)
        if self.task == "single":
            return np.array([index[label] for label in labels])
        if self.task == "score":
            return np.array(labels, dtype=np.float64)
        target = np.zeros((len(rows), len(self.classes)), dtype=np.int64)
        for row, names in enumerate(labels):
            target[row, [index[name] for name in names]] = 1
        return target

    def _make_for_task(self) -> Any:
        pipeline = self.make()
        if self.task == "multi":
            from sklearn.multiclass import OneVsRestClassifier

            name, estimator = pipeline.steps[-1]
            pipeline.steps[-1] = (name, OneVsRestClassifier(estimator))
        return pipeline

    def _names(self, chosen: Any) -> list[str]:
        return [self.classes[i] for i in np.flatnonzero(chosen)]

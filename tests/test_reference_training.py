"""Parity of training: the features, the optimum of every loss, the finished rows, and the calibration."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest

from dspex import _fit, reference
from dspex.learning.calibrate import probabilities
from dspex.reference_training import Corpus, fold_model, objective
from reference_tools import text_options

WORDS = [
    "lost",
    "card",
    "refund",
    "money",
    "limit",
    "raise",
    "daily",
    "é",
    "界",
    "don't",
    "!!!",
    "👍",
    "ΣΑΣ",
    "x",
]
ROWS, FOLDS = 60, 3
EXACT = {"folds": FOLDS, "threads": 1, "seed": 0, "max_epochs": 3000, "tolerance": 1e-6}
LOSSES = {"hinge": "sigmoid", "logistic": "sigmoid", "squared": "number", "softmax": "softmax"}


class Task:
    """A tiny problem: two text fields, two numbers and a constant, and targets that partly depend on them."""

    def __init__(self, loss: str, columns: int, *, soft: bool = False, **options: Any) -> None:
        rng = random.Random(1)
        numbers = np.random.default_rng(1)
        topics = [[w for i, w in enumerate(WORDS) if (i + row) % 4] for row in range(ROWS)]
        self.texts = [[" ".join(rng.choices(t, k=5)) for t in topics], [rng.choice(t) for t in topics]]
        self.loss, self.columns, self.c = loss, columns, 3.0
        self.options = text_options(**options)
        self.dense = np.hstack([numbers.normal(size=(ROWS, 2)), np.ones((ROWS, 1))]).astype(np.float32)
        self.weights = numbers.choice([0.0, 0.5, 1.0, 2.0], ROWS).astype(np.float32)
        self.folds = (np.arange(ROWS) % FOLDS).astype(np.uint8)
        self.targets = self._targets(numbers, soft)

    def _targets(self, rng: np.random.Generator, soft: bool) -> np.ndarray:
        counts = np.array([[text.split().count(word) for word in WORDS] for text in self.texts[0]])
        said = np.hstack([counts, self.dense[:, :2]])
        score = said @ rng.normal(size=(said.shape[1], self.columns)) + 0.2 * rng.normal(
            size=(ROWS, self.columns)
        )
        if self.loss == "squared":
            return score.astype(np.float32)
        share = np.exp(score - score.max(1, keepdims=True))
        share /= share.sum(1, keepdims=True)
        if soft:
            return share.astype(np.float32)
        hard = share == share.max(1, keepdims=True) if self.columns > 1 else score > np.median(score)
        return hard.astype(np.float32)

    def head(self) -> dict[str, Any]:
        return {
            "kind": LOSSES[self.loss],
            "columns": self.columns,
            "targets": self.targets,
            "weights": self.weights,
            "learners": [(self.loss, self.c)],
        }

    def train(self, **changes: Any) -> tuple[dict[str, Any], np.ndarray, dict[str, Any]]:
        options = EXACT | {"text": self.options, "min_pair_df": 1, "max_units": 1 << 20} | changes
        arrays, held_out, info = _fit.train(self.texts, self.dense, self.folds, [self.head()], options)
        return arrays, held_out[0], info["heads"][0]

    def corpus(self) -> Corpus:
        return Corpus(self.texts, self.options)

    def weights_of(
        self, arrays: dict[str, Any], corpus: Corpus, coefficient: float, bias: float
    ) -> np.ndarray:
        """The trained weights [features + numbers, columns], out of the rows they were folded into."""
        rows = reference.unpack_rows(arrays["rows"], self.columns)[1]
        row_of = {int(h): rows[i] for i, h in enumerate(arrays["hashes"])}
        weights = np.zeros((len(corpus.feature_hashes), self.columns))
        for f in range(len(corpus.hashes), len(weights)):
            weights[f] = row_of[corpus.feature_hashes[f]] / corpus.idf[f]
        for u, (members, values) in enumerate(zip(corpus.members, corpus.values, strict=True)):
            weights[u] = (row_of[corpus.hashes[u]] - values[1:] @ weights[members[1:]]) / values[0]
        constant = arrays["bias"].astype(np.float64) - bias
        return np.vstack([weights, arrays["dense"], constant]) / coefficient


CASES = [
    *[Task(loss, 3) for loss in LOSSES],
    *[Task(loss, 1) for loss in ("hinge", "logistic", "squared")],
    *[Task(loss, 3, soft=True) for loss in ("hinge", "logistic", "softmax")],
    Task("hinge", 5),
    Task("softmax", 6, skip_weight=0.7, char_weight=0.35, char_power=0.0, min_n=1, max_n=3),
]
each_case = pytest.mark.parametrize(
    "task", CASES, ids=lambda t: f"{t.loss}-{t.columns}-{t.targets.ravel()[0]:.1f}"
)


@each_case
def test_the_solver_finds_the_minimum(task: Task) -> None:
    arrays, _, head = task.train()
    (coefficient,) = head["coefficients"]
    assert coefficient > 0.01
    corpus = task.corpus()
    weights = task.weights_of(arrays, corpus, coefficient, head["bias"])
    x = np.hstack([corpus.matrix, task.dense])
    args = (x, task.targets.astype(np.float64), task.c * task.weights.astype(np.float64))
    value, gradient = objective(task.loss, weights, *args)
    start, _ = objective(task.loss, weights * 0, *args)
    assert value < 0.9 * start
    # Strong convexity: the minimum is no further below than half the gradient's square.
    assert 0.5 * float((gradient**2).sum()) < 1e-5 * value
    assert np.abs(gradient).max() < 5e-3 * np.abs(weights).max()


@each_case
def test_the_finished_rows_are_the_weights_folded(task: Task) -> None:
    arrays, _, head = task.train(max_epochs=3)
    (coefficient,) = head["coefficients"]
    corpus = task.corpus()
    weights = task.weights_of(arrays, corpus, coefficient, head["bias"])
    hashes, norm2, rows = fold_model(corpus, coefficient * weights[: len(corpus.feature_hashes)])
    assert [int(h) for h in arrays["hashes"]] == hashes
    ours = reference.unpack_rows(arrays["rows"], task.columns)
    np.testing.assert_allclose(ours[0], norm2, rtol=1e-5)
    np.testing.assert_allclose(ours[1], rows, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("loss", LOSSES)
def test_early_stopping_is_close_to_the_minimum_and_sooner(loss: str) -> None:
    task = Task(loss, 3)
    corpus, values, epochs = task.corpus(), [], []
    for tolerance in (0.03, 1e-6):
        arrays, _, head = task.train(tolerance=tolerance)
        weights = task.weights_of(arrays, corpus, head["coefficients"][0], head["bias"])
        x = np.hstack([corpus.matrix, task.dense])
        values.append(objective(loss, weights, x, task.targets, task.c * task.weights)[0])
        epochs += head["epochs"]
    assert values[1] <= values[0] * 1.0001
    assert values[0] < 1.1 * values[1]
    assert 1 < epochs[0] < epochs[1] < 3000
    assert task.train(max_epochs=2)[2]["epochs"] == [2]


def weighted_loss(task: Task, logits: np.ndarray) -> float:
    """What calibration minimises: the loss, with as much doubt about the targets as one wrong row of all."""
    t, w = task.targets.astype(np.float64), task.weights.astype(np.float64)[:, None]
    if task.loss == "squared":
        return float((w * (logits - t) ** 2).sum())
    t = t + (1 / (ROWS + 2)) * ((1 / task.columns if task.loss == "softmax" else 0.5) - t)
    p = np.clip(probabilities(LOSSES[task.loss], logits), 1e-12, 1 - 1e-12)
    binary = -(t * np.log(p) + (1 - t) * np.log(1 - p))
    return float((w * (binary if LOSSES[task.loss] == "sigmoid" else -t * np.log(p))).sum())


@each_case
def test_held_out_scores_are_calibrated(task: Task) -> None:
    _, held_out, head = task.train(tolerance=0.01)
    best = weighted_loss(task, held_out)
    scores = (held_out - head["bias"]) / head["coefficients"][0]
    for change in (0.9, 0.99, 1.01, 1.1):
        changed = scores * (head["coefficients"][0] * change) + head["bias"]
        assert weighted_loss(task, changed) >= best * (1 - 1e-6)
    if LOSSES[task.loss] != "softmax":
        for change in (-0.05, 0.05):
            assert weighted_loss(task, held_out + change) >= best * (1 - 1e-6)
    else:
        assert head["bias"] == 0


@each_case
def test_held_out_scores_are_of_models_that_did_not_see_the_row(task: Task) -> None:
    _, held_out, head = task.train()
    fold = task.folds == 1
    # Other targets in one fold change what that fold says to the others, and nothing of its own scores.
    other = Task(task.loss, task.columns)
    other.__dict__ |= {k: v for k, v in task.__dict__.items() if k != "targets"}
    other.targets = np.where(fold[:, None], task.targets[::-1], task.targets).astype(np.float32)
    _, changed, changed_head = other.train()

    def raw(logits: np.ndarray, of: dict[str, Any]) -> np.ndarray:
        return (logits - of["bias"]) / of["coefficients"][0]

    if min(head["coefficients"][0], changed_head["coefficients"][0]) < 1e-3:
        pytest.skip("a model that is worse than none has no say")
    ours, theirs = raw(held_out, head), raw(changed, changed_head)
    np.testing.assert_allclose(ours[fold], theirs[fold], rtol=1e-2, atol=2e-3)
    assert np.abs(ours[~fold] - theirs[~fold]).max() > 0.05


def test_units_that_are_too_rare_or_too_many_are_left_out() -> None:
    task = Task("softmax", 3)
    for min_pair_df, max_units in ((2, 1 << 20), (3, 25), (1, 7)):
        arrays, _, _ = task.train(min_pair_df=min_pair_df, max_units=max_units, max_epochs=2)
        corpus = Corpus(task.texts, task.options, min_pair_df, max_units)
        assert len(corpus.hashes) <= max_units
        expected, norm2, _ = fold_model(corpus, np.zeros((len(corpus.feature_hashes), 3)))
        assert [int(h) for h in arrays["hashes"]] == expected
        np.testing.assert_allclose(reference.unpack_rows(arrays["rows"], 3)[0], norm2, rtol=1e-5)


def test_several_heads_and_learners_are_trained_side_by_side() -> None:
    """Each head as if it were alone; of two learners the stacked sum; and their rows in int8."""
    first, second = Task("softmax", 9), Task("hinge", 9)
    options = EXACT | {"text": first.options, "min_pair_df": 1, "max_units": 1 << 20}

    def train(*heads: dict[str, Any]) -> tuple[dict[str, Any], list[np.ndarray], Any]:
        return _fit.train(first.texts, first.dense, first.folds, list(heads), options)

    alone, alone_held_out, _ = train(first.head())
    both, held_out, _ = train(first.head(), second.head())
    np.testing.assert_array_equal(held_out[0], alone_held_out[0])
    _, floats = reference.unpack_rows(alone["rows"], 9)
    _, bytes_ = reference.unpack_rows(both["rows"], 18)
    scale = both["rows"].reshape(len(floats), -1).view(np.float32)[:, :1].astype(np.float64)
    assert np.abs(bytes_[:, :9] - floats).max() > 0
    assert (np.abs(bytes_[:, :9] - floats) <= 0.501 * scale + 1e-9).all()
    np.testing.assert_array_equal(both["bias"][:9], alone["bias"])
    np.testing.assert_array_equal(both["dense"][:, :9], alone["dense"])

    two = first.head() | {"learners": [("softmax", 3.0), ("hinge", 1.0)]}
    arrays, held, info = train(two)
    head = info["heads"][0]
    assert len(head["coefficients"]) == len(head["epochs"]) == 2
    assert weighted_loss(first, held[0]) < weighted_loss(first, np.zeros_like(held[0]))
    assert np.isfinite(reference.unpack_rows(arrays["rows"], 9)[1]).all()

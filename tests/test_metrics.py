"""Metrics against scikit-learn, against worked examples, and on input that cannot be measured."""

from __future__ import annotations

import enum

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dspex import metrics
from dspex.errors import InputError

sklearn_metrics = pytest.importorskip("sklearn.metrics", reason="the reference of these figures")

LABELS = ["a", "b", "c", "d"]
pairs = st.lists(st.tuples(st.sampled_from(LABELS), st.sampled_from(LABELS)), min_size=1, max_size=40)
label_sets = st.lists(
    st.tuples(st.sets(st.sampled_from(LABELS)), st.sets(st.sampled_from(LABELS))), min_size=1, max_size=20
)


@given(pairs)
@settings(max_examples=60, deadline=None)
def test_single_label_scores_equal_sklearn(rows):
    gold, predicted = (list(side) for side in zip(*rows, strict=True))
    assert metrics.accuracy(gold, predicted) == pytest.approx(sklearn_metrics.accuracy_score(gold, predicted))
    assert metrics.macro_f1(gold, predicted) == pytest.approx(
        sklearn_metrics.f1_score(gold, predicted, average="macro", zero_division=0)
    )
    table = metrics.per_class(gold, predicted)
    expected = sklearn_metrics.precision_recall_fscore_support(gold, predicted, zero_division=0)
    assert [score.label for score in table] == sorted({*gold, *predicted})
    assert np.allclose([score[1:] for score in table], np.transpose(expected))


@given(label_sets)
@settings(max_examples=60, deadline=None)
def test_multi_label_scores_equal_sklearn(rows):
    gold, predicted = (list(side) for side in zip(*rows, strict=True))
    binary_gold, binary_predicted = (
        np.array([[label in row for label in LABELS] for row in side]) for side in (gold, predicted)
    )
    assert metrics.micro_f1(gold, predicted) == pytest.approx(
        sklearn_metrics.f1_score(binary_gold, binary_predicted, average="micro", zero_division=0)
    )
    expected = sklearn_metrics.precision_recall_fscore_support(binary_gold, binary_predicted, zero_division=0)
    table = {score.label: score[1:] for score in metrics.per_label(gold, predicted)}
    for at, label in enumerate(LABELS):
        assert table.get(label, (0, 0, 0, 0)) == pytest.approx([column[at] for column in expected])


def test_a_label_given_twice_counts_once():
    assert metrics.micro_f1([["a", "a"]], [["a"]]) == 1.0


def test_mean_absolute_error_equals_sklearn():
    gold, predicted = [1.0, 2.5, -3.0], [1.5, 2.0, 0.0]
    expected = sklearn_metrics.mean_absolute_error(gold, predicted)
    assert metrics.mean_absolute_error(gold, predicted) == pytest.approx(expected)


def test_labels_of_any_hashable_kind():
    class Colour(enum.Enum):
        RED = "red"
        BLUE = "blue"

    gold = [Colour.RED, None, True, 3]
    assert metrics.accuracy(gold, gold) == 1.0
    assert metrics.macro_f1(gold, gold) == 1.0
    assert len(metrics.per_class(gold, [Colour.BLUE, None, True, 3])) == 5


def test_calibration_error_of_two_bins_by_hand():
    # Sorted: 0.2 0.4 | 0.8 1.0; accuracies 0.5 and 1.0; gaps 0.2 and 0.1, both of half the mass.
    confidence, correct = [0.8, 0.2, 1.0, 0.4], [True, False, True, True]
    assert metrics.expected_calibration_error(confidence, correct, bins=2) == pytest.approx(0.15)


def test_calibration_bins_have_equal_mass():
    # 28 rows at 0.9 and 2 at 0.1: bins of equal width would put the 0.1s alone; here each bin holds two rows.
    confidence = [0.9] * 28 + [0.1] * 2
    correct = [1] * 28 + [0] * 2
    assert metrics.expected_calibration_error(confidence, correct) == pytest.approx(0.1)


def test_calibration_of_perfectly_calibrated_answers_is_small():
    rng = np.random.default_rng(0)
    confidence = rng.uniform(0.3, 1, 30_000)
    assert metrics.expected_calibration_error(confidence, rng.uniform(size=30_000) < confidence) < 0.02


def test_calibration_with_fewer_rows_than_bins():
    assert metrics.expected_calibration_error([0.25, 1.0], [0, 1]) == pytest.approx(0.125)


def test_coverage_takes_the_largest_share_and_not_the_first():
    # A mistake at the very top does not end the search: four of five are right.
    confidence, correct = [0.9, 0.8, 0.7, 0.6, 0.5, 0.4], [0, 1, 1, 1, 1, 0]
    assert metrics.coverage_at(confidence, correct, 0.8) == pytest.approx(5 / 6)
    assert metrics.coverage_at(confidence, correct, 0.81) == 0.0


def test_coverage_keeps_ties_together():
    confidence, correct = [0.9, 0.5, 0.5, 0.5], [1, 1, 1, 0]
    assert metrics.coverage_at(confidence, correct, 1.0) == 0.25
    assert metrics.coverage_at(confidence, correct, 0.75) == 1.0


def test_coverage_reaches_targets_that_are_exact_on_paper():
    for target, rows in ((0.95, 20), (0.98, 50), (0.99, 100)):
        correct = [1] * (rows - 1) + [0]
        confidence = np.linspace(1, 0.5, rows)
        assert metrics.coverage_at(confidence, correct, target) == 1.0


@given(st.lists(st.tuples(st.integers(0, 6), st.booleans()), min_size=1, max_size=30), st.floats(0, 1))
@settings(max_examples=80, deadline=None)
def test_coverage_equals_trying_every_threshold(rows, target):
    confidence = [value / 6 for value, _ in rows]
    correct = [right for _, right in rows]
    best = 0.0
    for threshold in set(confidence):
        taken = [right for value, right in zip(confidence, correct, strict=True) if value >= threshold]
        if sum(taken) / len(taken) >= target - 1e-12:
            best = max(best, len(taken) / len(rows))
    assert metrics.coverage_at(confidence, correct, target) == pytest.approx(best)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: metrics.accuracy([], []), "no rows"),
        (lambda: metrics.macro_f1(["a"], []), "1 rows cannot be compared with 0"),
        (lambda: metrics.mean_absolute_error([1.0, float("nan")], [1, 1]), "gold is not finite"),
        (lambda: metrics.mean_absolute_error(["x"], [1]), "gold must be numbers"),
        (lambda: metrics.mean_absolute_error([[1.0]], [1]), "one dimension"),
        (lambda: metrics.expected_calibration_error([1.2], [1]), "between 0 and 1, not 1.2"),
        (lambda: metrics.expected_calibration_error([0.5], [2]), "true or false"),
        (lambda: metrics.expected_calibration_error([0.5], [1], bins=0), "at least 1, not 0"),
        (lambda: metrics.coverage_at([0.5], [1], 95), "between 0 and 1, not 95"),
        (lambda: metrics.coverage_at([], [], 0.9), "no rows"),
    ],
)
def test_what_cannot_be_measured_is_an_error(call, message):
    with pytest.raises(InputError, match=message):
        call()

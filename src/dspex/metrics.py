"""How good answers are: accuracy, F1, error, calibration and selective coverage.

Labels can be any hashable values. Every function raises InputError when its arguments differ in length,
are empty, or hold what cannot be measured.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Hashable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from dspex.errors import InputError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import ArrayLike, NDArray

__all__ = [
    "ClassScore",
    "accuracy",
    "coverage_at",
    "expected_calibration_error",
    "macro_f1",
    "mean_absolute_error",
    "micro_f1",
    "per_class",
    "per_label",
]

# A share that is exact on paper (19 of 20 for 0.95) may differ from its target in the last bit.
_ROUNDING = 1e-12


class ClassScore(NamedTuple):
    """One line of the per-class table; a share of nothing counts as 0."""

    label: Any
    precision: float
    recall: float
    f1: float
    support: int


def accuracy(gold: Sequence[Any], predicted: Sequence[Any]) -> float:
    """Share of rows whose prediction equals the gold label."""
    _check_lengths(gold, predicted)
    return sum(bool(g == p) for g, p in zip(gold, predicted, strict=True)) / len(gold)


def macro_f1(gold: Sequence[Hashable], predicted: Sequence[Hashable]) -> float:
    """Mean F1 over the classes that occur in the gold labels or the predictions, each with equal weight."""
    table = per_class(gold, predicted)
    return sum(score.f1 for score in table) / len(table)


def micro_f1(gold: Sequence[Collection[Hashable]], predicted: Sequence[Collection[Hashable]]) -> float:
    """F1 of multi-label rows over all (row, label) decisions; 0 if no label occurs anywhere."""
    hits, gold_counts, predicted_counts = _label_counts(gold, predicted)
    return _f1(hits.total(), gold_counts.total(), predicted_counts.total())


def per_class(gold: Sequence[Hashable], predicted: Sequence[Hashable]) -> list[ClassScore]:
    """Precision, recall, F1 and support of every class that occurs, sorted by label."""
    return per_label([(label,) for label in gold], [(label,) for label in predicted])


def per_label(
    gold: Sequence[Collection[Hashable]], predicted: Sequence[Collection[Hashable]]
) -> list[ClassScore]:
    """``per_class`` for multi-label rows, each label on its own. Empty if no label occurs anywhere."""
    hits, gold_counts, predicted_counts = _label_counts(gold, predicted)
    return [
        ClassScore(
            label,
            _share(hits[label], predicted_counts[label]),
            _share(hits[label], gold_counts[label]),
            _f1(hits[label], gold_counts[label], predicted_counts[label]),
            gold_counts[label],
        )
        for label in _in_order(gold_counts.keys() | predicted_counts.keys())
    ]


def mean_absolute_error(gold: ArrayLike, predicted: ArrayLike) -> float:
    """Mean distance of predictions from gold numbers, in the unit of the numbers."""
    import numpy as np

    target, guess = _vector(gold, "gold"), _vector(predicted, "predicted")
    _check_lengths(target, guess)
    return float(np.mean(np.abs(target - guess)))


def expected_calibration_error(confidence: ArrayLike, correct: ArrayLike, bins: int = 15) -> float:
    """Mean distance between confidence and accuracy over bins of equal mass.

    Rows are sorted by confidence (equal ones keep their order) and cut into ``bins`` bins whose sizes differ
    by at most one row; bins are weighted by their size. With fewer rows than bins each row is a bin.

    Args:
        confidence: probability given to each answer, 0 to 1.
        correct: whether each answer was right.
        bins: number of bins, at least 1.
    """
    import numpy as np

    if bins < 1:
        raise InputError(f"bins must be at least 1, not {bins}", field="bins")
    sure, right = _confidence_and_correct(confidence, correct)
    order = np.argsort(sure, kind="stable")
    gap = np.array_split((sure - right)[order], min(bins, len(sure)))
    return float(sum(abs(part.sum()) for part in gap) / len(sure))


def coverage_at(confidence: ArrayLike, correct: ArrayLike, accuracy: float) -> float:
    """Largest share of rows that, taken by falling confidence, is right at least ``accuracy`` of the time.

    Rows of equal confidence are taken together or not at all, as a threshold would. 0 if no share is that
    good.
    """
    import numpy as np

    if not 0 <= accuracy <= 1:
        raise InputError(f"a target accuracy lies between 0 and 1, not {accuracy}", field="accuracy")
    sure, right = _confidence_and_correct(confidence, correct)
    order = np.argsort(-sure, kind="stable")
    sure, taken = sure[order], np.arange(1, len(sure) + 1)
    good = np.cumsum(right[order]) / taken >= accuracy - _ROUNDING
    last_of_ties = np.append(sure[1:] != sure[:-1], True)
    allowed = taken[good & last_of_ties]
    return float(allowed[-1] / len(sure)) if len(allowed) else 0.0


def _label_counts(
    gold: Sequence[Collection[Hashable]], predicted: Sequence[Collection[Hashable]]
) -> tuple[Counter[Hashable], Counter[Hashable], Counter[Hashable]]:
    """How often each label was right, was gold, and was predicted."""
    _check_lengths(gold, predicted)
    hits: Counter[Hashable] = Counter()
    gold_counts: Counter[Hashable] = Counter()
    predicted_counts: Counter[Hashable] = Counter()
    for row_gold, row_predicted in zip(gold, predicted, strict=True):
        wanted, given = set(row_gold), set(row_predicted)
        hits.update(wanted & given)
        gold_counts.update(wanted)
        predicted_counts.update(given)
    return hits, gold_counts, predicted_counts


def _share(part: int, whole: int) -> float:
    return part / whole if whole else 0.0


def _f1(hits: int, gold: int, predicted: int) -> float:
    return _share(2 * hits, gold + predicted)


def _in_order(labels: Iterable[Any]) -> list[Any]:
    """Sorted where labels can be compared, else by how they print, so that a table is the same every time."""
    try:
        return sorted(labels)
    except TypeError:
        return sorted(labels, key=lambda label: (type(label).__name__, str(label)))


def _check_lengths(first: Sequence[Any] | NDArray[Any], second: Sequence[Any] | NDArray[Any]) -> None:
    if len(first) != len(second):
        raise InputError(f"{len(first)} rows cannot be compared with {len(second)} rows")
    if len(first) == 0:
        raise InputError("there are no rows to measure")


def _vector(values: ArrayLike, name: str) -> NDArray[np.float64]:
    import numpy as np

    try:
        array = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise InputError(f"{name} must be numbers: {error}", field=name) from None
    if array.ndim != 1:
        raise InputError(f"{name} must have one dimension, not {array.ndim}", field=name)
    if not np.isfinite(array).all():
        raise InputError(f"{name} is not finite", field=name, row=int(np.argmin(np.isfinite(array))))
    return array


def _confidence_and_correct(
    confidence: ArrayLike, correct: ArrayLike
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    import numpy as np

    sure, right = _vector(confidence, "confidence"), _vector(correct, "correct")
    _check_lengths(sure, right)
    outside = (sure < 0) | (sure > 1 + 1e-6)
    if outside.any():
        row = int(np.argmax(outside))
        raise InputError(f"a confidence lies between 0 and 1, not {sure[row]}", field="confidence", row=row)
    if not np.isin(right, (0, 1)).all():
        raise InputError("correct must hold true or false for each row", field="correct")
    return sure, right

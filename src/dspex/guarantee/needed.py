"""How many more rows it takes: a plan, made from all rows there are, that no guarantee depends on."""

from __future__ import annotations

import math
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from dspex.guarantee.binomial import critical, rows_without_errors, tail
from dspex.guarantee.checks import Rows
from dspex.guarantee.costs import hoeffding_bentkus
from dspex.guarantee.planning import Curve, curve_of

__all__ = ["rows_needed"]

Floats = NDArray[np.float64]

_POWER = 0.8  # chance of success of a number that is called enough
_MOST = 10**7  # rows; more than that is never


def rows_needed(rows: Rows, held_out: Curve | None, delta: float) -> int | None:
    """Rows beside the present ones with which some threshold is certified with a chance of 80 %.

    It is the larger of what these rows lack, with their errors, and of what as many fresh rows would lack.

    Args:
        rows: that have certified nothing.
        held_out: what held-out rows say of thresholds, or None.

    Returns:
        At least 1. None where no number would do: at every threshold the risk is too high, as far as held-out
        rows and these together tell.
    """
    own = curve_of(rows)
    curve = own if held_out is None else _joined(held_out, own)
    hopeful = (curve.risk < rows.rate) & (curve.accepted > 0)
    if not hopeful.any():
        return None
    deviation = _deviation(curve, weighted=rows.costs is not None)
    guess = _guess(curve.risk, deviation, rows.rate, delta) / curve.coverage
    best = int(np.argmin(np.where(hopeful, guess, np.inf)))
    coverage, taken = float(curve.coverage[best]), rows.scores >= curve.thresholds[best]
    seen = (int(taken.sum()), float(rows.losses[taken].sum()))
    search = _Search(
        float(curve.risk[best]), float(deviation[best]), rows.rate, delta, rows.costs is not None
    )
    about = float(guess[best]) * coverage
    fresh, more = search.least((0, 0.0), about), search.least(seen, about)
    if fresh is None or more is None:
        return None
    found = max(math.ceil(fresh / coverage) - rows.scores.size, math.ceil(more / coverage), 1)
    return found if found <= _MOST else None


class _Search:
    """The fewest further accepted rows that are enough, of such a risk."""

    def __init__(self, risk: float, deviation: float, rate: float, delta: float, weighted: bool) -> None:
        self._risk, self._deviation, self._rate, self._delta = risk, deviation, rate, delta
        self._weighted = weighted

    def least(self, seen: tuple[int, float], about: float) -> int | None:
        """To two per cent; seen: accepted rows so far and the sum of their losses; about: a guess."""
        low, high = 0, max(1, round(about / 2))
        while not self._enough(high, seen):
            low, high = high, 2 * high
            if high > _MOST:
                return None
        while high - low > max(1, high // 50):
            middle = (low + high) // 2
            low, high = (low, middle) if self._enough(middle, seen) else (middle, high)
        return high

    def _enough(self, more: int, seen: tuple[int, float]) -> bool:
        size, losses = seen[0] + more, seen[1]
        unlucky = losses + more * self._risk + _z(_POWER) * self._deviation * math.sqrt(more)
        if self._weighted:
            p_value = hoeffding_bentkus(np.array([unlucky]), np.array([size]), self._rate)[0]
            return bool(p_value <= self._delta)
        if size > 200_000:  # the normal approximation is good to a per cent by then
            allowed = size * self._rate - _z(1 - self._delta) * math.sqrt(
                size * self._rate * (1 - self._rate)
            )
            return unlucky <= allowed
        most = int(critical(size, self._rate, self._delta)[0]) - int(losses)
        return most >= 0 and tail(most, more, self._risk) >= _POWER


def _z(share: float) -> float:
    return NormalDist().inv_cdf(share)


def _deviation(curve: Curve, *, weighted: bool) -> Floats:
    """[m] of a loss; of a binary one with the same risk where all weigh the same."""
    binary = curve.risk * (1 - curve.risk)
    if not weighted:
        return np.asarray(np.sqrt(binary))
    size = np.maximum(curve.accepted, 1)
    return np.asarray(np.sqrt(np.maximum(curve.squares / size - (curve.losses / size) ** 2, binary / 4)))


def _guess(risk: Floats, deviation: Floats, rate: float, delta: float) -> Floats:
    """[m] accepted rows that it takes, by the normal approximation."""
    spread = _z(1 - delta) * math.sqrt(rate * (1 - rate)) + _z(_POWER) * deviation
    gap = np.maximum(rate - risk, 1e-12)
    return np.asarray(np.maximum((spread / gap) ** 2, rows_without_errors(rate, delta)))


def _joined(one: Curve, other: Curve) -> Curve:
    """The curve of both sets of rows, as far as two thinned curves tell."""
    thresholds = np.unique(np.concatenate((one.thresholds, other.thresholds)))[::-1]
    parts = []
    for curve in (one, other):
        at = np.searchsorted(-curve.thresholds, -thresholds, side="right")
        columns = (curve.accepted, curve.losses, curve.squares)
        parts.append([np.concatenate(([0], column))[at] for column in columns])
    accepted, losses, squares = (a + b for a, b in zip(*parts, strict=True))
    return Curve(thresholds, accepted, losses, squares, one.rows + other.rows)

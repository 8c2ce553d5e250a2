"""Tests for errors that weigh differently: losses in [0, 1] in place of right and wrong."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from dspex.guarantee.binomial import tail

__all__ = ["Betting", "HoeffdingBentkus", "hoeffding_bentkus"]

Floats = NDArray[np.float64]

_CELLS = 4_000_000  # rows times thresholds that are worked out at a time


class HoeffdingBentkus:
    """The p-value of Bates et al. 2021, as in Learn-then-Test: good where losses are nearly 0 or 1."""

    def __init__(self, scores: Floats, losses: Floats, rate: float) -> None:
        order = np.argsort(-scores, kind="stable")
        self._falling = -scores[order]
        self._losses = np.concatenate(([0.0], np.cumsum(losses[order])))
        self._rate = rate

    def p_values(self, thresholds: Floats) -> Floats:
        rows = np.searchsorted(self._falling, -thresholds, side="right")
        return hoeffding_bentkus(self._losses[rows], rows, self._rate)

    def bounds(self, thresholds: Floats, delta: float) -> Floats:
        rows = np.searchsorted(self._falling, -thresholds, side="right")
        losses = self._losses[rows]
        return _least_rejected(lambda rates: hoeffding_bentkus(losses, rows, rates), rows.size, delta)


def hoeffding_bentkus(losses: Floats, rows: NDArray[np.int64], rate: float | Floats) -> Floats:
    """[k] p-values of "the mean is above `rate`" from sums of losses over so many rows."""
    size = np.maximum(rows, 1).astype(np.float64)
    mean = np.minimum(losses / size, rate)
    with np.errstate(divide="ignore", invalid="ignore"):
        left = np.where(mean > 0, mean * np.log(mean / rate), 0.0)
        right = np.where(mean < 1, (1 - mean) * np.log((1 - mean) / (1 - rate)), 0.0)
    hoeffding = np.exp(-rows * (left + right))
    bentkus = math.e * np.asarray(tail(np.ceil(losses).astype(np.int64), rows, rate))
    return np.asarray(np.minimum(np.minimum(hoeffding, bentkus), 1.0))


class Betting:
    """The p-value of Waudby-Smith and Ramdas (2023): good where losses vary little.

    A gambler who bets, row by row, that the losses are below the rate, wins a factor of 1 / p with a chance
    of at most p when they are not. Bets know the rows before only. The rows count in the order given.
    """

    def __init__(self, scores: Floats, losses: Floats, rate: float, delta: float) -> None:
        self._scores, self._losses = scores, losses
        self._rate, self._stake = rate, 2 * math.log(1 / delta)

    def p_values(self, thresholds: Floats) -> Floats:
        block = max(1, _CELLS // max(1, self._scores.size))
        parts = [self._block(thresholds[i : i + block]) for i in range(0, thresholds.size, block)]
        return np.concatenate(parts) if parts else np.empty(0)

    def bounds(self, thresholds: Floats, delta: float) -> Floats:
        return np.array([self._bound(float(threshold), delta) for threshold in thresholds])

    def _bound(self, threshold: float, delta: float) -> float:
        losses = self._losses[self._scores >= threshold][None, :]
        taken = np.ones(losses.shape, bool)
        bets = self._bets(losses, taken)
        return float(_least_rejected(lambda rate: _p_value(bets, losses, taken, rate), 1, delta)[0])

    def _block(self, thresholds: Floats) -> Floats:
        taken = self._scores[None, :] >= thresholds[:, None]
        losses = np.where(taken, self._losses[None, :], 0.0)
        return _p_value(self._bets(losses, taken), losses, taken, self._rate)

    def _bets(self, losses: Floats, taken: NDArray[np.bool_]) -> Floats:
        """[thresholds, rows] in [0, 1]: the plug-in bets, from mean and variance of the rows before."""
        prior = self._rate * (1 - self._rate)
        seen = np.cumsum(taken, axis=1)
        mean = (self._rate + np.cumsum(losses, axis=1)) / (1 + seen)
        square = np.where(taken, (losses - mean) ** 2, 0.0)
        variance = (prior + np.cumsum(square, axis=1)) / (1 + seen)
        before = np.concatenate((np.full((len(losses), 1), prior), variance[:, :-1]), axis=1)
        rows = np.maximum(seen[:, -1:], 1)
        return np.asarray(np.minimum(np.sqrt(self._stake / (rows * before)), 1.0))


def _p_value(bets: Floats, losses: Floats, taken: NDArray[np.bool_], rate: float | Floats) -> Floats:
    if losses.shape[1] == 0:
        return np.ones(len(losses))
    gains = np.where(taken, np.log1p(bets * (rate - losses)), 0.0)
    best = np.maximum(np.cumsum(gains, axis=1).max(axis=1), 0.0)
    return np.asarray(np.exp(-best))


def _least_rejected(p_values: Callable[[Floats], Floats], size: int, delta: float) -> Floats:
    """[size] the least rates whose p-values are at most `delta`, to 1e-9; p-values fall with the rate."""
    low, high = np.zeros(size), np.ones(size)
    for _ in range(30):
        middle = (low + high) / 2
        rejected = p_values(middle) <= delta
        low, high = np.where(rejected, low, middle), np.where(rejected, middle, high)
    return high

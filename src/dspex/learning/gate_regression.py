"""Logistic regression of the gate: ridge-penalised towards the confidence it starts from."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["Regression", "regress", "sigmoid"]

_RIDGE = 3.0
_LOG_ODDS = 1  # the feature that is the answer's confidence
_ROUNDS = 30
_LARGEST = 1e6  # of a weight; beyond it a feature hardly varies


class Regression(NamedTuple):
    """score = sigmoid(weights . clip(features, low, high)); each [features], float32."""

    weights: NDArray[np.float32]
    low: NDArray[np.float32]
    high: NDArray[np.float32]

    def table(self) -> NDArray[np.float32]:
        return np.vstack([self.weights, self.low, self.high])

    def log_odds(self, features: NDArray[np.float32]) -> NDArray[np.float64]:
        """[rows] log-odds of the scores of features [rows, features]."""
        x = np.clip(features, self.low, self.high).astype(np.float64)
        return np.asarray(x @ self.weights.astype(np.float64))


def regress(
    features: NDArray[np.float32], right: NDArray[np.bool_], weights: NDArray[np.float64]
) -> Regression:
    """Fits the probability of being right by Newton's method.

    The penalty pulls towards the calibrated confidence itself, which is what few rows give back.

    Args:
        features: [rows, features], the first all 1.
        right: [rows].
        weights: [rows], >= 0, some > 0.
    """
    x = features[weights > 0].astype(np.float64)
    t, w = right[weights > 0].astype(np.float64), weights[weights > 0]
    low, high = x.min(0), x.max(0)
    w = w * (len(w) / w.sum())
    mean, deviation = np.average(x, axis=0, weights=w), x.std(0)
    varies = deviation > 1e-6 * (1 + np.abs(mean))
    scale = np.where(varies, 1 / np.where(varies, deviation, 1), 0)
    z = (x - mean) * scale
    z[:, 0] = 1
    prior = np.zeros(x.shape[1])
    prior[_LOG_ODDS] = deviation[_LOG_ODDS] * varies[_LOG_ODDS]
    prior[0] = mean[_LOG_ODDS]
    beta = _newton(z, t, w, prior)
    raw = np.clip(beta * scale, -_LARGEST, _LARGEST)
    raw[0] = beta[0] - float(raw[1:] @ mean[1:])
    return Regression(raw.astype(np.float32), low.astype(np.float32), high.astype(np.float32))


def _newton(
    z: NDArray[np.float64], t: NDArray[np.float64], w: NDArray[np.float64], prior: NDArray[np.float64]
) -> NDArray[np.float64]:
    beta = prior.copy()
    value = _loss(z, t, w, prior, beta)
    for _ in range(_ROUNDS):
        p = sigmoid(z @ beta)
        gradient = z.T @ (w * (p - t)) + _RIDGE * (beta - prior)
        hessian = (z.T * (w * p * (1 - p))) @ z + _RIDGE * np.eye(len(beta))
        step = np.linalg.solve(hessian, gradient)
        size = 1.0
        while size > 1e-3 and (after := _loss(z, t, w, prior, beta - size * step)) > value:
            size /= 2
        if size <= 1e-3:
            break
        beta, gained, value = beta - size * step, value - after, after
        if gained < 1e-9 * (1 + value):
            break
    return beta


def _loss(
    z: NDArray[np.float64],
    t: NDArray[np.float64],
    w: NDArray[np.float64],
    prior: NDArray[np.float64],
    beta: NDArray[np.float64],
) -> float:
    margin = z @ beta
    return float(
        (w * (np.logaddexp(0, margin) - t * margin)).sum() + 0.5 * _RIDGE * ((beta - prior) ** 2).sum()
    )


def sigmoid(x: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(1 / (1 + np.exp(-np.clip(x, -80, 80))))

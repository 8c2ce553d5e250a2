"""What the held-out scores of a fit say: how good it is, and where a multi-label yes begins."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dspex import metrics

__all__ = ["best_threshold", "held_out_figures"]


def probabilities(kind: str, logits: NDArray[Any]) -> NDArray[np.float64]:
    """[rows, columns] probabilities of held-out logits."""
    z = logits.astype(np.float64)
    if kind != "softmax":
        return np.asarray(1 / (1 + np.exp(-np.clip(z, -60, 60))))
    e = np.exp(z - z.max(1, keepdims=True))
    return np.asarray(e / e.sum(1, keepdims=True))


def best_threshold(logits: NDArray[Any], targets: NDArray[Any], weights: NDArray[Any]) -> float:
    """The probability from which a label is given, for the best micro-F1 on held-out rows; 0.1 to 0.9."""
    p = probabilities("sigmoid", logits)
    truth = targets >= 0.5
    w = np.broadcast_to(weights[:, None], p.shape)
    grid = np.round(np.arange(0.10, 0.901, 0.01), 2)
    scores = []
    for t in grid:
        given = p >= t
        hit, extra, lost = (float(w[m].sum()) for m in (given & truth, given & ~truth, ~given & truth))
        scores.append(2 * hit / max(2 * hit + extra + lost, 1e-12))
    # The middle of the best stretch is steadier than its highest point.
    smooth = np.convolve(np.pad(scores, 2, mode="edge"), np.ones(5) / 5, mode="valid")
    return float(grid[int(smooth.argmax())])


def held_out_figures(
    meta: Mapping[str, Any], spec: Mapping[str, Any], logits: NDArray[Any]
) -> dict[str, float]:
    """Figures of one head on rows its models did not see: accuracy and calibration, or errors."""
    targets = np.asarray(spec["targets"], dtype=np.float64)
    if meta["kind"] == "number":
        error = (logits[:, 0] - targets[:, 0]) * spec["scale"]
        return {"mean_absolute_error": float(np.abs(error).mean()), "rmse": float(np.sqrt((error**2).mean()))}
    p = probabilities(spec["kind"], logits)
    if meta["kind"] == "multilabel":
        given, truth = p >= meta["threshold"], targets >= 0.5
        hit = float((given & truth).sum())
        return {"micro_f1": 2 * hit / max(float(given.sum() + truth.sum()), 1.0)}
    if meta["kind"] == "binary":
        p, targets = np.hstack([1 - p, p]), np.hstack([1 - targets, targets])
    right = p.argmax(1) == targets.argmax(1)
    return {
        "accuracy": float(right.mean()),
        "ece": float(metrics.expected_calibration_error(p.max(1), right)),
        "log_loss": float(-(targets * np.log(np.clip(p, 1e-12, 1))).sum(1).mean()),
    }

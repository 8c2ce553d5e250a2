"""What a fitted peer gets right on `dev`."""

from __future__ import annotations

from typing import Any

import numpy as np

from benchmarks.datasets import DataSet
from benchmarks.peers.base import Peer
from dspex import metrics

LEVELS = (0.95, 0.98, 0.99)
HEADLINE = {"single": "accuracy", "multi": "micro_f1", "score": "mae"}
"""The figure of each task that the table shows first; a smaller `mae` is better."""


def score(peer: Peer, data: DataSet) -> dict[str, float]:
    """Every figure the task has: see `HEADLINE` and, for single labels, calibration and coverage."""
    truth = data.dev_labels
    said = peer.predict_many(data.dev_texts)
    if data.task == "score":
        return {"mae": metrics.mean_absolute_error(truth, said)}
    if data.task == "multi":
        return {
            "micro_f1": metrics.micro_f1(truth, said),
            "macro_f1": float(np.mean([label.f1 for label in metrics.per_label(truth, said)])),
            "exact": float(np.mean([set(a) == set(b) for a, b in zip(truth, said, strict=True)])),
        }
    found = {"accuracy": metrics.accuracy(truth, said), "macro_f1": metrics.macro_f1(truth, said)}
    table = peer.probabilities(data.dev_texts)
    if table is not None:
        found |= _selective(table, peer.classes, truth)
    return found


def _selective(table: Any, classes: list[str], truth: list[Any]) -> dict[str, float]:
    confidence = table.max(axis=1)
    said = (classes[i] for i in table.argmax(axis=1))
    correct = np.array([a == b for a, b in zip(said, truth, strict=True)])
    found = {"ece": metrics.expected_calibration_error(confidence, correct, bins=15)}
    for level in LEVELS:
        found[f"coverage_{level * 100:.0f}"] = metrics.coverage_at(confidence, correct, level)
    return found

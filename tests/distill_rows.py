"""Rows whose words tell their label, for tests of distillation."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from dspex.distill.trace import Answer, Trace
from dspex.signature import Signature

TEXT = Signature.of("text -> label")
WORDS = {
    "refund": "money back refund charge",
    "lost": "lost card stolen wallet",
    "open": "open hours when today",
}
LABELS = {name: name for name in WORDS}


def trace(text: str, label: object, name: str = "label") -> Trace:
    return Trace({"text": text}, Answer({name: label}), source="trainset")


def easy(rows: int, seed: int, noise: float = 0.0, labels: Mapping[str, str] = LABELS) -> list[Trace]:
    """Texts whose words tell the label; of a share `noise` of them it is drawn by chance."""
    rng = np.random.default_rng(seed)
    names = list(WORDS)
    out = []
    for _ in range(rows):
        name = names[rng.integers(3)]
        words = [str(w) for w in rng.choice(WORDS[name].split(), 3)] + [f"x{rng.integers(400)}"]
        label = names[rng.integers(3)] if rng.random() < noise else labels[name]
        out.append(trace(" ".join(words), label))
    return out

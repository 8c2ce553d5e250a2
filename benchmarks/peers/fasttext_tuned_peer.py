"""fastText at its most accurate: 100 dimensions, word bigrams, character n-grams."""

from __future__ import annotations

from typing import ClassVar

from benchmarks.peers._fasttext import FastTextPeer
from benchmarks.peers.base import Settings


class FastTextTuned(FastTextPeer):
    name = "fasttext_tuned"
    defaults: ClassVar[Settings] = {
        "dim": 100,
        "wordNgrams": 2,
        "bucket": 200_000,
        "minn": 3,
        "maxn": 6,
        "lr": 0.5,
        "epoch": 50,
    }
    grid = tuple(
        {"minn": minn, "maxn": maxn, "lr": lr, "epoch": epoch}
        for minn, maxn in ((2, 5), (3, 6))
        for lr, epoch in ((0.1, 10), (0.2, 25), (0.5, 25), (0.5, 50), (1.0, 25))
    )
    folds_if_large = 1


PEER = FastTextTuned

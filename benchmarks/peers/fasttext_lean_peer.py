"""fastText at its leanest: 32 dimensions, words only."""

from __future__ import annotations

from typing import ClassVar

from benchmarks.peers._fasttext import FastTextPeer
from benchmarks.peers.base import Settings


class FastTextLean(FastTextPeer):
    name = "fasttext_lean"
    defaults: ClassVar[Settings] = {"dim": 32, "wordNgrams": 1, "minn": 0, "maxn": 0, "lr": 0.5, "epoch": 25}
    grid = tuple(
        {"lr": lr, "epoch": epoch} for lr, epoch in ((0.1, 10), (0.2, 25), (0.5, 25), (0.5, 50), (1.0, 25))
    )
    folds_if_large = 1


PEER = FastTextLean

"""Find each peer's best settings by cross-validation on `train`, and keep them in `settings.json`.

    python -m benchmarks.tune [--sets ...] [--peers ...]

`dev` plays no part. A data set without settings of its own is run with the peers' defaults.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np

from benchmarks import datasets
from benchmarks.datasets import DataSet
from benchmarks.peers import NAMES, peer_class, reason_to_skip
from benchmarks.peers.base import Peer, Settings

FILE = Path(__file__).with_name("settings.json")
FOLDS = 5
LARGE = 100_000
"""Rows times classes from which a slow peer is tuned on fewer folds."""


def all_settings() -> dict[str, dict[str, Settings]]:
    found: dict[str, dict[str, Settings]] = json.loads(FILE.read_text()) if FILE.is_file() else {}
    return found


def settings_for(data: str, peer: str) -> Settings:
    """The settings found for this peer on this data set; those of the peer whose model it runs."""
    return all_settings().get(data, {}).get(peer_class(peer).same_model_as or peer, {})


def tune(cls: type[Peer], data: DataSet) -> tuple[Settings, float]:
    """The best of the peer's grid, and its mean score over the folds (larger is better)."""
    folds = _folds(data)
    large = len(data.train) * max(1, len(data.classes)) > LARGE
    best: tuple[Settings, float] | None = None
    for settings in cls.grid:
        numbers = range(cls.folds_if_large if large else FOLDS)
        mean = float(np.mean([_fold_score(cls, settings, data, folds == k) for k in numbers]))
        print(f"  {data.name} {cls.name} {settings}: {mean:.4f}", flush=True)
        if best is None or mean > best[1]:
            best = settings, mean
    assert best is not None
    return best


def _folds(data: DataSet) -> np.ndarray:
    """A fold number for each row; every class is spread over all folds."""
    order = np.random.default_rng(0).permutation(len(data.train))
    if data.task == "single":
        labels = np.array([str(row["label"]) for row in data.train])
        order = order[np.argsort(labels[order], kind="stable")]
    folds = np.empty(len(order), dtype=np.int64)
    folds[order] = np.arange(len(order)) % FOLDS
    return folds


def _fold_score(cls: type[Peer], settings: Settings, data: DataSet, held_out: np.ndarray) -> float:
    from benchmarks.scores import HEADLINE, score

    seen = [row for row, out in zip(data.train, held_out, strict=True) if not out]
    unseen = [row for row, out in zip(data.train, held_out, strict=True) if out]
    fold = DataSet(data.name, data.task, seen, unseen)
    peer = cls(data.task, fold.classes, settings)
    peer.fit(seen)
    if data.task == "multi":
        peer.calibrate(seen)
    found = score(peer, fold)[HEADLINE[data.task]]
    return -found if data.task == "score" else found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sets", nargs="*", default=None)
    parser.add_argument("--peers", nargs="*", default=list(NAMES))
    options = parser.parse_args()
    for name in options.sets or datasets.available():
        data = datasets.load(name)
        for peer in options.peers:
            cls = peer_class(peer)
            if not cls.grid or reason_to_skip(peer, data):
                continue
            settings, _ = tune(cls, data)
            known = all_settings()
            known.setdefault(name, {})[peer] = settings
            FILE.write_text(json.dumps(known, indent=2, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()

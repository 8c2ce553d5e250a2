"""Fitted peers of earlier runs, kept in a folder, so that a run need not wait for lbfgs again.

Used only when asked for, and never for dspex. The key holds the rows, the settings and the version.
"""

from __future__ import annotations

import hashlib
import json
import pickle
from pathlib import Path
from typing import Any

from benchmarks.datasets import DataSet
from benchmarks.peers.base import Peer


def _path(folder: Path, peer: Peer, data: DataSet) -> Path:
    key = json.dumps([peer.name, peer.settings, peer.version(), data.name, data.train], sort_keys=True)
    return folder / f"{data.name}-{peer.name}-{hashlib.sha256(key.encode()).hexdigest()[:16]}.pickle"


def recall(folder: Path | None, peer: Peer, data: DataSet) -> tuple[Peer, dict[str, Any]] | None:
    """The kept peer and its figures, or None."""
    if folder is None or not peer.slow_to_fit:
        return None
    path = _path(folder, peer, data)
    if not path.is_file():
        return None
    kept: tuple[Peer, dict[str, Any]] = pickle.loads(path.read_bytes())
    return kept


def remember(folder: Path | None, peer: Peer, data: DataSet, figures: dict[str, Any]) -> None:
    if folder is None or not peer.slow_to_fit:
        return
    folder.mkdir(parents=True, exist_ok=True)
    _path(folder, peer, data).write_bytes(pickle.dumps((peer, figures), protocol=5))

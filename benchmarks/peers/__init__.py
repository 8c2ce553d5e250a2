"""The peers: one file each, one interface (see `base`). A new peer is a new file and one line here."""

from __future__ import annotations

import importlib
import importlib.util

from benchmarks.datasets import DataSet
from benchmarks.peers.base import Peer

# In the order of the table: dspex first, since every ratio is against it.
NAMES = (
    "dspex",
    "fasttext_tuned",
    "fasttext_lean",
    "sklearn_union_svc",
    "sklearn_union_lr",
    "sklearn_union_ridge",
    "nbsvm",
    "numpy_by_hand",
    "onnx_words",
    "dspy_instant",
)


def peer_class(name: str) -> type[Peer]:
    if name not in NAMES:
        raise SystemExit(f"no peer {name!r}; there are: {', '.join(NAMES)}")
    found: type[Peer] = importlib.import_module(f"benchmarks.peers.{name}_peer").PEER
    return found


def reason_to_skip(name: str, data: DataSet) -> str | None:
    """Why this peer cannot run on this data set, or None when it can."""
    cls = peer_class(name)
    if data.task not in cls.tasks:
        return f"does not do the task {data.task!r}"
    missing = [module for module in cls.requires if importlib.util.find_spec(module) is None]
    return f"not installed: {', '.join(missing)}" if missing else None

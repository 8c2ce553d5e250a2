"""Programs fitted on `train`, and the inputs they are called with: the texts of `dev`.

A fit takes a second or some; with a folder to keep them in, programs of earlier runs are taken from there.
The key holds the rows and the version of dspex, as in `benchmarks.keep`.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import dspex
from benchmarks import datasets
from benchmarks.peers.dspex_peer import SIGNATURES
from benchmarks.rounds import say

Inputs = dict[str, str]


@dataclass(frozen=True)
class Fitted:
    """A data set's program, and distinct inputs for it."""

    name: str
    program: Any
    rows: list[Inputs]

    def many(self, count: int) -> list[Inputs]:
        """That many inputs: over and over the same, in order."""
        return (self.rows * (-(-count // len(self.rows))))[:count]


def fitted(name: str, keep: Path | None) -> Fitted:
    data = datasets.load(name)
    rows = [{"text": text} for text in dict.fromkeys(data.dev_texts)]
    path = None
    if keep is not None:
        key = json.dumps([version("dspex"), data.name, data.train], sort_keys=True)
        path = keep / f"{name}-dspex-{hashlib.sha256(key.encode()).hexdigest()[:16]}.dspex"
        if path.is_file():
            return Fitted(name, dspex.load(path), rows)
    say(f"fitting {name}")
    program: Any = dspex.fit(SIGNATURES[data.task], data.train)
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        program.save(path)
    return Fitted(name, program, rows)

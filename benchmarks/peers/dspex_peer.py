"""dspex itself, through its public face."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.datasets import Row
from benchmarks.peers.base import Floats, Peer

SIGNATURES = {
    "single": "text -> label: str",
    "multi": "text -> label: list[str]",
    "score": "text -> label: float",
}


class Dspex(Peer):
    name = "dspex"
    tasks = frozenset({"single", "multi", "score"})
    requires = ("dspex",)
    import_statement = "import dspex"
    timed_texts = 2000

    def fit(self, rows: Sequence[Row]) -> None:
        import dspex

        self.program = dspex.fit(SIGNATURES[self.task], rows, **self.settings)
        self.one_core = dspex.Pool(size=1)  # as the peers; benchmarks.pool shows what more cores bring

    def predict_one(self, inputs: Mapping[str, Any]) -> Any:
        return self.program.predict(inputs)["label"]

    def caller(self) -> Callable[[Mapping[str, Any]], Any]:
        predict: Callable[[Mapping[str, Any]], Any] = self.program.predict
        return predict

    def predict_many(self, texts: Sequence[str]) -> list[Any]:
        results = self.program.batch([{"text": text} for text in texts], pool=self.one_core)
        return [result["label"] for result in results]

    def probabilities(self, texts: Sequence[str]) -> Floats | None:
        if self.task != "single":
            return None
        results = self.program.batch([{"text": text} for text in texts])
        tables = [result.probabilities("label") for result in results]
        return np.array([[table[name] for name in self.classes] for table in tables])

    def model_bytes(self) -> int | None:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "model.dspex")
            self.program.save(path)
            return path.stat().st_size

    def version(self) -> str:
        from importlib.metadata import version

        return f"dspex {version('dspex')}"


PEER = Dspex

"""What the two fastText peers share: the text made ready, training from a file, the two ways to predict."""

from __future__ import annotations

import os
import random
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.datasets import Row
from benchmarks.peers.base import Floats, Peer

LABEL = "__label__"
# fastText splits on white space only, so punctuation is set apart from the words, as its tutorial does.
# A newline would end the line.
_APART = str.maketrans({**{c: f" {c} " for c in ".,!?'\"()/:;"}, "\n": " ", "\r": " "})


def ready(text: str) -> str:
    return text.lower().translate(_APART)


class FastTextPeer(Peer):
    """fastText, called through the binding that its `predict` wraps: the wrapper fails on NumPy 2."""

    tasks = frozenset({"single", "multi"})
    requires = ("fasttext",)
    import_statement = "import fasttext"

    def fit(self, rows: Sequence[Row]) -> None:
        import fasttext

        # fastText takes the rows in the order of the file: sorted ones cost it up to five points.
        order = list(rows)
        random.Random(0).shuffle(order)
        index = {name: i for i, name in enumerate(self.classes)}
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "rows.txt")
            with path.open("w", encoding="utf-8") as file:
                for row in order:
                    names = row["label"] if self.task == "multi" else [row["label"]]
                    labels = " ".join(f"{LABEL}{index[name]}" for name in names)
                    file.write(f"{labels} {ready(row['text'])}\n")
            # A list of labels needs one sigmoid each in place of one softmax.
            loss = "ova" if self.task == "multi" else "softmax"
            threads = os.cpu_count() or 1
            model = fasttext.train_supervised(
                str(path), loss=loss, thread=threads, verbose=0, label=LABEL, **self.settings
            )
        self.model = model
        self.native = model.f

    def predict_one(self, inputs: Mapping[str, Any]) -> Any:
        text = ready(inputs["text"]) + "\n"
        if self.task == "multi":
            found = self.native.predict(text, -1, 0.5, "strict")
            return [self.classes[int(label[len(LABEL) :])] for _, label in found]
        found = self.native.predict(text, 1, 0.0, "strict")
        # Only a text without one known word, or none, gets no label at all.
        return self.classes[int(found[0][1][len(LABEL) :])] if found else self.classes[0]

    def predict_many(self, texts: Sequence[str]) -> list[Any]:
        if self.task == "multi":
            return [self.predict_one({"text": text}) for text in texts]
        labels, _ = self.native.multilinePredict([ready(text) + "\n" for text in texts], 1, 0.0, "strict")
        return [self.classes[int(found[0][len(LABEL) :])] if found else self.classes[0] for found in labels]

    def probabilities(self, texts: Sequence[str]) -> Floats | None:
        if self.task != "single":
            return None
        table = np.zeros((len(texts), len(self.classes)))
        for row, text in zip(table, texts, strict=True):
            for probability, label in self.native.predict(ready(text) + "\n", -1, 0.0, "strict"):
                row[int(label[len(LABEL) :])] = probability
        table += 1e-12  # a text of unknown words only has no label at all
        return np.asarray(table / table.sum(axis=1, keepdims=True))

    def model_bytes(self) -> int | None:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "model.bin")
            self.model.save_model(str(path))
            return path.stat().st_size

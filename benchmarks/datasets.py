"""The data sets under DSPEX_DATA: one folder each, with `train.jsonl` and `dev.jsonl`."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, TypedDict

Task = Literal["single", "multi", "score"]


class Row(TypedDict):
    text: str
    label: Any


@dataclass(frozen=True)
class DataSet:
    """Rows to fit on and rows to measure on. The task follows from the type of the labels."""

    name: str
    task: Task
    train: list[Row]
    dev: list[Row]

    @cached_property
    def classes(self) -> list[str]:
        """The labels seen in `train`, sorted; empty for a score."""
        if self.task == "score":
            return []
        if self.task == "multi":
            return sorted({label for row in self.train for label in row["label"]})
        return sorted({row["label"] for row in self.train})

    @cached_property
    def dev_texts(self) -> list[str]:
        return [row["text"] for row in self.dev]

    @cached_property
    def dev_labels(self) -> list[Any]:
        return [row["label"] for row in self.dev]


def data_root() -> Path:
    root = os.environ.get("DSPEX_DATA")
    if not root:
        raise SystemExit("set DSPEX_DATA to a folder of data sets (NAME/train.jsonl, NAME/dev.jsonl)")
    return Path(root)


def available() -> list[str]:
    """Names of the data sets under DSPEX_DATA, in alphabetical order."""
    folders = [path.parent for path in data_root().glob("*/train.jsonl")]
    return sorted(folder.name for folder in folders if (folder / "dev.jsonl").is_file())


def load(name: str) -> DataSet:
    folder = data_root() / name
    if not folder.is_dir():
        raise SystemExit(f"no data set {name!r} under DSPEX_DATA; there are: {', '.join(available())}")
    train, dev = (_read(folder / f"{split}.jsonl") for split in ("train", "dev"))
    return DataSet(name, _task(train), train, dev)


def _read(path: Path) -> list[Row]:
    with path.open(encoding="utf-8") as lines:
        rows: list[Row] = [json.loads(line) for line in lines if line.strip()]
    for row in rows:
        if isinstance(row["label"], list):  # a few rows of NLU++ name a label twice
            row["label"] = list(dict.fromkeys(row["label"]))
    return rows


def _task(rows: list[Row]) -> Task:
    label = rows[0]["label"]
    if isinstance(label, list):
        return "multi"
    return "score" if isinstance(label, float) else "single"

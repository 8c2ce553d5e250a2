"""The one interface of every peer.

A peer module imports its library inside its methods, so that a missing one is reported as skipped, and
exports its class as `PEER`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from benchmarks.datasets import Row, Task

Floats = NDArray[np.float64]
Settings = dict[str, Any]


class Peer(ABC):
    """Something that learns `text -> label` from rows.

    Args:
        task: "single" (one label), "multi" (a list of labels) or "score" (a number).
        classes: the labels in the order of the columns of `probabilities`; empty for a score.
        settings: overrides of `defaults`, as found by `python -m benchmarks.tune`.
    """

    name: ClassVar[str]
    tasks: ClassVar[frozenset[Task]] = frozenset({"single"})
    requires: ClassVar[tuple[str, ...]] = ()
    import_statement: ClassVar[str]
    """What a service that only predicts has to import."""
    defaults: ClassVar[Settings] = {}
    grid: ClassVar[tuple[Settings, ...]] = ()
    """The settings `benchmarks.tune` tries; empty: nothing to tune."""
    folds_if_large: ClassVar[int] = 5
    """How many of its five folds `benchmarks.tune` scores on a large data set; 1 if a fit takes minutes."""
    same_model_as: ClassVar[str | None] = None
    """The peer whose fitted model this one runs in another way; it is handed over through `adopt`."""
    has_accuracy: ClassVar[bool] = True
    """False for a peer that is there for its latency only."""
    slow_to_fit: ClassVar[bool] = False
    """True: `benchmarks.run --keep` may take the fitted peer of an earlier run on the same rows."""
    timed_texts: ClassVar[int] = 1000
    """Single calls per round of timing; fewer for a slow peer."""

    def __init__(self, task: Task, classes: Sequence[str], settings: Settings | None = None) -> None:
        self.task = task
        self.classes = list(classes)
        self.settings = {**self.defaults, **(settings or {})}

    @abstractmethod
    def fit(self, rows: Sequence[Row]) -> None:
        """Learn from the rows. What happens here is the fit time of the table."""

    def calibrate(self, rows: Sequence[Row]) -> None:  # noqa: B027  (most peers have nothing to do)
        """Make the probabilities honest on the rows of `fit`. Not part of the fit time."""

    def adopt(self, other: Peer) -> None:
        """Take over the fitted model of the peer named by `same_model_as`."""
        raise NotImplementedError

    @abstractmethod
    def predict_one(self, inputs: Mapping[str, Any]) -> Any:
        """One label (a list of them, or a number) for `{"text": ...}`."""

    @abstractmethod
    def predict_many(self, texts: Sequence[str]) -> list[Any]:
        """A label per text, in the way this library does many texts fastest on one core."""

    @abstractmethod
    def probabilities(self, texts: Sequence[str]) -> Floats | None:
        """Array (texts, classes), rows summing to one; None if the peer has none."""

    @abstractmethod
    def model_bytes(self) -> int | None:
        """Size of the model as the library itself stores it; None if it has none."""

    def caller(self) -> Callable[[Mapping[str, Any]], Any]:
        """What the single-call timing calls: mapping in, answer out, no wrapper in between."""
        return self.predict_one

    def version(self) -> str:
        """Name and version of the library, for the record."""
        from importlib.metadata import version

        module = (self.requires or ("numpy",))[0]
        names = {"sklearn": "scikit-learn", "fasttext": "fasttext-wheel", "skl2onnx": "onnxruntime"}
        name = names.get(module, module)
        return f"{name} {version(name)}"


def texts_of(rows: Sequence[Row]) -> list[str]:
    return [row["text"] for row in rows]


def labels_of(rows: Sequence[Row]) -> list[Any]:
    return [row["label"] for row in rows]

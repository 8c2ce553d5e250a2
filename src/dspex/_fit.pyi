"""The compiled trainer; see src/_native/_fit.pyx."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

def train(
    texts: list[list[str]],
    dense: NDArray[np.float32],
    folds: NDArray[np.uint8],
    heads: list[dict[str, Any]],
    options: dict[str, Any],
    progress: Callable[[float], object] | None = None,
) -> tuple[dict[str, NDArray[Any]], list[NDArray[np.float32]], dict[str, Any]]: ...
def refine(
    arrays: Mapping[str, NDArray[Any]],
    text: dict[str, Any],
    texts: list[list[str]],
    dense: NDArray[np.float32],
    heads: list[dict[str, Any]],
    trained_rows: int,
    c: float,
    seed: int,
) -> dict[str, NDArray[Any]]: ...
def gate_features(
    head: Mapping[str, Any], logits: NDArray[np.float32], evidence: NDArray[np.float32]
) -> NDArray[np.float32]: ...

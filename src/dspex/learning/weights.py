"""The weights of examples, checked."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from dspex.errors import InputError

__all__ = ["sample_weights"]


def sample_weights(sample_weight: Iterable[float] | None, rows: int) -> NDArray[np.float32]:
    if sample_weight is None:
        return np.ones(rows, np.float32)
    hint = "Give one finite number >= 0 for every example, some of them > 0"
    try:
        weights = np.asarray(list(sample_weight), dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise InputError(f"sample_weight is not numbers: {error}", field="sample_weight", hint=hint) from None
    if weights.shape != (rows,):
        raise InputError(
            f"sample_weight has shape {weights.shape}, not ({rows},)", field="sample_weight", hint=hint
        )
    bad = ~np.isfinite(weights) | (weights < 0) | (weights > 1e6)
    if bad.any():
        row = int(bad.argmax())
        raise InputError(f"the weight is {weights[row]}", field="sample_weight", row=row, hint=hint)
    if not weights.any():
        raise InputError("every weight is 0", field="sample_weight", hint=hint)
    return weights.astype(np.float32)

"""partial_fit: new examples for a finished program."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np

from dspex import _fit
from dspex.errors import ConfigError, InputError
from dspex.learning.examples import read_examples
from dspex.learning.targets import head_targets
from dspex.learning.weights import sample_weights

if TYPE_CHECKING:
    from dspex.program import Program

__all__ = ["refined"]

_LOSSES = {"choice": "softmax", "binary": "logistic", "multilabel": "logistic", "number": "squared"}


def refined(
    program: Program, examples: Any, sample_weight: Iterable[float] | None, c: float
) -> tuple[dict[str, Any], dict[str, Any]]:
    """(arrays, meta) of the program after new examples; see `Program.partial_fit`."""
    if isinstance(c, bool) or not isinstance(c, (int, float)) or not 0 < c <= 1e6:
        raise ConfigError(f"option 'c' is {c!r}", field="c", hint="It takes a number above 0, up to 1e6")
    meta = program._meta
    _, columns = read_examples(program.signature, examples)
    weights = sample_weights(sample_weight, columns.rows)
    answers = [dict(head) for head in meta["heads"]]
    heads = []
    for head, (name, field) in zip(answers, program.signature.outputs.items(), strict=True):
        targets = head_targets(field, head, columns.outputs[name])
        if head["kind"] == "number":
            head |= {
                "low": min(head["low"], float(targets.min())),
                "high": max(head["high"], float(targets.max())),
            }
            targets = ((targets - head["offset"]) / head["scale"]).astype(np.float32)
        heads.append(
            {
                "loss": _LOSSES[head["kind"]],
                "columns": head["columns"],
                "targets": targets,
                "weights": weights,
            }
        )
    texts = [columns.inputs[name] for name, kind, _ in meta["inputs"] if kind == "text"]
    parts = [
        _numbers(columns.inputs[name], name, width) for name, kind, width in meta["inputs"] if kind != "text"
    ]
    raw = np.hstack([*parts, np.empty((columns.rows, 0))])
    mean, factor = program._arrays["dense_scale"]
    dense = np.hstack([((raw - mean) * factor).astype(np.float32), np.ones((columns.rows, 1), np.float32)])
    arrays = _fit.refine(
        program._arrays, meta["text"], texts, np.ascontiguousarray(dense), heads, meta["data"]["rows"], c, 0
    )
    for name in ("dense_scale", "gate"):
        if name in program._arrays:
            arrays[name] = np.array(program._arrays[name])
    rows = meta["data"]["rows"] + columns.rows
    both = f"{meta['data']['fingerprint']} {columns.fingerprint()}"
    fingerprint = hashlib.blake2b(both.encode(), digest_size=16).hexdigest()
    return arrays, meta | {"heads": answers, "data": {"rows": rows, "fingerprint": fingerprint}}


def _numbers(column: list[Any], name: str, width: int) -> Any:
    values = np.asarray(column, dtype=np.float64).reshape(len(column), -1)
    if values.shape[1] != width:
        raise InputError(
            f"the vector has {values.shape[1]} dimensions", field=name, row=0,
            hint=f"The program was fitted on {width}",
        )  # fmt: skip
    return values

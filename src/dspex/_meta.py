"""Checks the description that comes with a model file, before anything is built from it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .errors import ModelFileError, SignatureError
from .signature import Signature

__all__ = ["GATE_FEATURES", "checked_meta"]

_HINT = "The file is damaged or was not written by dspex; fit the program again"
_ARRAYS = {
    "index": (np.uint32, 2),
    "rows": (np.uint8, 1),
    "hashes": (np.uint64, 1),
    "bias": (np.float32, 1),
    "dense": (np.float32, 2),
    "dense_scale": (np.float32, 2),
}
# What a gate's score is made of, in order; `gate_score` in `model/gate.cpp` computes them.
GATE_FEATURES = (
    "one", "log_odds", "surprise", "margin", "top", "positive", "rest", "breadth", "largest_share",
    "positive_share", "positives", "unknown_words", "unknown_count", "unknown_pairs", "known_pairs", "words",
)  # fmt: skip
_LARGEST_GATE = 1e12  # of its weights and bounds; products of two stay finite
_LARGEST = 1e30  # of means and factors of inputs; sums of products with them stay finite
_TEXT_RANGES = {
    "min_n": (1, 16),
    "max_n": (1, 16),
    "word_weight": (0, 100),
    "bigram_weight": (0, 100),
    "skip_weight": (0, 100),
    "char_weight": (0, 100),
    "char_power": (0, 1),
}
_HEAD_KINDS = {"class": ("choice", "binary"), "bool": ("binary",), "multilabel": ("multilabel",)}


def checked_meta(
    meta: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]
) -> tuple[Signature, dict[str, Any]]:
    """The signature and the rest of a model file's description.

    Raises:
        ModelFileError: something is missing, of the wrong type or contradicts the arrays.
    """
    for key in (
        "signature",
        "inputs",
        "heads",
        "text",
        "id",
        "options",
        "data",
        "calibration",
        "units",
        "ngrams",
    ):
        if key not in meta:
            raise _bad(f"{key!r} is missing from its description")
    try:
        signature = Signature.from_dict(meta["signature"])
    except SignatureError as error:
        raise ModelFileError(f"its signature cannot be read: {error.message}", hint=_HINT) from error
    if not isinstance(meta["id"], str):
        raise _bad("its id is not text")
    _check_arrays(arrays)
    _check_text(meta["text"])
    _check_inputs(meta["inputs"], signature)
    _check_heads(meta["heads"], signature)
    _check_rows(arrays, sum(head["columns"] for head in meta["heads"]))
    _check_certificate(meta.get("certificate"))
    _check_gate(meta.get("gate"), arrays.get("gate"), len(meta["heads"]))
    _check_record(meta)
    rest = {key: value for key, value in meta.items() if key != "signature"}
    rest["inputs"] = [tuple(entry) for entry in meta["inputs"]]
    return signature, rest


def _bad(message: str) -> ModelFileError:
    return ModelFileError(message, hint=_HINT)


def _check_arrays(arrays: Mapping[str, NDArray[Any]]) -> None:
    for name, (dtype, dims) in _ARRAYS.items():
        if name not in arrays:
            raise _bad(f"the tensor {name!r} is missing")
        array = arrays[name]
        if array.dtype != dtype or array.ndim != dims:
            raise _bad(f"the tensor {name!r} is {array.dtype} of {array.ndim} dimensions")
    for name in ("bias", "dense", "dense_scale"):
        if np.abs(arrays[name]).max(initial=0) > _LARGEST:
            raise _bad(f"the tensor {name!r} holds a number that no fit gives")
    if len(arrays["bias"]) == 0:
        raise _bad("it has no outputs")


_CERTIFICATE = ("agreement", "delta", "method", "threshold", "thresholds", "by", "rows", "coverage", "reason")


def _check_certificate(certificate: Any) -> None:
    """What decides which answers stand has to be what a certificate says, or nothing."""
    if certificate is None:
        return
    if not isinstance(certificate, dict) or set(certificate) != set(_CERTIFICATE):
        raise _bad("its certificate does not have the parts of one")
    threshold, thresholds, by = (certificate[key] for key in ("threshold", "thresholds", "by"))
    if (thresholds is None) != (by is None) or by not in (None, "class", "slice"):
        raise _bad("its certificate does not say of whom it is")
    if thresholds is not None and not isinstance(thresholds, dict):
        raise _bad("the thresholds of its certificate are no mapping")
    limits: list[Any] = [threshold] if thresholds is None else list(thresholds.values())
    if thresholds is not None and threshold is not None:
        raise _bad("its certificate has a threshold and one for each group")
    if not all(limit is None or (_number(limit) and 0 <= limit <= 1) for limit in limits):
        raise _bad("a threshold of its certificate is no number from 0 to 1")
    if not all(_number(certificate[key]) for key in ("agreement", "delta", "rows", "coverage")):
        raise _bad("the figures of its certificate are no numbers")
    if not all(isinstance(certificate[key], str) for key in ("method", "reason")):
        raise _bad("its certificate is not in words")


def _check_gate(record: Any, gate: NDArray[Any] | None, heads: int) -> None:
    """A file has both parts of a gate or neither; those of before gates have neither."""
    if record is None and gate is None:
        return
    if record is None or gate is None:
        raise _bad("its gate is only there in part")
    if not isinstance(record, dict) or record.get("features") != list(GATE_FEATURES):
        raise _bad("its gate is made of features that this version does not know")
    floor = record.get("floor")
    if floor is not None and (not _number(floor) or abs(floor) > _LARGEST):
        raise _bad("the floor of its gate is no number that a fit gives")
    if gate.dtype != np.float32 or gate.shape != (3 * heads, len(GATE_FEATURES)):
        raise _bad("its gate does not fit its outputs")
    if not np.isfinite(gate).all() or np.abs(gate).max() > _LARGEST_GATE:
        raise _bad("its gate holds a number that no fit gives")
    table = gate.reshape(heads, 3, -1)
    if (table[:, 1] > table[:, 2]).any():
        raise _bad("the bounds of its gate are the wrong way round")


def row_bytes(columns: int) -> int:
    """Bytes from one row of weights to the next; `row_stride` in `model/view.hpp`."""
    if columns <= 15:
        return max(8, 1 << (4 * columns + 3).bit_length())
    return (8 + (columns + 15) // 16 * 16 + 31) // 32 * 32


def _check_rows(arrays: Mapping[str, NDArray[Any]], columns: int) -> None:
    if len(arrays["rows"]) != len(arrays["hashes"]) * row_bytes(columns):
        raise _bad("there is not one row of weights for every hash")


def _check_record(meta: Mapping[str, Any]) -> None:
    """What is told of the fit, and what learning on goes by."""
    for name in ("options", "data", "calibration"):
        if not isinstance(meta[name], dict):
            raise _bad(f"its {name!r} are no mapping")
    counts = (meta["units"], meta["ngrams"], meta["data"].get("rows"))
    if not all(_number(count) and isinstance(count, int) and count >= 0 for count in counts):
        raise _bad("its counts are not whole numbers")
    if not isinstance(meta["data"].get("fingerprint"), str):
        raise _bad("its data's fingerprint is not text")


def _number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _check_text(text: Any) -> None:
    if not isinstance(text, dict) or set(text) != set(_TEXT_RANGES):
        raise _bad("its text options are not the known ones")
    for name, (low, high) in _TEXT_RANGES.items():
        if not _number(text[name]) or not low <= text[name] <= high:
            raise _bad(f"its text option {name!r} is out of range")
    if not all(isinstance(text[name], int) for name in ("min_n", "max_n")):
        raise _bad("its n-gram lengths are not integers")


def _check_inputs(inputs: Any, signature: Signature) -> None:
    if not isinstance(inputs, list) or len(inputs) != len(signature.inputs):
        raise _bad("its inputs are not those of its signature")
    for entry, (name, field) in zip(inputs, signature.inputs.items(), strict=True):
        if not isinstance(entry, list) or len(entry) != 3 or entry[:2] != [name, field.kind]:
            raise _bad("its inputs are not those of its signature")
        if field.kind not in ("text", "int", "float", "bool", "vector"):
            raise _bad(f"its input {name!r} is of a kind that is not native")
        width = entry[2]
        good = isinstance(width, int) and not isinstance(width, bool)
        if not good or not (width == 0 if field.kind == "text" else 1 <= width <= 1 << 20):
            raise _bad(f"the width of its input {name!r} is out of range")
        if field.kind not in ("text", "vector") and width != 1:
            raise _bad(f"the width of its input {name!r} is out of range")


def _check_heads(heads: Any, signature: Signature) -> None:
    if not isinstance(heads, list) or len(heads) != len(signature.outputs):
        raise _bad("its heads are not the outputs of its signature")
    for head, (name, field) in zip(heads, signature.outputs.items(), strict=True):
        if not isinstance(head, dict) or head.get("name") != name:
            raise _bad("its heads are not the outputs of its signature")
        if head.get("kind") not in _HEAD_KINDS.get(
            field.kind, ("number",) if field.kind in ("int", "float") else ()
        ):
            raise _bad(f"its head {name!r} does not fit the output's type")
        classes = 2 if field.kind == "bool" else len(field.classes or ())
        wanted = classes if head["kind"] in ("choice", "multilabel") else 1
        if head.get("columns") != wanted or isinstance(head["columns"], bool) or wanted < 1:
            raise _bad(f"its head {name!r} has the wrong number of columns")
        if head["kind"] == "binary" and classes != 2:
            raise _bad(f"its head {name!r} is for two classes, the output has {classes}")
        scale = head.get("scale", 1.0)
        if not _number(scale) or scale <= 0:
            raise _bad(f"the scale of its head {name!r} is out of range")
        if head["kind"] == "number" and not all(
            _number(head.get(key)) and abs(head[key]) < 1e200 for key in ("scale", "offset", "low", "high")
        ):
            raise _bad(f"its head {name!r} has no scale, offset or range")
        threshold = head.get("threshold", 0.5)
        if not _number(threshold) or not 0 < threshold < 1:
            raise _bad(f"the threshold of its head {name!r} is out of range")

"""Checked outputs become the targets, weights and models that the compiled trainer takes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dspex.errors import InputError
from dspex.learning.options import FitOptions
from dspex.signature import Field

__all__ = ["head_meta", "head_spec", "head_targets", "require_sane", "stratum"]

Array = NDArray[np.float32]

# The models that are averaged for each kind of head: loss and C. Two that err differently are better ranked
# by confidence than either alone; the values are the middle of wide plateaus in cross-validation.
_LEARNERS = {
    "choice": (("hinge", 1.0), ("softmax", 30.0)),
    "binary": (("hinge", 0.3), ("logistic", 10.0)),
    "multilabel": (("hinge", 3.0),),
    "number": (("squared", 0.5),),
}
_LARGEST = 1e30
_TRAINED_AS = {"choice": "softmax", "binary": "sigmoid", "multilabel": "sigmoid", "number": "number"}


def classes_of(field: Field) -> tuple[Any, ...] | None:
    """The classes of an output in the order of its columns, or None for a number."""
    return (False, True) if field.kind == "bool" else field.classes


def head_meta(field: Field) -> dict[str, Any]:
    """What the compiled predictor must know of one output."""
    classes = classes_of(field)
    if classes is None:
        return {"name": field.name, "kind": "number", "columns": 1, "integer": field.kind == "int"}
    if field.kind == "multilabel":
        return {"name": field.name, "kind": "multilabel", "columns": len(classes), "threshold": 0.5}
    if len(classes) == 2:
        return {"name": field.name, "kind": "binary", "columns": 1, "threshold": 0.5}
    return {"name": field.name, "kind": "choice", "columns": len(classes)}


def head_spec(
    field: Field, meta: Mapping[str, Any], column: list[Any], weights: Array, options: FitOptions
) -> dict[str, Any]:
    """One head for the trainer: kind, columns, targets [rows, columns], weights [rows], learners, units.

    Raises:
        InputError: there is nothing to tell apart: one class only, or a constant number.
    """
    spec: dict[str, Any] = {"kind": _TRAINED_AS[meta["kind"]], "columns": meta["columns"], "weights": weights}
    spec["learners"] = [(loss, c * options.c) for loss, c in _LEARNERS[meta["kind"]]]
    if meta["kind"] == "number":
        return spec | _number_targets(field, column, weights)
    shares = _shares(field, column)
    _require_two_classes(field, shares, weights)
    if options.class_weight == "balanced" and meta["kind"] != "multilabel":
        mass = (shares * weights[:, None]).sum(0)
        present = mass > 0
        factor = np.where(present, weights.sum() / (present.sum() * np.where(present, mass, 1)), 0)
        spec["weights"] = (weights * (shares @ factor)).astype(np.float32)
    spec["targets"] = shares[:, 1:] if meta["kind"] == "binary" else shares
    return spec


def head_targets(field: Field, meta: Mapping[str, Any], column: list[Any]) -> NDArray[Any]:
    """[rows, columns] targets of one head of a finished program; numbers as they are."""
    if meta["kind"] == "number":
        return np.asarray(column, dtype=np.float64)[:, None]
    shares = _shares(field, column)
    return shares[:, 1:] if meta["kind"] == "binary" else shares


def _shares(field: Field, column: list[Any]) -> Array:
    """[rows, classes] probability of each class: 0 and 1 for hard labels."""
    # Keyed with the type: of Literal['1', 1, True] no two are the same class.
    position = {(type(c), c): k for k, c in enumerate(classes_of(field) or ())}
    shares = np.zeros((len(column), len(position)), np.float32)
    for row, value in enumerate(column):
        if isinstance(value, Mapping):
            for label, share in value.items():
                shares[row, position[type(label), label]] = share
            if field.kind != "multilabel":
                shares[row] /= shares[row].sum()
        elif field.kind == "multilabel":
            for label in value:
                shares[row, position[type(label), label]] = 1
        else:
            shares[row, position[type(value), value]] = 1
    return shares


def _require_two_classes(field: Field, shares: Array, weights: Array) -> None:
    used = shares[weights > 0]
    if field.kind == "multilabel":
        if not used.any() or used.all():
            raise InputError(
                "every example has the same labels",
                field=field.name,
                hint="Give examples with and without a label",
            )
    elif (used.sum(0) > 0).sum() < 2:
        only = (classes_of(field) or ())[int(np.argmax(used.sum(0)))]
        raise InputError(
            f"every example has the class {only!r}",
            field=field.name,
            hint="Give examples of at least two classes",
        )


def require_sane(field: Field, values: NDArray[np.float64]) -> None:
    """Refuses numbers whose squares, or whose 32-bit forms, would overflow.

    Raises:
        InputError: with the row of the largest of `values` [rows, ...].
    """
    size = np.abs(values).reshape(len(values), -1).max(1)
    row = int(size.argmax())
    if size[row] > _LARGEST:
        raise InputError(
            f"{size[row]:g} is too large to learn from", field=field.name, row=row,
            hint=f"Scale the numbers, to {_LARGEST:g} at most",
        )  # fmt: skip


def _number_targets(field: Field, column: list[Any], weights: Array) -> dict[str, Any]:
    values = np.asarray(column, dtype=np.float64)
    require_sane(field, values)
    used = values[weights > 0]
    if used.min() == used.max():
        raise InputError(
            f"every example has the value {used[0]:g}",
            field=field.name,
            hint="Give examples with different values",
        )
    mean = float(np.average(values, weights=weights))
    deviation = float(np.sqrt(np.average((values - mean) ** 2, weights=weights)))
    targets = ((values - mean) / deviation).astype(np.float32)[:, None]
    return {
        "targets": targets,
        "values": values,
        "scale": deviation,
        "offset": mean,
        "low": used.min().item(),
        "high": used.max().item(),
    }


def stratum(spec: Mapping[str, Any]) -> NDArray[np.int64]:
    """[rows] group within which rows are dealt evenly to the folds: the class, or the tenth of the number."""
    targets = np.asarray(spec["targets"])
    if spec["kind"] == "number":
        edges = np.quantile(targets[:, 0], np.linspace(0, 1, 11)[1:-1])
        return np.searchsorted(edges, targets[:, 0]).astype(np.int64)
    if targets.shape[1] == 1:
        return (targets[:, 0] >= 0.5).astype(np.int64)
    return np.asarray(targets.argmax(1), dtype=np.int64)

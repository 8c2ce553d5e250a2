"""Examples in any form become columns, every value checked before any work is done."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from dspex.checks import check_content, check_inputs, check_outputs, label_of
from dspex.errors import InputError, nearest
from dspex.signature import Field, Signature

__all__ = ["Columns", "read_examples"]

_HINT = "Give a list of mappings with a value for every field, dspy.Example objects, or a mapping of columns"


@dataclass(frozen=True, slots=True)
class Columns:
    """Checked examples, field by field.

    Attributes:
        rows: how many there are.
        inputs: field name -> values in the field's own type, [rows].
        outputs: field name -> values, [rows]; a soft label is a mapping from class to probability.
    """

    rows: int
    inputs: dict[str, list[Any]]
    outputs: dict[str, list[Any]]

    def fingerprint(self) -> str:
        """Digest of the data in order: 32 hexadecimal digits of BLAKE2b."""
        digest = hashlib.blake2b(digest_size=16)
        for name, column in {**self.inputs, **self.outputs}.items():
            digest.update(name.encode())
            for value in column:
                data = (
                    value.tobytes()
                    if isinstance(value, np.ndarray)
                    else repr(value).encode("utf-8", "replace")
                )
                digest.update(len(data).to_bytes(8, "little"))
                digest.update(data)
        return digest.hexdigest()


def read_examples(signature: Signature, examples: Any) -> tuple[Signature, Columns]:
    """Checks examples against a signature, and gives its open outputs the classes found in them.

    Args:
        signature: outputs of type str or list[str] without classes take them from the examples, sorted.
        examples: mappings, dspy.Example objects, or a mapping of columns of one length.

    Raises:
        InputError: with row and field: missing or wrongly typed values, a label outside its classes, a soft
            label that is no distribution, columns of different lengths, no examples at all.
        SignatureError: an output cannot be learned natively.
    """
    rows = _as_rows(signature, examples)
    if not rows:
        raise InputError("there are no examples", hint=_HINT)
    signature = _learn_classes(signature, rows)
    inputs: dict[str, list[Any]] = {name: [] for name in signature.inputs}
    outputs: dict[str, list[Any]] = {name: [] for name in signature.outputs}
    for number, row in enumerate(rows):
        _reject_missing(signature, row, number)
        given = check_inputs(signature, {k: row[k] for k in inputs}, row=number)
        check_content(signature, given, row=number)
        for name, value in given.items():
            inputs[name].append(value)
        soft = {
            k: row[k] for k in outputs if isinstance(row[k], Mapping) and signature.outputs[k].kind in _SOFT
        }
        hard = {k: _distinct(signature.outputs[k], row[k]) for k in outputs if k not in soft}
        checked = check_outputs(signature, hard, row=number, error=InputError, partial=True)
        for name in outputs:
            field = signature.outputs[name]
            outputs[name].append(_soft_label(field, soft[name], number) if name in soft else checked[name])
    columns = Columns(len(rows), inputs, outputs)
    _check_vectors(signature, columns)
    return signature, columns


def _distinct(field: Field, value: Any) -> Any:
    # A label given twice says no more than once; real data has such rows.
    if field.kind == "multilabel" and isinstance(value, (list, tuple)):
        return [v for i, v in enumerate(value) if v not in value[:i]]
    return value


_SOFT = ("class", "bool", "multilabel")


def _as_rows(signature: Signature, examples: Any) -> list[Mapping[str, Any]]:
    if isinstance(examples, Mapping):
        return _from_columns(signature, examples)
    if isinstance(examples, (str, bytes)) or not isinstance(examples, Iterable):
        raise InputError(f"examples cannot be read from {type(examples).__name__}", hint=_HINT)
    return [_as_row(example, number) for number, example in enumerate(examples)]


def _as_row(example: Any, number: int) -> Mapping[str, Any]:
    if isinstance(example, Mapping):
        return example
    if hasattr(example, "toDict"):  # dspy.Example, without importing DSPy
        return dict(example.toDict())
    raise InputError(f"the example is a {type(example).__name__}", row=number, hint=_HINT)


def _from_columns(signature: Signature, examples: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    columns: dict[str, Sequence[Any]] = {}
    for name in signature.fields:
        if name not in examples:
            raise InputError("there is no column of this name", field=name, hint=nearest(name, examples))
        column = examples[name]
        if isinstance(column, (str, bytes)) or not hasattr(column, "__len__"):
            raise InputError(
                f"the column is a {type(column).__name__}", field=name, hint="Give a list or an array"
            )
        is_flat = isinstance(column, np.ndarray) and column.ndim == 1
        columns[name] = column.tolist() if is_flat else list(column)
    lengths = {name: len(column) for name, column in columns.items()}
    if len(set(lengths.values())) > 1:
        raise InputError(
            f"the columns are of different lengths: {lengths}", hint="Give one value per row in each"
        )
    return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]


def _reject_missing(signature: Signature, row: Mapping[str, Any], number: int) -> None:
    for name, field in signature.fields.items():
        if name not in row:
            hint = f"The row has {', '.join(map(repr, row))}" if row else "The row is empty"
            raise InputError(f"{field.role} {name!r} is missing", field=name, row=number, hint=hint)


def _learn_classes(signature: Signature, rows: list[Mapping[str, Any]]) -> Signature:
    for name, field in signature.outputs.items():
        if not field.takes_learned_classes or field.classes is not None:
            continue
        found: set[str] = set()
        for number, row in enumerate(rows):
            _reject_missing(signature, row, number)
            found.update(_labels(field, row[name], number))
        signature = signature.with_classes(name, sorted(found))
    return signature


def _labels(field: Field, value: Any, number: int) -> Iterable[str]:
    labels = value if isinstance(value, Mapping) or field.annotation is not str else [value]
    if not isinstance(labels, (list, tuple, set, frozenset, Mapping)):
        raise InputError(
            f"{value!r} is of type {type(value).__name__}",
            field=field.name,
            row=number,
            hint="Give a list of labels",
        )
    for label in labels:
        if not isinstance(label, str):
            raise InputError(
                f"label {label!r} is of type {type(label).__name__}", field=field.name, row=number,
                hint="The output is declared as text: give strings, or declare the classes as a Literal",
            )  # fmt: skip
    return labels


def _soft_label(field: Field, value: Mapping[Any, Any], number: int) -> dict[Any, float]:
    checked: dict[Any, float] = {}
    for label, share in value.items():
        known = label_of(field, label, row=number)
        good = (
            isinstance(share, (int, float, np.floating)) and not isinstance(share, bool) and 0 <= share <= 1
        )
        if not good:
            raise InputError(
                f"the probability of {label!r} is {share!r}", field=field.name, row=number,
                hint="Give numbers from 0 to 1",
            )  # fmt: skip
        checked[known] = float(share)
    total = sum(checked.values())
    if field.kind != "multilabel" and abs(total - 1) > 1e-3:
        raise InputError(
            f"the probabilities sum to {total:.4g}", field=field.name, row=number, hint="They must sum to 1"
        )
    return checked


def _check_vectors(signature: Signature, columns: Columns) -> None:
    for name, field in signature.inputs.items():
        if field.kind != "vector":
            continue
        width = len(columns.inputs[name][0])
        for number, vector in enumerate(columns.inputs[name]):
            if len(vector) != width:
                raise InputError(
                    f"the vector has {len(vector)} dimensions, the first row's has {width}",
                    field=name, row=number, hint="Give vectors of one length",
                )  # fmt: skip

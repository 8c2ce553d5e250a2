"""What Distill is given to learn from, row by row."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import dspy

from dspex.checks import check_inputs, check_outputs
from dspex.distill.trace import Trace
from dspex.errors import InputError, SignatureError, nearest
from dspex.signature import Signature

__all__ = ["Row", "checked_trace", "input_key", "raw_inputs", "read_rows", "refuse_shared"]

_HINT = "Give dspy.Example(...).with_inputs(...), mappings, or Traces"


@dataclass(frozen=True, slots=True)
class Row:
    """One row.

    Attributes:
        inputs: in the fields' own types.
        labels: the outputs that it has already.
        example: as it was given; for the metric.
        trace: a call that was answered before, when it is one.
        number: its place.
    """

    inputs: Mapping[str, Any]
    labels: Mapping[str, Any]
    example: Any
    trace: Trace | None
    number: int

    @property
    def key(self) -> str:
        return input_key(self.inputs)


def input_key(inputs: Mapping[str, Any]) -> str:
    """Equal for equal inputs."""
    return json.dumps({name: inputs[name] for name in sorted(inputs)}, default=_plain)


def _plain(value: Any) -> Any:
    return value.tolist() if hasattr(value, "tolist") else repr(value)


def raw_inputs(example: Any, row: int) -> dict[str, Any]:
    """The inputs that an example declares, before anything is known of the signature.

    Raises:
        InputError: it declares none.
    """
    if isinstance(example, Trace):
        return dict(example.inputs)
    try:
        return dict(example.inputs().items())
    except (AttributeError, ValueError, TypeError):
        raise InputError(
            "the example's inputs are not known", row=row,
            hint="Give dspy.Example(...).with_inputs(...), or give Distill a signature",
        ) from None  # fmt: skip


def read_rows(signature: Signature, given: Iterable[Any], learned: Sequence[str]) -> list[Row]:
    """Checks rows against the signature.

    Args:
        given: dspy.Examples, mappings or Traces.
        learned: outputs whose labels have to be right; others are for the metric only.

    Raises:
        InputError: with the row: it is none of these, inputs are missing or of the wrong type, a label is not
            of its classes.
        SignatureError: a Trace is of another signature.
    """
    return [_row(signature, one, number, learned) for number, one in enumerate(given)]


def _row(signature: Signature, given: Any, number: int, learned: Sequence[str]) -> Row:
    if isinstance(given, Trace):
        trace = checked_trace(signature, given, learned, number)
        return Row(trace.inputs, trace.answer.outputs, given, trace, number)
    if isinstance(given, dspy.Example):
        values = dict(given.items())
    elif isinstance(given, Mapping):
        values = dict(given)
    else:
        raise InputError(f"the row is a {type(given).__name__}", row=number, hint=_HINT)
    asked = {name: values[name] for name in signature.inputs if name in values}
    inputs = check_inputs(signature, asked, row=number)
    labels = {name: values[name] for name in learned if values.get(name) is not None}
    checked = check_outputs(signature, labels, row=number, error=InputError, partial=True)
    return Row(inputs, checked, given, None, number)


def checked_trace(signature: Signature, trace: Trace, learned: Sequence[str], row: int) -> Trace:
    """The trace with its values in the fields' own types.

    Raises:
        SignatureError: its fields are not those of the signature.
        InputError: a value is of the wrong type.
    """
    for name in trace.inputs:
        if name not in signature.inputs:
            raise _foreign(name, "input", signature.inputs, row)
    for name in (*signature.inputs, *learned):
        if name not in trace.inputs and name not in trace.answer.outputs:
            raise SignatureError(
                f"the trace in row {row} is of another signature: it has no {name!r}", field=name, row=row,
                hint=f"It has {', '.join([*trace.inputs, *trace.answer.outputs])}",
            )  # fmt: skip
    for name in trace.answer.outputs:
        if name not in signature.outputs:
            raise _foreign(name, "output", signature.outputs, row)
    inputs = check_inputs(signature, trace.inputs, row=row)
    outputs = check_outputs(signature, trace.answer.outputs, row=row, error=InputError, partial=True)
    answer = type(trace.answer)(
        outputs, trace.answer.soft, trace.answer.usd, trace.answer.tokens, trace.answer.seconds
    )
    return Trace(
        inputs, answer, trace.role, trace.source, trace.at, trace.count, None, trace.used_by, trace.extra
    )


def _foreign(name: str, role: str, known: Mapping[str, Any], row: int) -> SignatureError:
    return SignatureError(
        f"the trace in row {row} is of another signature: it has an {role} {name!r}", field=name, row=row,
        hint=nearest(name, known),
    )  # fmt: skip


def refuse_shared(trainset: Sequence[Row], valset: Sequence[Row]) -> None:
    """Rows that certify are used for nothing else.

    Raises:
        InputError: an example is in both.
    """
    known = {row.key: row.number for row in trainset}
    for row in valset:
        if row.key in known:
            raise InputError(
                f"the example is in the trainset too, there in row {known[row.key]}", row=row.number,
                field="valset",
                hint="Rows that certify teach nothing, and are a sample: take it out of the trainset",
            )  # fmt: skip

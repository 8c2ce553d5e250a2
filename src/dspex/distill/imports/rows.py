"""One row of JSONL as a trace, and a trace as the row that reads back as the same."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, get_args

from dspex.distill.imports.reading import Misfit
from dspex.distill.imports.values import from_plain, label_to_plain, soft_from_plain, to_plain
from dspex.distill.trace import Answer, Role, Trace
from dspex.errors import InputError, nearest
from dspex.signature import Signature

__all__ = ["answer_of", "inputs_of", "row_of", "trace_of"]

_INPUT_KEYS = ("input", "inputs")
_OUTPUT_KEYS = ("teacher", "output", "outputs", "label", "answer", "prediction")
_ROLES: tuple[Role, ...] = get_args(Role)
_SOFT = ("class", "bool", "multilabel")


def row_of(trace: Trace, signature: Signature) -> dict[str, Any]:
    """The trace as JSON-able data."""
    fields = signature.fields
    answer = trace.answer
    row: dict[str, Any] = {
        "input": {name: to_plain(fields[name], value) for name, value in trace.inputs.items()},
        "teacher": {
            name: to_plain(fields[name], value) if name in fields else value
            for name, value in answer.outputs.items()
        },
    }
    if answer.soft is not None:
        row["soft"] = {
            name: [[label_to_plain(label), share] for label, share in shares.items()]
            for name, shares in answer.soft.items()
        }
    row |= {"role": trace.role, "source": trace.source, "at": trace.at, "count": trace.count}
    if trace.used_by is not None:
        row["used_by"] = trace.used_by
    for name in ("usd", "tokens", "seconds"):
        if (value := getattr(answer, name)) is not None:
            row[name] = value
    if trace.extra:
        row["extra"] = dict(trace.extra)
    return row


def trace_of(row: Any, signature: Signature) -> Trace:
    """The trace of a row in any of its forms.

    Raises:
        Misfit, InputError: it is none.
    """
    if not isinstance(row, Mapping):
        raise Misfit(f"a row is a JSON object, not {type(row).__name__}")
    inputs = inputs_of(_side(row, signature.inputs, _INPUT_KEYS), signature)
    answer = answer_of(_side(row, signature.outputs, _OUTPUT_KEYS), signature, row.get("soft"))
    if not ("input" in row and "teacher" in row):
        return Trace(inputs, answer, source="jsonl")
    return _with_record(row, inputs, answer)


def inputs_of(given: Any, signature: Signature, *, more: bool = False) -> dict[str, Any]:
    """Checked inputs, from a mapping of plain values or, for a single input, the value itself.

    Args:
        more: whether others than the signature's may be there.

    Raises:
        Misfit, InputError: they do not fit.
    """
    fields = signature.inputs
    if not isinstance(given, Mapping) or (
        len(fields) == 1 and fields.keys() - given.keys() and _takes(fields)
    ):
        if len(fields) != 1:
            raise Misfit(f"the inputs {', '.join(map(repr, fields))} are to be a JSON object")
        name = next(iter(fields))
        return {name: from_plain(fields[name], given)}
    for name in fields:
        if name not in given:
            raise Misfit(f"the input {name!r} is missing", field=name, found=given)
    for name in given:
        if name not in fields and not more:
            raise Misfit(f"the signature has no input {name!r}", field=name, found=given)
    return {name: from_plain(field, given[name]) for name, field in fields.items()}


def answer_of(given: Any, signature: Signature, soft: Any = None) -> Answer:
    """A checked answer, from a mapping of plain values or, for a single output, the value itself.

    Outputs that the signature does not have are kept. A class may be given as its probabilities, and is then
    the most probable one, too.

    Raises:
        Misfit, InputError: it does not fit.
    """
    fields = signature.outputs
    only = next(iter(fields.values())) if len(fields) == 1 else None
    if only is not None and not (isinstance(given, Mapping) and only.name in given):
        is_value = not isinstance(given, Mapping) or _takes(fields) or only.kind in _SOFT
        given = {only.name: given} if is_value and given is not None else given
    if not isinstance(given, Mapping):
        raise Misfit(f"the outputs {', '.join(map(repr, fields))} are to be a JSON object")
    shares = _soft_of(soft, signature)
    outputs: dict[str, Any] = {}
    for name, field in fields.items():
        value = given.get(name)
        if isinstance(value, Mapping) and field.kind in _SOFT:
            if only is not None and not set(map(str, value)) & {
                str(label_to_plain(c)) for c in field.classes or ()
            }:
                raise Misfit(f"the output {name!r} is missing", field=name, found=map(str, value))
            shares.setdefault(name, soft_from_plain(field, value))
        elif name in given:
            outputs[name] = from_plain(field, value)
        if name not in outputs and name in shares and shares[name] and field.kind in ("class", "bool"):
            outputs[name] = max(shares[name], key=shares[name].__getitem__)
        if name not in outputs and name not in shares:
            raise Misfit(f"the output {name!r} is missing", field=name, found=given)
    outputs |= {name: value for name, value in given.items() if name not in fields}
    return Answer(outputs, shares or None)


def _takes(fields: Mapping[str, Any]) -> bool:
    """Whether the only field is of a type of its own, whose values may be objects."""
    return all(field.kind == "other" for field in fields.values())


def _side(row: Mapping[str, Any], fields: Mapping[str, Any], keys: tuple[str, ...]) -> Any:
    """The values of one side: an object below one of the keys, or the fields themselves, or one value."""
    for key in keys:
        if isinstance(row.get(key), Mapping) and key not in fields:
            return row[key]
        if key in fields and isinstance(row.get(key), Mapping) and fields.keys() <= row[key].keys():
            return row[key]
    if fields.keys() <= row.keys():
        return {name: row[name] for name in fields}
    for key in keys:
        if key in row:
            return row[key]
    missing = next(name for name in fields if name not in row)
    role = fields[missing].role
    raise Misfit(f"the {role} {missing!r} is missing", field=missing, found=row)


def _soft_of(soft: Any, signature: Signature) -> dict[str, dict[Any, float]]:
    if soft is None:
        return {}
    if not isinstance(soft, Mapping):
        raise Misfit("'soft' is a JSON object: output -> probabilities", field="soft")
    for name in soft:
        if name not in signature.outputs:
            raise InputError(
                f"there is no output {name!r}", field=name, hint=nearest(name, signature.outputs)
            )
    return {name: soft_from_plain(signature.outputs[name], shares) for name, shares in soft.items()}


def _with_record(row: Mapping[str, Any], inputs: dict[str, Any], answer: Answer) -> Trace:
    """A row of an export has its history beside the values."""
    role = row.get("role", "fit")
    if role not in _ROLES:
        raise InputError(f"the role {role!r} is not one of {', '.join(_ROLES)}", field="role")
    count, extra, source = row.get("count", 1), row.get("extra", {}), row.get("source", "jsonl")
    if not isinstance(count, int) or isinstance(count, bool) or count < 1:
        raise InputError(f"the count {count!r} is no whole number above 0", field="count")
    if not isinstance(extra, Mapping) or not isinstance(source, str):
        raise InputError("'extra' is a JSON object and 'source' is text", field="extra")
    costs = {name: _number(row, name) for name in ("usd", "seconds", "tokens", "at", "used_by")}
    whole = {name: None if costs[name] is None else int(costs[name] or 0) for name in ("tokens", "used_by")}
    return Trace(
        inputs,
        Answer(answer.outputs, answer.soft, costs["usd"], whole["tokens"], costs["seconds"]),
        role=role, source=source, at=costs["at"] or 0.0, count=count, used_by=whole["used_by"],
        extra=dict(extra),
    )  # fmt: skip


def _number(row: Mapping[str, Any], name: str) -> float | None:
    value = row.get(name)
    if value is None or (isinstance(value, int | float) and not isinstance(value, bool)):
        return value
    raise InputError(f"{name!r} is {value!r}, which is no number", field=name)

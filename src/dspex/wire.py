"""Values and results as JSON-able data and back, in their fields' own types: so they cross processes.

Nothing is rounded, guessed or lost: what would not come back equal is refused before it is sent.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from enum import Enum
from typing import Any

from dspex.checks import check_field, type_adapter
from dspex.errors import CommunicationError, DspexError, InputError, nearest
from dspex.result import Result, Route
from dspex.signature import Field

__all__ = ["from_wire", "result_from_wire", "result_to_wire", "to_wire"]

Fields = Mapping[str, Field]


def to_wire(
    fields: Fields,
    values: Mapping[str, Any],
    *,
    program: str | None = None,
    error: type[DspexError] = InputError,
) -> dict[str, Any]:
    """Values of these fields as JSON-able data.

    Args:
        fields: of a signature's one side.
        values: in their fields' own types, as `check_inputs` and `check_outputs` give them; fields may be
            missing.
        program: for errors.
        error: what is raised.

    Raises:
        InputError, or the class given: no such field; or a value that would not come back equal, such as an
            object that pydantic cannot write, or of a subclass of the declared type; `field` names it.
    """
    data = {}
    for name, value in values.items():
        if name not in fields:
            what = f"there is no field {name!r}"
            raise error(what, field=str(name), program=program, hint=nearest(str(name), fields))
        try:
            data[name] = _WRITERS[fields[name].kind](value, fields[name])
        except (ValueError, TypeError, RecursionError) as cause:
            raise error(
                f"{name!r} cannot be sent to another process: {_reason(cause)}",
                field=name,
                program=program,
                hint="Give it a type that pydantic writes as JSON and reads back equal",
            ) from None
    return data


def from_wire(fields: Fields, data: Any, *, program: str | None = None) -> dict[str, Any]:
    """The values that `to_wire` wrote, each in its field's own type.

    Raises:
        CommunicationError: the data is not of that form, or a value is none of its field's; `field` names it.
            Not retryable.
    """
    if not isinstance(data, dict):
        raise _misread(f"values are a mapping, not {type(data).__name__}", None, program)
    values = {}
    for name, value in data.items():
        field = fields.get(name)
        if field is None:
            raise _misread(f"there is no field {name!r}", str(name), program)
        values[name] = _read(field, value, program)
    return values


def result_to_wire(
    outputs: Fields, result: Result, *, program: str | None = None, error: type[DspexError] = InputError
) -> dict[str, Any]:
    """A result as JSON-able data; `usage` is to be JSON-able already.

    Raises:
        As `to_wire`.
    """
    return {
        "values": to_wire(outputs, result.to_dict(), program=program, error=error),
        "probabilities": {
            name: [[_write_scalar(key), share] for key, share in odds.items()]
            for name in result
            if (odds := _odds(result, name)) is not None
        },
        "confidence": result.confidence,
        "score": result.gate_score,
        "route": [str(result.route), result.route.reason, result.route.degraded],
        "usage": None if result.usage is None else dict(result.usage),
    }


def result_from_wire(outputs: Fields, data: Any, *, program: str | None = None) -> Result:
    """The result that `result_to_wire` wrote.

    Raises:
        CommunicationError: as `from_wire`; or a part of the result is missing or misshapen.
    """
    try:
        backend, reason, degraded = data["route"]
        shares = {
            name: {_read_class(outputs[name], key, program): float(share) for key, share in pairs}
            for name, pairs in data["probabilities"].items()
        }
        return Result(
            from_wire(outputs, data["values"], program=program),
            route=Route(str(backend), reason=str(reason), degraded=bool(degraded)),
            probabilities=shares,
            confidence=None if data["confidence"] is None else float(data["confidence"]),
            score=None if data["score"] is None else float(data["score"]),
            usage=None if data["usage"] is None else dict(data["usage"]),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as cause:
        raise _misread(f"a result is misshapen: {_reason(cause)}", None, program) from None


def _odds(result: Result, name: str) -> dict[Any, float] | None:
    try:
        return result.probabilities(name)
    except KeyError:
        return None


# --- writing ----------------------------------------------------------------------------------------------


def _write_plain(value: Any, field: Field) -> Any:
    return _write_scalar(value)


def _write_scalar(value: Any) -> Any:
    """A str, bool, int, float or None; an Enum member by its value."""
    if isinstance(value, Enum):
        value = value.value
    if isinstance(value, str) and not value.isascii() and _has_surrogates(value):
        return {"json": json.dumps(value)}
    if isinstance(value, int) and not -(2**63) <= value < 2**64:  # msgpack ends there
        return {"json": json.dumps(value)}
    return value


def _has_surrogates(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return True
    return False


def _write_vector(value: Any, field: Field) -> list[float]:
    return list(value) if isinstance(value, list) else value.tolist()


def _write_labels(value: Any, field: Field) -> list[Any]:
    return [_write_scalar(label) for label in value]


def _write_other(value: Any, field: Field) -> str:
    """A JSON text, because only reading JSON is strict and yet takes an ISO string for a date."""
    adapter = type_adapter(field)
    problem: Exception = ValueError("it does not come back equal")
    for write in (_as_declared, _by_fields):
        try:
            text = write(adapter, value)
            if _alike(adapter.validate_json(text, strict=True), value):
                return text
        except ValueError as error:
            problem = error
    raise problem


def _as_declared(adapter: Any, value: Any) -> str:
    text: bytes = adapter.dump_json(value, by_alias=True, round_trip=True, warnings=False)
    return text.decode()


def _by_fields(adapter: Any, value: Any) -> str:
    # A model's own serialiser need not be one that can be read: those of DSPy's types write a prompt.
    from pydantic_core import to_json

    return to_json(_bare(value), inf_nan_mode="constants", bytes_mode="base64").decode()


def _bare(value: Any) -> Any:
    if hasattr(type(value), "model_fields"):
        return {name: _bare(getattr(value, name)) for name in type(value).model_fields}
    if isinstance(value, list | tuple):
        return [_bare(item) for item in value]
    if isinstance(value, dict):
        return {key: _bare(item) for key, item in value.items()}
    return value


def _alike(one: Any, other: Any) -> bool:
    # NaN is not equal to itself; its repr is.
    return type(one) is type(other) and (bool(one == other) or repr(one) == repr(other))


_WRITERS: dict[str, Callable[[Any, Field], Any]] = {
    **dict.fromkeys(("text", "bool", "int", "float", "class"), _write_plain),
    "vector": _write_vector,
    "multilabel": _write_labels,
    "other": _write_other,
}


# --- reading ----------------------------------------------------------------------------------------------


def _read(field: Field, value: Any, program: str | None) -> Any:
    try:
        if field.kind == "other":
            return type_adapter(field).validate_json(value, strict=True)
        plain = [_read_scalar(item) for item in value] if isinstance(value, list) else _read_scalar(value)
    except (ValueError, TypeError) as cause:
        raise _misread(f"{field.name!r} cannot be read: {_reason(cause)}", field.name, program) from None
    return _checked(field, plain, program)


def _checked(field: Field, value: Any, program: str | None) -> Any:
    try:
        return check_field(field, value)
    except InputError as misfit:
        raise _misread(misfit.message, field.name, program) from None


def _read_class(field: Field, key: Any, program: str | None) -> Any:
    if field.kind == "bool":
        return _checked(field, _read_scalar(key), program)
    labels = _checked(field, [_read_scalar(key)], program) if field.kind == "multilabel" else None
    return labels[0] if labels else _checked(field, _read_scalar(key), program)


def _read_scalar(value: Any) -> Any:
    if isinstance(value, dict):
        return json.loads(value["json"]) if value.keys() == {"json"} else value
    return value


def _misread(message: str, field: str | None, program: str | None) -> CommunicationError:
    return CommunicationError(message, field=field, program=program, retryable=False)


def _reason(cause: BaseException) -> str:
    """The first line, cut: pydantic's messages show the value at length."""
    text = next(iter(str(cause).splitlines()), "") or type(cause).__name__
    return text if len(text) <= 120 else text[:117] + "..."

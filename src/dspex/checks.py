"""The one Python check of values against a signature's fields.

Native programs check their inputs in compiled code, to the same rules; a test holds both to them.
"""

from __future__ import annotations

import functools
import math
import sys
from collections.abc import Callable, Mapping
from dataclasses import is_dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any, get_origin

from dspex._signature_types import names_dspy
from dspex.errors import DspexError, InputError, LMError, nearest
from dspex.signature import Field, Signature

if TYPE_CHECKING:
    from pydantic import TypeAdapter

__all__ = ["check_content", "check_field", "check_inputs", "check_outputs", "label_of", "type_adapter"]


class _Misfit(Exception):
    """A value that does not fit its field; becomes an error of the right class one level up."""

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.hint = hint


def check_inputs(
    signature: Signature, inputs: Mapping[str, Any], *, program: str | None = None, row: int | None = None
) -> dict[str, Any]:
    """Returns the inputs in the signature's order, each in its field's own type.

    Raises:
        InputError: not a mapping; a field is missing, unknown or of the wrong type; a number or a
            vector is not finite. `field`, `program` and `row` say where, `hint` the way out.
    """
    return _check(signature.inputs, inputs, "input", InputError, program, row)


def check_content(
    signature: Signature, inputs: Mapping[str, Any], *, program: str | None = None, row: int | None = None
) -> None:
    """Refuses inputs that are all empty text: a model of words has nothing to answer from.

    One empty text beside another that is not, or beside a number, is fine: mails without a subject exist.

    Raises:
        InputError: every input is text and blank.
    """
    if all(isinstance(value, str) and not value.strip() for value in inputs.values()):
        name = next(iter(signature.inputs))
        what = "the text is empty" if len(inputs) == 1 else "every text is empty"
        raise InputError(
            what, field=name, program=program, row=row, hint="Leave such rows out, or ask another backend"
        )


def check_outputs(
    signature: Signature,
    values: Mapping[str, Any],
    *,
    program: str | None = None,
    row: int | None = None,
    error: type[DspexError] = LMError,
    partial: bool = False,
) -> dict[str, Any]:
    """Returns an answer's values in the signature's order, each in its field's own type.

    A class may be given by its value in place of its Enum member; the member is returned.
    With `partial`, outputs may be missing.

    Raises:
        LMError, or the class given as `error`: as for `check_inputs`.
    """
    fields = signature.outputs
    if partial:
        fields = {name: field for name, field in fields.items() if name in values}
    return _check(fields, values, "output", error, program, row)


def check_field(field: Field, value: Any) -> Any:
    """Returns the value of one field in the field's own type.

    Raises:
        InputError: as for `check_inputs`.
    """
    try:
        return _CHECKS[field.kind](value, field)
    except _Misfit as misfit:
        raise InputError(
            f"{field.role} {field.name!r}: {misfit}", field=field.name, hint=misfit.hint
        ) from None


def type_adapter(field: Field) -> TypeAdapter[Any]:
    """pydantic's validator and writer of a field's type; bytes and infinities survive its JSON."""
    return _type_adapter(field, field.annotation)


def label_of(field: Field, value: Any, *, row: int | None = None) -> Any:
    """The class of an enumerable or bool output that a value stands for.

    Raises:
        InputError: it stands for none.
    """
    check = _bool if field.kind == "bool" else _class
    try:
        return check(value, field)
    except _Misfit as misfit:
        raise InputError(
            f"output {field.name!r}: {misfit}", field=field.name, row=row, hint=misfit.hint
        ) from None


def _check(
    fields: Mapping[str, Field],
    values: Any,
    role: str,
    error: type[DspexError],
    program: str | None,
    row: int | None,
) -> dict[str, Any]:
    if not isinstance(values, Mapping):
        raise error(
            f"{role}s are a mapping from field to value, not {type(values).__name__}",
            program=program,
            row=row,
            hint=f"Give {', '.join(repr(name) for name in fields)}",
        )
    for name in values:
        if name not in fields:
            raise error(
                f"the signature has no {role} {name!r}",
                field=str(name),
                program=program,
                row=row,
                hint=nearest(str(name), fields),
            )
    checked = {}
    for name, field in fields.items():
        if name not in values:
            raise error(
                f"{role} {name!r} is missing",
                field=name,
                program=program,
                row=row,
                hint=f"It takes {_wanted(field)}",
            )
        try:
            checked[name] = _CHECKS[field.kind](values[name], field)
        except _Misfit as misfit:
            raise error(
                f"{role} {name!r}: {misfit}", field=name, program=program, row=row, hint=misfit.hint
            ) from None
    return checked


def _text(value: Any, field: Field) -> str:
    if isinstance(value, str):
        return str(value)
    raise _wrong_type(value, field)


def _bool(value: Any, field: Field) -> bool:
    if isinstance(value, bool) or _is_numpy(value, "b"):
        return bool(value)
    raise _wrong_type(value, field)


def _int(value: Any, field: Field) -> int:
    if not _is_int(value):
        raise _wrong_type(value, field)
    if abs(int(value)) > _LARGEST:
        raise _Misfit("the number is too large", "It must fit into 64 bits of floating point")
    return int(value)


_LARGEST = int(sys.float_info.max)  # ints become floats wherever something is computed from them


def _float(value: Any, field: Field) -> float:
    if not (_is_int(value) or isinstance(value, float) or _is_numpy(value, "f")):
        raise _wrong_type(value, field)
    try:
        number = float(value)
    except OverflowError:
        raise _Misfit("the number is too large", "It must fit into 64 bits of floating point") from None
    if not math.isfinite(number):
        raise _Misfit(f"{number} is not a finite number", "Put a number in its place, or leave the row out")
    return number


def _vector(value: Any, field: Field) -> Any:
    items = value if isinstance(value, list | tuple) else _buffer_items(value)
    if not isinstance(items, list | tuple) or (not items and field.role == "input"):
        raise _wrong_type(value, field)
    numbers = []
    for index, item in enumerate(items):
        try:
            numbers.append(_float(item, field))
        except _Misfit as misfit:
            raise _Misfit(f"element {index}: {misfit}", misfit.hint) from None
    if get_origin(field.annotation) is list:
        return numbers
    import numpy as np

    return np.array(numbers)


def _buffer_items(value: Any) -> Any:
    try:
        memoryview(value)
    except (TypeError, ValueError, BufferError):
        return None
    return value.tolist() if hasattr(value, "tolist") else None


def _class(value: Any, field: Field) -> Any:
    for known in field.classes or ():
        if _same(value, known):
            return known
    raise _Misfit(
        f"{_show(value)} is not one of its classes",
        nearest(str(value), [_show(_plain(known)) for known in field.classes or ()]),
    )


def _multilabel(value: Any, field: Field) -> list[Any]:
    if not isinstance(value, list | tuple | set | frozenset):
        raise _wrong_type(value, field)
    found = [_class(item, field) for item in value]
    if len({id(item) for item in found}) < len(found):
        raise _Misfit("a label is given twice")
    return found


def _other(value: Any, field: Field) -> Any:
    try:  # strict: "3" is not an int, as it is not for the other kinds
        return type_adapter(field).validate_python(value, strict=True)
    except ValueError:
        raise _wrong_type(value, field) from None


@functools.lru_cache(maxsize=256)
def _type_adapter(field: Field, annotation: Any) -> TypeAdapter[Any]:
    # The annotation is a key of its own: fields compare by their type's name.
    from pydantic import ConfigDict, TypeAdapter

    if names_dspy(annotation):  # written in a string; the real type takes importing DSPy
        other_side = Field(f"not_{field.name}", str, "output" if field.role == "input" else "input")
        annotation = Signature([field, other_side]).to_dspy().fields[field.name].annotation
    config = ConfigDict(
        arbitrary_types_allowed=True,
        ser_json_bytes="base64",
        val_json_bytes="base64",
        ser_json_inf_nan="constants",
    )
    return TypeAdapter(annotation, config=None if _has_settings(annotation) else config)


def _has_settings(annotation: Any) -> bool:
    """Whether a type carries pydantic settings of its own, which may not be given from outside."""
    from pydantic import BaseModel

    if not isinstance(annotation, type):
        return False
    is_typeddict = hasattr(annotation, "__total__")  # typing.is_typeddict knows typing's own only
    return issubclass(annotation, BaseModel) or is_typeddict or is_dataclass(annotation)


_CHECKS: dict[str, Callable[[Any, Field], Any]] = {
    "text": _text,
    "bool": _bool,
    "int": _int,
    "float": _float,
    "vector": _vector,
    "class": _class,
    "multilabel": _multilabel,
    "other": _other,
}

_WANTED = {
    "text": "a string",
    "bool": "True or False",
    "int": "an int",
    "float": "a number",
    "vector": "a one-dimensional, non-empty array of numbers",
    "class": "one of its classes",
    "multilabel": "a list of its labels",
}


def _wrong_type(value: Any, field: Field) -> _Misfit:
    return _Misfit(f"{_show(value)} is of type {type(value).__name__}", f"It takes {_wanted(field)}")


def _wanted(field: Field) -> str:
    return _WANTED.get(field.kind) or f"a value of type {field.annotation}"


def _same(value: Any, known: Any) -> bool:
    # By type too: Literal[1, True] has two classes, although 1 == True.
    for candidate in (known, known.value) if isinstance(known, Enum) else (known,):
        if value is candidate:
            return True
        # Types first: a family takes longer to find, and there may be many classes.
        alike = type(value) is type(candidate) or _family(value) is _family(candidate)
        if alike and value == candidate:
            return True
    return False


def _family(value: Any) -> type:
    """One type for all that may stand for each other: numpy's strings and ints are strings and ints."""
    if isinstance(value, bool | Enum):
        return type(value)
    if isinstance(value, str):
        return str
    if _is_int(value):
        return int
    return bool if _is_numpy(value, "b") else type(value)


def _plain(value: Any) -> Any:
    return value.value if isinstance(value, Enum) else value


def _is_int(value: Any) -> bool:
    return (isinstance(value, int) and not isinstance(value, bool)) or _is_numpy(value, "iu")


def _is_numpy(value: Any, kinds: str) -> bool:
    # Without importing numpy: a value of a numpy type brings its dtype along.
    kind = getattr(getattr(value, "dtype", None), "kind", None)
    return isinstance(kind, str) and kind in kinds and getattr(value, "ndim", None) == 0


def _show(value: Any) -> str:
    text = value if isinstance(value, str) else repr(value)
    text = repr(text) if isinstance(value, str) else text
    return text if len(text) <= 60 else text[:57] + "..."

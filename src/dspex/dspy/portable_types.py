"""Signatures as JSON-able data with all of their types: Enums, models and other classes by import path.

`Signature.to_dict` keeps such types by name only, because whoever reads a file must not import what it names.
A worker process is told by its parent, and imports.
"""

from __future__ import annotations

import base64
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any, Literal, Union

from dspex._signature_field import changed
from dspex.dspy.imports import import_path, imported
from dspex.errors import DspexError, ProgramError, SignatureError
from dspex.signature import Field, Signature

__all__ = ["Packing", "packed_signature", "unpacked_signature", "unpickled"]


@dataclass(frozen=True)
class Packing:
    """How one program is packed.

    Attributes:
        program: its id, for errors.
        allow_pickle: what cannot be told otherwise is pickled.
    """

    program: str
    allow_pickle: bool

    def pickled(self, thing: Any, refusal: DspexError) -> dict[str, str]:
        """The thing as a pickle.

        Raises:
            DspexError: the refusal, where pickles are not allowed.
            ProgramError: it cannot be pickled.
        """
        if not self.allow_pickle:
            raise refusal
        import cloudpickle  # type: ignore[import-untyped]

        try:
            return {"pickle": base64.b64encode(cloudpickle.dumps(thing)).decode()}
        except Exception as error:
            raise ProgramError(
                f"the program cannot be pickled: {type(error).__name__}: {error}",
                program=self.program,
                field=refusal.field,
            ) from error


def unpickled(data: Mapping[str, str]) -> Any:
    """What was pickled, which may run code of its own."""
    import cloudpickle

    return cloudpickle.loads(base64.b64decode(data["pickle"]))


def packed_signature(signature: Signature, packing: Packing) -> dict[str, Any]:
    """The signature as data, which `unpacked_signature` makes an equal one of in another process.

    Raises:
        SignatureError: a type that only this process knows, and pickles are not allowed; `field` names it.
    """
    path = None if signature.dspy_class is None else import_path(signature.dspy_class)
    if path is not None:
        return {"path": path}
    packed = {}
    for name, field in signature.fields.items():
        if field.opaque or _has_enum(field.annotation):
            try:
                packed[name] = _packed(field.annotation)
            except _Unknown as unknown:
                return packing.pickled(signature, _refusal(field, unknown, packing.program))
    return {"fields": signature.to_dict(), "types": packed}


def unpacked_signature(data: Mapping[str, Any]) -> Signature:
    """What `packed_signature` packed.

    Raises:
        ConfigError: something in it cannot be imported.
    """
    if "pickle" in data:
        found: Signature = unpickled(data)
        return found
    if "path" in data:
        return Signature.of(imported(data["path"], "signature"))
    signature = Signature.from_dict(data["fields"])
    if not data["types"]:
        return signature
    fields = [_retyped(field, data["types"].get(name)) for name, field in signature.fields.items()]
    return Signature(fields, instructions=signature.instructions, name=signature.name)


def _retyped(field: Field, packed: Any) -> Field:
    if packed is None:
        return field
    return changed(field, annotation=_unpacked(packed), enum=None)


def _refusal(field: Field, why: Exception, program_id: str) -> SignatureError:
    return SignatureError(
        f"the type {field.type_name} cannot be sent to a worker process: {why}",
        field=field.name,
        program=program_id,
        hint="Declare it in a module that can be imported, or set dspy_pool.allow_pickle",
    )


def _has_enum(annotation: Any) -> bool:
    if isinstance(annotation, Enum) or (isinstance(annotation, type) and issubclass(annotation, Enum)):
        return True
    return any(_has_enum(part) for part in typing.get_args(annotation))


class _Unknown(Exception):
    """Another process cannot know it."""


def _packed(part: Any) -> list[Any]:
    """A type as data: a tag, and what it is made of."""
    if part is None or part is types.NoneType:
        return ["none"]
    if part is Any:
        return ["any"]
    if part is Ellipsis:
        return ["..."]
    origin, args = typing.get_origin(part), typing.get_args(part)
    if origin is Literal:
        return ["literal", [_packed_value(value) for value in args]]
    if origin is Union or origin is types.UnionType:
        return ["union", [_packed(arg) for arg in args]]
    if isinstance(origin, type):
        return ["of", _path(origin), [_packed(arg) for arg in args]]
    return ["class", _path(part)]


def _path(part: Any) -> str:
    path = import_path(part) if isinstance(part, type) else None
    if path is None:
        raise _Unknown(f"{part!r} cannot be imported there")
    return path


def _packed_value(value: Any) -> list[Any]:
    if isinstance(value, Enum):
        return ["member", _path(type(value)), value.name]
    return ["plain", value]


def _unpacked(data: Any) -> Any:
    tag, *rest = data
    return _READERS[tag](*rest)


def _value(data: Any) -> Any:
    tag, *rest = data
    return rest[0] if tag == "plain" else imported(rest[0])[rest[1]]


_READERS: dict[str, Any] = {
    "none": lambda: types.NoneType,
    "any": lambda: Any,
    "...": lambda: Ellipsis,
    "class": imported,
    "literal": lambda values: Literal.__getitem__(tuple(map(_value, values))),
    "union": lambda parts: Union.__getitem__(tuple(map(_unpacked, parts))),
    "of": lambda path, parts: imported(path)[tuple(map(_unpacked, parts))],
}

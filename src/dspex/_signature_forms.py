"""Reads the forms of a signature that are no strings: mappings, DSPy classes, and what ``to_dict`` gave."""

from __future__ import annotations

import sys
import typing
from collections.abc import Iterator, Mapping
from enum import Enum
from typing import Any, Literal, NamedTuple

from . import _signature_types as sigtypes
from ._signature_field import Field
from ._signature_names import check_name
from ._signature_string import parse_type
from .errors import SignatureError, nearest

__all__ = ["Parts", "dspy_signature_class", "from_dict", "from_dspy", "from_mapping"]

MAX_FIELDS = 10_000
_KEYS = ("inputs", "outputs", "instructions", "name")
_FIELD_KEYS = ("type", "description", "desc", "classes", "prefix")
_FORM_HINT = 'Write {"inputs": {"text": "str"}, "outputs": {"label": ["a", "b"]}}'
_ROLES = ("input", "output")


class Parts(NamedTuple):
    """What a signature is made of; None stands for DSPy's default."""

    fields: list[Field]
    instructions: str | None
    name: str | None


# --- mappings -------------------------------------------------------------------------------------------


def from_mapping(spec: Mapping[Any, Any]) -> Parts:
    """Read ``{"inputs": ..., "outputs": ...}``, each a mapping of names to types or a list of mappings.

    Raises:
        SignatureError: a key is missing or unknown, or a field cannot be read; ``field`` names it.
    """
    _check_keys(spec, _KEYS, ("inputs", "outputs"), "the signature", hint=_FORM_HINT)
    fields = []
    for role in _ROLES:
        for name, value in _entries(spec[f"{role}s"], f"{role}s"):
            fields.append(_field(check_name(name), value, role))
    return Parts(
        fields,
        _text(spec.get("instructions"), "the instructions"),
        _text(spec.get("name"), "the signature's name"),
    )


def _check_keys(
    given: Mapping[Any, Any],
    known: tuple[str, ...],
    needed: tuple[str, ...],
    what: str,
    *,
    hint: str,
    field: str | None = None,
) -> None:
    for key in given:
        if key not in known:
            raise SignatureError(
                f"{what} has an unknown key {sigtypes.short(key)}", field=field, hint=nearest(key, known)
            )
    for key in needed:
        if key not in given:
            raise SignatureError(f"{what} has no {key!r}", field=field, hint=hint)


def _text(value: object, what: str, field: str | None = None) -> str | None:
    if value is None or isinstance(value, str):
        return value
    raise SignatureError(
        f"{what} must be a str, not {sigtypes.short(value)}", field=field, hint="Write a string"
    )


def _entries(side: object, what: str) -> Iterator[tuple[Any, Any]]:
    """Pairs of name and type from either form of one side."""
    if isinstance(side, Mapping):
        yield from side.items()
        return
    if not isinstance(side, list | tuple):
        raise SignatureError(
            f"{what!r} must be a mapping or a list, not {sigtypes.short(side)}", hint=_FORM_HINT
        )
    hint = 'Write {"name": "text", "type": "str", "description": "..."}'
    for index, entry in enumerate(side):
        if not isinstance(entry, Mapping):
            raise SignatureError(f"{what}[{index}] must be a mapping, not {sigtypes.short(entry)}", hint=hint)
        where = f"{what}[{index}]"
        _check_keys(entry, ("name", *_FIELD_KEYS), ("name",), where, hint=hint)
        yield entry["name"], {key: value for key, value in entry.items() if key != "name"}


def _field(name: str, value: Any, role: str) -> Field:
    if not isinstance(value, Mapping):
        annotation, order = _type(value, name)
        return Field(name, annotation, role, order=order)
    _check_keys(value, _FIELD_KEYS, (), f"the field {name!r}", hint="", field=name)
    if "desc" in value and "description" in value:
        raise SignatureError(
            "a field has one description", field=name, hint="Keep 'description', drop 'desc'"
        )
    annotation, order = _type_with_classes(value, name)
    return Field(
        name,
        annotation,
        role,
        desc=_text(value.get("description", value.get("desc")), "a description", name),
        prefix=_text(value.get("prefix"), "a prefix", name),
        order=order,
    )


def _type(value: Any, name: str) -> tuple[Any, tuple[Any, ...]]:
    """The type that a mapping's value stands for, and the order of its classes."""
    if isinstance(value, str):
        return parse_type(value, name, aliases=sigtypes.ALIASES)
    if isinstance(value, list | tuple | set | frozenset):
        classes = sigtypes.check_classes(value, field=name)
        return Literal[classes], classes
    if isinstance(value, type | sigtypes.NamedType) or value is Any or typing.get_origin(value) is not None:
        return value, ()
    raise SignatureError(
        f"{sigtypes.short(value)} is no type",
        field=name,
        hint='Give a name such as "str", a Python type, or a list of classes',
    )


def _type_with_classes(value: Mapping[Any, Any], name: str) -> tuple[Any, tuple[Any, ...]]:
    if value.get("type") is None and value.get("classes") is None:
        hint = 'Add "type": "str", or "classes": [...]'
        raise SignatureError("the field has neither a type nor classes", field=name, hint=hint)
    if value.get("classes") is None:
        return _type(value["type"], name)
    classes = sigtypes.check_classes(value["classes"], field=name)
    if value.get("type") is None or value["type"] == "Literal":
        return Literal[classes], classes
    if value["type"] == "list[Literal]":
        return list[Literal[classes]], classes  # type: ignore[valid-type]
    return _restrict(_type(value["type"], name)[0], classes, name), classes


def _restrict(annotation: Any, classes: tuple[Any, ...], name: str) -> Any:
    """A plain type cut down to some of its values."""
    many = typing.get_origin(annotation) is list and len(typing.get_args(annotation)) == 1
    single = typing.get_args(annotation)[0] if many else annotation
    if single not in (str, int, bool):
        text = sigtypes.short(sigtypes.type_text(annotation)[0])
        hint = "Give classes with the type str, int, bool or a list of one of these, or without a type"
        raise SignatureError(f"the type {text} cannot have classes beside it", field=name, hint=hint)
    wrong = next((c for c in classes if type(c) is not single), None)
    if any(type(c) is not single for c in classes):
        what = f"the class {sigtypes.short(wrong)} is no {single.__name__}"
        raise SignatureError(what, field=name, hint="Make the classes and the type agree")
    literal: Any = Literal[classes]
    return list[literal] if many else literal


# --- DSPy classes ---------------------------------------------------------------------------------------


def dspy_signature_class() -> type | None:
    """DSPy's Signature if DSPy has been imported; before that, nothing can be one of its classes."""
    found = getattr(sys.modules.get("dspy.signatures.signature"), "Signature", None)
    return found if isinstance(found, type) else None


def from_dspy(cls: Any) -> Parts:
    """Read a ``dspy.Signature`` class.

    Raises:
        SignatureError: a field has a default value, which dspex does not fill in.
    """
    sides = (("input", cls.input_fields), ("output", cls.output_fields))
    fields = [_dspy_field(name, info, role) for role, infos in sides for name, info in infos.items()]
    return Parts(fields, cls.instructions, cls.__name__)


def _dspy_field(name: str, info: Any, role: str) -> Field:
    check_name(name)
    if not info.is_required():
        hint = "Declare it without one and pass the value in each call"
        raise SignatureError(f"the {role} field {name!r} has a default value", field=name, hint=hint)
    extra = info.json_schema_extra
    return Field(
        name,
        info.annotation,
        role,
        desc=_text(extra.get("desc"), "a description", name),
        prefix=_text(extra.get("prefix"), "a prefix", name),
        constraints=_text(extra.get("constraints"), "a constraint", name) or "",
    )


# --- stored data ----------------------------------------------------------------------------------------

_STORED = ("name", "type", "description", "prefix")
_STORED_EXTRA = ("classes", "enum", "constraints", "learned", "opaque")
_STORED_HINT = "The data is damaged, or was not made by Signature.to_dict"


def from_dict(data: object) -> Parts:
    """Read what ``Signature.to_dict`` gave; nothing in the data is trusted, and nothing it names is imported.

    Raises:
        SignatureError: the data is not exactly of that form.
    """
    if not isinstance(data, Mapping):
        raise SignatureError(
            f"a stored signature is a mapping, not {sigtypes.short(data)}", hint=_STORED_HINT
        )
    _check_keys(data, _KEYS, _KEYS, "the stored signature", hint=_STORED_HINT)
    fields: list[Field] = []
    for role in _ROLES:
        side = data[f"{role}s"]
        if not isinstance(side, list) or len(side) > MAX_FIELDS:
            raise SignatureError(
                f"the stored {role}s must be a list of at most {MAX_FIELDS:,}", hint=_STORED_HINT
            )
        fields += [_stored_field(entry, role) for entry in side]
    return Parts(fields, _stored_text(data, "instructions"), _stored_text(data, "name"))


def _stored_text(data: Mapping[Any, Any], key: str, field: str | None = None) -> str:
    value = data[key]
    if type(value) is str:
        return value
    raise SignatureError(
        f"the stored {key!r} must be a str, not {sigtypes.short(value)}", field=field, hint=_STORED_HINT
    )


def _stored_field(data: Any, role: str) -> Field:
    if not isinstance(data, Mapping):
        raise SignatureError(f"a stored field is a mapping, not {sigtypes.short(data)}", hint=_STORED_HINT)
    _check_keys(data, _STORED + _STORED_EXTRA, _STORED, "a stored field", hint=_STORED_HINT)
    name = check_name(data["name"])
    for key in ("learned", "opaque"):
        if data.get(key, True) is not True:
            raise SignatureError(f"the stored {key!r} can only be true", field=name, hint=_STORED_HINT)
    optional = {key: _stored_text(data, key, name) for key in ("enum", "constraints") if key in data}
    classes = _stored_classes(data, name)
    field = Field(
        name,
        _stored_type(data, name, classes),
        role,
        desc=_stored_text(data, "description", name),
        prefix=_stored_text(data, "prefix", name),
        order=classes or (),
        learned=classes if "learned" in data else None,
        enum=optional.get("enum"),
        constraints=optional.get("constraints", ""),
    )
    _check_stored(field, data)
    return field


def _stored_classes(data: Mapping[Any, Any], name: str) -> tuple[Any, ...] | None:
    if "classes" not in data:
        return None
    if not isinstance(data["classes"], list):
        raise SignatureError("the stored classes must be a list", field=name, hint=_STORED_HINT)
    return sigtypes.check_classes(data["classes"], field=name, only_text="learned" in data)


def _stored_type(data: Mapping[Any, Any], name: str, classes: tuple[Any, ...] | None) -> Any:
    text = _stored_text(data, "type", name)
    if text in sigtypes.BUILTINS:
        return sigtypes.BUILTINS[text]
    if classes is not None and text == "Literal":
        return Literal[classes]
    if classes is not None and text == "list[Literal]":
        return list[Literal[classes]]  # type: ignore[valid-type]
    if "opaque" in data and not text.startswith("dspy."):
        return sigtypes.NamedType(text)
    return parse_type(text, name)[0]


def _check_stored(field: Field, data: Mapping[Any, Any]) -> None:
    """The parts of a stored field have to agree with each other."""
    if "learned" in data and not field.learned:
        problem = "learned classes are missing"
    elif field.learned and not field.takes_learned_classes:
        problem = f"a field of type {sigtypes.short(field.type_name)} cannot have learned classes"
    elif _typed(field.values) != _typed(data.get("classes")):
        problem = "the stored classes are not those of the stored type"
    elif field.enum is not None and (field.classes is None or field.learned):
        problem = "only a field with classes can be of an Enum"
    elif "opaque" in data and field.kind != "other":
        problem = "only a type that is known by its name can be opaque"
    else:
        return
    raise SignatureError(problem, field=field.name, hint=_STORED_HINT)


def _typed(values: Any) -> Any:
    return None if values is None else (list(map(type, values)), list(values))


def restore_enum(field: Field, enum: type[Enum]) -> Any:
    """The annotation with which a field that was read back gives members of its Enum again.

    Raises:
        SignatureError: the Enum's values are not the field's classes.
    """
    values = tuple(member.value for member in enum)
    if field.kind not in ("class", "multilabel") or field.learned or _typed(values) != _typed(field.values):
        raise SignatureError(
            f"the values of {enum.__qualname__} are not the classes of this field",
            field=field.name,
            hint=f"Its classes are {sigtypes.short(field.values)}",
        )
    return list[enum] if field.kind == "multilabel" else enum  # type: ignore[valid-type]

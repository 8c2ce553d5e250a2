"""Signatures: what a program takes and gives, read from any form that DSPy takes, without importing DSPy."""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Mapping, Sequence
from enum import Enum
from types import MappingProxyType
from typing import Any

from . import _signature_forms as forms
from . import _signature_types as sigtypes
from ._signature_field import Field, changed
from ._signature_string import parse_signature, parse_type
from .errors import SignatureError, nearest

__all__ = ["Eligibility", "Field", "Signature"]

DEFAULT_NAME = "StringSignature"  # DSPy's own for a signature without one
_NATIVE_INPUTS = ("text", "int", "float", "bool", "vector")
_NATIVE_OUTPUTS = ("class", "bool", "int", "float", "multilabel")
_OF_HINT = (
    "Give a string such as \"text -> label: Literal['a', 'b']\", a dspy.Signature class, "
    'or {"inputs": {"text": "str"}, "outputs": {"label": ["a", "b"]}}'
)


class Eligibility:
    """Whether a signature can be answered natively: true or false, with the reason.

    Attributes:
        ok: yes or no; also the object's truth value.
        field: the first field that stands in the way, or None.
        reason: why, and what would change it.
    """

    __slots__ = ("field", "ok", "reason")

    def __init__(self, ok: bool, field: str | None, reason: str) -> None:
        self.ok = ok
        self.field = field
        self.reason = reason

    def __bool__(self) -> bool:
        return self.ok

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Eligibility):
            return NotImplemented
        return (self.ok, self.field, self.reason) == (other.ok, other.field, other.reason)

    def __hash__(self) -> int:
        return hash((self.ok, self.field, self.reason))

    def __repr__(self) -> str:
        return f"Eligibility(ok={self.ok}, field={self.field!r}, reason={self.reason!r})"


class Signature:
    """Named, typed inputs and outputs with instructions. Cannot be changed; compares and hashes by value.

    Two signatures are equal when their instructions and fields are, in order, whatever their names: DSPy
    compares its own in the same way.

    Attributes:
        name: the name of the class it came from, or DSPy's ``StringSignature``.
        instructions: the task for a language model.
        inputs: the input fields by name, in order; read-only.
        outputs: the output fields by name, in order; read-only.
    """

    __slots__ = ("_dspy", "_hash", "inputs", "instructions", "name", "outputs")
    name: str
    instructions: str
    inputs: Mapping[str, Field]
    outputs: Mapping[str, Field]
    _dspy: Any
    _hash: int | None

    def __init__(
        self, fields: Iterable[Field], *, instructions: str | None = None, name: str | None = None
    ) -> None:
        """Make a signature of fields, in order; ``Signature.of`` reads every other form.

        Raises:
            SignatureError: there is no input or no output, or two fields share a name.
        """
        sides: dict[str, dict[str, Field]] = {"input": {}, "output": {}}
        seen: dict[str, str] = {}
        for field in fields:
            if field.name in seen:
                what = f"{field.name!r} is an {seen[field.name]} field already"
                raise SignatureError(what, field=field.name, hint="Give each field its own name")
            seen[field.name] = field.role
            sides[field.role][field.name] = field
        for role, side in sides.items():
            if not side:
                raise SignatureError(f"there is no {role} field", hint=f"Name at least one {role}")
        if name is not None and not name.strip():
            raise SignatureError("the signature's name is empty", hint="Give it one, or leave it out")
        self._set("inputs", MappingProxyType(sides["input"]))
        self._set("outputs", MappingProxyType(sides["output"]))
        self._set("instructions", self._default_instructions() if instructions is None else instructions)
        self._set("name", DEFAULT_NAME if name is None else name)
        self._set("_dspy", None)
        self._set("_hash", None)

    def _set(self, key: str, value: object) -> None:
        object.__setattr__(self, key, value)

    def _default_instructions(self) -> str:
        ins, outs = (", ".join(f"`{name}`" for name in side) for side in (self.inputs, self.outputs))
        return f"Given the fields {ins}, produce the fields {outs}."

    @classmethod
    def of(cls, spec: Any) -> Signature:
        """Read a signature from any of its forms.

        Args:
            spec: one of

                - DSPy's string form, ``"subject, body -> label: Literal['a', 'b'], urgent: bool"``;
                - a ``dspy.Signature`` class;
                - a mapping ``{"inputs": {"text": "str"}, "outputs": {"label": ["a", "b"]}}``, optionally
                  with ``instructions`` and ``name``. A field's value is the text of a type, a Python type, a
                  list of classes, or a mapping with ``type``, ``description``, ``classes`` and ``prefix``;
                - the list form ``{"inputs": [{"name", "type", "description"}], "outputs": [...]}``;
                - a Signature, which is returned as it is.

                In mappings the type names string, integer, number, boolean, any, map and embedding stand for
                str, int, float, bool, Any, dict and numpy.ndarray.

        Raises:
            SignatureError: it is none of these, or something in it cannot be read; the message shows where.
        """
        if isinstance(spec, Signature):
            return spec
        if isinstance(spec, str):
            ins, outs = parse_signature(spec)
            pairs = [("input", f) for f in ins] + [("output", f) for f in outs]
            return cls(Field(f.name, f.annotation, role, order=f.classes) for role, f in pairs)
        if isinstance(spec, Mapping):
            return cls._from_parts(forms.from_mapping(spec))
        base = forms.dspy_signature_class()
        if base and isinstance(spec, type) and issubclass(spec, base):
            made = cls._from_parts(forms.from_dspy(spec))
            made._set("_dspy", spec)
            return made
        hint = _OF_HINT
        if base and isinstance(spec, base):
            hint = "Pass the dspy.Signature class, not an object of it"
        elif base and hasattr(spec, "signature"):
            hint = "Pass its signature: program.signature"
        raise SignatureError(f"a signature cannot be read from {sigtypes.short(spec)}", hint=hint)

    @classmethod
    def _from_parts(cls, parts: forms.Parts) -> Signature:
        return cls(parts.fields, instructions=parts.instructions, name=parts.name)

    @property
    def dspy_class(self) -> Any:
        """The ``dspy.Signature`` class it was read from, or None."""
        return self._dspy

    @property
    def fields(self) -> dict[str, Field]:
        """All fields by name, the inputs first."""
        return {**self.inputs, **self.outputs}

    def native_eligibility(self) -> Eligibility:
        """Whether all inputs are text, numbers, bools or vectors and all outputs enumerable or numeric."""
        for field in self.fields.values():
            reason = _native_obstacle(field)
            if reason:
                return Eligibility(False, field.name, f"the {field.role} {field.name!r} {reason}")
        return Eligibility(
            True,
            None,
            "every input is text, a number, a bool or a vector and every output is enumerable or numeric",
        )

    def with_classes(self, field: str, classes: Sequence[Any] | type[Enum]) -> Signature:
        """A copy in which an output has these classes.

        Args:
            field: the name of a ``str`` or ``list[str]`` output; or, when an Enum is given, of an output that
                has its values as classes (as after loading, which imports no Enum).
            classes: the classes in order, all str; or the Enum whose members results shall be.

        Raises:
            SignatureError: there is no such output, its type has its own classes, or these cannot be classes.
        """
        if field not in self.outputs:
            hint = nearest(field, self.outputs)
            raise SignatureError(f"there is no output {sigtypes.short(field)}", field=str(field), hint=hint)
        old = self.outputs[field]
        if sigtypes.is_enum(classes):
            annotation = forms.restore_enum(old, classes)  # type: ignore[arg-type]
            return self._with(changed(old, annotation=annotation, classes=None, enum=None))
        if not old.takes_learned_classes:
            hint = "Only a str or list[str] output takes its classes from examples"
            what = f"the output has the type {sigtypes.short(old.type_name)}"
            raise SignatureError(what, field=field, hint=hint)
        plain = sigtypes.check_classes(classes, field=field, only_text=True)
        return self._with(changed(old, classes=plain, learned=True))

    def _with(self, field: Field) -> Signature:
        fields = {**self.fields, field.name: field}
        return Signature(fields.values(), instructions=self.instructions, name=self.name)

    def to_dict(self) -> dict[str, Any]:
        """JSON-able data from which ``from_dict`` makes an equal signature.

        Two things are kept by name only: an Enum (its values become plain classes, see ``with_classes``) and
        a type that is neither Python's nor DSPy's.
        """
        return {
            "name": self.name,
            "instructions": self.instructions,
            "inputs": [field.to_dict() for field in self.inputs.values()],
            "outputs": [field.to_dict() for field in self.outputs.values()],
        }

    @classmethod
    def from_dict(cls, data: Any) -> Signature:
        """The signature that ``to_dict`` described. Everything is checked, nothing named in it is imported.

        Raises:
            SignatureError: the data is not exactly of that form.
        """
        return cls._from_parts(forms.from_dict(data))

    def to_string(self) -> str:
        """The fields in DSPy's string form, as in ``"text -> label: Literal['a', 'b']"``.

        It reads back as an equal signature when all that this one declares can be said in a string: no
        instructions, descriptions, Enums, learned classes or types of one's own.
        """
        sides = [
            ", ".join(f.name if f.annotation is str else f"{f.name}: {f.type_name}" for f in side.values())
            for side in (self.inputs, self.outputs)
        ]
        return " -> ".join(sides)

    def to_dspy(self) -> Any:
        """The ``dspy.Signature`` class: the one this was read from, or a new one. Imports DSPy.

        A ``numpy.ndarray`` becomes ``list[float]``, because DSPy has no schema for arrays.

        Raises:
            SignatureError: a type is known by its name only, or this version of DSPy has no such type.
        """
        if self._dspy is not None:
            return self._dspy
        dspy: Any = importlib.import_module("dspy")
        fields = {}
        for field in self.fields.values():
            make = dspy.InputField if field.role == "input" else dspy.OutputField
            info = make(desc=field.desc)
            info.json_schema_extra["prefix"] = field.prefix
            if field.constraints:
                info.json_schema_extra["constraints"] = field.constraints
            fields[field.name] = (_dspy_annotation(field, dspy), info)
        return dspy.Signature(fields, self.instructions, signature_name=self.name)

    def __setattr__(self, key: str, value: object) -> None:
        raise AttributeError(f"a Signature cannot be changed: {key}")

    def __delattr__(self, key: str) -> None:
        raise AttributeError(f"a Signature cannot be changed: {key}")

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Signature):
            return NotImplemented
        return self is other or self._key() == other._key()

    def __hash__(self) -> int:
        if self._hash is None:
            self._set("_hash", hash(self._key()))
        return self._hash or 0

    def _key(self) -> tuple[Any, ...]:
        return (self.instructions, *self.inputs.values(), *self.outputs.values())

    def __reduce__(self) -> tuple[Any, ...]:
        # Without the DSPy class, which often cannot be pickled; to_dspy makes an equal one.
        return _restore, (list(self.fields.values()), self.instructions, self.name)

    def __repr__(self) -> str:
        return f"Signature({self.to_string()!r})"


def _restore(fields: list[Field], instructions: str, name: str) -> Signature:
    return Signature(fields, instructions=instructions, name=name)


def _native_obstacle(field: Field) -> str | None:
    """Why this field keeps a signature from being native, or None."""
    kinds = _NATIVE_INPUTS if field.role == "input" else _NATIVE_OUTPUTS
    if field.kind in kinds:
        return None
    if field.takes_learned_classes:
        what = "free text" if field.kind == "text" else "a list of free text"
        literal = "Literal[...]" if field.kind == "text" else "list[Literal[...]]"
        return (
            f"is {what}; it becomes enumerable when dspex.fit takes its classes from examples, "
            f"or when it is declared as {literal}"
        )
    of_type = f"has the type {sigtypes.short(field.type_name).strip(chr(34) + chr(39))}"
    if field.role == "input":
        return f"{of_type}; a native input is str, int, float, bool, numpy.ndarray or list[float]"
    return f"{of_type}; a native output is a Literal, Enum, bool, int, float or a list of Literals"


def _dspy_annotation(field: Field, dspy: Any) -> Any:
    if field.opaque and sigtypes.names_dspy(field.annotation):  # else the type itself is at hand
        hint = "Use the dspy.Signature class that declares it"
        raise SignatureError(
            f"the type {sigtypes.short(field.type_name)} is known by name only", field=field.name, hint=hint
        )
    if sigtypes.names_dspy(field.annotation):
        return parse_type(
            field.type_name, field.name, dspy_type=lambda name: _dspy_type(name, field.name, dspy)
        )[0]
    return sigtypes.without_vectors(field.annotation)


def _dspy_type(name: str, field: str, dspy: Any) -> Any:
    found = dspy
    for part in name.split(".")[1:]:
        found = getattr(found, part, None)
    if not isinstance(found, type):
        raise SignatureError(
            f"this version of DSPy has no type {name}", field=field, hint="Check its spelling"
        )
    return found

"""One field of a signature."""

from __future__ import annotations

import operator
import typing
from collections.abc import Sequence
from enum import Enum
from typing import Any

from . import _signature_types as sigtypes
from ._signature_names import infer_prefix

__all__ = ["Field"]


class Field:
    """One named, typed input or output. Cannot be changed; compares and hashes by what it declares.

    Attributes:
        name: the field's name.
        annotation: its Python type, as DSPy derives it. A type known by name only (``dspy.Image`` in a
            string) is an object whose repr is that name.
        desc: its description; ``${name}`` when none was given, as in DSPy.
        prefix: DSPy's label for it in prompts, colon included.
        role: ``"input"`` or ``"output"``.
        kind: ``"text"`` (str), ``"bool"``, ``"int"``, ``"float"``, ``"vector"`` (numpy.ndarray or
            list[float]), ``"class"`` (Literal, Enum, or a str whose classes were learned), ``"multilabel"``
            (a list of those), or ``"other"``: anything else that DSPy takes.
        classes: the values of a ``"class"`` or ``"multilabel"`` field, in order (an Enum's members), or None.
        learned: whether the classes came from examples and not from the type.
        enum: the qualified name of the Enum that the classes are of, or None. A field read back by
            ``Signature.from_dict`` has the name and the plain values, because loading imports nothing.
        constraints: DSPy's text for limits such as ``ge=0``; shown to a language model, enforced by nobody.
    """

    __slots__ = (
        "_type_text",
        "annotation",
        "classes",
        "constraints",
        "desc",
        "enum",
        "kind",
        "learned",
        "name",
        "prefix",
        "role",
    )
    name: str
    annotation: Any
    desc: str
    prefix: str
    role: str
    kind: str
    classes: tuple[Any, ...] | None
    learned: bool
    enum: str | None
    constraints: str
    _type_text: tuple[str, bool] | None

    def __init__(
        self,
        name: str,
        annotation: Any,
        role: str,
        *,
        desc: str | None = None,
        prefix: str | None = None,
        constraints: str = "",
        order: Sequence[Any] = (),
        learned: Sequence[str] | None = None,
        enum: str | None = None,
    ) -> None:
        """Make a field; use ``Signature.of`` instead, which checks what it is given.

        Args:
            name: an identifier.
            annotation: the Python type.
            role: ``"input"`` or ``"output"``.
            desc: the description, or None for DSPy's default.
            prefix: the label in prompts, or None for the one DSPy infers from the name.
            constraints: DSPy's text for limits.
            order: the order of the classes when the type itself does not keep it (typing caches some types
                without regard to it).
            learned: the classes of a ``str`` or ``list[str]`` output that come from examples.
            enum: the name of the Enum whose values the classes are, when the Enum itself is not at hand.

        Raises:
            SignatureError: the type is an Enum without members or has classes that are equal in Python.
        """
        kind, classes = sigtypes.classify(annotation, name)
        if classes is not None:
            classes = _ordered(classes, order)
            if isinstance(classes[0], Enum):
                enum = f"{type(classes[0]).__module__}.{type(classes[0]).__qualname__}"
        if learned is not None:
            kind, classes = ("class" if kind == "text" else "multilabel"), tuple(learned)
        values = {
            "name": name,
            "annotation": annotation,
            "desc": f"${{{name}}}" if desc is None else desc,
            "prefix": infer_prefix(name) if prefix is None else prefix,
            "role": role,
            "kind": kind,
            "classes": classes,
            "learned": learned is not None,
            "enum": enum,
            "constraints": constraints,
            "_type_text": None,
        }
        for key, value in values.items():
            object.__setattr__(self, key, value)

    @property
    def type_name(self) -> str:
        """The type as it is written in a signature string; of an Enum, the Literal of its values."""
        return self._written()[0]

    @property
    def opaque(self) -> bool:
        """Whether the type is one that only its own module knows, so that ``type_name`` merely names it."""
        return self.kind == "other" and not self._written()[1]

    def _written(self) -> tuple[str, bool]:
        # Made on first need: a long list of classes would cost every load of a model file.
        if self._type_text is None:
            listed = None if self.learned else self.classes
            object.__setattr__(self, "_type_text", sigtypes.type_text(self.annotation, listed))
        return self._type_text or ("", False)

    @property
    def values(self) -> tuple[Any, ...] | None:
        """The classes as plain str, int, bool or None: an Enum's members by their values."""
        if self.classes is None:
            return None
        is_enum = isinstance(self.classes[0], Enum)
        return tuple(c.value for c in self.classes) if is_enum else self.classes

    @property
    def takes_learned_classes(self) -> bool:
        """Whether this is a ``str`` or ``list[str]`` output, whose classes can come from examples."""
        listed = typing.get_origin(self.annotation) is list and typing.get_args(self.annotation) == (str,)
        return self.role == "output" and (self.annotation is str or listed)

    def to_dict(self) -> dict[str, Any]:
        """The field as JSON-able data."""
        data: dict[str, Any] = {
            "name": self.name,
            "type": self._stored_type(),
            "description": self.desc,
            "prefix": self.prefix,
        }
        if self.classes is not None:
            data["classes"] = list(self.values or ())
        for key, value in (("enum", self.enum), ("constraints", self.constraints)):
            if value:
                data[key] = value
        for key, flag in (("learned", self.learned), ("opaque", self.opaque)):
            if flag:
                data[key] = True
        return data

    def _stored_type(self) -> str:
        """The type's text, without repeating a long list of classes that is stored beside it."""
        if self.classes is None or self.learned:
            return self.type_name
        listed = sigtypes.classes_text(self.classes)
        return {listed: "Literal", f"list[{listed}]": "list[Literal]"}.get(self.type_name, self.type_name)

    def _key(self) -> tuple[Any, ...]:
        # Members and plain values of one Enum give different results, so they are different fields.
        live = self.classes is not None and isinstance(self.classes[0], Enum)
        learned = self.classes if self.learned else None
        return (
            *(self.name, self.role, self.type_name, self.desc, self.prefix, self.constraints),
            *(self.enum, live, learned),
        )

    def __setattr__(self, key: str, value: object) -> None:
        raise AttributeError(f"a Field cannot be changed: {key}")

    def __delattr__(self, key: str) -> None:
        raise AttributeError(f"a Field cannot be changed: {key}")

    def __eq__(self, other: object) -> bool:
        return self._key() == other._key() if isinstance(other, Field) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._key())

    def __reduce__(self) -> tuple[Any, ...]:
        return restore, tuple(getattr(self, name) for name in _STATE)

    def __repr__(self) -> str:
        text = f"Field({self.name}: {self.type_name}, {self.role}, {self.kind}"
        return text + (f", {len(self.classes)} learned classes)" if self.learned and self.classes else ")")


_STATE = ("name", "annotation", "role", "desc", "prefix", "constraints", "classes", "learned", "enum")


def restore(
    name: str,
    annotation: Any,
    role: str,
    desc: str,
    prefix: str,
    constraints: str,
    classes: tuple[Any, ...] | None,
    learned: bool,
    enum: str | None,
) -> Field:
    """A Field from its parts: the other half of pickling and of changed copies."""
    return Field(
        name,
        annotation,
        role,
        desc=desc,
        prefix=prefix,
        constraints=constraints,
        order=classes or (),
        learned=classes if learned else None,
        enum=enum,
    )


def changed(field: Field, **changes: Any) -> Field:
    """A copy of the field with some of its parts replaced."""
    return restore(**{key: changes.get(key, getattr(field, key)) for key in _STATE})


def _ordered(classes: tuple[Any, ...], order: Sequence[Any]) -> tuple[Any, ...]:
    """The classes in the given order; those that it lacks come last."""
    if not order or (len(order) == len(classes) and all(map(operator.is_, order, classes))):
        return classes
    place: dict[tuple[type, Any], int] = {}
    for value in order:
        place.setdefault((type(value), value), len(place))
    return tuple(sorted(classes, key=lambda c: place.get((type(c), c), len(place))))

"""What a type means to a signature: the names that can be written, its kind, its classes, its text."""

from __future__ import annotations

import importlib
import sys
import types
import typing
from collections.abc import Callable, Iterable, Sequence
from enum import Enum
from typing import Any, Literal, Union

from .errors import SignatureError

__all__ = [
    "NamedType",
    "check_classes",
    "classes_text",
    "classify",
    "is_enum",
    "is_vector",
    "names_dspy",
    "needs_brackets",
    "resolve_name",
    "short",
    "subscript",
    "type_text",
    "without_vectors",
]

NoneType = type(None)
BUILTINS: dict[str, Any] = {
    t.__name__: t
    for t in (str, int, float, bool, list, tuple, dict, set, frozenset, complex, bytes, NoneType)
}
VECTOR_NAMES = ("numpy.ndarray", "np.ndarray")
# Only these are ever imported for a type's sake: a signature may come from a file, and an import runs code.
SAFE_MODULES = (
    "datetime",
    "decimal",
    "fractions",
    "ipaddress",
    "pathlib",
    "uuid",
    "collections",
    "collections.abc",
)
PLAIN_TYPING = frozenset({"Any", "Text", "Literal", "Optional", "Union"})
ARITY: dict[Any, int] = {list: 1, set: 1, frozenset: 1, dict: 2, typing.Optional: 1}
# The original system's names for types, and JSON's; read in mappings, never in a signature string.
ALIASES = {
    "string": "str",
    "integer": "int",
    "number": "float",
    "boolean": "bool",
    "any": "Any",
    "map": "dict",
    "embedding": "numpy.ndarray",
}
SUGGESTED = (
    *BUILTINS,
    *("Any", "Literal", "Optional", "Union", "List", "Dict"),
    *("datetime.date", "datetime.datetime", "decimal.Decimal", "uuid.UUID", "numpy.ndarray"),
)


class NamedType:
    """A type known by its name only: one of DSPy's own before DSPy is imported, or one a saved file names."""

    __slots__ = ("name",)
    name: str

    def __init__(self, name: str) -> None:
        object.__setattr__(self, "name", name)

    def __setattr__(self, key: str, value: object) -> None:
        raise AttributeError("a NamedType cannot be changed")

    def __eq__(self, other: object) -> bool:
        return isinstance(other, NamedType) and other.name == self.name

    def __hash__(self) -> int:
        return hash((NamedType, self.name))

    def __repr__(self) -> str:
        return self.name

    def __reduce__(self) -> tuple[Any, ...]:
        return NamedType, (self.name,)


def short(value: object, limit: int = 80) -> str:
    """``repr(value)``, cut so that a hostile value cannot fill a log."""
    text = repr(value[: limit + 1] if isinstance(value, str | bytes) else value)
    return text if len(text) <= limit else text[: limit - 3] + "..."


def resolve_name(name: str, dspy_type: Callable[[str], Any] | None = None) -> Any:
    """The type that a (dotted) name stands for, or None when there is no such type.

    Names below ``dspy`` become a NamedType, or what ``dspy_type(name)`` returns when it is given.
    """
    if name in BUILTINS:
        return BUILTINS[name]
    if name in VECTOR_NAMES:
        from numpy import ndarray

        return ndarray
    if name.startswith("dspy.") and "._" not in name:
        return dspy_type(name) if dspy_type else NamedType(name)
    module, _, attribute = name.rpartition(".")
    if module in ("", "typing"):
        return _typing_name(attribute)
    if module in SAFE_MODULES and not attribute.startswith("_"):
        found = getattr(importlib.import_module(module), attribute, None)
        return found if isinstance(found, type) else None
    return None


def _typing_name(name: str) -> Any:
    if name not in typing.__all__ or name == "Callable":
        return None
    found = getattr(typing, name)
    generic = hasattr(found, "__origin__") and not isinstance(found, type)
    return found if generic or name in PLAIN_TYPING else None


def needs_brackets(found: Any) -> bool:
    """Whether a resolved name, such as ``Optional`` or ``List``, is no type without something in brackets."""
    return found is Union or not isinstance(found, type | NamedType)


def subscript(base: Any, args: tuple[Any, ...]) -> Any:
    """``base[args]`` as DSPy builds it, with the number of arguments checked.

    Raises:
        TypeError: the base takes no arguments, or not that many.
    """
    if base in ARITY and len(args) != ARITY[base]:
        raise TypeError(f"it takes {ARITY[base]} in its brackets, not {len(args)}")
    return base[args[0] if base is typing.Optional else args]


# --- kinds and classes ----------------------------------------------------------------------------------


def is_vector(annotation: Any) -> bool:
    """Whether values are one-dimensional arrays of numbers: ``numpy.ndarray`` or ``list[float]``."""
    if typing.get_origin(annotation) is list:
        return typing.get_args(annotation) == (float,)
    base = typing.get_origin(annotation) or annotation
    return isinstance(base, type) and base.__module__ == "numpy" and base.__name__ == "ndarray"


def without_vectors(annotation: Any) -> Any:
    """The annotation for DSPy, which has no schema for NumPy arrays and gets ``list[float]`` for them."""
    return list[float] if is_vector(annotation) else annotation


def is_enum(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, Enum)


def classify(annotation: Any, field: str) -> tuple[str, tuple[Any, ...] | None]:
    """The kind of a field with this type, and its classes when the type lists them.

    Args:
        annotation: the Python type.
        field: the field's name, for error messages.

    Raises:
        SignatureError: an Enum without members, or classes that cannot be told apart.
    """
    plain = {str: "text", bool: "bool", int: "int", float: "float"}
    if isinstance(annotation, type) and annotation in plain:
        return plain[annotation], None
    if is_vector(annotation):
        return "vector", None
    classes = _classes_of(annotation, field)
    if classes is not None:
        return "class", classes
    if typing.get_origin(annotation) is list and len(typing.get_args(annotation)) == 1:
        classes = _classes_of(typing.get_args(annotation)[0], field)
        if classes is not None:
            return "multilabel", classes
    return "other", None


def _classes_of(annotation: Any, field: str) -> tuple[Any, ...] | None:
    """The values of a Literal, an Enum, or a union of Literals and None; None if the type lists no values."""
    if is_enum(annotation):
        members = tuple(annotation)
        if not members:
            what = f"the Enum {annotation.__qualname__} has no members"
            raise SignatureError(what, field=field, hint="Give it at least one class")
        return members if all(_is_class_value(m.value) for m in members) else None
    values = _literal_values(annotation)
    if not values or not _is_uniform(values):
        return None
    if not isinstance(values[0], Enum):
        check_classes(values, field=field)
    return tuple(values)


def _is_uniform(values: Sequence[Any]) -> bool:
    """Whether values can be classes together: all plain, or all members of one Enum of plain values."""
    if isinstance(values[0], Enum):
        return all(type(v) is type(values[0]) and _is_class_value(v.value) for v in values)
    return set(map(type, values)) <= {str, int, bool, NoneType}


def _literal_values(annotation: Any) -> list[Any] | None:
    origin = typing.get_origin(annotation)
    if origin is Literal:
        return list(typing.get_args(annotation))
    if origin is not Union and origin is not types.UnionType:
        return None
    values: list[Any] = []
    for member in typing.get_args(annotation):
        if member is NoneType:
            found: list[Any] | None = [None]
        else:
            found = _literal_values(member)
        if found is None:
            return None
        # Optional[Literal['a', None]] holds None twice and means it once.
        values += [v for v in found if not any(v is w or (type(v) is type(w) and v == w) for w in values)]
    return values


def _is_class_value(value: object) -> bool:
    return value is None or type(value) in (str, int, bool)


def check_classes(
    classes: Iterable[Any], *, field: str | None = None, only_text: bool = False
) -> tuple[Any, ...]:
    """The classes as a tuple of plain values, each of them one that Python can tell from the others.

    Raises:
        SignatureError: no classes, a class that is no str, int, bool or None, or two that are equal.
    """
    if isinstance(classes, str | bytes | set | frozenset) or not isinstance(classes, Iterable):
        raise SignatureError(
            f"classes must be a list, not {short(classes)}", field=field, hint='Write ["first", "second"]'
        )
    given = tuple(classes)
    if not given:
        raise SignatureError("there are no classes", field=field, hint="List at least one")
    if set(map(type, given)) == {str} and len(set(given)) == len(given):
        return given
    plain = tuple(_plain_class(value, field, only_text) for value in given)
    seen: dict[Any, Any] = {}
    for value in plain:
        if value in seen:
            raise SignatureError(clash(seen[value], value), field=field, hint=CLASH_HINT)
        seen[value] = value
    return plain


CLASH_HINT = "Every class must differ from the others; remove one, or write them as strings"


def clash(first: object, second: object) -> str:
    """What is wrong with two classes that are equal."""
    if type(first) is type(second):
        return f"the class {short(first)} is listed twice"
    return f"{first!r} and {second!r} cannot both be classes: they are equal in Python"


def _plain_class(value: Any, field: str | None, only_text: bool) -> Any:
    if isinstance(value, str) and not isinstance(value, Enum):
        return str(value)  # numpy's str_ is a str of its own type
    if not only_text and _is_class_value(value):
        return value
    allowed = "a str" if only_text else "a str, int, bool or None"
    raise SignatureError(
        f"{short(value)} ({type(value).__name__}) cannot be a class here",
        field=field,
        hint=f"A class must be {allowed}",
    )


# --- text -----------------------------------------------------------------------------------------------


def classes_text(classes: Sequence[Any]) -> str:
    """The Literal that lists these classes (an Enum's by their values)."""
    return f"Literal[{', '.join(repr(c.value if isinstance(c, Enum) else c) for c in classes)}]"


def names_dspy(annotation: Any) -> bool:
    """Whether a NamedType is part of the type."""
    if isinstance(annotation, NamedType):
        return True
    return any(names_dspy(arg) for arg in typing.get_args(annotation))


def type_text(annotation: Any, classes: Sequence[Any] | None = None) -> tuple[str, bool]:
    """How to write a type in a signature string, and whether that reads back (an Enum does as a Literal).

    A type that only its own module knows does not: the text then names it. ``classes`` gives the order of a
    Literal's values, because typing caches ``List[Literal['a', 'b']]`` and ``List[Literal['b', 'a']]`` as one
    object.
    """
    writer = _Writer(classes)
    return writer.write(annotation), writer.exact


class _Writer:
    def __init__(self, classes: Sequence[Any] | None) -> None:
        self.order = {(type(c), c): i for i, c in enumerate(classes or ())}
        self.exact = True

    def write(self, a: Any) -> str:
        if a is None or a is Ellipsis:
            return "None" if a is None else "..."
        if a is Any:
            return "Any"
        if isinstance(a, NamedType):
            self.exact = self.exact and a.name.startswith("dspy.")
            return a.name
        origin = typing.get_origin(a)
        if is_vector(a) and origin is not list:
            return VECTOR_NAMES[0]
        if origin is Literal:
            return self.literal(typing.get_args(a))
        if origin is Union or origin is types.UnionType:
            return self.union(typing.get_args(a))
        if origin is not None:
            return self.generic(a, origin)
        if is_enum(a) and self.order:
            return classes_text(tuple(a))
        if isinstance(a, type):
            return self.plain(a)
        self.exact = False
        return repr(a)

    def literal(self, values: Sequence[Any]) -> str:
        return classes_text(sorted(values, key=lambda v: self.order.get((type(v), v), 0)))

    def union(self, members: Sequence[Any]) -> str:
        texts = [self.write(m) for m in members if m is not NoneType]
        if len(texts) == len(members):
            return f"Union[{', '.join(texts)}]"
        return f"Optional[{texts[0]}]" if len(texts) == 1 else f"Union[{', '.join(texts)}, None]"

    def generic(self, a: Any, origin: Any) -> str:
        args = typing.get_args(a)
        inner = ", ".join(self.write(arg) for arg in args) or "()"
        if isinstance(a, types.GenericAlias):
            return f"{self.plain(origin)}[{inner}]"
        name = str(getattr(a, "_name", None))
        if resolve_name(name) is None or (inner == "()" and origin is not tuple):
            self.exact = False
            return repr(a)
        return f"{name}[{inner}]"

    def plain(self, a: type) -> str:
        name = a.__qualname__
        if BUILTINS.get(name) is a:
            return name
        # A class can live in a private module (pathlib._local in Python 3.13); one writes the public one.
        own = (a.__module__,) if a.__module__.startswith("dspy.") else ()
        for module in ("dspy", *own, *SAFE_MODULES):
            if getattr(sys.modules.get(module), name, None) is a:
                return f"{module}.{name}"
        self.exact = False
        return f"{a.__module__}.{name}"

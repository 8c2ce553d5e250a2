"""Values of a field's type drawn from a hash: equal in every process, typed, and meaning nothing."""

from __future__ import annotations

import datetime
import enum
import hashlib
import json
import math
import types
import typing
from collections.abc import Mapping, Sequence
from typing import Any, Literal, Union, get_args, get_origin

from dspex.errors import SignatureError
from dspex.signature import Field

__all__ = ["Draw", "canonical", "made_up_probabilities", "made_up_value"]

_WORDS = ("amber", "birch", "cedar", "delta", "ember", "fjord", "grove", "harbor", "inlet", "juniper")
_MAX_DEPTH = 6


class Draw:
    """Numbers from a hash of what it was made of; a stream per use, so that nothing depends on order."""

    def __init__(self, *parts: str) -> None:
        # The length goes in too: ("ab", "c") and ("a", "bc") are different.
        joined = "".join(f"{len(part)}:{part}" for part in parts)
        self._seed = hashlib.blake2b(joined.encode("utf-8", "surrogatepass"), digest_size=16).digest()

    def uniform(self, *purpose: object) -> float:
        """A number in [0, 1) that belongs to the purpose."""
        return self._bits(purpose) / 2**53

    def below(self, limit: int, *purpose: object) -> int:
        """An int in [0, limit)."""
        return self._bits(purpose) % limit

    def word(self, *purpose: object) -> str:
        """A readable token."""
        bits = self._bits(purpose)
        return f"{_WORDS[bits % len(_WORDS)]}-{bits % 10_000:04d}"

    def _bits(self, purpose: tuple[object, ...]) -> int:
        key = "/".join(map(str, purpose)).encode("utf-8", "surrogatepass")
        digest = hashlib.blake2b(key, digest_size=8, key=self._seed).digest()
        return int.from_bytes(digest, "big") >> 11


def canonical(inputs: Mapping[str, Any]) -> str:
    """A text that is equal for equal inputs, in every process."""
    return json.dumps(_plain(inputs), sort_keys=True, ensure_ascii=True)


def _plain(value: Any) -> Any:
    if value is None or isinstance(value, bool | int | float | str):
        return value.value if isinstance(value, enum.Enum) else value
    if isinstance(value, enum.Enum):
        return _plain(value.value)
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, set | frozenset):
        return sorted((_plain(item) for item in value), key=repr)
    if isinstance(value, Sequence) and not isinstance(value, bytes):
        return [_plain(item) for item in value]
    if hasattr(value, "tolist"):
        return value.tolist()
    if hasattr(value, "model_dump"):
        return _plain(value.model_dump())
    if isinstance(value, bytes | datetime.date | datetime.time):
        return repr(value)
    # An address in a repr would differ from process to process; the type's name does not.
    return f"{type(value).__module__}.{type(value).__qualname__}"


def made_up_probabilities(field: Field, draw: Draw, answer: Any = ...) -> dict[Any, float]:
    """A distribution over the classes of a class or bool field, whose likeliest is `answer` if given.

    For a multilabel field: each label's own probability, above one half for the labels in `answer`.
    """
    classes = field.classes if field.classes is not None else (False, True)
    if field.kind == "multilabel":
        raw = {label: 0.02 + 0.96 * draw.uniform(field.name, i) for i, label in enumerate(classes)}
        if answer is ...:
            return raw
        return {label: 1 - p if (p > 0.5) != (label in answer) else p for label, p in raw.items()}
    weights = [math.exp(4 * draw.uniform(field.name, i)) for i in range(len(classes))]
    if answer is not ...:  # None can be a class
        top, wanted = weights.index(max(weights)), _index(classes, answer)
        weights[top], weights[wanted] = weights[wanted], weights[top]
    total = math.fsum(weights)
    return {value: weight / total for value, weight in zip(classes, weights, strict=True)}


def _index(classes: Sequence[Any], answer: Any) -> int:
    return next(i for i, value in enumerate(classes) if value is answer or value == answer)


def made_up_value(field: Field, draw: Draw) -> Any:
    """A value for a field without classes.

    Raises:
        SignatureError: its type is one that cannot be made up.
    """
    kind, name = field.kind, field.name
    if kind == "text":
        return f"{name} {draw.word(name)}"
    if kind == "int":
        return draw.below(101, name)
    if kind == "float":
        return round(draw.uniform(name), 6)
    if kind == "vector":
        numbers = [round(2 * draw.uniform(name, i) - 1, 6) for i in range(8)]
        if get_origin(field.annotation) is list:
            return numbers
        import numpy as np

        return np.array(numbers)
    try:
        return _of_type(field.annotation, draw, name, 0)
    except _CannotMakeUp as error:
        raise SignatureError(
            f"the mock cannot make up a value of type {error.args[0]}",
            field=name,
            hint="Script the answers of this program",
        ) from None


class _CannotMakeUp(Exception):
    pass


def _of_type(annotation: Any, draw: Draw, path: str, depth: int) -> Any:
    """A value of any type that signatures use; `path` says where in the value it is."""
    if depth > _MAX_DEPTH:
        raise _CannotMakeUp(f"{annotation!r} (it contains itself)")
    origin, args = get_origin(annotation), get_args(annotation)
    if origin is typing.Annotated:
        return _of_type(args[0], draw, path, depth)
    if origin is Literal:
        return args[draw.below(len(args), path)]
    if origin is Union or origin is types.UnionType:
        return _of_union(args, draw, path, depth)
    if annotation in _SCALARS:
        return _SCALARS[annotation](draw, path)
    base = origin or annotation
    if isinstance(base, type):
        return _of_class(base, args, draw, path, depth)
    raise _CannotMakeUp(repr(annotation))


def _of_union(args: tuple[Any, ...], draw: Draw, path: str, depth: int) -> Any:
    # None one time in four, so that a caller's handling of it gets exercised; always when deep.
    others = [arg for arg in args if arg is not type(None)]
    if len(others) < len(args) and (depth >= _MAX_DEPTH - 2 or draw.below(4, path, "none") == 0):
        return None
    return _of_type(others[draw.below(len(others), path, "arm")], draw, path, depth + 1)


def _of_class(base: type, args: tuple[Any, ...], draw: Draw, path: str, depth: int) -> Any:
    if issubclass(base, enum.Enum):
        members = list(base)
        return members[draw.below(len(members), path)]
    if base is tuple and args and args[-1] is not Ellipsis:
        return tuple(_of_type(arg, draw, f"{path}.{i}", depth + 1) for i, arg in enumerate(args))
    # Deep inside a type that contains itself, collections end the recursion by being empty.
    count = 0 if depth >= _MAX_DEPTH - 2 else 1 + draw.below(3, path, "count")
    if issubclass(base, Mapping):
        key_type, value_type = args or (str, str)
        keys = [_of_type(key_type, draw, f"{path}.key{i}", depth + 1) for i in range(count)]
        return {key: _of_type(value_type, draw, f"{path}.{i}", depth + 1) for i, key in enumerate(keys)}
    for shape in (list, set, frozenset, tuple):
        if issubclass(base, shape) or (shape is list and base is Sequence):
            item = args[0] if args else str
            return shape(_of_type(item, draw, f"{path}.{i}", depth + 1) for i in range(count))
    fields = getattr(base, "model_fields", None)
    if fields is not None:
        values = {
            name: _of_type(info.annotation, draw, f"{path}.{name}", depth + 1)
            for name, info in fields.items()
            if info.is_required()
        }
        return base(**values)
    raise _CannotMakeUp(base.__name__)


_SCALARS: dict[Any, Any] = {
    str: lambda draw, path: draw.word(path),
    Any: lambda draw, path: draw.word(path),
    object: lambda draw, path: draw.word(path),
    bool: lambda draw, path: draw.below(2, path) == 1,
    int: lambda draw, path: draw.below(101, path),
    float: lambda draw, path: round(draw.uniform(path), 6),
    bytes: lambda draw, path: draw.word(path).encode(),
    type(None): lambda draw, path: None,
    None: lambda draw, path: None,
    datetime.date: lambda draw, path: datetime.date.fromordinal(737_000 + draw.below(1000, path)),
    datetime.datetime: lambda draw, path: datetime.datetime.fromordinal(737_000 + draw.below(1000, path)),
}

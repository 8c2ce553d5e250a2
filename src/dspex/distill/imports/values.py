"""Values of a signature as plain JSON, as other programs write it, and back."""

from __future__ import annotations

import json
from collections.abc import Mapping
from enum import Enum
from typing import Any

from dspex._signature_types import names_dspy
from dspex.checks import check_field, type_adapter
from dspex.errors import InputError
from dspex.signature import Field
from dspex.wire import to_wire

__all__ = ["from_plain", "label_from_plain", "label_to_plain", "soft_from_plain", "to_plain"]


def to_plain(field: Field, value: Any) -> Any:
    """A value of the field's own type as JSON-able data: what `from_plain` reads back equal.

    Raises:
        InputError: it has no such form; see `dspex.wire.to_wire`.
    """
    if field.kind == "class":
        return label_to_plain(value)
    if field.kind == "multilabel":
        return [label_to_plain(label) for label in value]
    if field.kind == "other":
        if names_dspy(field.annotation) and field.opaque:
            return value  # read as JSON by a store that does not know the type
        return json.loads(to_wire({field.name: field}, {field.name: value})[field.name])
    return value.tolist() if hasattr(value, "tolist") else value


def from_plain(field: Field, value: Any) -> Any:
    """The field's value, from JSON data.

    Raises:
        InputError: it does not fit the field.
    """
    if field.kind == "class":
        return label_from_plain(field, value)
    if field.kind == "multilabel" and isinstance(value, list):
        return check_field(field, [label_from_plain(field, label) for label in value])
    if field.kind != "other":
        return check_field(field, value)
    if names_dspy(field.annotation) and field.opaque:
        return value
    try:
        return type_adapter(field).validate_json(json.dumps(value), strict=True)
    except ValueError:
        return check_field(field, value)  # says what is wrong


def label_to_plain(label: Any) -> Any:
    """A class as str, int, bool or None."""
    return label.value if isinstance(label, Enum) else label


def label_from_plain(field: Field, value: Any) -> Any:
    """One class of the field; of an Enum also by "Name.MEMBER", as some tracers write it.

    Raises:
        InputError: there is no such class.
    """
    classes = field.classes or ()
    if isinstance(value, str):
        for label in classes:
            if (
                isinstance(label, Enum)
                and value != label.value
                and value == f"{type(label).__name__}.{label.name}"
            ):
                return label
    if field.kind == "multilabel":
        return check_field(field, [value])[0]
    return check_field(field, value)


def soft_from_plain(field: Field, shares: Any) -> dict[Any, float]:
    """Class -> probability, from a mapping whose keys JSON has made strings, or from a list of pairs.

    Raises:
        InputError: a class that there is not, or no probabilities.
    """
    if isinstance(shares, list) and all(isinstance(pair, list) and len(pair) == 2 for pair in shares):
        pairs = [(_label_of(field, label), share) for label, share in shares]
    elif isinstance(shares, Mapping):
        labels = (True, False) if field.kind == "bool" else field.classes or ()
        by_text = {_text(label): label for label in labels}
        pairs = [
            (by_text.get(key) if key in by_text else _label_of(field, key), s) for key, s in shares.items()
        ]
    else:
        raise InputError("soft labels are a mapping from class to probability", field=field.name)
    for label, share in pairs:
        if isinstance(share, bool) or not isinstance(share, int | float) or not 0 <= share <= 1:
            what = f"the probability of {label!r} is {share!r}"
            raise InputError(what, field=field.name, hint="Give numbers from 0 to 1")
    return {label: float(share) for label, share in pairs}


def _label_of(field: Field, value: Any) -> Any:
    """One class, also of an output whose classes are still to be learned."""
    if field.classes is None and field.takes_learned_classes:
        if isinstance(value, str):
            return value
        raise InputError(f"the class {value!r} is no string", field=field.name)
    return label_from_plain(field, value)


def _text(label: Any) -> str:
    plain = label_to_plain(label)
    return plain if isinstance(plain, str) else json.dumps(plain)

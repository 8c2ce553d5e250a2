"""Field names: which ones a signature can have, and the prefix that DSPy derives from them."""

from __future__ import annotations

import keyword
import re

from ._signature_types import short
from .errors import SignatureError

__all__ = ["RESERVED", "check_name", "infer_prefix", "name_problem", "normalise_name"]

# What DSPy's and pydantic's own classes keep for themselves: DSPy cannot build a signature with such a field.
RESERVED = frozenset(
    {"fields", "input_fields", "output_fields", "instructions", "signature", "model_config", "model_dump"}
    | {"model_dump_json", "model_validate", "model_validate_json", "model_validate_strings"}
)
# Where a word of a name begins: at a capital before or after a small letter, and on both sides of digits.
_WORD_STARTS = re.compile(
    r"(?<=.)(?=[A-Z][a-z])|(?<=[a-z0-9])(?=[A-Z])|(?<=[a-zA-Z])(?=\d)|(?<=\d)(?=[a-zA-Z])", re.DOTALL
)


def infer_prefix(name: str) -> str:
    """The label that DSPy puts before a field's value: ``HTMLPage2text`` gives ``HTML Page 2 Text:``."""
    words = _WORD_STARTS.sub("_", name).split("_")
    return " ".join(word if word.isupper() else word.capitalize() for word in words) + ":"


def normalise_name(name: str) -> str:
    """The name as Python itself would read it: identifiers are compared in Unicode's NFKC form."""
    if name.isascii():
        return name
    import unicodedata

    return unicodedata.normalize("NFKC", name)


def name_problem(name: str) -> tuple[str, str] | None:
    """What is wrong with a field name and what to do about it, or None."""
    usable = re.sub(r"\W+", "_", name[:80]).strip("_") or "text"
    usable = usable if usable.isidentifier() else f"field_{usable}"
    if not name.isidentifier():
        two = len(name.split()) > 1 and all(part.isidentifier() for part in name.split())
        hint = f"Write {usable!r}" + (", or put a comma between two fields" if two else "")
        return f"{short(name)} is not a field name", hint
    if keyword.iskeyword(name):
        return f"{name!r} is a word of Python's own", f"Write {name + '_'!r} or another name"
    if name.startswith("_"):
        return f"the field name {name!r} starts with an underscore", f"Write {usable!r}"
    if name in RESERVED:
        return f"{name!r} is a name that DSPy keeps for itself", f"Write {name + '_text'!r} or another name"
    return None


def check_name(name: object) -> str:
    """A field name from a mapping, in the form Python reads it.

    Raises:
        SignatureError: it is no string, or not usable as a field name.
    """
    if not isinstance(name, str):
        raise SignatureError(f"a field name must be a str, not {short(name)}", hint="Write it in quotes")
    name = normalise_name(str(name))
    problem = name_problem(name)
    if problem:
        raise SignatureError(problem[0], hint=problem[1])
    return name

"""LM calls as DSPy's history keeps them: the fields are read from the messages."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any

from dspex._cells import cell_reader
from dspex.distill.imports.reading import Misfit
from dspex.distill.imports.values import from_plain
from dspex.distill.trace import Answer, Trace
from dspex.errors import InputError
from dspex.signature import Field, Signature

__all__ = ["is_history", "trace_of_history", "values_of_messages"]

_HEADER = re.compile(r"^\[\[ ## (\w+) ## \]\][ \t]*\n?", re.MULTILINE)
# What DSPy's adapters put after the last input.
_REQUEST = re.compile(r"\n\nRespond with (?:the corresponding output fields|a JSON object).*\Z", re.DOTALL)


def is_history(row: Any) -> bool:
    """Whether a row is an entry of `lm.history`."""
    return (
        isinstance(row, Mapping)
        and isinstance(row.get("outputs"), list)
        and bool(row.keys() & {"messages", "prompt"})
    )


def trace_of_history(row: Mapping[str, Any], signature: Signature) -> Trace:
    """The trace of an entry of `lm.history`, by the chat and JSON formats of DSPy's adapters.

    Raises:
        Misfit, InputError: it is a call of another signature, or has been cut.
    """
    messages = row.get("messages") or [{"role": "user", "content": row.get("prompt") or ""}]
    outputs = row["outputs"]
    if not isinstance(outputs, Sequence) or isinstance(outputs, str) or not outputs:
        raise Misfit("the entry has no outputs")
    first = outputs[0].get("text") if isinstance(outputs[0], Mapping) else outputs[0]
    asked = next((m for m in reversed(messages) if m.get("role") == "user"), {"content": ""})
    inputs, answer = values_of_messages(text_of(asked.get("content")), text_of(first), signature)
    usage = row.get("usage")
    tokens = usage.get("total_tokens") if isinstance(usage, Mapping) else None
    cost = row.get("cost")
    return Trace(
        inputs,
        Answer(
            answer,
            usd=float(cost) if isinstance(cost, int | float) else None,
            tokens=int(tokens) if isinstance(tokens, int) else None,
        ),
        source="history",
        at=_time(row.get("timestamp")),
    )


def values_of_messages(asked: str, said: str, signature: Signature) -> tuple[dict[str, Any], dict[str, Any]]:
    """Inputs and outputs, from the last message of the user and the LM's.

    Raises:
        Misfit, InputError: they hold other fields.
    """
    found = _sections(_REQUEST.sub("", asked))
    inputs = _read(found, signature.inputs, "input")
    said_fields = _sections(said) or _json_object(said)
    outputs = _read(said_fields, signature.outputs, "output")
    more = {name: value for name, value in said_fields.items() if name not in outputs and name != "completed"}
    return inputs, outputs | more


def text_of(content: Any) -> str:
    """The text of a message, also of one in parts."""
    if isinstance(content, list):
        parts = [
            part.get("text") or part.get("content") or "" for part in content if isinstance(part, Mapping)
        ]
        return "".join(part for part in parts if isinstance(part, str))
    return content if isinstance(content, str) else ""


def _sections(text: str) -> dict[str, Any]:
    parts = _HEADER.split(text)
    return {name: value.strip() for name, value in zip(parts[1::2], parts[2::2], strict=True)}


def _json_object(text: str) -> dict[str, Any]:
    start, end = text.find("{"), text.rfind("}")
    try:
        value = json.loads(text[start : end + 1])
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def _read(found: Mapping[str, Any], fields: Mapping[str, Field], role: str) -> dict[str, Any]:
    values = {}
    for name, field in fields.items():
        if name not in found:
            raise Misfit(f"the {role} {name!r} is missing", field=name, found=found)
        values[name] = _value(field, found[name])
    return values


def _value(field: Field, value: Any) -> Any:
    if not isinstance(value, str) or field.kind == "text":
        return from_plain(field, value)
    readers: dict[str, Callable[[str], Any]] = {"other": json.loads}
    read = readers.get(field.kind) or cell_reader(field)
    try:
        return from_plain(field, read(value)) if field.kind == "other" else read(value)
    except ValueError as error:
        raise InputError(f"{field.role} {field.name!r}: {error}", field=field.name) from None


def _time(value: Any) -> float:
    try:
        return datetime.fromisoformat(value).timestamp() if isinstance(value, str) else 0.0
    except ValueError:
        return 0.0

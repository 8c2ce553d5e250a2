"""Traces from JSONL."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from typing import Any

from dspex.distill.imports.history import is_history, trace_of_history
from dspex.distill.imports.reading import Item, OnError, Reading, documents
from dspex.distill.imports.rows import trace_of
from dspex.distill.trace import Trace
from dspex.errors import InputError
from dspex.signature import Signature

__all__ = ["read_jsonl"]


def read_jsonl(
    source: str | os.PathLike[str] | Iterable[str | bytes | Mapping[str, Any]],
    signature: Signature,
    *,
    on_error: OnError = "raise",
) -> Reading:
    """Traces from rows, each in one of these forms.

    - ``{"input": {...}, "teacher": {...}}``, as `Store.export` writes it, with more beside it.
      "inputs" and "output", "outputs", "label", "answer" or "prediction" stand for the same, and a single
      input or output needs no object around it.
    - the fields themselves, ``{"text": ..., "label": ...}``; other columns are left out.
    - an entry of a DSPy LM's history, whose messages the chat or the JSON adapter wrote.

    Args:
        source: a path to JSONL or a JSON list, or lines, or rows.
        on_error: "raise" the first error, or "collect" them in the reading's `problems`.

    Raises:
        InputError: while reading: a row that does not fit, with its line; a file that cannot be read.
        SignatureError: while reading: nothing fits; it names the fields that are there.
    """
    name, found = documents(source)
    return Reading(_items(found, signature), signature, name, on_error)


def _items(found: Iterator[tuple[str, Any]], signature: Signature) -> Iterator[Item]:
    for where, row in found:
        yield Item(where, partial(_traces, row, signature))


def _traces(row: Any, signature: Signature) -> list[Trace]:
    if isinstance(row, InputError):
        raise row
    if hasattr(row, "toDict"):  # dspy.Example, without importing DSPy
        row = dict(row.toDict())
    return [trace_of_history(row, signature) if is_history(row) else trace_of(row, signature)]

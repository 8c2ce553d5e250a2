"""Spans of any tracer, and the calls among them that fit a signature."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from dspex.distill.imports.history import values_of_messages
from dspex.distill.imports.reading import Item, Misfit
from dspex.distill.imports.rows import answer_of, inputs_of
from dspex.distill.trace import Answer, Trace
from dspex.errors import InputError
from dspex.signature import Signature

__all__ = ["Span", "items_of_spans", "json_or_text", "nanoseconds", "traces_of_spans"]


@dataclass(frozen=True, slots=True)
class Span:
    """One span.

    Attributes:
        trace, id, parent: parent is None for a root.
        start, end: seconds since the epoch; None where not known.
        failed: whether the call ended in an error.
        inputs, outputs: as recorded, JSON read; None: none were.
        messages: of a call of an LM: the last message of the user, and the answer.
        tokens, usd: that the span itself has recorded.
    """

    trace: str
    id: str
    parent: str | None
    name: str
    start: float | None = None
    end: float | None = None
    failed: bool = False
    inputs: Any = None
    outputs: Any = None
    messages: tuple[str, str] | None = None
    tokens: int | None = None
    usd: float | None = None


@dataclass(slots=True)
class _Node:
    span: Span
    children: list[_Node] = field(default_factory=list)


def items_of_spans(spans: Iterable[Span], signature: Signature, source: str) -> Iterator[Item]:
    """One item for each trace, in the order in which they come."""
    grouped: dict[str, list[Span]] = {}
    for span in spans:
        grouped.setdefault(span.trace, []).append(span)
    for trace, group in grouped.items():
        yield Item(f"trace {trace}", partial(traces_of_spans, group, signature, source))


def traces_of_spans(spans: list[Span], signature: Signature, source: str) -> list[Trace]:
    """The outermost spans of one trace whose inputs and outputs are the signature's.

    Where there is none, calls of an LM are read whose messages DSPy's adapters wrote. Spans that ended in an
    error are left out, and no trace is made of one that holds nothing else.

    Raises:
        Misfit, InputError: no span fits.
    """
    roots = _tree(spans)
    calls = [call for root in roots for call in _outermost(root, signature)]
    if calls:
        return [_trace_of(node, signature, source) for node in calls]
    nodes = [node for root in roots for node in _all(root)]
    spoken = [node for node in nodes if node.span.messages is not None and not node.span.failed]
    if spoken:
        return [_spoken(node, signature, source) for node in spoken]
    if nodes and any(node.span.failed for node in nodes):
        return []
    names: dict[str, None] = {}
    for node in nodes:
        for side in (node.span.inputs, node.span.outputs):
            if isinstance(side, Mapping):
                names.update(dict.fromkeys(map(str, side)))
    raise Misfit("no span has the inputs and outputs of the signature", found=names)


def _tree(spans: list[Span]) -> list[_Node]:
    nodes = {span.id: _Node(span) for span in sorted(spans, key=lambda span: span.start or 0.0)}
    roots = []
    for node in nodes.values():
        parent = nodes.get(node.span.parent or "")
        if parent is None or parent is node:
            roots.append(node)  # a root, or its parent was not recorded
        else:
            parent.children.append(node)
    return roots


def _outermost(node: _Node, signature: Signature) -> Iterator[_Node]:
    stack = [node]
    while stack:
        found = stack.pop()
        if _holds(found.span, signature):
            yield found
        else:
            stack.extend(reversed(found.children))


def _all(node: _Node) -> Iterator[_Node]:
    stack = [node]
    while stack:
        found = stack.pop()
        yield found
        stack.extend(reversed(found.children))


def _holds(span: Span, signature: Signature) -> bool:
    """Whether the span has the fields; whether their values fit is said where it is read."""
    if span.failed or span.inputs is None or span.outputs is None:
        return False
    inputs, outputs = span.inputs, span.outputs
    if isinstance(inputs, Mapping):
        if not signature.inputs.keys() <= inputs.keys():
            return False
    elif span.parent is not None or len(signature.inputs) > 1:
        return False  # a plain value is taken for the only input of a whole trace alone
    if isinstance(outputs, Mapping):
        return signature.outputs.keys() <= outputs.keys()
    if len(signature.outputs) > 1 or isinstance(outputs, list):
        return False
    try:
        answer_of(outputs, signature)
    except (Misfit, InputError):
        return False
    return True


def _trace_of(node: _Node, signature: Signature, source: str) -> Trace:
    span = node.span
    answer = answer_of(span.outputs, signature)
    return _made(node, inputs_of(span.inputs, signature, more=True), answer.outputs, answer.soft, source)


def _spoken(node: _Node, signature: Signature, source: str) -> Trace:
    asked, said = node.span.messages or ("", "")
    inputs, outputs = values_of_messages(asked, said, signature)
    return _made(node, inputs, outputs, None, source)


def _made(node: _Node, inputs: dict[str, Any], outputs: Mapping[str, Any], soft: Any, source: str) -> Trace:
    span = node.span
    seconds = None if span.start is None or span.end is None else max(0.0, span.end - span.start)
    tokens, usd = _costs(node)
    return Trace(
        inputs, Answer(outputs, soft, usd, tokens, seconds), source=source, at=span.start or 0.0,
        extra={"trace_id": span.trace, "span_id": span.id, "span": span.name},
    )  # fmt: skip


def _costs(node: _Node) -> tuple[int | None, float | None]:
    """Of the outermost spans that have recorded them: an LM's call may be recorded by two tracers."""
    tokens: int | None = None
    usd: float | None = None
    stack = [(node, False, False)]
    while stack:
        found, counted, priced = stack.pop()
        span = found.span
        if span.tokens is not None and not counted:
            tokens, counted = (tokens or 0) + span.tokens, True
        if span.usd is not None and not priced:
            usd, priced = (usd or 0.0) + span.usd, True
        stack.extend((child, counted, priced) for child in found.children)
    return tokens, usd


def json_or_text(value: Any) -> Any:
    """A value that a tracer has written: JSON text is read, other text stays."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        return value


def nanoseconds(value: Any) -> float | None:
    """A time in nanoseconds, a number or text of one, as seconds; None: it is none."""
    try:
        return None if value is None or isinstance(value, bool) else int(value) / 1e9
    except (TypeError, ValueError):
        return None

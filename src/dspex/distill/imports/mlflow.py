"""Traces that MLflow has exported, of versions 2 and 3; MLflow itself is not needed.

Of a trace ``{"info": ..., "data": {"spans": [...]}}``, the outermost span of a DSPy module whose inputs and
outputs are the signature's, as ``mlflow.dspy.autolog()`` records them ("ChainOfThought.forward", ...).
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from typing import Any

from dspex.distill.imports.reading import Item, Misfit, OnError, Reading, documents
from dspex.distill.imports.spans import Span, json_or_text, nanoseconds, traces_of_spans
from dspex.distill.trace import Trace
from dspex.errors import InputError
from dspex.signature import Signature

__all__ = ["read_mlflow"]


def read_mlflow(
    source: str | os.PathLike[str] | Mapping[str, Any] | Iterable[str | bytes | Mapping[str, Any]],
    signature: Signature,
    *,
    on_error: OnError = "raise",
) -> Reading:
    """Traces from MLflow's.

    Args:
        source: a path to JSON, a JSON list or JSONL; or a trace, or several: `Trace.to_dict()`, rows of
            `mlflow.search_traces()` as dicts, what `mlflow traces get` prints, the artifact ``traces.json``.
            ``{"traces": [...]}`` is taken, too.
        on_error: "raise" the first error, or "collect" them in the reading's `problems`.

    Raises:
        InputError: while reading: a trace that does not fit, with its id; a file that cannot be read.
        SignatureError: while reading: nothing fits; it names the fields that are there.
    """
    name, found = documents(source)
    return Reading(_items(found, signature), signature, name, on_error)


def _items(found: Iterator[tuple[str, Any]], signature: Signature) -> Iterator[Item]:
    for where, value in found:
        if isinstance(value, Mapping) and isinstance(value.get("traces"), list):
            yield from _items(
                iter([(f"{where} trace {n}", t) for n, t in enumerate(value["traces"], 1)]), signature
            )
            continue
        trace = _id(value)
        yield Item(f"trace {trace}" if trace else where, partial(_read, value, trace or where, signature))


def _read(value: Any, trace: str, signature: Signature) -> list[Trace]:
    if isinstance(value, InputError):
        raise value
    return traces_of_spans(list(_spans(value, trace)), signature, "mlflow")


def _id(value: Any) -> str | None:
    if not isinstance(value, Mapping):
        return None
    info = value["info"] if isinstance(value.get("info"), Mapping) else value
    found = info.get("trace_id") or info.get("request_id")
    return found if isinstance(found, str) else None


def _spans(value: Any, trace: str) -> Iterator[Span]:
    spans = _found_spans(value)
    if spans is None:
        found = value if isinstance(value, Mapping) else ()
        raise Misfit("it is no MLflow trace: there are no spans", found=map(str, found))
    for span in spans:
        if not isinstance(span, Mapping):
            raise Misfit("a span is a JSON object")
        yield _span(span, trace)


def _found_spans(value: Any) -> list[Any] | None:
    """The spans of a trace, of its data alone, of a row of `search_traces`, or one span by itself."""
    if not isinstance(value, Mapping):
        return None
    if isinstance(whole := json_or_text(value.get("trace")), Mapping):
        value = whole
    data = json_or_text(value.get("data"))
    inner = data if isinstance(data, Mapping) else value
    spans = json_or_text(inner.get("spans"))
    if isinstance(spans, list):
        return spans
    return [value] if "name" in value and ("attributes" in value or "inputs" in value) else None


def _span(span: Mapping[str, Any], trace: str) -> Span:
    attributes = span["attributes"] if isinstance(span.get("attributes"), Mapping) else {}
    context = span["context"] if isinstance(span.get("context"), Mapping) else span
    usage = json_or_text(attributes.get("mlflow.chat.tokenUsage"))
    cost = json_or_text(attributes.get("mlflow.llm.cost"))
    start, end = (
        span.get(f"{at}_time_unix_nano", span.get(f"{at}_time_ns", span.get(f"{at}_time")))
        for at in ("start", "end")
    )
    return Span(
        trace=trace,
        id=str(context.get("span_id")),
        parent=span.get("parent_span_id") or span.get("parent_id") or None,
        name=str(span.get("name")),
        start=nanoseconds(start),
        end=nanoseconds(end),
        failed=_failed(span),
        inputs=_side(span, attributes, "inputs", "mlflow.spanInputs"),
        outputs=_side(span, attributes, "outputs", "mlflow.spanOutputs"),
        tokens=_number(usage, "total_tokens", int),
        usd=_number(cost, "total_cost", float),
    )


def _side(span: Mapping[str, Any], attributes: Mapping[str, Any], name: str, key: str) -> Any:
    value = json_or_text(span[name] if span.get(name) is not None else attributes.get(key))
    # Before it unpacked them, MLflow recorded a module's call as {"args": [], "kwargs": {...}}.
    if name == "inputs" and isinstance(value, Mapping) and isinstance(value.get("kwargs"), Mapping):
        return {**value, **value["kwargs"]}
    return value


def _failed(span: Mapping[str, Any]) -> bool:
    status = span.get("status")
    code = status.get("code") or status.get("status_code") if isinstance(status, Mapping) else status
    return str(code or span.get("status_code")).upper().endswith("ERROR") or code == 2


def _number(value: Any, key: str, kind: Any) -> Any:
    found = value.get(key) if isinstance(value, Mapping) else None
    return kind(found) if isinstance(found, int | float) and not isinstance(found, bool) else None

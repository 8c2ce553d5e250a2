"""Traces from OpenTelemetry: OTLP JSON and dicts of spans, with the attributes of OpenInference or gen_ai.

``input.value`` and ``output.value`` hold a DSPy module's fields, as OpenInference's instrumentation of DSPy
records them. Calls of an LM hold them within messages: ``llm.input_messages``, ``gen_ai.input.messages``,
``gen_ai.prompt``, and the events of gen_ai's conventions.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from functools import partial
from typing import Any, NoReturn

from dspex.distill.imports.messages import messages_of
from dspex.distill.imports.reading import Item, Misfit, OnError, Reading, documents
from dspex.distill.imports.spans import Span, items_of_spans, json_or_text, nanoseconds
from dspex.errors import InputError
from dspex.signature import Signature

__all__ = ["read_otel"]

_TOKENS = ("llm.token_count.total", "gen_ai.usage.total_tokens", "llm.usage.total_tokens")
_TOKEN_PARTS = (
    ("llm.token_count.prompt", "llm.token_count.completion"),
    ("gen_ai.usage.input_tokens", "gen_ai.usage.output_tokens"),
    ("gen_ai.usage.prompt_tokens", "gen_ai.usage.completion_tokens"),
)
_COSTS = ("llm.cost.total", "gen_ai.usage.cost")


def read_otel(
    source: str | os.PathLike[str] | Mapping[str, Any] | Iterable[str | bytes | Mapping[str, Any]],
    signature: Signature,
    *,
    on_error: OnError = "raise",
) -> Reading:
    """Traces from spans. Those of one trace may stand in several lines: all of the source is read first.

    Args:
        source: a path to JSON, a JSON list or JSONL; or one value, or several: OTLP's
            ``{"resourceSpans": [...]}``, `ReadableSpan.to_json()`, or spans as flat rows with
            ``attributes.input.value`` and so on.
        on_error: "raise" the first error, or "collect" them in the reading's `problems`.

    Raises:
        InputError: while reading: a trace that does not fit, with its id; a file that cannot be read.
        SignatureError: while reading: nothing fits; it names the fields that are there.
    """
    name, found = documents(source)
    return Reading(_items(found, signature), signature, name, on_error)


def _items(found: Iterator[tuple[str, Any]], signature: Signature) -> Iterator[Item]:
    spans: list[Span] = []
    for where, value in found:
        try:
            spans.extend(map(_span, _raw_spans(value)))
        except (Misfit, InputError) as error:
            yield Item(where, partial(_raise, error))
    yield from items_of_spans(spans, signature, "otel")


def _raise(error: Exception) -> NoReturn:
    raise error


def _raw_spans(value: Any) -> Iterator[Mapping[str, Any]]:
    if isinstance(value, InputError):
        raise value
    if not isinstance(value, Mapping):
        raise Misfit(f"spans are JSON objects, not {type(value).__name__}")
    resources = value.get("resourceSpans", value.get("resource_spans"))
    if resources is None and isinstance(value.get("spans"), list):
        yield from value["spans"]
    elif resources is None:
        yield value
    else:
        for scope in _scopes(resources):
            yield from scope.get("spans", ())


def _scopes(resources: Any) -> Iterator[Mapping[str, Any]]:
    for resource in resources if isinstance(resources, list) else ():
        for key in ("scopeSpans", "scope_spans", "instrumentationLibrarySpans"):
            yield from resource.get(key, ())


def _span(raw: Any) -> Span:
    if not isinstance(raw, Mapping) or "name" not in raw:
        raise Misfit("it is no span", found=map(str, raw) if isinstance(raw, Mapping) else ())
    attributes = _attributes(raw)
    context = raw["context"] if isinstance(raw.get("context"), Mapping) else {}
    start, end = (_time(raw, at) for at in ("start", "end"))
    return Span(
        trace=str(_first(raw, "traceId", "trace_id", "context.trace_id") or context.get("trace_id")),
        id=str(_first(raw, "spanId", "span_id", "context.span_id") or context.get("span_id")),
        parent=_first(raw, "parentSpanId", "parent_span_id", "parent_id") or None,
        name=str(raw["name"]),
        start=start,
        end=end,
        failed=_failed(raw),
        inputs=_value(attributes, "input"),
        outputs=_value(attributes, "output"),
        messages=messages_of(attributes, _events(raw)),
        tokens=_tokens(attributes),
        usd=next((float(attributes[key]) for key in _COSTS if _is_number(attributes.get(key))), None),
    )


def _first(raw: Mapping[str, Any], *keys: str) -> Any:
    return next((raw[key] for key in keys if raw.get(key)), None)


def _attributes(raw: Mapping[str, Any]) -> dict[str, Any]:
    """Dotted name -> value, from OTLP's list, from a mapping of any depth, or from columns."""
    given = raw.get("attributes")
    if isinstance(given, list):
        return {
            str(pair.get("key")): _any_value(pair.get("value")) for pair in given if isinstance(pair, Mapping)
        }
    if isinstance(given, Mapping):
        return dict(_flat("", given))
    columns = {key.removeprefix("attributes."): raw[key] for key in raw if key.startswith("attributes.")}
    return dict(_flat("", columns))


def _any_value(value: Any) -> Any:
    """A value of OTLP: {"stringValue": ...}, {"intValue": "3"}, ..."""
    if not isinstance(value, Mapping) or len(value) != 1:
        return value
    kind, inner = next(iter(value.items()))
    if kind in ("intValue", "int_value"):
        return int(inner)
    if kind in ("arrayValue", "array_value"):
        return [_any_value(item) for item in inner.get("values", ())]
    if kind in ("kvlistValue", "kvlist_value"):
        return {pair["key"]: _any_value(pair.get("value")) for pair in inner.get("values", ())}
    return inner


def _flat(prefix: str, values: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping) and name not in ("input.value", "output.value"):
            yield from _flat(f"{name}.", value)
        yield name, value


def _events(raw: Mapping[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    events = raw.get("events")
    return [
        (str(event.get("name")), _attributes(event))
        for event in (events if isinstance(events, list) else ())
        if isinstance(event, Mapping)
    ]


def _value(attributes: Mapping[str, Any], side: str) -> Any:
    """input.value or output.value, by its MIME type where one is given."""
    value = attributes.get(f"{side}.value", attributes.get(f"mlflow.span{side.title()}s"))
    kind = attributes.get(f"{side}.mime_type")
    return value if kind == "text/plain" else json_or_text(value)


def _failed(raw: Mapping[str, Any]) -> bool:
    status = raw.get("status")
    code = status.get("code") or status.get("status_code") if isinstance(status, Mapping) else None
    code = code or raw.get("status_code")
    return code == 2 or str(code).upper().endswith("ERROR")


def _time(raw: Mapping[str, Any], at: str) -> float | None:
    value = _first(raw, f"{at}TimeUnixNano", f"{at}_time_unix_nano")
    if value is not None:
        return nanoseconds(value)
    value = raw.get(f"{at}_time")
    if isinstance(value, str):
        try:
            return datetime.fromisoformat(value).timestamp()
        except ValueError:
            return None
    return nanoseconds(value)


def _tokens(attributes: Mapping[str, Any]) -> int | None:
    for key in _TOKENS:
        if _is_number(attributes.get(key)):
            return int(attributes[key])
    for asked, said in _TOKEN_PARTS:
        if _is_number(attributes.get(asked)) or _is_number(attributes.get(said)):
            return int(attributes.get(asked) or 0) + int(attributes.get(said) or 0)
    return None


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)

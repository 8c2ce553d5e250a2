"""Traces from spans: MLflow's exports of versions 2 and 3, OTLP JSON, OpenInference, gen_ai."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dspex import Signature
from dspex.distill.imports import Reading, read_mlflow, read_otel
from dspex.distill.trace import Answer, Trace
from dspex.errors import InputError, SignatureError

ONE = Signature.of("text -> label: Literal['a', 'b']")
TWO = Signature.of("text, n: int -> label: Literal['a', 'b'], yes: bool")
START, END = 1726145090_000000000, 1726145092_500000000
Made = dict[str, Any]


def v2(name: str, number: int, parent: int | None, inputs: Any, outputs: Any, **attributes: Any) -> Made:
    """A span as MLflow 2 writes it."""
    return {
        "name": name, "context": {"span_id": hex(number), "trace_id": "0x9"},
        "parent_id": parent and hex(parent), "start_time": START + number, "end_time": END,
        "status_code": "OK", "status_message": "", "events": [],
        "attributes": {
            "mlflow.traceRequestId": json.dumps("tr-1"), "mlflow.spanType": json.dumps("CHAIN"),
            "mlflow.spanInputs": json.dumps(inputs), "mlflow.spanOutputs": json.dumps(outputs),
            **{key: json.dumps(value) for key, value in attributes.items()},
        },
    }  # fmt: skip


def v3(name: str, number: int, parent: int | None, inputs: Any, outputs: Any, **attributes: Any) -> Made:
    """The same, as MLflow 3 writes it."""
    old = v2(name, number, parent, inputs, outputs, **attributes)
    return {
        "trace_id": "CUjrVVrUTaI=", "span_id": hex(number), "parent_span_id": hex(parent) if parent else "",
        "name": name, "start_time_unix_nano": old["start_time"], "end_time_unix_nano": END, "events": [],
        "status": {"code": "STATUS_CODE_OK", "message": ""}, "attributes": old["attributes"],
    }  # fmt: skip


def trace_of(spans: list[Made], key: str = "request_id", name: str = "tr-1") -> Made:
    return {"info": {key: name, "status": "OK"}, "data": {"spans": spans, "request": "{}", "response": "{}"}}


def calls(span: Callable[..., Made]) -> list[Made]:
    """What `mlflow.dspy.autolog()` records of a chain of thought, innermost first."""
    lm = {"messages": [{"role": "user", "content": "[[ ## text ## ]]\nx"}]}
    usage = {"mlflow.chat.tokenUsage": {"input_tokens": 8, "output_tokens": 2, "total_tokens": 10}}
    return [
        span("LM.__call__", 4, 3, lm, ["[[ ## label ## ]]\nb"], **usage),
        span("ChatAdapter.format", 5, 3, {"inputs": {"text": "x"}}, [{"role": "user"}]),
        span("Predict.forward", 3, 2, {"text": "x"}, {"reasoning": "r", "label": "b"}),
        span("ChainOfThought.forward", 2, 1, {"text": "x", "config": {}}, {"reasoning": "r", "label": "a"}),
        span("Mine.forward", 1, None, {"args": ["x"]}, {"done": True}),
    ]


def only(reading: Reading) -> Trace:
    (found,) = reading
    return found


@pytest.mark.parametrize(("span", "key"), [(v2, "request_id"), (v3, "trace_id")])
def test_mlflow_gives_the_outermost_call_that_fits(span: Any, key: str) -> None:
    found = only(read_mlflow(trace_of(calls(span), key), ONE))
    assert found.inputs == {"text": "x"}
    assert found.answer == Answer({"label": "a", "reasoning": "r"}, None, None, 10, found.answer.seconds)
    assert found.answer.seconds == pytest.approx(2.5, abs=1e-6)
    assert found.at == pytest.approx(START / 1e9)
    assert found.source == "mlflow"
    assert found.extra == {"trace_id": "tr-1", "span_id": "0x2", "span": "ChainOfThought.forward"}


def test_mlflow_in_every_wrapping(tmp_path: Path) -> None:
    one, two = trace_of(calls(v3), "trace_id"), trace_of(calls(v2), name="tr-2")
    sources: list[Any] = [
        [one, two], {"traces": [one, two]}, [json.dumps(one), json.dumps(two)],
        [{"trace_id": "tr-1", "trace": json.dumps(one)}, {"request_id": "tr-2", **two["data"]}],
        [{"info": one["info"], "data": json.dumps(one["data"])}, two["data"] | {"request_id": "tr-2"}],
    ]  # fmt: skip
    for name, text in (
        ("list.json", json.dumps([one, two])),
        ("lines.jsonl", f"{json.dumps(one)}\n{json.dumps(two)}"),
    ):
        (tmp_path / name).write_text(text)
        sources.append(tmp_path / name)
    for source in sources:
        found = list(read_mlflow(source, ONE))
        assert [trace.extra["trace_id"] for trace in found] == ["tr-1", "tr-2"]
        assert {trace.answer.outputs["label"] for trace in found} == {"a"}


def test_mlflow_spans_with_fields_of_their_own() -> None:
    span = {
        "name": "Predict.forward",
        "span_id": "1",
        "parent_id": None,
        "inputs": {"text": "x"},
        "outputs": {"label": "b"},
    }
    assert only(read_mlflow({"trace_id": "t", "spans": [span]}, ONE)).answer.outputs == {"label": "b"}
    assert only(read_mlflow([span], ONE)).inputs == {"text": "x"}
    wrapped = span | {"inputs": {"args": [], "kwargs": {"text": "y"}}}
    assert only(read_mlflow([wrapped], ONE)).inputs == {"text": "y"}
    plain = span | {"outputs": "b"}
    assert only(read_mlflow([plain], ONE)).answer.outputs == {"label": "b"}


def test_sibling_calls_are_traces_each_and_failed_ones_none() -> None:
    spans = [v3("Evaluate", 1, None, {"n": 3}, {"score": 1.0})]
    spans += [v3("Predict.forward", n, 1, {"text": f"{n}"}, {"label": "a"}) for n in (2, 3, 4)]
    spans[2]["status"] = {"code": "STATUS_CODE_ERROR", "message": "boom"}
    assert [trace.inputs["text"] for trace in read_mlflow(trace_of(spans), ONE)] == ["2", "4"]
    failed = trace_of(
        [v2("Predict.forward", 1, None, {"text": "x"}, None) | {"status_code": "ERROR"}], name="bad"
    )
    reading = read_mlflow([failed, trace_of(calls(v2))], ONE)
    assert len(list(reading)) == 1
    assert not reading.problems


@pytest.mark.parametrize("read", [read_mlflow, read_otel])
def test_spans_of_another_signature_are_refused_with_what_is_there(read: Any) -> None:
    source = (
        trace_of([v3("Predict.forward", 1, None, {"question": "x"}, {"reply": "y"})])
        if read is read_mlflow
        else otlp([oi("Predict.forward", "1", "", {"question": "x"}, {"reply": "y"})])
    )
    for on_error in ("raise", "collect"):
        with pytest.raises(SignatureError, match="'question', 'reply'"):
            list(read(source, ONE, on_error=on_error))


def test_a_trace_that_does_not_fit_is_named() -> None:
    wrong = trace_of([v3("Predict.forward", 1, None, {"text": "x"}, {"label": "c"})], name="tr-9")
    other = trace_of([v3("Predict.forward", 1, None, {"q": "x"}, {"label": "c"})], name="tr-8")
    good = trace_of(calls(v3))
    with pytest.raises(InputError, match=r"trace tr-9: .*'c' is not one of its classes"):
        list(read_mlflow([good, wrong], ONE))
    reading = read_mlflow([wrong, good, other, 3, '{"x"', {"y": 1}, {"spans": [1]}], ONE, on_error="collect")
    assert len(list(reading)) == 1
    assert [problem.where for problem in reading.problems] == [
        "trace tr-9", "trace tr-8", "item 4", "line 5", "item 6", "item 7",
    ]  # fmt: skip


# --- OpenTelemetry


def value(given: Any) -> Made:
    if isinstance(given, bool):
        return {"boolValue": given}
    if isinstance(given, int):
        return {"intValue": str(given)}
    if isinstance(given, float):
        return {"doubleValue": given}
    if isinstance(given, list):
        return {"arrayValue": {"values": [value(item) for item in given]}}
    if isinstance(given, dict):
        return {"kvlistValue": {"values": [{"key": k, "value": value(v)} for k, v in given.items()]}}
    return {"stringValue": given}


def pairs(attributes: Made) -> list[Made]:
    return [{"key": key, "value": value(given)} for key, given in attributes.items()]


def span(name: str, number: str, parent: str, attributes: Made, events: Any = (), trace: str = "7f") -> Made:
    return {
        "traceId": trace, "spanId": number, "parentSpanId": parent, "name": name, "kind": 1,
        "startTimeUnixNano": str(START), "endTimeUnixNano": str(END), "attributes": pairs(attributes),
        "events": [{"name": n, "timeUnixNano": "1", "attributes": pairs(a)} for n, a in events], "status": {},
    }  # fmt: skip


def fields(inputs: Any, outputs: Any) -> Made:
    kind = "application/json"
    return {
        "input.value": json.dumps(inputs), "input.mime_type": kind, "output.value": json.dumps(outputs),
        "output.mime_type": kind, "openinference.span.kind": "CHAIN",
    }  # fmt: skip


def oi(name: str, number: str, parent: str, inputs: Any, outputs: Any, **more: Any) -> Made:
    return span(name, number, parent, fields(inputs, outputs) | more)


def otlp(spans: list[Made]) -> Made:
    return {"resourceSpans": [{"resource": {}, "scopeSpans": [{"scope": {"name": "x"}, "spans": spans}]}]}


def test_otlp_of_openinference_gives_the_outermost_call() -> None:
    costs = {"llm.token_count.total": 12, "llm.cost.total": 0.25}
    spans = [
        oi("Predict.forward", "c", "b", {"text": "x", "n": 3}, {"label": "b", "yes": False}),
        span("LM.__call__", "d", "c", {"llm.model_name": "m", **costs}),
        span("chat m", "e", "d", {"gen_ai.usage.input_tokens": 8, "gen_ai.usage.output_tokens": 4}),
        oi(
            "ChainOfThought.forward",
            "b",
            "a",
            {"text": "x", "n": 3},
            {"label": "a", "yes": True, "reasoning": "r"},
        ),
        oi("Mine.forward", "a", "", {}, {"done": 1}),
    ]
    found = only(read_otel(otlp(spans), TWO))
    assert found.inputs == {"text": "x", "n": 3}
    assert found.answer == Answer({"label": "a", "yes": True, "reasoning": "r"}, None, 0.25, 12, 2.5)
    assert (found.source, found.at) == ("otel", START / 1e9)
    assert found.extra["span"] == "ChainOfThought.forward"


def test_spans_of_one_trace_may_stand_in_several_lines(tmp_path: Path) -> None:
    spans = [
        oi("Predict.forward", "2", "1", {"text": "x"}, {"label": "b"}),
        oi("Mine.forward", "1", "", {"text": "x"}, {"label": "a"}),
        oi("Mine.forward", "1", "", {"text": "y"}, {"label": "b"}) | {"traceId": "80"},
    ]
    path = tmp_path / "spans.jsonl"
    path.write_text("\n".join(json.dumps(otlp([each])) for each in spans))
    assert [trace.answer.outputs["label"] for trace in read_otel(path, ONE)] == ["a", "b"]


def test_span_dicts_of_the_sdk_and_flat_rows() -> None:
    sdk = {
        "name": "Predict.forward", "context": {"trace_id": "0x7", "span_id": "0x1", "trace_state": "[]"},
        "parent_id": None, "start_time": "2024-09-12T12:44:50.000000Z",
        "end_time": "2024-09-12T12:44:52.500000Z",
        "status": {"status_code": "OK"}, "attributes": fields({"text": "x"}, {"label": "a"}), "events": [],
    }  # fmt: skip
    found = only(read_otel([json.dumps(sdk, indent=1)], ONE))
    assert (found.at, found.answer.seconds) == (1726145090.0, 2.5)
    flat = {f"attributes.{key}": given for key, given in sdk["attributes"].items()}
    flat |= {
        "name": "x",
        "context.trace_id": "7",
        "context.span_id": "1",
        "parent_id": None,
        "status_code": "OK",
    }
    assert only(read_otel([flat], ONE)).answer.outputs == {"label": "a"}
    nested = sdk | {"attributes": {"input": {"value": {"text": "x"}}, "output": {"value": '{"label": "a"}'}}}
    assert only(read_otel(nested, ONE)).inputs == {"text": "x"}
    failed = sdk | {"status": {"status_code": "ERROR"}, "context": {"trace_id": "0x8", "span_id": "0x1"}}
    assert len(list(read_otel([failed, sdk], ONE))) == 1


def test_plain_text_of_a_whole_trace() -> None:
    text = {
        "input.value": "3",
        "input.mime_type": "text/plain",
        "output.value": "a",
        "output.mime_type": "text/plain",
    }
    found = only(read_otel(otlp([span("classify", "1", "", text)]), ONE))
    assert (found.inputs, found.answer.outputs) == ({"text": "3"}, {"label": "a"})


ASKED = (
    "[[ ## text ## ]]\nmy\ntext\n\nRespond with the corresponding output fields, starting with the field "
    "`[[ ## label ## ]]`, and then ending with the marker for `[[ ## completed ## ]]`."
)
SAID = "[[ ## reasoning ## ]]\nr\n\n[[ ## label ## ]]\nb\n\n[[ ## completed ## ]]"
SYSTEM = {"role": "system", "content": "[[ ## text ## ]]\n{text}"}
USER = {"role": "user", "content": ASKED}
PARTS = [
    {"role": "system", "parts": [{"type": "text", "content": "be good"}]},
    {"role": "user", "parts": [{"type": "text", "content": ASKED}]},
]
REPLY = [{"role": "assistant", "parts": [{"type": "text", "content": SAID}], "finish_reason": "stop"}]


@pytest.mark.parametrize(
    ("attributes", "events"),
    [
        ({"gen_ai.input.messages": json.dumps(PARTS), "gen_ai.output.messages": json.dumps(REPLY)}, ()),
        ({"gen_ai.input.messages": PARTS, "gen_ai.output.messages": REPLY}, ()),
        (
            {
                "gen_ai.prompt.0.role": "system", "gen_ai.prompt.0.content": "be good",
                "gen_ai.prompt.1.role": "user", "gen_ai.prompt.1.content": ASKED,
                "gen_ai.completion.0.role": "assistant", "gen_ai.completion.0.content": SAID,
            },
            (),
        ),
        (
            {
                "llm.input_messages.0.message.role": "user", "llm.input_messages.0.message.content": ASKED,
                "llm.output_messages.0.message.role": "assistant",
                "llm.output_messages.0.message.content": SAID,
            },
            (),
        ),
        (
            {},
            (
                ("gen_ai.system.message", SYSTEM), ("gen_ai.user.message", {"content": ASKED}),
                ("gen_ai.choice", {"index": 0, "message": json.dumps({"content": SAID})}),
            ),
        ),
        (
            {},
            (
                ("gen_ai.content.prompt", {"gen_ai.prompt": json.dumps([SYSTEM, USER])}),
                ("gen_ai.content.completion", {"gen_ai.completion": json.dumps([{"content": SAID}])}),
            ),
        ),
    ],
)  # fmt: skip
def test_an_lms_call_holds_the_fields_in_its_messages(attributes: Made, events: Any) -> None:
    usage = {"gen_ai.usage.input_tokens": 8, "gen_ai.usage.output_tokens": 4}
    found = only(read_otel(otlp([span("chat m", "1", "", attributes | usage, events)]), ONE))
    assert found.inputs == {"text": "my\ntext"}
    assert found.answer == Answer({"label": "b", "reasoning": "r"}, None, None, 12, 2.5)


def test_otel_problems_are_named() -> None:
    wrong = oi("Predict.forward", "1", "", {"text": 3}, {"label": "a"}) | {"traceId": "bad"}
    good = oi("Predict.forward", "1", "", {"text": "x"}, {"label": "a"})
    with pytest.raises(InputError, match=r"trace bad: .*3 is of type int"):
        list(read_otel(otlp([good, wrong]), ONE))
    reading = read_otel([otlp([good, wrong]), 3, "{", {"x": 1}], ONE, on_error="collect")
    assert len(list(reading)) == 1
    assert [problem.where for problem in reading.problems] == ["item 2", "line 3", "item 4", "trace bad"]

"""Traces from JSONL, from DSPy's history, and back from an export."""

from __future__ import annotations

import datetime
import json
import time
from dataclasses import replace
from enum import Enum
from pathlib import Path
from typing import Any, Literal

import pytest

from dspex import Signature
from dspex.distill.imports import read_jsonl
from dspex.distill.store import Store
from dspex.distill.trace import Answer, Trace
from dspex.errors import ConfigError, InputError, SignatureError
from dspex.testing.lm_server import LMServer

ONE = Signature.of("text -> label: Literal['a', 'b']")
TWO = Signature.of("text, n: int -> label: Literal['a', 'b'], yes: bool")


class Colour(Enum):
    RED = "red"
    BLUE = 2


def only(row: Any, signature: Signature = ONE) -> Trace:
    (found,) = read_jsonl([row], signature)
    return found


@pytest.mark.parametrize(
    "row",
    [
        {"input": "x", "teacher": "a"},
        {"input": {"text": "x"}, "teacher": {"label": "a"}},
        {"inputs": {"text": "x"}, "outputs": {"label": "a"}},
        {"input": "x", "output": "a"},
        {"input": "x", "label": "a"},
        {"input": "x", "answer": "a"},
        {"text": "x", "label": "a", "split": "train", "role": "user", "count": "many"},
        {"text": "x", "prediction": {"label": "a"}},
        {"text": "x", "teacher": "a"},
        '{"text": "x", "label": "a"}',
        b'\xef\xbb\xbf{"text": "x", "label": "a"}',
    ],
)
def test_rows_of_one_input_and_output(row: Any) -> None:
    assert only(row) == Trace({"text": "x"}, Answer({"label": "a"}), source="jsonl")


@pytest.mark.parametrize(
    "row",
    [
        {"input": {"text": "x", "n": 3}, "teacher": {"label": "a", "yes": True}},
        {"text": "x", "n": 3, "label": "a", "yes": True},
        {"text": "x", "n": 3, "outputs": {"label": "a", "yes": True}},
        {"inputs": {"text": "x", "n": 3}, "label": "a", "yes": True},
    ],
)
def test_rows_of_several(row: Any) -> None:
    found = only(row, TWO)
    assert (found.inputs, found.answer) == ({"text": "x", "n": 3}, Answer({"label": "a", "yes": True}))


def test_fields_may_have_the_names_of_keys() -> None:
    signature = Signature.of("input -> output: Literal['a', 'b']")
    expected = ({"input": "x"}, {"output": "a"})
    for row in ({"input": "x", "output": "a"}, {"input": {"input": "x"}, "teacher": {"output": "a"}}):
        found = only(row, signature)
        assert (found.inputs, found.answer.outputs) == expected


def test_further_outputs_are_kept_and_other_columns_are_not() -> None:
    found = only({"input": {"text": "x"}, "teacher": {"label": "a", "reasoning": "r"}, "z": 1})
    assert found.answer.outputs == {"label": "a", "reasoning": "r"}


def test_soft_labels() -> None:
    soft = {"label": {"a": 0.25, "b": 0.75}}
    expected = Answer({"label": "b"}, soft)
    assert only({"text": "x", "label": {"a": 0.25, "b": 0.75}}).answer == expected
    assert only({"input": "x", "teacher": {"label": {"a": 0.25, "b": 0.75}}}).answer == expected
    assert only({"input": "x", "teacher": "a", "soft": soft}).answer == Answer({"label": "a"}, soft)
    level = Signature.of("text -> yes: bool, level: Literal[1, 2, None]")
    found = only({"text": "x", "yes": {"true": 0.9, "false": 0.1}, "level": {"1": 0.2, "null": 0.8}}, level)
    assert found.answer.soft == {"yes": {True: 0.9, False: 0.1}, "level": {1: 0.2, None: 0.8}}
    assert found.answer.outputs == {"yes": True, "level": None}


def test_enums_come_by_value_or_by_name() -> None:
    signature = Signature.of({"inputs": {"text": "str"}, "outputs": {"colour": Colour}})
    for plain, member in (("red", Colour.RED), (2, Colour.BLUE), ("Colour.BLUE", Colour.BLUE)):
        assert only({"text": "x", "colour": plain}, signature).answer.outputs == {"colour": member}


# --- files


def test_files_of_lines_lists_and_one_object(tmp_path: Path) -> None:
    rows = [{"text": "x", "label": "a"}, {"text": "y", "label": "b"}]
    lines = "\n\n".join(map(json.dumps, rows))
    for text in (lines, json.dumps(rows), json.dumps(rows, indent=2), "\ufeff" + lines):
        path = tmp_path / "rows.jsonl"
        path.write_text(text)
        assert [trace.inputs["text"] for trace in read_jsonl(path, ONE)] == ["x", "y"]
    path.write_text(json.dumps(rows[0], indent=2))
    assert [trace.inputs["text"] for trace in read_jsonl(str(path), ONE)] == ["x"]


@pytest.mark.parametrize(
    ("line", "what"),
    [
        ('{"text": "x", "label": "c"}', "'c' is not one of its classes"),
        ('{"text": 3, "label": "a"}', "3 is of type int"),
        ('{"text": "x"}', "'label' is missing"),
        ('{"input": {"text": "x", "more": 1}, "teacher": "a"}', "no input 'more'"),
        ('{"text": "x", "label": {"a": 1.5}}', "probability"),
        ('{"input": "x", "teacher": "a", "role": "test"}', "role 'test'"),
        ('{"input": "x", "teacher": "a", "count": 0}', "count 0"),
        ('{"input": "x", "teacher": "a", "usd": "much"}', "'usd' is 'much'"),
        ('{"input": "x", "teacher": "a", "soft": {"lab": {}}}', "no output 'lab'"),
        ('{"text": "x", "label"', "not valid JSON"),
        ("[" * 100_000, "nested too deeply"),
        ("3", "a row is a JSON object"),
        ('"\\ud800', "not valid JSON"),
    ],
)
def test_a_row_that_does_not_fit_is_named(tmp_path: Path, line: str, what: str) -> None:
    path = tmp_path / "rows.jsonl"
    good = '{"text": "x", "label": "a"}'
    path.write_text(f"{good}\n{line}\n{good}\n")
    with pytest.raises(InputError, match="line 2") as caught:
        list(read_jsonl(path, ONE))
    assert what in str(caught.value)
    reading = read_jsonl(path, ONE, on_error="collect")
    assert len(list(reading)) == reading.taken == 2
    assert [problem.where for problem in reading.problems] == [f"{path} line 2"]
    assert what in str(reading.problems[0].error)


@pytest.mark.parametrize("on_error", ["raise", "collect"])
def test_another_signature_is_refused_with_what_is_there(on_error: Any) -> None:
    rows = [{"question": "x", "answer_text": "y"}] * 3
    with pytest.raises(SignatureError, match="'question', 'answer_text'") as caught:
        list(read_jsonl(rows, ONE, on_error=on_error))
    assert "text -> label" in str(caught.value)


def test_nothing_is_an_error_too(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no traces"):
        list(read_jsonl([], ONE))
    with pytest.raises(InputError, match="nothing in the source"):
        list(read_jsonl(["{"], ONE, on_error="collect"))
    with pytest.raises(InputError, match="cannot read"):
        list(read_jsonl(tmp_path / "none", ONE))
    with pytest.raises(ConfigError, match="collct"):
        read_jsonl([], ONE, on_error="collct")  # type: ignore[arg-type]


# --- DSPy's history


def history_of(
    server: LMServer, adapter: str, signature: str, inputs: dict[str, Any], outputs: dict[str, Any]
) -> list[dict[str, Any]]:
    """The history of a real LM of DSPy after one call."""
    import dspy

    wanted, made = dspy.Signature(signature), getattr(dspy, adapter)()
    server.answers = made.format_assistant_message_content(wanted, outputs)
    lm = dspy.LM("openai/m", api_base=server.url, api_key="k", cache=False, num_retries=0)
    with dspy.context(lm=lm, adapter=made):
        dspy.Predict(wanted)(**inputs)
    return list(lm.history)


@pytest.mark.parametrize("adapter", ["ChatAdapter", "JSONAdapter"])
def test_an_entry_of_dspys_history_holds_the_fields(lm_server: LMServer, adapter: str) -> None:
    inputs = {"text": "first\n\nRespond well\n[x]", "n": 3}
    entries = history_of(
        lm_server, adapter, "text, n: int -> reasoning, label: Literal['a', 'b'], yes: bool", inputs,
        {"reasoning": "it\nis", "label": "b", "yes": True},
    )  # fmt: skip
    (found,) = read_jsonl(entries, TWO)
    assert found.inputs == inputs
    assert found.answer.outputs == {"label": "b", "yes": True, "reasoning": "it\nis"}
    assert found.answer.tokens == entries[0]["usage"]["total_tokens"]
    assert found.source == "history"
    assert abs(found.at - time.time()) < 60


def test_an_entry_of_another_signature_is_refused(lm_server: LMServer) -> None:
    entries = history_of(lm_server, "ChatAdapter", "question -> reply", {"question": "x"}, {"reply": "y"})
    with pytest.raises(SignatureError, match="'question'"):
        list(read_jsonl(entries, ONE))


# --- export


def test_an_export_reads_back_the_same(tmp_path: Path) -> None:
    signature = Signature.of(
        {
            "inputs": {"text": "str", "x": "float", "w": "list[float]", "day": "datetime.date"},
            "outputs": {
                "colour": Colour, "yes": "bool", "tags": list[Literal["x", "y"]], "n": "int", "note": "str",
                "when": "Optional[datetime.datetime]",
            },
        }
    )  # fmt: skip
    inputs = {"text": "ä\ud800\n\0", "x": 1e-310, "w": [0.1, -0.0], "day": datetime.date(2024, 2, 29)}
    outputs = {
        "colour": Colour.BLUE, "yes": False, "tags": ["y"], "n": 2**70, "note": "",
        "when": datetime.datetime(2024, 1, 1), "reasoning": ["more"],
    }  # fmt: skip
    soft = {"colour": {Colour.RED: 0.1, Colour.BLUE: 0.9}, "yes": {True: 0.5, False: 0.5}, "tags": {"x": 0.3}}
    traces = [
        Trace(inputs, Answer(outputs, soft, 0.1, 3, 0.2), at=1.25, count=3, extra={"k": [1]}),
        Trace({**inputs, "text": "z"}, Answer({**outputs, "when": None}), role="calibrate", at=2.5),
    ]
    with Store.open(tmp_path / "one", signature) as store:
        store.add(traces)
        assert store.export(tmp_path / "out.jsonl") == 2
    again = list(read_jsonl(tmp_path / "out.jsonl", signature))
    assert again == traces
    with Store.open(tmp_path / "two", signature) as store:
        store.add(again)
        assert [replace(trace, id=None) for trace in store.traces()] == traces
        store.export(tmp_path / "again.jsonl")
        with pytest.raises(ConfigError, match="jsonl"):
            store.export(tmp_path / "x", format="json")
    assert (tmp_path / "again.jsonl").read_bytes() == (tmp_path / "out.jsonl").read_bytes()
    with Store.open(tmp_path / "two") as store:  # without the Enum
        store.export(tmp_path / "plain.jsonl")
    assert (tmp_path / "plain.jsonl").read_bytes() == (tmp_path / "out.jsonl").read_bytes()

"""What travels to a worker process, and that it answers there as it would here."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dspy
import pytest

import dspex
import dspex.dspy
from dspex.adapters.dspy import DspyAdapter
from dspex.adapters.dspy_pool import DspyPoolAdapter
from dspex.testing.lm_server import Request
from dspy_pool_tools import (
    LABEL,
    SERVER,
    Mail,
    Outer,
    Person,
    Reason,
    TwoSteps,
    Typed,
    Wrapping,
    add,
    borrowed,
    echo,
    look_up,
)

DEMOS = [dspy.Example(text="gone", label="card_lost").with_inputs("text")]


@pytest.fixture
def adapter() -> Iterator[DspyPoolAdapter]:
    with borrowed() as adapter:
        yield adapter


def same_as_here(adapter: DspyPoolAdapter, spec: dict[str, Any], inputs: dict[str, Any]) -> dspex.Result:
    """The worker's answer, after seeing that its prompts and its answer are those of this process."""
    pid = adapter.create_program(spec)
    SERVER.clear()
    there = adapter.execute_program(pid, inputs)
    asked = [logged.messages for logged in SERVER.requests]
    with DspyAdapter() as local:
        local.configure_lm(SERVER.lm_config())
        here_id = local.create_program(spec)
        SERVER.clear()
        here = local.execute_program(here_id, inputs)
        assert asked == [logged.messages for logged in SERVER.requests]
        assert local.get_program_info(here_id)["signature"] == adapter.get_program_info(pid)["signature"]
    assert (there.to_dict(), there.usage) == (here.to_dict(), here.usage)
    assert {name: type(value) for name, value in there.items()} == {n: type(v) for n, v in here.items()}
    assert there.route == "dspy_pool"
    assert "worker process" in there.route.reason
    return there


@pytest.mark.parametrize("kind", [None, "predict", "classify"])
def test_a_signature(adapter: DspyPoolAdapter, kind: str | None) -> None:
    SERVER.answers = {"label": "refund"}
    result = same_as_here(adapter, {"signature": LABEL, "kind": kind}, {"text": "money back"})
    assert dict(result) == {"label": "refund"}


def test_chain_of_thought_with_its_reasoning(adapter: DspyPoolAdapter) -> None:
    SERVER.answers = {"reasoning": "it says so", "label": "refund"}
    spec = {"signature": LABEL, "kind": "chain_of_thought"}
    assert same_as_here(adapter, spec, {"text": "money"}).reasoning == "it says so"


def test_react_with_tools_and_its_trajectory(adapter: DspyPoolAdapter) -> None:
    def answer(request: Request) -> dict[str, Any]:
        if "reply" in request.output_fields:
            return {"reasoning": "r", "reply": "done"}
        if "observation_1" in request.text:
            return {"next_thought": "t", "next_tool_name": "finish", "next_tool_args": {}}
        if "observation_0" in request.text:
            return {"next_thought": "t", "next_tool_name": "plus", "next_tool_args": {"a": 2, "b": 3}}
        return {"next_thought": "t", "next_tool_name": "look_up", "next_tool_args": {"word": "card"}}

    SERVER.answers = answer
    tools = [look_up, dspy.Tool(add, name="plus", desc="Adds.")]
    spec = {"signature": "text -> reply", "kind": "react", "tools": tools, "init": {"max_iters": 3}}
    pid = adapter.create_program(spec)
    result = adapter.execute_program(pid, {"text": "x"})
    assert result.reply == "done"
    observed = result.trajectory["observation_0"]
    assert observed.startswith("card: found by ")
    assert observed != look_up("card")  # it ran there
    assert result.trajectory["observation_1"] == 5
    assert result.usage is not None
    assert result.usage["requests"] == 4
    by_path = {**spec, "tools": ["dspy_pool_tools:look_up", "dspy_pool_tools:plus"]}
    assert adapter.execute_program(adapter.create_program(by_path), {"text": "x"}).reply == "done"


def test_a_module_by_import_path_with_what_it_takes(adapter: DspyPoolAdapter) -> None:
    SERVER.answers = echo
    spec = {
        "signature": "text -> topic, reply",
        "module": "dspy_pool_tools:TwoSteps",
        "init": {"greeting": "hi"},
    }
    assert same_as_here(adapter, spec, {"text": "abc"}).reply == "hi abc"


def test_a_live_module_with_what_it_has_learned(adapter: DspyPoolAdapter) -> None:
    SERVER.answers = {"reasoning": "r", "label": "refund"}
    module = Outer()
    inner = module.inner.predict
    inner.demos = DEMOS
    inner.signature = inner.signature.with_instructions("Be brief.").with_updated_fields("text", desc="mail")
    same_as_here(adapter, {"module": module}, {"text": "money"})
    said = SERVER.requests[-1].request.text
    assert "Be brief." in said
    assert "gone" in said
    assert "mail" in said


def test_a_live_module_with_a_part_that_an_optimizer_has_frozen(adapter: DspyPoolAdapter) -> None:
    SERVER.answers = {"reasoning": "r", "label": "refund"}
    module = Outer()
    module.inner.predict.demos = DEMOS
    module.inner._compiled = True  # DSPy's own state leaves it out
    same_as_here(adapter, {"module": module, "signature": LABEL}, {"text": "money"})
    assert "gone" in SERVER.requests[-1].request.text


def test_what_optimizers_leave_on_a_program_stays_here(adapter: DspyPoolAdapter) -> None:
    SERVER.answers = {"label": "refund"}
    optimizer = dspy.BootstrapFewShot(metric=lambda example, answer, trace=None: True, max_labeled_demos=1)
    with dspy.context(lm=dspy.LM(**SERVER.lm_config(cache=False))):
        module = optimizer.compile(
            Wrapping(), trainset=[dspy.Example(text="gone", label="refund").with_inputs("text")]
        )
    module.candidate_programs = [{"score": 1.0, "program": Wrapping()}]
    module.trial_logs = {1: object()}
    same_as_here(adapter, {"module": module, "signature": LABEL}, {"text": "money"})
    assert "gone" in SERVER.requests[-1].request.text


@pytest.mark.parametrize(
    "module",
    [
        dspy.Predict(LABEL, temperature=0.3, max_tokens=77),
        dspy.ChainOfThought(LABEL, temperature=0.3, max_tokens=77),
    ],
    ids=["Predict", "ChainOfThought"],
)
def test_a_live_predictor_with_its_config(adapter: DspyPoolAdapter, module: Any) -> None:
    SERVER.answers = {"reasoning": "r", "label": "refund"}
    same_as_here(adapter, {"module": module}, {"text": "money"})
    body = SERVER.requests[-1].request.body
    assert (body["temperature"], body["max_completion_tokens"]) == (0.3, 77)


def test_a_live_agent_with_tools(adapter: DspyPoolAdapter) -> None:
    SERVER.answers = {
        "next_thought": "t",
        "next_tool_name": "finish",
        "next_tool_args": {},
        "reasoning": "r",
        "reply": "done",
    }
    agent = dspy.ReAct("text -> reply", tools=[add, dspy.Tool(look_up, name="find")], max_iters=2)
    agent.extract.predict.demos = [dspy.Example(text="a demo", trajectory="", reasoning="", reply="x")]
    same_as_here(adapter, {"module": agent}, {"text": "x"})
    assert "a demo" in SERVER.requests[-1].request.text


def test_a_saved_state_stays_as_it_was_when_the_file_goes(adapter: DspyPoolAdapter, tmp_path: Path) -> None:
    SERVER.answers = {"reasoning": "r", "label": "refund"}
    module = dspy.ChainOfThought(LABEL)
    module.predict.demos = DEMOS
    path = tmp_path / "state.json"
    module.save(path)
    spec = {"signature": LABEL, "kind": "chain_of_thought", "state": str(path), "id": "saved"}
    same_as_here(adapter, spec, {"text": "money"})
    assert "gone" in SERVER.requests[-1].request.text
    path.unlink()
    for pid in adapter.pool.pids():
        os.kill(pid, 9)
    SERVER.clear()
    adapter.execute_program("saved", {"text": "money"})
    assert "gone" in SERVER.requests[-1].request.text


def test_a_saved_state_beside_a_live_module(adapter: DspyPoolAdapter, tmp_path: Path) -> None:
    SERVER.answers = {"reasoning": "r", "label": "refund"}
    module = Outer()
    module.inner.predict.demos = DEMOS
    module.save(tmp_path / "state.json")
    same_as_here(adapter, {"module": Outer(), "state": str(tmp_path / "state.json")}, {"text": "money"})
    assert "gone" in SERVER.requests[-1].request.text


def test_native_sides_answer_in_the_worker(adapter: DspyPoolAdapter) -> None:
    rows = [{"text": "money back", "label": "refund"}, {"text": "card gone", "label": "card_lost"}] * 20
    module = dspex.dspy.Predict(LABEL, threshold=None).fit(rows, folds=2)
    pid = adapter.create_program({"module": module})
    assert adapter.execute_program(pid, {"text": "card gone"}).label == "card_lost"
    assert SERVER.count == 0
    inside = dspex.dspy.accelerate(Wrapping(), natives={"ask": rows}, threshold=None, folds=2)
    pid = adapter.create_program({"module": inside})
    assert adapter.execute_program(pid, {"text": "money back"}).label == "refund"
    assert SERVER.count == 0


def test_enums_and_models_by_import_path(adapter: DspyPoolAdapter) -> None:
    SERVER.answers = {"reason": "card_lost", "person": '{"name": "Ada", "age": 36}'}
    expected = {"reason": Reason.LOST, "person": Person(name="Ada", age=36)}
    inputs = {"text": "Ada lost it"}
    assert dict(same_as_here(adapter, {"signature": Mail}, inputs)) == expected
    # Made of other classes, whose parts can be imported.
    updated = Mail.with_instructions("Who, and why?")
    assert dict(same_as_here(adapter, {"signature": updated}, inputs)) == expected
    assert dict(same_as_here(adapter, {"module": dspy.Predict(updated)}, inputs)) == expected
    by_types = {"inputs": {"text": str}, "outputs": {"reason": Reason, "person": Person | None}}
    assert dict(same_as_here(adapter, {"signature": by_types}, inputs)) == expected
    assert adapter.execute_program(adapter.list_programs()[0], inputs).reason is Reason.LOST


def test_types_that_only_the_worker_has_seen(adapter: DspyPoolAdapter) -> None:
    SERVER.answers = {"reason": "refund"}
    by_path = same_as_here(adapter, {"module": "dspy_pool_tools:Typed"}, {"text": "x"})
    live = same_as_here(adapter, {"module": Typed()}, {"text": "x"})
    assert by_path.reason is live.reason is Reason.REFUND


def test_classes_that_are_learned_from_examples(adapter: DspyPoolAdapter) -> None:
    SERVER.answers = {"label": "b"}
    rows = [{"text": "x", "label": "a"}, {"text": "y", "label": "b"}]
    assert same_as_here(adapter, {"signature": "text -> label", "examples": rows}, {"text": "y"}).label == "b"


@pytest.mark.parametrize(
    ("signature", "inputs", "answers", "outputs"),
    [
        (
            "v: list[float], n: int, on: bool, x: float -> ok: bool",
            {"v": [0.5, 2.0], "n": 2**70, "on": True, "x": 1e300},
            {"ok": "True"},
            {"ok": True},
        ),
        (
            "texts: list[str], d: dict[str, int] -> rows: list[dict[str, int]], n: Optional[int], big: int",
            {"texts": ["a", "ü"], "d": {"a": 1}},
            {"rows": '[{"a": 1}]', "n": "None", "big": str(2**80)},
            {"rows": [{"a": 1}], "n": None, "big": 2**80},
        ),
        ("text -> reply", {"text": "half a \ud83d pair"[:7] + "ß\U0001f600"}, {"reply": "ß\U0001f600"}, None),
    ],
)
def test_values(
    adapter: DspyPoolAdapter, signature: str, inputs: Any, answers: Any, outputs: dict[str, Any] | None
) -> None:
    SERVER.answers = answers
    result = same_as_here(adapter, {"signature": signature}, inputs)
    assert dict(result) == (outputs or answers)


def test_settings_of_the_program(adapter: DspyPoolAdapter) -> None:
    SERVER.answers = {"label": "refund"}
    same_as_here(adapter, {"signature": LABEL, "dspy": {"format": "json"}}, {"text": "x"})
    assert SERVER.requests[-1].request.format == "json"


def test_what_a_module_adds_comes_as_plain_data(adapter: DspyPoolAdapter) -> None:
    SERVER.answers = echo
    pid = adapter.create_program(
        {"signature": "text -> reply", "module": TwoSteps(), "id": "adds", "tags": ["mail"]}
    )
    result = adapter.execute_program(pid, {"text": "abc"})
    assert dict(result) == {"reply": "dear abc", "topic": "cba"}
    info = adapter.get_program_info(pid)
    assert (info["adapter"], info["kind"], info["tags"]) == ("dspy_pool", "module", ["mail"])
    assert info["program"]["predictors"] == ["first", "second"]
    assert info["program"]["module"] == "dspy_pool_tools.TwoSteps"

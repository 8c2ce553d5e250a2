"""Modules of the user's own: live, by import path, saved; what they return; the LMs they bring."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dspy
import pytest

import dspex.dspy
from dspex import demo
from dspex.adapters.dspy import DspyAdapter
from dspex.errors import ConfigError, InputError, LMError, ProgramError, SignatureError
from dspex.result import Result
from dspex.testing.lm_server import LMServer, Request, Status
from dspy_adapter_tools import LABEL, Fixed, NamedEngine, OnlyAsync, TwoSteps, instance, over, program

SIGNATURE = "text -> topic, reply"


def answer(request: Request) -> dict[str, Any]:
    return {"topic": "money", "reply": f"about {request.fields.get('topic', request.fields.get('text'))}"}


def ways(adapter: DspyAdapter, pid: str, row: dict[str, Any]) -> list[Callable[[], Result]]:
    """Sync and async, with and without a deadline."""
    return [
        lambda: adapter.execute_program(pid, row),
        lambda: adapter.execute_program(pid, row, {"timeout": 10}),
        lambda: asyncio.run(adapter.aexecute_program(pid, row)),
        lambda: asyncio.run(adapter.aexecute_program(pid, row, {"timeout": 10})),
    ]


@pytest.mark.parametrize(
    ("spec", "greeting"),
    [
        ({"module": TwoSteps("live")}, "live"),
        ({"program": TwoSteps("live")}, "live"),
        ({"module": "dspy_adapter_tools:TwoSteps"}, "dear"),
        ({"module": "dspy_adapter_tools:TwoSteps", "init": {"greeting": "good"}}, "good"),
        ({"module": "dspy_adapter_tools:make", "init": {"greeting": "made"}}, "made"),
        ({"module": "dspy_adapter_tools:instance", "kind": "module"}, "instance"),
    ],
)
def test_a_module(lm_server: LMServer, spec: dict[str, Any], greeting: str) -> None:
    lm_server.answers = answer
    adapter, pid = program(lm_server, {"signature": SIGNATURE, **spec})
    for call in ways(adapter, pid, {"text": "hi"}):
        result = call()
        assert dict(result) == {"topic": "money", "reply": f"{greeting} about money"}
        assert result.usage is not None
        assert result.usage["requests"] == 2
    info = adapter.get_program_info(pid)
    assert info["kind"] == "module"
    assert info["program"]["module"] == "dspy_adapter_tools.TwoSteps"
    assert info["program"]["predictors"] == ["first", "second"]


def test_an_instance_by_import_path_is_copied(lm_server: LMServer, monkeypatch: pytest.MonkeyPatch) -> None:
    lm_server.answers = answer
    adapter, pid = program(lm_server, {"signature": SIGNATURE, "module": "dspy_adapter_tools:instance"})
    monkeypatch.setattr(instance, "greeting", "other")
    assert adapter.execute_program(pid, {"text": "hi"}).reply == "instance about money"


def test_a_live_module_is_copied(lm_server: LMServer) -> None:
    lm_server.answers = answer
    module = TwoSteps("before")
    adapter, pid = program(lm_server, {"signature": SIGNATURE, "module": module})
    module.greeting = "after"
    module.second.signature = module.second.signature.with_instructions("Other")
    assert adapter.execute_program(pid, {"text": "hi"}).reply == "before about money"
    assert module.first.lm is None


def test_a_module_without_forward(lm_server: LMServer) -> None:
    lm_server.answers = answer
    adapter, pid = program(lm_server, {"signature": "text -> reply", "module": OnlyAsync()})
    for call in ways(adapter, pid, {"text": "hi"}):
        assert call().reply == "about hi"

    async def sync_call_on_a_loop() -> Result:
        return adapter.execute_program(pid, {"text": "hi"})

    assert asyncio.run(sync_call_on_a_loop()).reply == "about hi"


def test_a_module_of_dspys_own_says_its_signature(lm_server: LMServer) -> None:
    lm_server.answers = {"label": "refund", "reasoning": "so", "reply": "well"}
    adapter = over(lm_server)
    predict = adapter.create_program({"module": dspy.Predict(LABEL)})
    assert adapter.get_program_info(predict)["signature"] == LABEL
    thought = adapter.create_program({"module": dspy.ChainOfThought(LABEL)})
    assert adapter.get_program_info(thought)["signature"] == LABEL
    assert dict(adapter.execute_program(thought, {"text": "x"})) == {"label": "refund", "reasoning": "so"}
    wrapped = adapter.create_program({"module": OnlyAsync()})
    assert adapter.get_program_info(wrapped)["signature"] == "text -> reply"
    with pytest.raises(SignatureError, match="does not say what it takes") as caught:
        adapter.create_program({"module": TwoSteps(), "id": "two"})
    assert caught.value.program == "two"
    with pytest.raises(InputError):
        adapter.execute_program(predict, {"txt": "x"})


class Neither(dspy.Module):
    pass


@pytest.mark.parametrize(
    ("spec", "error", "field"),
    [
        ({"module": "dspy_adapter_tools:Two"}, ConfigError, "module"),
        ({"module": "no_such_module:Two"}, ConfigError, "module"),
        ({"module": "dspy_adapter_tools:STRESS"}, ConfigError, "module"),
        ({"module": "dspy_adapter_tools:not_a_module"}, ConfigError, "module"),
        ({"module": "dspy_adapter_tools:TwoSteps", "init": {"greet": "x"}}, ProgramError, "init"),
        ({"module": "dspy_adapter_tools:instance", "init": {"greeting": "x"}}, ConfigError, "init"),
        ({"module": TwoSteps(), "init": {"greeting": "x"}}, ConfigError, "init"),
        ({"module": TwoSteps(), "tools": [len]}, ConfigError, "tools"),
        ({"module": Neither()}, ProgramError, "module"),
        ({"module": 3}, ConfigError, None),
        ({"module": TwoSteps}, ConfigError, None),
    ],
)
def test_modules_that_cannot_be_had(
    lm_server: LMServer, spec: dict[str, Any], error: type[Any], field: str | None
) -> None:
    with pytest.raises(error) as caught:
        program(lm_server, {"signature": SIGNATURE, "id": "p", **spec})
    assert (caught.value.field, caught.value.program) == (field, "p")


def raises() -> Any:
    raise ZeroDivisionError("in the module")


@pytest.mark.parametrize(
    ("value", "field", "message"),
    [
        (None, None, "returned a NoneType"),
        ("refund", None, "returned a str"),
        ([{"label": "refund"}], None, "returned a list"),
        (dspy.Prediction(), "label", "'label' is missing"),
        (dspy.Prediction(lable="refund"), "label", "'label' is missing"),
        (dspy.Prediction(label=None), "label", "None"),
        (dspy.Prediction(label="weather"), "label", "'weather' is not one of its classes"),
        ({"label": 3}, "label", "3 is not one of its classes"),
        (raises, None, "raised ZeroDivisionError: in the module"),
    ],
)
def test_what_a_module_returns_is_checked(
    lm_server: LMServer, value: Any, field: str | None, message: str
) -> None:
    adapter, pid = program(lm_server, {"signature": LABEL, "module": Fixed(value), "id": "fixed"})
    for call in ways(adapter, pid, {"text": "x"}):
        with pytest.raises(ProgramError, match=message) as caught:
            call()
        assert (caught.value.field, caught.value.program) == (field, "fixed")
        assert not caught.value.retryable


def test_a_module_may_return_a_mapping_and_more_than_its_outputs(lm_server: LMServer) -> None:
    adapter, pid = program(lm_server, {"signature": LABEL, "module": Fixed({"label": "refund", "why": [1]})})
    assert dict(adapter.execute_program(pid, {"text": "x"})) == {"label": "refund", "why": [1]}


# LMs of predictors


def test_lms_of_predictors_are_protected_too(lm_server: LMServer) -> None:
    other = dspy.LM("openai/other", api_base=lm_server.url, api_key="k", cache=False, num_retries=1)
    module = TwoSteps()
    module.second.lm = other
    lm_server.answers = [{"topic": "money"}, Status(500), {"reply": "yes"}]
    adapter, pid = program(lm_server, {"signature": SIGNATURE, "module": module})
    result = adapter.execute_program(pid, {"text": "hi"})
    assert result.reply == "dear yes"
    assert [entry.model for entry in lm_server.requests] == ["test-model", "other", "other"]
    assert result.usage is not None
    assert result.usage["lms"] == {"server": 1, "openai/other": 1}
    assert module.second.lm is other
    assert adapter.get_stats()["lms"]["openai/other"]["failed"] == 1


def test_an_lm_that_predictors_and_programs_share_is_one(lm_server: LMServer) -> None:
    engine = NamedEngine("n", output="topic")
    shared = dspy.LM("test/shared", engine=engine, cache=False)
    modules = [TwoSteps(), TwoSteps()]
    for module in modules:
        module.first.lm = shared
    lm_server.answers = {"reply": "yes"}
    adapter = over(lm_server)
    for module in modules:
        adapter.execute_program(
            adapter.create_program({"signature": SIGNATURE, "module": module}), {"text": "x"}
        )
    stats = adapter.get_stats()["lms"]
    assert engine.asked == stats["test/shared"]["succeeded"] == 2
    assert list(stats) == ["server", "test/shared"]


def test_a_program_all_of_whose_predictors_have_lms_needs_no_other() -> None:
    class Down:
        def complete(self, request: Any) -> Any:
            raise dspy.lm15.ServerError("down")

    module = dspy.ChainOfThought("text -> topic")
    engine = NamedEngine("money", "reasoning ## ]]\nso\n\n[[ ## topic")
    module.set_lm(dspy.LM("test/own", engine=engine, cache=False, num_retries=0))
    adapter = DspyAdapter()
    pid = adapter.create_program({"module": module})
    for call in ways(adapter, pid, {"text": "x"}):
        assert call().topic == "money"
    assert adapter.available(pid) is None
    assert adapter.get_program_info(pid)["program"]["lm"] == "test/own"
    other = {"model": "test/other", "options": {"engine": engine}}
    with pytest.raises(ConfigError, match="every predictor of the program has an LM of its own") as caught:
        adapter.execute_program(pid, {"text": "x"}, {"lm": other})
    assert caught.value.field == "lm"
    with pytest.raises(ConfigError, match="every predictor"):
        adapter.create_program({"module": module, "lm": other})
    module.set_lm(dspy.LM("test/down", engine=Down(), cache=False, num_retries=0))
    down = adapter.create_program({"module": module})
    for _ in range(10):
        with pytest.raises(LMError):
            adapter.execute_program(down, {"text": "x"})
    assert "kept failing" in str(adapter.available(down))


def test_predictors_in_frozen_parts_are_protected(lm_server: LMServer) -> None:
    class Outer(dspy.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = dspy.ChainOfThought("text -> reply")
            self.inner._compiled = True
            self.inner.predict.lm = dspy.LM(
                "openai/frozen", api_base=lm_server.url, api_key="k", cache=False, num_retries=0
            )

        def forward(self, text: str) -> Any:
            return self.inner(text=text)

    lm_server.answers = {"reasoning": "", "reply": "yes"}
    adapter, pid = program(lm_server, {"signature": "text -> reply", "module": Outer()})
    assert adapter.execute_program(pid, {"text": "x"}).usage["lms"] == {"openai/frozen": 1}


def test_a_native_step_asks_nobody(lm_server: LMServer) -> None:
    native = dspex.dspy.Predict("text -> label").fit(demo.load())

    class Sorts(dspy.Module):
        def __init__(self) -> None:
            super().__init__()
            self.sort = native
            self.reply = dspy.Predict("label -> reply")

        def forward(self, text: str) -> Any:
            label = self.sort(text=text).label
            return dspy.Prediction(label=label, reply=self.reply(label=label).reply)

    lm_server.answers = {"reply": "well"}
    adapter, pid = program(lm_server, {"signature": "text -> label, reply", "module": Sorts()})
    for call in ways(adapter, pid, {"text": "My card was charged twice for one ride"}):
        lm_server.clear()
        assert dict(call()) == {"label": "wrong_charge", "reply": "well"}
        assert lm_server.count == 1


# Saved programs


def saved(tmp_path: Path, module: dspy.Module, name: str = "state.json", **how: Any) -> str:
    path = str(tmp_path / name)
    module.save(path, **how)
    return path


def test_a_state(lm_server: LMServer, tmp_path: Path) -> None:
    module = dspy.Predict(LABEL)
    module.signature = module.signature.with_instructions("Say what the bank should do")
    module.demos = [dspy.Example(text="gone", label="card_lost")]
    path = saved(tmp_path, module)
    lm_server.answers = {"label": "refund"}
    adapter, pid = program(lm_server, {"signature": LABEL, "state": path})
    assert adapter.execute_program(pid, {"text": "money"}).label == "refund"
    asked = lm_server.requests[0].request.text
    assert "Say what the bank should do" in asked
    assert "gone" in asked
    two = saved(tmp_path, TwoSteps(), "two.json")
    lm_server.answers = answer
    spec = {"signature": SIGNATURE, "module": "dspy_adapter_tools:TwoSteps", "state": two}
    assert adapter.execute_program(adapter.create_program(spec), {"text": "x"}).topic == "money"


def test_states_that_do_not_fit(lm_server: LMServer, tmp_path: Path) -> None:
    good = saved(tmp_path, dspy.Predict(LABEL))
    wide = saved(tmp_path, dspy.Predict("text, more -> label"), "wide.json")
    two = saved(tmp_path, TwoSteps(), "two.json")
    garbage = tmp_path / "garbage.json"
    garbage.write_text('{"signature": ')
    listed = tmp_path / "list.json"
    listed.write_text("[1]")
    bare = tmp_path / "bare.json"
    bare.write_text(
        json.dumps({k: v for k, v in json.loads(Path(good).read_text()).items() if k != "metadata"})
    )
    for path in (wide, two, str(garbage), str(listed), str(bare), str(tmp_path / "none.json"), str(tmp_path)):
        with pytest.raises(ConfigError) as caught:
            program(lm_server, {"signature": LABEL, "state": path, "id": "p"})
        assert (caught.value.field, caught.value.program) == ("state", "p"), path
    with pytest.raises(ConfigError):
        program(lm_server, {"signature": SIGNATURE, "module": TwoSteps(), "state": good})


def test_an_address_in_a_state_is_never_lost_unseen(lm_server: LMServer, tmp_path: Path) -> None:
    module = dspy.Predict(LABEL)
    module.lm = dspy.LM("openai/saved", api_base=lm_server.url, api_key="k", cache=False)
    path = saved(tmp_path, module)
    assert lm_server.url in Path(path).read_text()
    with pytest.raises(ConfigError, match="has an LM with 'api_base'") as caught:
        program(lm_server, {"signature": LABEL, "state": path})
    assert caught.value.field == "state"
    lm_server.answers = {"label": "refund"}
    adapter, pid = program(lm_server, {"signature": LABEL, "state": path, "lm": "server"})
    assert adapter.execute_program(pid, {"text": "x"}).usage["lms"] == {"server": 1}


def test_whole_programs_and_pickled_states_need_leave(lm_server: LMServer, tmp_path: Path) -> None:
    whole = str(tmp_path / "whole")
    TwoSteps("whole").save(whole, save_program=True, modules_to_serialize=[sys.modules["dspy_adapter_tools"]])
    pickled = saved(tmp_path, TwoSteps(), "state.pkl")
    specs: list[dict[str, Any]] = [
        {"signature": SIGNATURE, "state": whole},
        {"signature": SIGNATURE, "state": pickled, "module": "dspy_adapter_tools:TwoSteps"},
    ]
    lm_server.answers = answer
    for spec in specs:
        with pytest.raises(ConfigError, match="is a pickle, which runs code") as caught:
            program(lm_server, spec)
        assert caught.value.field == "state"
        adapter, pid = program(lm_server, spec, dspy_pool={"allow_pickle": True})
        assert adapter.execute_program(pid, {"text": "x"}).topic == "money"
    for more, field in (
        ({"kind": "react"}, "kind"),
        ({"init": {"x": 1}}, "init"),
        ({"module": TwoSteps()}, "module"),
    ):
        with pytest.raises(ConfigError) as caught:
            program(lm_server, {**specs[0], **more}, dspy_pool={"allow_pickle": True})
        assert caught.value.field == field
    (tmp_path / "whole" / "program.pkl").write_bytes(b"no pickle")
    with pytest.raises(ConfigError, match="cannot be loaded"):
        program(lm_server, specs[0], dspy_pool={"allow_pickle": True})


def test_an_lm_whose_answers_do_not_fit_is_the_lms_fault_also_within(lm_server: LMServer) -> None:
    lm_server.answers = "no format at all"
    adapter, pid = program(lm_server, {"signature": SIGNATURE, "module": TwoSteps(), "id": "two"})
    with pytest.raises(LMError, match="does not fit output 'topic'") as caught:
        adapter.execute_program(pid, {"text": "x"})
    assert (caught.value.field, caught.value.program) == ("topic", "two")

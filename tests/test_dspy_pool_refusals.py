"""What cannot travel to a worker process: each a clear error that names the program and the field."""

from __future__ import annotations

import enum
from collections.abc import Iterator
from typing import Any

import dspy
import pydantic
import pytest

from dspex.adapters.dspy_pool import DspyPoolAdapter
from dspex.errors import CommunicationError, ConfigError, DspexError, ProgramError, SignatureError
from dspex.testing.lm_server import LMServer
from dspy_adapter_tools import NamedEngine
from dspy_pool_tools import LABEL, SERVER, Acting, Outer, TwoSteps, Wrapping, add, borrowed, over


class OfMain(dspy.Module):
    """As a class of a script or a notebook."""

    def __init__(self) -> None:
        super().__init__()
        self.ask = dspy.Predict(LABEL)

    def forward(self, text: str) -> dspy.Prediction:
        return self.ask(text=text)


OfMain.__module__ = "__main__"


class Taking(Wrapping):
    """Takes an argument."""

    def __init__(self, why: str) -> None:
        super().__init__()
        self.why = why


def local_class() -> Any:
    class Local(Wrapping):
        pass

    return Local()


def with_lm() -> Any:
    module = Wrapping()
    module.ask.lm = dspy.LM("openai/x", api_key="k")
    return module


def frozen_with_lm() -> Any:
    module = Outer()
    module.inner.predict.lm = dspy.LM("openai/x", api_key="k")
    module.inner._compiled = True
    return module


def changed(name: str, value: Any) -> Any:
    module = TwoSteps()
    setattr(module, name, value)
    return module


def retyped() -> Any:
    module = Wrapping()
    module.ask.signature = module.ask.signature.with_updated_fields("label", type_=str)
    return module


def with_config() -> Any:
    module = Wrapping()
    module.ask.config = {"temperature": 1.0}
    return module


class Once(Wrapping):
    """Can be made once."""

    there = False

    def __init__(self) -> None:
        if Once.there:
            raise RuntimeError("there is one already")
        Once.there = True
        super().__init__()


def with_callbacks() -> Any:
    module = Wrapping()
    module.ask.callbacks = [dspy.utils.callback.BaseCallback()]
    return module


def odd_demo() -> Any:
    module = Wrapping()
    module.ask.demos = [dspy.Example(text=object(), label="refund")]
    return module


class Colour(enum.Enum):
    RED = "red"


class Model(pydantic.BaseModel):
    name: str


Colour.__module__ = Model.__module__ = "__main__"


@pytest.fixture
def adapter() -> Iterator[DspyPoolAdapter]:
    with borrowed() as adapter:
        yield adapter


TYPES: dict[str, Any] = {"inputs": {"text": str}}
CASES: list[tuple[Any, type[DspexError], str | None, str]] = [
    ({"module": OfMain()}, ProgramError, "module", "class OfMain cannot be imported"),
    ({"module": "__main__:OfMain"}, ConfigError, "module", "__main__:OfMain.* cannot be imported"),
    ({"module": local_class()}, ProgramError, "module", "class Local cannot be imported"),
    ({"module": Taking("x")}, ProgramError, "module", "class Taking takes arguments"),
    ({"module": with_lm()}, ConfigError, "lm", "predictors have LMs of their own"),
    ({"module": frozen_with_lm(), "signature": LABEL}, ConfigError, "lm", "predictors have LMs of their own"),
    ({"module": changed("greeting", "hi")}, ProgramError, "module", "self.greeting is not what its class"),
    ({"module": changed("more", 1)}, ProgramError, "module", "self.more is not what its class"),
    (
        {"module": changed("third", dspy.Predict(LABEL))},
        ProgramError,
        "module",
        "its class makes no part 'self.third'",
    ),
    ({"module": changed("second", None)}, ProgramError, "module", "it has no part 'self.second'"),
    ({"module": retyped()}, ProgramError, "module", "self.ask.signature is not what its class makes it"),
    ({"module": with_config()}, ProgramError, "module", "self.ask.config is not what its class makes it"),
    ({"module": Once()}, ProgramError, "module", "its class cannot be made: RuntimeError: there is one"),
    ({"module": with_callbacks()}, ProgramError, "module", "self.ask.callbacks is not what its class"),
    ({"module": odd_demo()}, ProgramError, "module", "its state is no JSON"),
    ({"module": Wrapping(), "init": {"x": 1}}, ConfigError, "init", "takes no init"),
    ({"module": Wrapping(), "kind": "predict"}, ConfigError, "kind", "has the kind 'module'"),
    ({"signature": LABEL, "kind": "react", "tools": [lambda a: a]}, ProgramError, "tools", "'<lambda>'"),
    (
        {"signature": LABEL, "kind": "react", "tools": [dspy.Tool(add, arg_desc={"a": "first"})]},
        ProgramError,
        "tools",
        "arguments that are not its function's",
    ),
    ({"signature": LABEL, "kind": "react", "tools": ["no.such:tool"]}, ConfigError, "tools", "imported"),
    ({"signature": LABEL, "lm": dspy.LM("openai/x", api_key="k")}, ConfigError, "lm", "an LM object"),
    ({"signature": LABEL, "lm": "nobody"}, ConfigError, "lm", "no LM is named 'nobody'"),
    (
        {"signature": LABEL, "lm": {"model": "openai/x", "options": {"engine": NamedEngine("x")}}},
        ConfigError,
        "lm.options.engine",
        "cannot be sent",
    ),
    ({"signature": LABEL, "init": {"x": object()}}, ConfigError, "init", "cannot be sent"),
    ({"signature": LABEL, "init": {"stop": ("a",)}}, ConfigError, "init", "come back as something else"),
    ({"signature": {**TYPES, "outputs": {"c": Colour}}}, SignatureError, "c", "cannot be sent"),
    ({"signature": {**TYPES, "outputs": {"m": list[Model]}}}, SignatureError, "m", "cannot be sent"),
    ({"signature": {**TYPES, "outputs": {"m": dict[str, Model]}}}, SignatureError, "m", "cannot be sent"),
    ({"signature": LABEL, "state": "/no/such.json"}, ConfigError, "state", "no saved program at"),
    ({"signature": LABEL, "init": {"callbacks": 3}, "kind": "react"}, ProgramError, "init", "cannot be made"),
    ({"module": "dspy_pool_tools:add"}, ProgramError, "init", "cannot be made"),
    ({"module": "dspy_pool_tools:TwoSteps"}, SignatureError, None, "does not say what it takes"),
]


@pytest.mark.parametrize(("spec", "error", "field", "match"), CASES, ids=[str(n) for n in range(len(CASES))])
def test_it_is_refused(
    adapter: DspyPoolAdapter, spec: dict[str, Any], error: type[DspexError], field: str | None, match: str
) -> None:
    if spec.get("module").__class__ is TwoSteps:
        spec = {**spec, "signature": "text -> topic, reply"}
    with pytest.raises(DspexError, match=match) as caught:
        adapter.create_program({**spec, "id": "it"})
    assert type(caught.value) is error
    assert (caught.value.field, caught.value.program) == (field, "it")
    assert not caught.value.retryable
    assert adapter.list_programs() == []


def test_a_state_that_does_not_fit_is_named_by_its_own_path(adapter: DspyPoolAdapter, tmp_path: Any) -> None:
    path = tmp_path / "other.json"
    TwoSteps().save(path)
    with pytest.raises(ConfigError, match="does not fit the program") as caught:
        adapter.create_program({"signature": LABEL, "state": str(path), "id": "it"})
    assert str(path) in caught.value.message
    assert (caught.value.field, caught.value.program) == ("state", "it")
    whole = tmp_path / "whole"
    Wrapping().save(whole, save_program=True)
    with pytest.raises(ConfigError, match="is a pickle") as caught:
        adapter.create_program({"state": str(whole), "id": "it"})
    assert (caught.value.field, caught.value.program) == ("state", "it")


def test_options_of_a_call(adapter: DspyPoolAdapter) -> None:
    SERVER.answers = {"label": "refund"}
    pid = adapter.create_program({"signature": LABEL})
    with pytest.raises(ConfigError, match="names its LM") as caught:
        adapter.execute_program(pid, {"text": "x"}, {"lm": {"model": "openai/x"}})
    assert (caught.value.field, caught.value.program) == ("lm", pid)
    with pytest.raises(ConfigError, match="no LM is named 'sever'") as caught:
        adapter.execute_program(pid, {"text": "x"}, {"lm": "sever"})
    assert caught.value.hint == "Did you mean 'server'?"
    with pytest.raises(ConfigError, match="no option 'sessions'"):
        adapter.execute_program(pid, {"text": "x"}, {"sessions": "a"})


def test_an_answer_that_cannot_come_back(adapter: DspyPoolAdapter) -> None:
    pid = adapter.create_program(
        {"signature": "text -> said: Any", "module": "dspy_pool_tools:Returning", "id": "returns"}
    )
    with pytest.raises(ProgramError, match="'said' cannot be sent") as caught:
        adapter.execute_program(pid, {"text": "object"})
    assert (caught.value.field, caught.value.program) == ("said", "returns")
    assert adapter.execute_program(pid, {"text": "number"}).said == 3


def test_configurations_with_objects_in_them(lm_server: LMServer) -> None:
    lm = {"model": "openai/x", "options": {"engine": NamedEngine("x")}}
    with pytest.raises(ConfigError) as caught:
        DspyPoolAdapter({"lms": {"main": lm}})
    assert caught.value.field == "lms.main.options.engine"


def test_an_engine_object_leaves_the_lm_before_it(adapter: DspyPoolAdapter) -> None:
    SERVER.answers = {"label": "refund"}
    pid = adapter.create_program({"signature": LABEL})
    with pytest.raises(ConfigError) as caught:
        adapter.configure_lm({"model": "openai/x", "options": {"engine": NamedEngine("x")}})
    assert caught.value.field == "lm.options.engine"
    assert adapter.execute_program(pid, {"text": "x"}).label == "refund"


def test_pickles_where_they_are_allowed(lm_server: LMServer, tmp_path: Any) -> None:
    lm_server.answers = {"label": "refund", "colour": "red", "model": '{"name": "Ada"}'}
    whole = tmp_path / "whole"
    Wrapping().save(whole, save_program=True)
    with over(lm_server, dspy_pool={"allow_pickle": True}) as adapter:
        for module in (OfMain(), local_class(), Taking("x"), changed("second", dspy.Predict(LABEL))):
            signature = LABEL if not isinstance(module, TwoSteps) else "text -> topic"
            adapter.create_program({"module": module, "signature": signature})
        for program in adapter.list_programs()[:3]:
            assert adapter.execute_program(program, {"text": "x"}).label == "refund"
        with pytest.raises(ProgramError, match="callbacks"):
            adapter.create_program({"module": with_callbacks()})
        saved = adapter.create_program({"state": str(whole)})
        assert adapter.execute_program(saved, {"text": "x"}).label == "refund"
        types = {"inputs": {"text": str}, "outputs": {"colour": Colour, "model": Model}}
        result = adapter.execute_program(adapter.create_program({"signature": types}), {"text": "x"})
        assert dict(result) == {"colour": Colour.RED, "model": Model(name="Ada")}
        bound = Acting()
        agent = {"signature": "text -> label", "kind": "react", "tools": [lambda word: word, bound.forward]}
        adapter.create_program(agent)
        with pytest.raises(ProgramError, match="cannot be pickled") as caught:
            adapter.create_program({**agent, "tools": [Unpicklable()], "id": "it"})
        assert (caught.value.field, caught.value.program) == ("tools", "it")


class Unpicklable:
    """A tool that stays here."""

    __name__ = "unpicklable"

    def __call__(self, word: str) -> str:
        return word

    def __reduce__(self) -> Any:
        raise TypeError("it stays here")


def test_inputs_that_are_too_large_to_send(adapter: DspyPoolAdapter, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dspex.processes.frames.MAX_PAYLOAD", 100_000)
    pid = adapter.create_program({"signature": LABEL})
    with pytest.raises(CommunicationError, match="too many for one frame") as caught:
        adapter.execute_program(pid, {"text": "x" * 200_000})
    assert not caught.value.retryable
    assert caught.value.program == pid

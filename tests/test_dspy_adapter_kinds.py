"""Every kind of program that needs no tools, from spec to checked result."""

from __future__ import annotations

import asyncio
import enum
from typing import Any, Literal

import dspy
import numpy as np
import pydantic
import pytest

from dspex.errors import ConfigError, InputError, LMError, ProgramError, SignatureError
from dspex.testing.lm_server import LMServer
from dspy_adapter_tools import LABEL, over, program


def test_predict_answers_with_route_and_usage(lm_server: LMServer) -> None:
    lm_server.answers = {"label": "refund"}
    adapter, pid = program(lm_server)
    result = adapter.execute_program(pid, {"text": "money back"})
    assert dict(result) == {"label": "refund"}
    assert result.route == "dspy"
    assert "'predict'" in result.route.reason
    assert result.usage is not None
    assert result.usage["requests"] == lm_server.count == 1
    assert lm_server.requests[0].request.fields == {"text": "money back"}
    assert asyncio.run(adapter.aexecute_program(pid, {"text": "money back"})) == result


def test_classify_is_predict_over_outputs_that_can_be_listed(lm_server: LMServer) -> None:
    lm_server.answers = {"label": "card_lost"}
    adapter, pid = program(lm_server, {"signature": LABEL, "kind": "classify"})
    assert adapter.execute_program(pid, {"text": "gone"}).label == "card_lost"
    assert adapter.get_program_info(pid)["kind"] == "classify"
    with pytest.raises(SignatureError) as caught:
        adapter.create_program({"signature": "text -> reply", "kind": "classify", "id": "free"})
    assert (caught.value.field, caught.value.program) == ("reply", "free")


def test_chain_of_thought_gives_its_reasoning(lm_server: LMServer) -> None:
    lm_server.answers = {"reasoning": "it says so", "label": "refund"}
    adapter, pid = program(lm_server, {"signature": LABEL, "kind": "chain_of_thought"})
    for result in (
        adapter.execute_program(pid, {"text": "money"}),
        asyncio.run(adapter.aexecute_program(pid, {"text": "money"})),
        adapter.execute_batch(pid, [{"text": "money"}])[0],
    ):
        assert dict(result) == {"label": "refund", "reasoning": "it says so"}
    assert adapter.get_program_info(pid)["signature"] == LABEL.replace('"', "'")


class Calculator:
    """The least that is an interpreter for DSPy: it evaluates sums of literals."""

    made = 0

    def __init__(self) -> None:
        type(self).made += 1
        self.tools: dict[str, Any] = {}
        self.closed = False

    def start(self) -> None:
        pass

    def execute(self, code: str, variables: Any = None) -> Any:
        if "/ 0" in code:
            raise dspy.primitives.code_interpreter.CodeExecutionError("division by zero")
        return sum(int(part) for part in code.split("+"))

    def shutdown(self) -> None:
        self.closed = True


@pytest.mark.filterwarnings("ignore:ProgramOfThought is deprecated")
def test_program_of_thought_runs_code(lm_server: LMServer) -> None:
    lm_server.answers = [
        {"reasoning": "", "generated_code": "```python\n1 / 0\n```"},
        {"reasoning": "", "generated_code": "```python\n20+22\n```"},
        {"reasoning": "added", "answer": 42},
    ]
    spec = {
        "signature": "question -> answer: int",
        "kind": "program_of_thought",
        "init": {"interpreter_factory": Calculator},
    }
    adapter, pid = program(lm_server, spec)
    result = adapter.execute_program(pid, {"question": "20 and 22?"})
    assert dict(result) == {"answer": 42, "reasoning": "added"}
    assert result.usage is not None
    assert result.usage["requests"] == 3
    assert Calculator.made == 1
    lm_server.clear()
    assert asyncio.run(adapter.aexecute_program(pid, {"question": "20 and 22?"})).answer == 42


@pytest.mark.filterwarnings("ignore:ProgramOfThought is deprecated")
def test_code_that_never_runs_is_a_program_error(lm_server: LMServer) -> None:
    lm_server.answers = {"reasoning": "", "generated_code": "```python\n1 / 0\n```"}
    spec = {
        "signature": "question -> answer: int",
        "kind": "program_of_thought",
        "init": {"interpreter_factory": Calculator, "max_iters": 2},
        "id": "pot",
    }
    adapter, pid = program(lm_server, spec)
    with pytest.raises(ProgramError, match="division by zero") as caught:
        adapter.execute_program(pid, {"question": "?"})
    assert caught.value.program == "pot"
    assert lm_server.count == 2


def test_examples_teach_the_classes(lm_server: LMServer) -> None:
    lm_server.answers = {"label": "refund"}
    rows = [{"text": "money back", "label": "refund"}, {"text": "card gone", "label": "card_lost"}] * 4
    adapter, pid = program(lm_server, {"signature": "text -> label", "examples": rows, "kind": "classify"})
    assert adapter.execute_program(pid, {"text": "money"}).label == "refund"
    assert "card_lost" in lm_server.requests[0].request.text  # the LM is told of them
    lm_server.answers = {"label": "weather"}
    with pytest.raises(LMError) as caught:
        adapter.execute_program(pid, {"text": "money"})
    assert caught.value.field == "label"
    with pytest.raises(InputError) as bad:
        adapter.create_program({"signature": "text -> label", "examples": [{"text": "one"}]})
    assert bad.value.row == 0


@pytest.mark.parametrize(
    ("spec", "error", "field"),
    [
        ({"kind": "chain_of_though"}, ConfigError, None),
        ({"kind": "embed"}, ProgramError, None),
        ({"kind": "module"}, ConfigError, "module"),
        ({"options": {"c": 1}}, ConfigError, "options"),
        ({"path": "file.dspex"}, ConfigError, "path"),
        ({"tools": [len]}, ConfigError, "tools"),
        ({"kind": "chain_of_thought", "tools": [len]}, ConfigError, "tools"),
        ({"kind": "react", "init": {"tools": []}}, ConfigError, "init"),
        ({"kind": "react", "init": {"max_itres": 3}}, ProgramError, "init"),
        ({"module": "dspy_adapter_tools:TwoSteps", "kind": "react"}, ConfigError, "kind"),
        ({"dspy": {"formt": "json"}}, ConfigError, "dspy.formt"),
        ({"dspy": {"format": "yaml"}}, ConfigError, "dspy.format"),
        ({"dspy": {"cache": {"sise": 2}}}, ConfigError, "dspy.cache.sise"),
        ({"lm": "sever"}, ConfigError, "lm"),
        ({"lm": {"model": "openai/x", "api_kee": "k"}}, ConfigError, "lm.api_kee"),
        ({"no_such_key": 1}, ConfigError, None),
    ],
)
def test_specs_that_make_no_sense_are_refused(
    lm_server: LMServer, spec: dict[str, Any], error: type[Exception], field: str | None
) -> None:
    with over(lm_server) as adapter:
        with pytest.raises(error) as caught:
            adapter.create_program({"signature": LABEL, "id": "p", **spec})
        found: Any = caught.value
        assert found.program == "p"
        assert found.field == field
        assert not found.retryable
        assert adapter.list_programs() == []
    assert lm_server.count == 0


def test_vectors_reach_the_lm_as_numbers(lm_server: LMServer, caplog: pytest.LogCaptureFixture) -> None:
    lm_server.answers = {"label": "refund"}
    spec = {"inputs": {"point": "list[float]", "text": "str"}, "outputs": {"label": ["refund", "card_lost"]}}
    adapter, pid = program(lm_server, {"signature": spec})
    adapter.execute_program(pid, {"point": np.array([0.5, 2.0]), "text": "x"})
    assert lm_server.requests[0].request.fields["point"] == "[0.5, 2.0]"
    assert caplog.text == ""


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Address(pydantic.BaseModel):
    city: str
    number: int


class Typed(dspy.Signature):
    """Reads a form."""

    text: str = dspy.InputField()
    value: Any = dspy.OutputField()


GOOD: list[tuple[Any, Any, Any]] = [
    (str, "free text", "free text"),
    (bool, True, True),
    (int, 3, 3),
    (float, 0.5, 0.5),
    (Colour, "blue", Colour.BLUE),
    (Literal["a", "b"], "b", "b"),
    (Literal[1, 2], 2, 2),
    (list[Literal["a", "b"]], ["b", "a"], ["b", "a"]),
    (list[str], ["x", "y"], ["x", "y"]),
    (list[float], [1.5, 2], [1.5, 2.0]),
    (dict[str, int], {"k": 1}, {"k": 1}),
    (Address, {"city": "Bern", "number": 3}, Address(city="Bern", number=3)),
    (list[Address], [{"city": "Bern", "number": 3}], [Address(city="Bern", number=3)]),
    (str | None, "text", "text"),
    (int | None, "null", None),
]


@pytest.mark.parametrize("form", ["chat", "json", "xml"])
@pytest.mark.parametrize(("kind", "said", "value"), GOOD, ids=lambda each: str(each)[:20])
def test_outputs_have_their_types(lm_server: LMServer, form: str, kind: Any, said: Any, value: Any) -> None:
    lm_server.answers = {"value": None if said == "null" and form == "json" else said}
    signature = Typed.with_updated_fields("value", type_=kind)
    adapter, pid = program(lm_server, {"signature": signature, "dspy": {"format": form}})
    result = adapter.execute_program(pid, {"text": "t"})
    assert result.value == value
    assert type(result.value) is type(value)
    assert lm_server.requests[0].request.format == form


BAD: list[tuple[Any, Any]] = [
    (bool, "maybe"),
    (int, "three"),
    (float, "wide"),
    (Colour, "green"),
    (Literal["a", "b"], "c"),
    (list[Literal["a", "b"]], ["a", "c"]),
    (list[Literal["a", "b"]], ["a", "a"]),
    (dict[str, int], {"k": "many"}),
    (Address, {"city": "Bern"}),
    (int | None, "some"),
]


@pytest.mark.parametrize("form", ["chat", "json", "xml"])
@pytest.mark.parametrize(("kind", "said"), BAD, ids=lambda each: str(each)[:20])
def test_wrongly_typed_outputs_are_errors(lm_server: LMServer, form: str, kind: Any, said: Any) -> None:
    lm_server.answers = {"value": said}
    signature = Typed.with_updated_fields("value", type_=kind)
    adapter, pid = program(lm_server, {"signature": signature, "dspy": {"format": form}, "id": "typed"})
    with pytest.raises(LMError) as caught:
        adapter.execute_program(pid, {"text": "t"})
    assert (caught.value.field, caught.value.program) == ("value", "typed")


def test_inputs_are_checked_before_anything_is_asked(lm_server: LMServer) -> None:
    adapter, pid = program(lm_server)
    for inputs in ({}, {"text": 3}, {"text": "x", "more": "y"}, {"txt": "x"}, ["text"]):
        for call in (
            lambda given: adapter.execute_program(pid, given),
            lambda given: asyncio.run(adapter.aexecute_program(pid, given)),
            lambda given: adapter.execute_batch(pid, [{"text": "good"}, given]),
        ):
            with pytest.raises(InputError) as caught:
                call(inputs)
            assert caught.value.program == pid
    assert lm_server.count == 0
    assert adapter.get_stats()["errors"] == {"input": 15}

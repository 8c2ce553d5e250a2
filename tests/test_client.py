"""The client face: programs by id over any adapters."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

import dspex
from dspex.adapters import register, unregister
from dspex.adapters.mock import MockAdapter
from dspex.client import Client
from dspex.errors import ConfigError, DspexError, InputError, ProgramError, SignatureError
from dspex.testing import CASES
from dspex.testing.lm_server import LMServer

LITERAL = next(case for case in CASES if case.name == "literal")
SPEC = {"signature": LITERAL.signature, "examples": LITERAL.examples}
ROW = LITERAL.rows()[0]


@pytest.fixture
def client() -> Iterator[Client]:
    with Client() as client:
        yield client


def test_the_module_functions() -> None:
    program = dspex.create_program({**SPEC, "id": "test-client-module", "tags": ["x"]})
    try:
        assert program in dspex.list_programs()
        result = dspex.execute_program(program, ROW)
        assert result.label == LITERAL.examples[0]["label"]
        assert result.route == "native"
        info = dspex.get_program_info(program)
        assert (info["id"], info["adapter"], info["kind"]) == (program, "hybrid", "classify")
        assert info["backend"] == "native"
        assert info["tags"] == ["x"]
        json.dumps(info)
    finally:
        dspex.delete_program(program)
    assert program not in dspex.list_programs()
    with pytest.raises(ProgramError):
        dspex.execute_program(program, ROW)


def test_the_form_of_the_design() -> None:
    signature = {"inputs": {"text": "str"}, "outputs": {"label": ["refund", "card_lost", "limit"]}}
    with Client() as client:
        program = client.create_program({**SPEC, "signature": signature, "adapter": "auto"})
        assert client.execute_program(program, {"text": "the card was stolen"}).label == "card_lost"


def test_one_client_many_adapters(client: Client) -> None:
    one = client.create_program({**SPEC, "id": "one"})
    two = client.create_program({**SPEC, "id": "two", "adapter": "mock"})
    three = client.create_program({**SPEC, "id": "three"}, adapter="mock")
    assert client.list_programs() == [one, two, three]
    assert [str(client.execute_program(each, ROW).route) for each in (one, two, three)] == [
        "native",
        "mock",
        "mock",
    ]
    assert client.get_program_info("two")["adapter"] == "mock"
    with pytest.raises(ProgramError, match="already") as caught:
        client.create_program({**SPEC, "id": "one"}, adapter="mock")
    assert caught.value.program == "one"
    client.delete_program("one")
    client.create_program({**SPEC, "id": "one"}, adapter="mock")
    assert client.execute_program("one", ROW).route == "mock"


def test_the_adapter_is_named_once(client: Client) -> None:
    with pytest.raises(ConfigError, match="'mock'"):
        client.create_program({**SPEC, "adapter": "mock"}, adapter="native")
    client.create_program({**SPEC, "adapter": "mock"}, adapter="mock")
    with pytest.raises(ConfigError, match="unknown adapter"):
        client.create_program({**SPEC, "adapter": "nativ"})


def test_an_adapter_of_ones_own() -> None:
    mine = MockAdapter(answers=lambda inputs: "limit")
    with Client({"mine": mine}) as client:
        program = client.create_program({**SPEC, "adapter": "mine"})
        assert client.execute_program(program, ROW).label == "limit"
        assert client.get_program_info(program)["adapter"] == "mine"
        with pytest.raises(ConfigError, match="'mine'"):
            client.create_program({**SPEC, "adapter": "mime"})
    assert mine.health_check()
    mine.close()
    wrong: list[Any] = [{"auto": MockAdapter()}, {"x": MockAdapter}, {"x": None}]
    for adapters in wrong:
        with pytest.raises(ConfigError):
            Client(adapters)


def test_a_registered_adapter(client: Client) -> None:
    register("test-registered", lambda: MockAdapter(answers=lambda inputs: "limit"))
    try:
        program = client.create_program(SPEC, adapter="test-registered")
        assert client.execute_program(program, ROW).label == "limit"
    finally:
        unregister("test-registered")


def test_unknown_programs(client: Client) -> None:
    calls: tuple[Callable[[Any], Any], ...] = (
        lambda name: client.execute_program(name, ROW),
        lambda name: client.execute_batch(name, [ROW]),
        lambda name: asyncio.run(client.aexecute_program(name, ROW)),
        client.get_program_info,
        client.delete_program,
    )
    for call in calls:
        with pytest.raises(ProgramError, match="No program has been created"):
            call("intents")
    client.create_program({**SPEC, "id": "intents"})
    for call in calls:
        with pytest.raises(ProgramError, match="'intents'") as caught:
            call("intent")
        assert caught.value.program == "intent"
        odd_ids: list[Any] = [None, 3, []]
        for odd in odd_ids:
            with pytest.raises(ProgramError):
                call(odd)


def test_errors_of_the_adapter_come_through(client: Client) -> None:
    program = client.create_program({**SPEC, "id": "p"})
    with pytest.raises(InputError) as caught:
        client.execute_program(program, {"txt": "x"})
    assert (caught.value.program, caught.value.field) == ("p", "txt")
    with pytest.raises(ConfigError):
        client.execute_program(program, ROW, {"tmeout": 1})
    with pytest.raises(InputError) as caught:
        client.execute_batch(program, [ROW, {}])
    assert caught.value.row == 1


def test_batch_and_async(client: Client) -> None:
    program = client.create_program(SPEC)
    singles = [client.execute_program(program, row).label for row in LITERAL.rows()]
    assert [result.label for result in client.execute_batch(program, LITERAL.rows())] == singles
    assert asyncio.run(client.aexecute_program(program, ROW)).label == singles[0]


def test_a_program_deleted_behind_the_client(client: Client) -> None:
    client.create_program({**SPEC, "id": "p"})
    client.adapter("auto").delete_program("p")
    with pytest.raises(ProgramError):
        client.execute_program("p", ROW)
    with pytest.raises(ProgramError):
        client.delete_program("p")
    assert client.list_programs() == []
    client.create_program({**SPEC, "id": "p"})


def test_a_failed_creation_leaves_nothing(client: Client) -> None:
    with pytest.raises(ProgramError, match="unfitted"):
        client.create_program({"signature": LITERAL.signature, "id": "p"})
    assert client.list_programs() == []
    client.create_program({**SPEC, "id": "p"})


def test_lm_health_and_stats(client: Client) -> None:
    client.create_program(SPEC)
    client.create_program(SPEC, adapter="mock")
    client.configure_lm({"model": "test/none"})
    client.configure_lm({"model": "test/none"}, adapter="mock")
    with pytest.raises(ConfigError):
        client.configure_lm({})
    assert {name: bool(health) for name, health in client.health_check().items()} == {
        "hybrid": True,
        "mock": True,
    }
    assert client.get_stats()["hybrid"]["created"] == 1


def test_use_after_close() -> None:
    client = Client()
    program = client.create_program(SPEC)
    made = client.adapter("hybrid")
    client.close()
    client.close()
    assert not made.health_check()
    for call in (
        lambda: client.create_program(SPEC),
        lambda: client.execute_program(program, ROW),
        lambda: client.get_program_info(program),
        lambda: client.delete_program(program),
        client.list_programs,
        client.get_stats,
        client.health_check,
    ):
        with pytest.raises(ProgramError, match="closed"):
            call()


def test_a_client_closed_while_it_creates_leaves_nothing_behind() -> None:
    client: Client

    class Closing(MockAdapter):
        def create_program(self, spec: Any) -> str:
            client.close()
            return super().create_program(spec)

    mine = Closing()
    client = Client({"mine": mine})
    with pytest.raises(ProgramError, match="closed"):
        client.create_program(SPEC, adapter="mine")
    assert mine.list_programs() == []


def test_many_threads(client: Client) -> None:
    client.create_program({**SPEC, "id": "shared"})
    expected = [client.execute_program("shared", row).label for row in LITERAL.rows()]
    stop = threading.Event()

    def churn(number: int) -> None:
        while not stop.is_set():
            program = client.create_program(SPEC, adapter="mock")
            client.execute_program(program, ROW)
            client.delete_program(program)

    def work(number: int) -> bool:
        return all(
            [client.execute_program("shared", row).label for row in LITERAL.rows()] == expected
            for _ in range(5)
        )

    with ThreadPoolExecutor(8) as threads:
        churns = [threads.submit(churn, number) for number in range(2)]
        assert all(threads.map(work, range(6)))
        stop.set()
        for each in churns:
            each.result()
    assert client.list_programs() == ["shared"]


def test_one_of_many_creates_wins_over_adapters(client: Client) -> None:
    def attempt(number: int) -> bool:
        try:
            return bool(client.create_program({**SPEC, "id": "one"}, adapter=("native", "mock")[number % 2]))
        except ProgramError:
            return False

    with ThreadPoolExecutor(8) as threads:
        assert sum(threads.map(attempt, range(8))) == 1
    assert client.list_programs() == ["one"]


# What "auto" stands for


def test_auto_is_the_hybrid_adapter(client: Client) -> None:
    assert client.adapter("auto") is client.adapter("hybrid")
    for adapter in (None, "auto", "hybrid"):
        program = client.create_program(SPEC, adapter=adapter)
        assert client.get_program_info(program)["adapter"] == "hybrid"
        assert client.execute_program(program, ROW).route == "native"


def test_auto_is_native_or_an_error_without_an_lm(client: Client) -> None:
    refused: list[tuple[dict[str, Any], type[DspexError], str | None, str]] = [
        ({"signature": "text -> label"}, SignatureError, "label", "no LM is configured"),
        ({"signature": "text -> d: dict[str, int]", "examples": []}, SignatureError, "d", "configure_lm"),
        ({**SPEC, "examples": None}, ProgramError, None, "unfitted"),
        ({**SPEC, "kind": "embed"}, ProgramError, None, "Embeddings"),
    ]
    for spec, error, field, words in refused:
        with pytest.raises(error, match=words) as caught:
            client.create_program({**spec, "id": "p"})
        assert (caught.value.field, caught.value.program) == (field, "p")
    assert client.list_programs() == []


def test_kinds_over_every_adapter(client: Client) -> None:
    for adapter in ("native", "mock"):
        for kind in ("react", "program_of_thought", "module", "embed"):
            with pytest.raises(ProgramError):
                client.create_program({**SPEC, "kind": kind}, adapter=adapter)
    for adapter in ("auto", "native", "mock"):
        with pytest.raises(ConfigError, match="'classify'"):
            client.create_program({**SPEC, "kind": "clasify"}, adapter=adapter)
        for kind in ("classify", "predict"):
            program = client.create_program({**SPEC, "kind": kind}, adapter=adapter)
            assert client.get_program_info(program)["kind"] == kind


def test_explanations(client: Client) -> None:
    client.create_program({**SPEC, "id": "p"})
    client.create_program({**SPEC, "id": "m"}, adapter="mock")
    found = client.explain("p", ROW, operation="batch")
    assert (str(found.route), found.operation) == ("native", "batch")
    assert client.explain("p", ROW, options={"backend": "native"}).route.reason == "the call names it"
    plain = client.explain("m", ROW)
    assert (str(plain.route), plain.steps[0].name, plain.confidence) == ("mock", "explicit", None)
    assert plain.route.reason == "the program was created on the mock adapter"
    for program in ("p", "m"):
        with pytest.raises(ConfigError, match="'call'"):
            client.explain(program, ROW, operation="cal")
    with pytest.raises(ProgramError):
        client.explain("q", ROW)


def test_the_module_has_what_the_hints_name(lm_server: LMServer) -> None:
    """In a process of its own: the module's client would keep the LM."""
    lm_server.answers = {"label": "a"}
    script = f"""
import asyncio, dspex
dspex.configure_lm({lm_server.lm_config()!r})
pid = dspex.create_program({{"signature": "text -> label: Literal['a', 'b']"}})
assert dspex.explain(pid, {{"text": "x"}}).route == "dspy"
assert [answer.label for answer in dspex.execute_batch(pid, [{{"text": "x"}}])] == ["a"]
assert asyncio.run(dspex.aexecute_program(pid, {{"text": "x"}})).label == "a"
"""
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)
    assert lm_server.count == 2

"""Streams through the client and the hybrid adapter: pieces where DSPy answers here, and the result last."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import aclosing
from typing import Any

import pytest

from dspex.client import Client
from dspex.errors import ConfigError, DspexError, InputError, LMError, ProgramError
from dspex.result import Result
from dspex.testing.lm_server import Cut, LMServer, Slow, Status
from hybrid_tools import SPEC, SURE, UNSURE, FakeDspy

LONG = " ".join(f"word{number}" for number in range(40))
OPEN = {"id": "open", "signature": "question -> answer"}
BOTH = {**SPEC, "signature": "text -> label: Literal['refund', 'limit', 'card_lost']"}
ASK = {"question": "why?"}


@pytest.fixture
def client(lm_server: LMServer) -> Iterator[Client]:
    lm_server.answers = {"answer": LONG, "label": "limit"}
    lm = lm_server.lm_config(retry={"attempts": 1})
    with Client(config={"lms": {"test": lm}}) as made:
        made.create_program(OPEN)
        made.create_program(BOTH)
        yield made


def streamed(client: Client, program_id: str, inputs: Any, **options: Any) -> list[Any]:
    async def read() -> list[Any]:
        return [item async for item in client.astream_program(program_id, inputs, options or None)]

    return asyncio.run(read())


def test_pieces_and_then_the_result(client: Client) -> None:
    *pieces, result = streamed(client, "open", ASK)
    assert len(pieces) > 10
    assert {name for name, _ in pieces} == {"answer"}
    assert "".join(piece for _, piece in pieces) == LONG == result.answer
    called = client.execute_program("open", ASK).route
    assert (result.route, result.route.reason) == (called, called.reason)
    counts = client.get_stats()["hybrid"]
    assert (counts["calls"], counts["routing"]["routes"]) == (2, {"dspy": 2})


def test_answers_without_pieces(client: Client, lm_server: LMServer) -> None:
    (result,) = streamed(client, "p", SURE)
    assert (str(result.route), result.label, lm_server.count) == ("native", "refund", 0)
    (result,) = streamed(client, "p", UNSURE)
    assert (str(result.route), result.label) == ("dspy", "limit")
    assert "is below 0.9" in result.route.reason
    client.create_program({"signature": "a -> b", "id": "m"}, adapter="mock")
    assert [str(item.route) for item in streamed(client, "m", {"a": "x"})] == ["mock"]


def test_a_backend_that_does_not_stream() -> None:
    with Client({"dspy": FakeDspy(), "dspy_pool": FakeDspy("refund", name="dspy_pool")}) as client:
        client.configure_lm({"model": "test/none"})
        client.create_program(SPEC)
        for backend, label in (("dspy", "limit"), ("dspy_pool", "refund")):
            (result,) = streamed(client, "p", UNSURE, backend=backend)
            assert (str(result.route), result.label) == (backend, label)


def test_errors_before_a_piece_fall_back_as_those_of_a_call(client: Client, lm_server: LMServer) -> None:
    lm_server.answers = Status(500)
    (result,) = streamed(client, "p", UNSURE)
    assert (str(result.route), result.route.degraded) == ("native", True)
    with pytest.raises(LMError):
        streamed(client, "open", ASK)
    refused: list[tuple[type[DspexError], str, Any, dict[str, Any]]] = [
        (InputError, "open", {}, {}),
        (InputError, "p", 3, {}),
        (ConfigError, "p", SURE, {"tmeout": 1}),
        (ProgramError, "q", SURE, {}),
    ]
    for error, program_id, inputs, options in refused:
        with pytest.raises(error):
            streamed(client, program_id, inputs, **options)
    totals = client.get_stats()["hybrid"]
    assert (totals["calls"], totals["routing"]["routes"]) == (4, {"native": 1})


def test_errors_after_a_piece_are_raised(client: Client, lm_server: LMServer) -> None:
    lm_server.answers = Cut(after_bytes=4000, answer={"answer": LONG})
    items: list[Any] = []

    async def read() -> None:
        async for item in client.astream_program("open", ASK):
            items.append(item)

    with pytest.raises(DspexError):
        asyncio.run(read())
    assert items
    assert not any(isinstance(item, Result) for item in items)


def test_who_stops_reading_ends_the_request(client: Client, lm_server: LMServer) -> None:
    lm_server.answers = Slow(8000, answer={"answer": LONG})

    async def read_a_little() -> None:
        async with aclosing(client.astream_program("open", ASK)) as items:
            assert isinstance(await anext(items), tuple)

    asyncio.run(read_a_little())
    lm_server.wait_idle(1)
    assert lm_server.requests[0].outcome == "gone"
    totals = client.get_stats()["hybrid"]
    assert (totals["calls"], totals["routing"]["routes"]) == (1, {})

"""Streams: text outputs as they come, then the checked result."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator
from typing import Any

import dspy
import pytest
from dspy import lm15

from dspex.adapters.dspy import DspyAdapter
from dspex.errors import (
    CallTimeoutError,
    CommunicationError,
    ConfigError,
    DspexError,
    InputError,
    LMError,
    ProgramError,
)
from dspex.result import Result
from dspex.testing.lm_server import Cut, Hang, LMServer, Slow, Status
from dspy_adapter_tools import NamedEngine, TwoSteps, program, steps, wait_until

ROW = {"text": "tell me"}
LONG = " ".join(f"word{number}" for number in range(40))


async def streamed(adapter: DspyAdapter, pid: str, row: Any = ROW, **options: Any) -> list[Any]:
    return [item async for item in adapter.astream_program(pid, row, options or None)]


def pieces(items: list[Any]) -> dict[str, str]:
    """The pieces of each output, joined."""
    found: dict[str, str] = {}
    for name, piece in (item for item in items if isinstance(item, tuple)):
        found[name] = found.get(name, "") + piece
    return found


@pytest.mark.parametrize("form", ["chat", "json", "xml"])
def test_pieces_and_then_the_result(lm_server: LMServer, form: str) -> None:
    lm_server.answers = {"reply": LONG, "title": "a short one", "score": 3}
    spec = {"signature": "text -> reply, score: int, title", "dspy": {"format": form}}
    adapter, pid = program(lm_server, spec)
    items = asyncio.run(streamed(adapter, pid))
    result = items[-1]
    assert isinstance(result, Result)
    assert dict(result) == {"reply": LONG, "score": 3, "title": "a short one"}
    assert len(items) > 10
    found = pieces(items)
    if form == "json":  # as DSPy gives them: with what is around the text
        assert LONG in found["reply"]
        assert "a short one" in found["title"]
    else:
        assert found == {"reply": LONG, "title": "a short one"}
    assert result.route == "dspy"
    assert result.usage is not None
    assert result.usage["requests"] == 1
    assert adapter.get_stats()["calls"] == 1


def test_pieces_come_before_the_end(lm_server: LMServer) -> None:
    lm_server.answers = Slow(20_000, answer={"reply": LONG})
    adapter, pid = program(lm_server, "text -> reply")

    async def times() -> list[float]:
        started = time.monotonic()
        return [time.monotonic() - started async for _ in adapter.astream_program(pid, ROW)]

    found = asyncio.run(times())
    assert found[0] < found[-1] / 2


def test_reasoning_is_no_output_but_in_the_result(lm_server: LMServer) -> None:
    lm_server.answers = {"reasoning": "because of that", "reply": LONG}
    adapter, pid = program(lm_server, {"signature": "text -> reply", "kind": "chain_of_thought"})
    items = asyncio.run(streamed(adapter, pid))
    assert pieces(items).keys() == {"reply"}
    assert items[-1].reasoning == "because of that"


def test_modules_agents_and_outputs_that_are_no_text(lm_server: LMServer) -> None:
    lm_server.answers = {"topic": "money matters", "reply": LONG, "label": "refund"}
    adapter, pid = program(lm_server, {"signature": "text -> topic, reply", "module": TwoSteps()})
    for options in ({}, {"timeout": 20}):
        items = asyncio.run(streamed(adapter, pid, **options))  # a module without aforward
        assert pieces(items) == {"topic": "money matters", "reply": LONG}
        assert items[-1].reply == f"dear {LONG}"
    label = adapter.create_program({"signature": "text -> label: Literal['refund', 'other']"})
    items = asyncio.run(streamed(adapter, label))
    assert [type(item) for item in items] == [Result]


def broken(a: int) -> int:
    """Does not work."""
    raise ValueError("in the tool")


def test_a_tool_that_raises_in_a_stream(lm_server: LMServer) -> None:
    lm_server.answers = steps(("broken", {"a": 1}))
    adapter, pid = program(
        lm_server, {"signature": "question -> answer: int", "kind": "react", "tools": [broken], "id": "agent"}
    )
    with pytest.raises(ProgramError, match="tool 'broken' raised ValueError") as caught:
        asyncio.run(streamed(adapter, pid, {"question": "?"}))
    assert caught.value.program == "agent"


@pytest.mark.parametrize(
    ("answer", "error", "message"),
    [
        (Status(500), LMError, "the LM failed"),
        (Status(401), LMError, "credentials"),
        ("no format", LMError, "does not fit"),
        (Cut(), CommunicationError, "cannot be reached"),
    ],
    ids=str,
)
def test_failures(lm_server: LMServer, answer: Any, error: type[DspexError], message: str) -> None:
    lm_server.answers = answer
    adapter, pid = program(lm_server, {"signature": "text -> reply", "id": "stream"})
    with pytest.raises(error, match=message) as caught:
        asyncio.run(streamed(adapter, pid))
    assert caught.value.program == "stream"
    assert adapter.get_stats()["errors"] == {error.category: 1}


def test_bad_calls_of_a_stream(lm_server: LMServer) -> None:
    adapter, pid = program(lm_server, "text -> reply")
    with pytest.raises(InputError):
        asyncio.run(streamed(adapter, pid, {"txt": "x"}))
    with pytest.raises(ConfigError):
        asyncio.run(streamed(adapter, pid, timeout=-1))
    with pytest.raises(ConfigError):
        asyncio.run(streamed(adapter, pid, tiemout=1))
    with pytest.raises(ProgramError):
        asyncio.run(streamed(adapter, "nobody"))
    assert lm_server.count == 0


RETRIES = {"retry": {"attempts": 3, "backoff": 0.0}}


def test_before_the_first_piece_it_is_tried_again(lm_server: LMServer) -> None:
    lm_server.answers = [Status(503), Cut(), {"reply": LONG}]
    adapter, pid = program(lm_server, "text -> reply", lm=RETRIES)
    items = asyncio.run(streamed(adapter, pid))
    assert pieces(items) == {"reply": LONG}
    assert lm_server.count == 3


def test_after_the_first_piece_it_is_not(lm_server: LMServer) -> None:
    """Else the reader would get the beginning twice."""
    lm_server.answers = [Cut(after_bytes=4000, answer={"reply": LONG}), {"reply": LONG}]
    adapter, pid = program(lm_server, "text -> reply", lm=RETRIES)
    items: list[Any] = []

    async def read() -> None:
        async for item in adapter.astream_program(pid, ROW):
            items.append(item)

    with pytest.raises(DspexError):
        asyncio.run(read())
    text = pieces(items)["reply"]
    assert text
    assert LONG.startswith(text)
    assert lm_server.count == 1


def test_a_deadline_ends_a_stream(lm_server: LMServer) -> None:
    for answer in (Hang(), Slow(300, answer={"reply": LONG})):
        lm_server.answers = answer
        lm_server.clear()
        adapter, pid = program(lm_server, "text -> reply")
        started = time.monotonic()
        with pytest.raises(CallTimeoutError) as caught:
            asyncio.run(streamed(adapter, pid, timeout=0.3))
        assert time.monotonic() - started < 1.5
        assert caught.value.program == pid
        lm_server.wait_idle(1)
        assert lm_server.requests[0].outcome == "gone"


def test_who_stops_reading_ends_the_request(lm_server: LMServer) -> None:
    lm_server.answers = Slow(8000, answer={"reply": LONG})
    adapter, pid = program(lm_server, "text -> reply")

    async def reads_a_little() -> None:
        stream = adapter.astream_program(pid, ROW)
        async for item in stream:
            assert isinstance(item, tuple)
            break
        await stream.aclose()  # type: ignore[attr-defined]

    async def is_cancelled() -> None:
        task = asyncio.ensure_future(streamed(adapter, pid))
        await asyncio.to_thread(lm_server.wait_for, 1)
        await asyncio.sleep(0.1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    for way in (reads_a_little, is_cancelled):
        lm_server.clear()
        asyncio.run(way())
        lm_server.wait_idle(1)
        assert lm_server.requests[0].outcome == "gone"


def test_code_of_a_stream_that_nobody_reads_ends(lm_server: LMServer) -> None:
    ended = threading.Event()

    class Stubborn(dspy.Module):
        def __init__(self) -> None:
            super().__init__()
            self.ask = dspy.Predict("text -> reply")

        def forward(self, text: str) -> Any:
            try:
                while True:
                    try:
                        self.ask(text=text)
                    except Exception:
                        time.sleep(0.01)
            finally:
                ended.set()

    lm_server.answers = {"reply": LONG}
    adapter, pid = program(lm_server, {"signature": "text -> reply", "module": Stubborn()})

    async def reads_a_little() -> None:
        stream = adapter.astream_program(pid, ROW)
        await anext(stream)
        await stream.aclose()

    asyncio.run(reads_a_little())
    assert ended.wait(5)


class Fountain:
    """An async engine that streams words as fast as they are taken, and counts."""

    def __init__(self) -> None:
        self.sent = 0

    async def complete(self, request: Any) -> Any:
        raise AssertionError("it is to stream")

    async def stream(self, request: Any) -> AsyncIterator[Any]:
        yield lm15.StreamStartEvent(id="1", model=request.model)
        for word in ["[[ ## reply ## ]]\n", *["word "] * 2000, "\n\n[[ ## completed ## ]]"]:
            self.sent += 1
            yield lm15.StreamDeltaEvent(lm15.TextDelta(word))
        yield lm15.StreamEndEvent(finish_reason="stop", usage=lm15.Usage())


def test_a_reader_that_is_slow_holds_the_lm_up() -> None:
    """Pieces that nobody has taken are not piled up without bound."""
    fountain = Fountain()
    engines = {"engine": NamedEngine("x"), "async_engine": fountain}
    adapter = DspyAdapter({"lms": {"fountain": {"model": "test/fountain", "options": engines}}})
    pid = adapter.create_program({"signature": "text -> reply"})

    async def slow() -> tuple[int, int]:
        ahead = 0
        items = []
        async for item in adapter.astream_program(pid, ROW):
            items.append(item)
            if len(items) == 10:
                await asyncio.sleep(0.1)
                ahead = fountain.sent
        return ahead, len(items)

    ahead, taken = asyncio.run(slow())
    assert ahead < 300
    assert taken > 1000
    assert fountain.sent == 2002


def test_streams_beside_each_other(lm_server: LMServer) -> None:
    lm_server.answers = lambda request: {"reply": f"{request.fields['text']} " * 20}
    adapter, pid = program(lm_server, "text -> reply")

    async def many() -> list[list[Any]]:
        return await asyncio.gather(*(streamed(adapter, pid, {"text": f"t{n}"}) for n in range(20)))

    before = dict(dspy.settings.config)
    for number, items in enumerate(asyncio.run(many())):
        assert pieces(items)["reply"].split() == [f"t{number}"] * 20
    assert dict(dspy.settings.config) == before
    wait_until(lambda: not [t for t in threading.enumerate() if t.name == "dspex-dspy-apart"])

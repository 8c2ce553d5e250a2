"""The example of a web service: its routes, its errors as HTTP, and its life."""

from __future__ import annotations

import asyncio
import importlib.util
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import httpx
import pytest

from dspex.errors import ProgramError
from dspex.testing import HalfRight, Hang, LMServer, Status

SURE, UNSURE = "My card was charged twice for one ride", "the thing with the other thing"
SAID = {"label": "accident", "reasoning": "It may be serious.", "reply": "We are coming."}
FILE = Path(__file__).parent.parent / "examples" / "fastapi_service.py"


@pytest.fixture(scope="module")
def example() -> ModuleType:
    found = importlib.util.spec_from_file_location("fastapi_service", FILE)
    assert found is not None
    assert found.loader is not None
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module


@asynccontextmanager
async def serving(example: Any, lm: Any) -> AsyncIterator[tuple[Any, httpx.AsyncClient]]:
    """The service and a client of it."""
    app = example.service({"lms": {"local": {"retry": {"attempts": 1}, **lm}}})
    transport = httpx.ASGITransport(app)
    web = httpx.AsyncClient(transport=transport, base_url="http://service", timeout=30)
    async with app.router.lifespan_context(app), web:
        yield app, web


def served(example: Any, lm: Any, use: Callable[[Any, httpx.AsyncClient], Awaitable[Any]]) -> Any:
    async def main() -> Any:
        async with serving(example, lm) as (app, web):
            return await use(app, web)

    return asyncio.run(main())


def posted(example: Any, lm: Any, path: str, text: str) -> httpx.Response:
    async def use(app: Any, web: httpx.AsyncClient) -> httpx.Response:
        return await web.post(path, json={"text": text})

    found: httpx.Response = served(example, lm, use)
    return found


def test_what_is_sure_never_reaches_the_language_model(example: Any) -> None:
    with LMServer(SAID) as server:
        answer = posted(example, server.lm_config(), "/intent", SURE)
        assert answer.status_code == 200
        assert answer.json()["intent"] == "wrong_charge"
        assert answer.json()["route"] == "native"
        assert answer.json()["confidence"] > 0.9
        assert server.count == 0


def test_what_is_unsure_is_asked(example: Any) -> None:
    with LMServer(SAID) as server:
        answer = posted(example, server.lm_config(), "/intent", UNSURE).json()
        assert (answer["intent"], answer["route"], server.count) == ("accident", "dspy", 1)
        assert "below 0.9" in answer["why"]


def test_a_reply_is_told_the_intent(example: Any) -> None:
    with LMServer(SAID) as server:
        answer = posted(example, server.lm_config(), "/reply", SURE)
        assert answer.json() == {
            "intent": "wrong_charge",
            "reply": "We are coming.",
            "reasoning": "It may be serious.",
            "route": "dspy",
        }
        assert [each.request.fields for each in server.requests] == [{"text": SURE, "intent": "wrong_charge"}]


@pytest.mark.parametrize(
    ("fault", "status", "category", "wait"),
    [
        (Status(429, retry_after=1.5), 503, "lm", "2"),
        (Status(500), 503, "lm", None),
        (Status(400), 503, "lm", None),
        (Hang(), 504, "timeout", None),
        (HalfRight(leave_out="reply", answer=SAID), 503, "lm", None),
    ],
    ids=["overloaded", "failing", "refused", "hanging", "half right"],
)
def test_errors_of_the_language_model(
    example: Any, monkeypatch: pytest.MonkeyPatch, fault: Any, status: int, category: str, wait: str | None
) -> None:
    monkeypatch.setitem(example.PROGRAMS["reply"], "dspy", {"timeout": 0.5})
    with LMServer(fault) as server:
        answer = posted(example, server.lm_config(), "/reply", SURE)
    assert (answer.status_code, answer.json()["category"]) == (status, category)
    assert answer.json()["program"] == "reply"
    assert answer.headers.get("Retry-After") == wait


def test_a_language_model_that_is_not_there(example: Any) -> None:
    with socket.socket() as taken:  # and does not listen
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}/v1"
        lm = {"model": "openai/test-model", "api_base": url, "api_key": "test"}
        answer = posted(example, lm, "/reply", SURE)
        assert (answer.status_code, answer.json()["category"]) == (503, "communication")
        assert posted(example, lm, "/intent", UNSURE).json()["route"] == "native"  # it stands in


def test_what_is_no_message_is_refused(example: Any) -> None:
    async def use(app: Any, web: httpx.AsyncClient) -> list[int]:
        bodies: list[Any] = [{}, {"text": 3}, {"text": None}, []]
        return [(await web.post("/intent", json=body)).status_code for body in bodies]

    with LMServer(SAID) as server:
        assert served(example, server.lm_config(), use) == [422] * 4


def test_a_fault_of_the_service_is_500(example: Any) -> None:
    async def use(app: Any, web: httpx.AsyncClient) -> httpx.Response:
        app.state.client.delete_program("intent")
        return await web.post("/intent", json={"text": SURE})

    with LMServer(SAID) as server:
        answer = served(example, server.lm_config(), use)
    assert (answer.status_code, answer.json()["category"]) == (500, "program")


def test_health_and_stats(example: Any) -> None:
    async def use(app: Any, web: httpx.AsyncClient) -> None:
        assert (await web.get("/health")).status_code == 200
        await web.post("/intent", json={"text": SURE})
        stats = (await web.get("/stats")).json()
        assert stats["hybrid"]["calls"] == 1
        server.answers = Status(500)
        for _ in range(3):
            await web.post("/reply", json={"text": SURE})
        health = await web.get("/health")
        assert health.status_code == 503
        assert "local" in health.json()["hybrid"]["reason"]

    with LMServer(SAID) as server:
        served(example, server.lm_config(breaker={"min_calls": 3}), use)


def test_calls_do_not_wait_for_each_other(example: Any) -> None:
    async def use(app: Any, web: httpx.AsyncClient) -> float:
        begin = time.monotonic()
        slow = [asyncio.create_task(web.post("/reply", json={"text": SURE})) for _ in range(20)]
        await asyncio.sleep(0)
        assert (await web.post("/intent", json={"text": SURE})).status_code == 200
        assert not any(task.done() for task in slow)
        assert {answer.status_code for answer in await asyncio.gather(*slow)} == {200}
        return time.monotonic() - begin

    with LMServer(SAID, delay=1.0) as server:
        assert served(example, server.lm_config(), use) < 10.0  # one after the other: 20 s
        assert server.max_in_flight > 10


def test_it_closes_its_client(example: Any) -> None:
    async def use(app: Any, web: httpx.AsyncClient) -> Any:
        return app.state.client

    with LMServer(SAID) as server:
        client = served(example, server.lm_config(), use)
    with pytest.raises(ProgramError, match="closed"):
        client.list_programs()

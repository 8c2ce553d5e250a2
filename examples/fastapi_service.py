"""A web service: a native classifier beside a DSPy program, behind one client, with their errors as HTTP.

Serve it with `uvicorn --factory fastapi_service:service`; dspex.toml or DSPEX_* name the language model.
"""

import asyncio
import math
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import httpx
from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel

import dspex
from dspex import demo
from dspex.errors import DspexError
from dspex.testing import LMServer, Status
from dspex.testing import Request as Asked

PROGRAMS: dict[str, dict[str, Any]] = {
    "intent": {"signature": demo.SIGNATURE, "examples": demo.split()[0], "dspy": {"timeout": 2.0}},
    "reply": {"signature": "text, intent -> reply", "kind": "chain_of_thought", "dspy": {"timeout": 5.0}},
}
STATUS = {"input": 422, "resource": 503, "lm": 503, "communication": 503, "timeout": 504}  # the rest: 500


class Message(BaseModel):
    text: str


class Intent(BaseModel):
    intent: str
    confidence: float | None
    route: str
    why: str


class Reply(BaseModel):
    intent: str
    reply: str
    reasoning: str
    route: str


def service(config: Mapping[str, Any] | None = None) -> FastAPI:
    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        with dspex.Client(config=config) as client:
            for name, program in PROGRAMS.items():
                await asyncio.to_thread(client.create_program, {"id": name, **program})  # fits the classifier
            app.state.client = client
            yield

    app = FastAPI(title="Messages to an e-bike rental", lifespan=lifespan)

    @app.post("/intent")
    async def intent(message: Message) -> Intent:
        """Natively, where that is sure enough; else the language model is asked."""
        answer = await app.state.client.aexecute_program("intent", {"text": message.text})
        return Intent(
            intent=answer.label,
            confidence=answer.confidence,
            route=str(answer.route),
            why=answer.route.reason,
        )

    @app.post("/reply")
    async def reply(message: Message) -> Reply:
        """By the language model, which is told the intent and thinks first."""
        inputs = {"text": message.text, "intent": (await intent(message)).intent}
        answer = await app.state.client.aexecute_program("reply", inputs)
        return Reply(
            intent=inputs["intent"],
            reply=answer.reply,
            reasoning=answer.reasoning,
            route=str(answer.route),
        )

    @app.get("/health")
    async def health(response: Response) -> dict[str, Any]:
        checks = await asyncio.to_thread(app.state.client.health_check)
        response.status_code = 200 if all(checks.values()) else 503
        return {name: found.to_dict() for name, found in checks.items()}

    @app.get("/stats")
    async def stats() -> Any:
        return app.state.client.get_stats()

    @app.exception_handler(DspexError)
    async def failed(request: Request, error: DspexError) -> JSONResponse:
        headers = {} if error.retry_after is None else {"Retry-After": str(math.ceil(error.retry_after))}
        return JSONResponse(error.to_dict(), STATUS.get(error.category, 500), headers)

    return app


def language_model(request: Asked) -> dict[str, str]:
    """Stands for a language model."""
    return {
        "label": "accident",
        "reasoning": "Somebody may be hurt, so that comes first.",
        "reply": "Are you all right? We have locked the bike and sent help.",
    }


async def main() -> None:
    with LMServer(language_model) as lm:
        app = service({"lms": {"local": lm.lm_config()}})
        web = httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://service")
        async with app.router.lifespan_context(app), web:

            async def show(path: str, text: str) -> None:
                answer = await web.post(path, json={"text": text})
                print(path, answer.status_code, answer.headers.get("retry-after"), answer.json())

            await show("/intent", "My card was charged twice for one ride")
            await show("/intent", "the thing with the other thing")
            await show("/reply", "a car, a tree, and me in between")

            lm.answers = Status(429, retry_after=30)  # from now on it is overloaded
            await show("/intent", "the thing with the other thing")
            await show("/reply", "a car, a tree, and me in between")
            stats = (await web.get("/stats")).json()["hybrid"]["routing"]
            print("/health", (await web.get("/health")).status_code, "/stats", stats)


if __name__ == "__main__":
    asyncio.run(main())

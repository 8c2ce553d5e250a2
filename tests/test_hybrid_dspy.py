"""The hybrid adapter over the real DSPy adapter and a local LM server: the gate, and every way of failing."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from dspex.client import Client
from dspex.errors import CallTimeoutError, LMError
from dspex.testing.lm_faults import Fault, Faults, HalfRight, Hang, Status
from dspex.testing.lm_server import LMServer
from hybrid_tools import BLANK, SPEC, SURE, UNSURE

OPEN = {"id": "open", "signature": "question -> answer"}


def client(server: LMServer, lm: dict[str, Any] | None = None, **routing: Any) -> Client:
    settings = server.lm_config(retry={"attempts": 1}, **(lm or {}))
    made = Client(config={"lms": {"server": settings}, "routing": routing})
    made.create_program(SPEC)
    server.answers = lambda request: dict.fromkeys(request.output_fields, "limit")
    return made


def always(fault: Fault) -> Faults:
    return Faults({fault: 1.0})


def test_the_gate(lm_server: LMServer) -> None:
    with client(lm_server) as mine:
        assert mine.execute_program("p", SURE).route == "native"
        assert lm_server.count == 0
        for result in (
            mine.execute_program("p", UNSURE),
            asyncio.run(mine.aexecute_program("p", UNSURE)),
            mine.execute_batch("p", [UNSURE])[0],
            mine.execute_program("p", BLANK),
        ):
            assert (result.label, str(result.route), result.usage["requests"]) == ("limit", "dspy", 1)
        assert lm_server.count == 4
        mine.create_program(OPEN)
        assert mine.execute_program("open", {"question": "why?"}).answer == "limit"


@pytest.mark.parametrize(
    ("fault", "words"),
    [(Status(500), "[lm]"), (Status(429), "[lm]"), (HalfRight(leave_out="label"), "[lm]")],
    ids=["500", "429", "half right"],
)
def test_an_lm_that_fails(lm_server: LMServer, fault: Fault, words: str) -> None:
    with client(lm_server) as mine:
        lm_server.faults = always(fault)
        result = mine.execute_program("p", UNSURE)
        assert (str(result.route), result.route.degraded) == ("native", True)
        assert words in result.route.reason
        with pytest.raises(LMError):
            mine.execute_program("p", UNSURE, {"backend": "dspy"})


def test_an_lm_that_hangs_is_cut_off_by_the_latency_budget(lm_server: LMServer) -> None:
    with client(lm_server, latency_budget_ms=300) as mine:
        lm_server.faults = always(Hang())
        began = time.monotonic()
        result = mine.execute_program("p", UNSURE)
        assert time.monotonic() - began < 2
        assert (str(result.route), result.route.degraded) == ("native", True)
        assert "[timeout]" in result.route.reason
        with pytest.raises(CallTimeoutError):
            mine.execute_program("p", UNSURE, {"backend": "dspy", "timeout": 0.2})


def test_an_open_circuit_is_seen_beforehand(lm_server: LMServer) -> None:
    with client(lm_server, {"breaker": {"min_calls": 3, "cooldown": 60.0}}) as mine:
        lm_server.faults = always(Status(500))
        for _ in range(3):
            assert mine.execute_program("p", UNSURE).route.degraded
        asked = lm_server.count
        result = mine.execute_program("p", UNSURE)
        assert "but DSPy is not available" in result.route.reason
        assert result.route.degraded
        assert lm_server.count == asked
        assert "not available" in str(mine.explain("p", UNSURE))
        assert mine.execute_program("p", SURE).route == "native"

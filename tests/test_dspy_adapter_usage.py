"""What a call has used: requests, tokens, money, and which LMs answered."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import dspy
import pytest

from dspex.adapters.dspy import DspyAdapter
from dspex.errors import DspexError, LMError, ResourceError
from dspex.result import Result
from dspex.testing.lm_server import LMServer, Status
from dspy_adapter_tools import LABEL, NO_RETRY, NamedEngine, TwoSteps, over, program

ROW = {"text": "one two three"}


def ways(adapter: DspyAdapter, pid: str) -> list[Callable[[], Result]]:
    return [
        lambda: adapter.execute_program(pid, ROW),
        lambda: adapter.execute_program(pid, ROW, {"timeout": 20}),
        lambda: asyncio.run(adapter.aexecute_program(pid, ROW)),
        lambda: adapter.execute_batch(pid, [ROW])[0],
    ]


def used(result: Result) -> dict[str, Any]:
    assert result.usage is not None
    return result.usage


def test_tokens_as_the_lm_counts_them(lm_server: LMServer) -> None:
    lm_server.answers = {"label": "refund"}
    adapter, pid = program(lm_server)
    for call in ways(adapter, pid):
        usage = used(call())
        asked = len(lm_server.requests[-1].request.text.split())
        assert usage["prompt_tokens"] == asked
        assert usage["completion_tokens"] == 11  # [[ ## label ## ]] refund [[ ## completed ## ]]
        assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]
        assert (usage["requests"], usage["usd"], usage["lms"]) == (1, None, {"server": 1})


def test_several_requests_are_added_up(lm_server: LMServer) -> None:
    lm_server.answers = {"topic": "money", "reply": "yes"}
    spec = {"signature": "text -> topic, reply", "module": TwoSteps()}
    adapter, pid = program(lm_server, spec, lm={"prices": (1.0, 10.0)})
    for call in ways(adapter, pid):
        lm_server.clear()
        usage = used(call())
        prompts = sum(len(entry.request.text.split()) for entry in lm_server.requests)
        assert (usage["requests"], usage["prompt_tokens"]) == (2, prompts)
        expected = (usage["prompt_tokens"] * 1.0 + usage["completion_tokens"] * 10.0) / 1e6
        assert usage["usd"] == pytest.approx(expected)


def test_a_second_request_of_dspys_counts(lm_server: LMServer) -> None:
    """The answer does not fit; DSPy asks again, in JSON."""
    lm_server.answers = ["no format", {"label": "refund"}]
    adapter, pid = program(lm_server)
    usage = used(adapter.execute_program(pid, ROW))
    assert usage["requests"] == lm_server.count == 2
    assert lm_server.requests[1].request.format == "json"


def test_dspys_price_list(lm_server: LMServer) -> None:
    lm_server.answers = {"label": "refund"}
    lm = {"model": "openai/gpt-4o-mini"}
    adapter, pid = program(lm_server, lm=lm)
    both, dear = program(lm_server, lm={**lm, "prices": (1e6, 1e6)})
    for call in [*ways(adapter, pid), *ways(both, dear)]:  # DSPy's own comes first
        usage = used(call())
        expected = (usage["prompt_tokens"] * 0.15 + usage["completion_tokens"] * 0.6) / 1e6
        assert usage["usd"] == pytest.approx(expected)
    assert adapter.observed(pid)["usd"] == pytest.approx(expected, rel=0.5)


def test_prices_of_an_engine_of_ones_own() -> None:
    engine = NamedEngine("refund")
    adapter = DspyAdapter(
        {"lms": {"own": {"model": "test/own", "prices": (2.0, 4.0), "options": {"engine": engine}}}}
    )
    pid = adapter.create_program({"signature": LABEL})
    for call in ways(adapter, pid):
        assert used(call()) == {
            "requests": 1, "prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15,
            "usd": pytest.approx(40e-6), "lms": {"own": 1},
        }  # fmt: skip


def test_fallbacks_are_told_and_priced_as_themselves(lm_server: LMServer) -> None:
    backup = NamedEngine("refund")
    adapter = DspyAdapter(
        {
            "lm": "server",
            "lms": {
                "server": lm_server.lm_config(retry=NO_RETRY, prices=(1e6, 1e6), fallbacks=["backup"]),
                "backup": {"model": "test/backup", "prices": (2.0, 4.0), "options": {"engine": backup}},
            },
        }
    )
    pid = adapter.create_program({"signature": LABEL})
    lm_server.answers = Status(500)
    for call in ways(adapter, pid):
        usage = used(call())
        assert usage["lms"] == {"backup": 1}
        assert usage["usd"] == pytest.approx(40e-6)


def test_what_dspy_had_kept_costs_nothing(lm_server: LMServer) -> None:
    lm_server.answers = {"label": "refund"}
    settings = {"cache": True, "model": "openai/gpt-4o-mini", "prices": (1e6, 1e6)}
    adapter, pid = program(lm_server, lm={**settings, "temperature": 0.125}, dspy={"budget": {"tokens": 500}})
    first = used(adapter.execute_program(pid, ROW))
    asyncio.run(adapter.aexecute_program(pid, ROW))  # DSPy keeps these apart
    assert first["requests"] == 1
    assert first["usd"] > 0
    for call in ways(adapter, pid) * 3:
        assert used(call()) == {"requests": 0, "usd": None, "lms": {}}
    assert lm_server.count == 2


def test_the_users_tracker_counts_as_ever(lm_server: LMServer) -> None:
    lm_server.answers = {"label": "refund", "topic": "t", "reply": "r"}
    for settings in ({}, {"model": "openai/gpt-4o-mini"}):
        adapter = over(lm_server, lm=settings)
        model = settings.get("model", "openai/test-model")
        pid = adapter.create_program({"signature": LABEL})
        two = adapter.create_program({"signature": "text -> topic, reply", "module": TwoSteps()})
        for call in (*ways(adapter, pid), *ways(adapter, two)):
            with dspy.track_usage() as tracker:
                usage = used(call())
            total = tracker.get_total_tokens()[model]
            assert total["prompt_tokens"] == usage["prompt_tokens"]
            assert total["total_tokens"] == usage["total_tokens"]


def test_a_tracker_within_the_program_does_not_take_it_away(lm_server: LMServer) -> None:
    class Tracks(dspy.Module):
        def __init__(self) -> None:
            super().__init__()
            self.ask = dspy.Predict(LABEL)
            self.seen: list[Any] = []

        def forward(self, text: str) -> Any:
            with dspy.track_usage() as tracker:
                found = self.ask(text=text)
            return dspy.Prediction(label=found.label, seen=tracker.get_total_tokens())

    lm_server.answers = {"label": "refund"}
    adapter, pid = program(lm_server, {"signature": LABEL, "module": Tracks()})
    for call in ways(adapter, pid):
        result = call()
        assert used(result)["requests"] == 1
        assert result.seen["openai/test-model"]["total_tokens"] == used(result)["total_tokens"]


def test_failed_calls_use_what_was_answered(lm_server: LMServer) -> None:
    """Two answers that do not fit are two answers that were paid."""
    lm_server.answers = "no format"
    adapter, pid = program(lm_server, dspy={"budget": {"tokens": 10_000}})
    with pytest.raises(DspexError):
        adapter.execute_program(pid, ROW)
    spent = adapter._program(pid).asked._budget.stats()["tokens"]
    assert spent > 2 * len(ROW["text"].split())


def test_several_samples_of_which_one_fails() -> None:
    """DSPy asks twice for two; the first answer is paid, though the call fails."""

    class Once(NamedEngine):
        def complete(self, request: Any) -> Any:
            if self.asked:
                raise dspy.lm15.ServerError("the second")
            return super().complete(request)

    once = {
        "model": "test/once",
        "retry": NO_RETRY,
        "prices": (1.0, 1.0),
        "options": {"engine": Once("refund")},
    }
    adapter = DspyAdapter({"lms": {"once": once}, "dspy": {"budget": {"tokens": 15}}})
    pid = adapter.create_program({"signature": LABEL, "init": {"n": 2}})
    with pytest.raises(LMError):
        adapter.execute_program(pid, ROW)
    with pytest.raises(ResourceError, match="15 of 15 tokens"):
        adapter.execute_program(pid, ROW)


def test_what_dspy_had_kept_takes_no_tokens_of_the_limit(lm_server: LMServer) -> None:
    lm_server.answers = {"label": "refund"}
    limits = {"tokens_per_minute": 30_000, "max_wait": 0.0}  # 500 at once
    adapter, pid = program(lm_server, lm={"cache": True, "temperature": 0.375, "limits": limits})
    for _ in range(20):
        adapter.execute_program(pid, ROW)
    assert lm_server.count == 1


def test_results_and_costs_are_observed(lm_server: LMServer) -> None:
    lm_server.answers = {"label": "refund"}
    lm_server.delay = 0.02
    adapter, pid = program(lm_server, lm={"prices": (1.0, 1.0)}, dspy={"cache": {"size": 9}})
    for text in ("a", "b", "c"):
        for _ in range(3):  # kept answers say nothing about how long one takes
            adapter.execute_program(pid, {"text": text})
    seen = adapter.observed(pid)
    assert seen["latency_ms"] is not None
    assert seen["usd"] is not None
    assert 20 <= seen["latency_ms"] < 500
    assert seen["usd"] > 0
    assert adapter.get_program_info(pid)["program"]["observed"] == seen

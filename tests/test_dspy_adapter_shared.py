"""Equal calls: answered together, and from answers kept; off unless asked for."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import dspy
import pydantic

from dspex.adapters.dspy import DspyAdapter
from dspex.errors import LMError
from dspex.testing.lm_server import LMServer, Status
from dspy_adapter_tools import LABEL, NamedEngine, program

ROW = {"text": "x"}
GOOD = {"label": "refund"}


def ways(adapter: DspyAdapter, pid: str) -> list[Callable[[], Any]]:
    return [
        lambda: adapter.execute_program(pid, ROW),
        lambda: adapter.execute_program(pid, ROW, {"timeout": 20}),
        lambda: asyncio.run(adapter.aexecute_program(pid, ROW)),
        lambda: adapter.execute_batch(pid, [ROW])[0],
    ]


def test_equal_calls_at_once_are_one_request(lm_server: LMServer) -> None:
    lm_server.answers = {"labels": ["a"]}
    lm_server.delay = 0.1
    spec = {"signature": "text -> labels: list[str]", "dspy": {"single_flight": True}}
    adapter, pid = program(lm_server, spec)

    def in_threads() -> list[Any]:
        barrier = threading.Barrier(20)

        def call() -> Any:
            barrier.wait()
            return adapter.execute_program(pid, ROW)

        with ThreadPoolExecutor(20) as threads:
            return [each.result() for each in [threads.submit(call) for _ in range(20)]]

    async def as_tasks() -> list[Any]:
        return await asyncio.gather(*(adapter.aexecute_program(pid, ROW) for _ in range(20)))

    for many in (in_threads, lambda: asyncio.run(as_tasks())):
        lm_server.clear()
        results = many()
        assert lm_server.count == 1
        assert [result.labels for result in results] == [["a"]] * 20
        assert sum(result.usage["requests"] for result in results) == 1
        assert sum("equal call" in result.route.reason for result in results) == 19
        results[0].labels.append("mine")  # each has its own
        assert results[1].labels == ["a"]
    assert adapter.get_program_info(pid)["program"]["single_flight"]["shared"] == 38
    lm_server.clear()
    adapter.execute_batch(pid, [{"text": "x"}, {"text": "y"}])
    assert lm_server.count == 2


def test_errors_are_shared_with_the_flight(lm_server: LMServer) -> None:
    lm_server.answers = Status(500)
    lm_server.delay = 0.1
    adapter, pid = program(lm_server, {"signature": LABEL, "dspy": {"single_flight": True}})
    with ThreadPoolExecutor(5) as threads:
        calls = [threads.submit(adapter.execute_program, pid, ROW) for _ in range(5)]
    assert [type(call.exception()) for call in calls] == [LMError] * 5
    assert lm_server.count < 5


def test_kept_answers(lm_server: LMServer) -> None:
    count = iter(range(100))
    lm_server.answers = lambda request: {"labels": [f"{request.fields['text']} {next(count)}"]}
    spec = {"signature": "text -> labels: list[str]", "dspy": {"cache": {"size": 2, "ttl": 0.5}}}
    adapter, pid = program(lm_server, spec)
    first = adapter.execute_program(pid, ROW)
    first.labels.append("mine")
    for call in ways(adapter, pid):
        kept = call()
        assert kept.labels == ["x 0"]
        kept.labels.append("mine")
        assert kept.usage == {"requests": 0, "usd": 0.0, "lms": {}}
        assert "kept" in kept.route.reason
    assert lm_server.count == 1
    for text in ("y", "z"):  # the size is 2
        adapter.execute_program(pid, {"text": text})
    assert adapter.execute_program(pid, ROW).labels == ["x 3"]
    time.sleep(0.55)
    assert adapter.execute_program(pid, ROW).labels == ["x 4"]
    info = adapter.get_program_info(pid)["program"]["cache"]
    assert (info["hits"], info["kept"]) == (4, 1)


def test_answers_of_one_lm_are_not_anothers() -> None:
    engines = {name: NamedEngine(name) for name in ("one", "two", "three")}
    lms = {name: {"model": f"test/{name}", "options": {"engine": each}} for name, each in engines.items()}
    adapter = DspyAdapter({"lm": "one", "lms": lms})
    settings = {"cache": {"size": 9}, "single_flight": True}
    pid = adapter.create_program({"signature": "text -> label", "dspy": settings})
    for _ in range(2):
        assert adapter.execute_program(pid, ROW).label == "one"
        assert adapter.execute_program(pid, ROW, {"lm": "two"}).label == "two"
    adapter.configure_lm(lms["three"])
    assert adapter.execute_program(pid, ROW).label == "three"
    assert [engine.asked for engine in engines.values()] == [1, 1, 1]


class Holder(pydantic.BaseModel):
    thing: Any


def test_inputs_that_cannot_be_compared_are_asked_each_time(lm_server: LMServer) -> None:
    class Sort(dspy.Signature):
        holder: Holder = dspy.InputField()
        label: str = dspy.OutputField()

    lm_server.answers = GOOD
    settings = {"cache": {"size": 9}, "single_flight": True}
    adapter, pid = program(lm_server, {"signature": Sort, "dspy": settings})
    for thing, asked in ((1, 1), (1, 1), (object(), 2), (object(), 3)):
        assert adapter.execute_program(pid, {"holder": Holder(thing=thing)}).label == "refund"
        assert lm_server.count == asked


def test_nothing_is_shared_or_kept_unless_asked_for(lm_server: LMServer) -> None:
    lm_server.answers = GOOD
    lm_server.delay = 0.05
    adapter, pid = program(lm_server)
    with ThreadPoolExecutor(5) as threads:
        list(threads.map(lambda _: adapter.execute_program(pid, ROW), range(5)))
    adapter.execute_program(pid, ROW)
    assert lm_server.count == 6
    assert lm_server.max_in_flight > 1

"""Calls and the world around them: the user's settings, history, callbacks, other threads and tasks."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import subprocess
import sys
import textwrap
import threading
import tracemalloc
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import dspy
import pytest
from dspy.clients.base_lm import GLOBAL_HISTORY
from dspy.dsp.utils.settings import main_thread_config, thread_local_overrides

from dspex.adapters.dspy import DspyAdapter
from dspex.errors import DspexError
from dspex.testing.lm_server import HalfRight, LMServer, Status
from dspy_adapter_tools import LABEL, STRESS, Fixed, NamedEngine, TwoSteps, over, program

NAME = "text -> label"
ROW = {"text": "who?"}


def seen() -> dict[str, Any]:
    """The settings as they are here, and what they hold as it is now."""
    return {
        name: list(value) if isinstance(value, list) else value
        for name, value in {**main_thread_config, **thread_local_overrides.get()}.items()
    }


def test_the_users_settings_are_never_changed(lm_server: LMServer) -> None:
    lm_server.answers = {"label": "refund", "topic": "money", "reply": "yes"}
    adapter = over(lm_server)
    pids = [
        adapter.create_program({"signature": LABEL}),
        adapter.create_program({"signature": LABEL, "kind": "chain_of_thought", "dspy": {"format": "json"}}),
        adapter.create_program({"signature": "text -> topic, reply", "module": TwoSteps()}),
        adapter.create_program({"signature": LABEL, "module": Fixed(None)}),
    ]
    before = seen()
    inside: list[dict[str, Any]] = []

    def calls() -> None:
        mine = seen()
        for fault in (None, Status(500), Status(401), HalfRight(answer={"label": "x", "reply": "y"})):
            lm_server.answers = fault or {
                "label": "refund",
                "topic": "money",
                "reply": "yes",
                "reasoning": "",
            }
            for pid in pids:
                for call in (
                    lambda pid=pid: adapter.execute_program(pid, ROW),
                    lambda pid=pid: adapter.execute_program(pid, ROW, {"timeout": 5}),
                    lambda pid=pid: asyncio.run(adapter.aexecute_program(pid, ROW)),
                    lambda pid=pid: adapter.execute_batch(pid, [ROW]),
                ):
                    with contextlib.suppress(DspexError):
                        call()
                    inside.append(seen())
                    assert seen() == mine

    calls()
    thread = threading.Thread(target=calls)
    thread.start()
    thread.join()
    assert seen() == before
    assert len(inside) == 2 * 4 * 4 * 4


def test_the_users_context_is_honoured(lm_server: LMServer) -> None:
    lm_server.answers = {"label": "refund"}
    adapter, pid = program(lm_server)
    own = adapter.create_program({"signature": LABEL, "dspy": {"format": "xml"}})
    calls: list[Callable[[str], Any]] = [
        lambda p: adapter.execute_program(p, ROW),
        lambda p: adapter.execute_program(p, ROW, {"timeout": 5}),
        lambda p: asyncio.run(adapter.aexecute_program(p, ROW)),
        lambda p: adapter.execute_batch(p, [ROW]),
    ]
    for call in calls:
        lm_server.clear()
        with dspy.context(adapter=dspy.JSONAdapter()):
            call(pid)
            call(own)
        call(pid)
        assert [entry.request.format for entry in lm_server.requests] == ["json", "xml", "chat"]


def test_calls_with_different_lms_do_not_mix(lm_server: LMServer) -> None:
    names = [f"lm{number}" for number in range(8)]
    engines = {name: NamedEngine(name, pause=0.0005) for name in names}
    adapter = DspyAdapter(
        {
            "lms": {
                name: {"model": f"test/{name}", "options": {"engine": each}} for name, each in engines.items()
            }
        }
    )
    pid = adapter.create_program({"signature": NAME})
    pids = {name: adapter.create_program({"signature": NAME, "lm": name}) for name in names}
    users = {name: dspy.LM(f"test/{name}", engine=engines[name], cache=False) for name in names}
    free = DspyAdapter()
    own = free.create_program({"signature": NAME})
    count = round(25 * STRESS)

    def in_thread(name: str) -> list[str]:
        answers = []
        for _ in range(count):
            answers.append(adapter.execute_program(pids[name], ROW).label)
            answers.append(adapter.execute_program(pid, ROW, {"lm": name, "timeout": 30}).label)
            with dspy.context(lm=users[name]):
                answers.append(free.execute_program(own, ROW).label)
                answers += [row.label for row in free.execute_batch(own, [ROW] * 2)]
        return answers

    async def as_task(name: str) -> list[str]:
        answers = []
        for _ in range(count):
            answers.append((await adapter.aexecute_program(pid, ROW, {"lm": name})).label)
            with dspy.context(lm=users[name]):
                answers.append((await free.aexecute_program(own, ROW)).label)
        return answers

    async def as_tasks() -> list[list[str]]:
        return await asyncio.gather(*map(as_task, names))

    with ThreadPoolExecutor(len(names) + 1) as threads:
        tasks = threads.submit(lambda: asyncio.run(as_tasks()))
        in_threads = list(threads.map(in_thread, names))
    for name, answers in zip(names, in_threads, strict=True):
        assert answers == [name] * 5 * count
    for name, answers in zip(names, tasks.result(), strict=True):
        assert answers == [name] * 2 * count
    assert sum(engine.asked for engine in engines.values()) == len(names) * 7 * count


def test_calls_beside_a_thread_that_configures() -> None:
    script = """
        import threading, dspy
        from dspex.adapters.dspy import DspyAdapter
        from dspy_adapter_tools import NamedEngine

        dspy.configure(lm=dspy.LM("test/main", engine=NamedEngine("main"), cache=False))
        adapter, heard = DspyAdapter(), []
        pid = adapter.create_program({"signature": "text -> label"})

        def call():
            heard.append(adapter.execute_program(pid, {"text": "x"}).label)
            heard.append(adapter.execute_program(pid, {"text": "x"}, {"timeout": 5}).label)
            adapter.configure_lm({"model": "test/own", "options": {"engine": NamedEngine("own")}})
            heard.append(adapter.execute_program(pid, {"text": "x"}).label)

        thread = threading.Thread(target=call)
        thread.start()
        thread.join()
        dspy.configure(lm=dspy.LM("test/again", engine=NamedEngine("again"), cache=False))
        assert heard == ["main", "main", "own"], heard
        assert dspy.settings.lm.model == "test/again"
    """
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(script)],
        cwd=__file__.rpartition("/")[0],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr


# What DSPy keeps


def test_history_and_trace_are_off_by_default(lm_server: LMServer) -> None:
    lm_server.answers = {"label": "refund", "topic": "money", "reply": "yes"}
    adapter, pid = program(lm_server)
    module = adapter.create_program({"signature": "text -> topic, reply", "module": TwoSteps()})
    trace: list[Any] = []
    with dspy.context(trace=trace):
        for call in (
            lambda p: adapter.execute_program(p, ROW),
            lambda p: adapter.execute_program(p, ROW, {"timeout": 5}),
            lambda p: asyncio.run(adapter.aexecute_program(p, ROW)),
        ):
            call(pid), call(module)
    held, length = adapter._program(pid).asked, len(GLOBAL_HISTORY)
    for _ in range(200):
        adapter.execute_program(pid, ROW)
    assert len(GLOBAL_HISTORY) == length
    assert trace == []
    assert held.module.history == []
    assert adapter.lms.get("server").history == []


def test_memory_does_not_grow(lm_server: LMServer) -> None:
    adapter = DspyAdapter({"lms": {"one": {"model": "test/one", "options": {"engine": NamedEngine("one")}}}})
    pid = adapter.create_program({"signature": NAME})

    def calls(number: int) -> int:
        for _ in range(number):
            adapter.execute_program(pid, ROW)
        return tracemalloc.get_traced_memory()[0]

    calls(100)
    tracemalloc.start()
    try:
        before = calls(100)
        assert calls(400) - before < 60_000  # with a history 5 KiB a call: two megabytes
    finally:
        tracemalloc.stop()


def test_history_is_kept_where_it_is_asked_for(lm_server: LMServer) -> None:
    lm_server.answers = {"label": "refund"}
    engine = NamedEngine("refund")
    priced = over(lm_server)
    plain = DspyAdapter({"lms": {"one": {"model": "test/one", "options": {"engine": engine}}}})
    for adapter in (priced, plain):
        pid = adapter.create_program({"signature": LABEL, "dspy": {"history": True}})
        for settings in ({}, {"disable_history": True}):
            before = len(GLOBAL_HISTORY)
            with dspy.context(**settings):
                adapter.execute_program(pid, ROW)
                asyncio.run(adapter.aexecute_program(pid, ROW))
            assert len(GLOBAL_HISTORY) == before + 2
            assert "who?" in str(GLOBAL_HISTORY[-1]["messages"])
        assert len(adapter.lms.get(None).history) == 4
        assert len(adapter._program(pid).asked.module.history) == 4
    lm = dspy.LM("test/mine", engine=engine, cache=False)
    free = DspyAdapter()
    pid = free.create_program({"signature": LABEL, "dspy": {"history": True}})
    with dspy.context(lm=lm):
        free.execute_program(pid, ROW)
    assert len(lm.history) == 1  # the user looks there


class Heard(dspy.utils.BaseCallback):  # type: ignore[misc]
    def __init__(self) -> None:
        self.events: list[str] = []

    def on_module_start(self, call_id: str, instance: Any, inputs: Any) -> None:
        self.events.append(f"module {type(instance).__name__}")

    def on_lm_start(self, call_id: str, instance: Any, inputs: Any) -> None:
        self.events.append("lm")

    def on_lm_end(self, call_id: str, outputs: Any, exception: Any = None) -> None:
        self.events.append("lm failed" if exception else "lm answered")


def test_callbacks_are_called(lm_server: LMServer) -> None:
    lm_server.answers = {"label": "refund"}
    adapter, pid = program(lm_server)
    calls: list[Callable[[], Any]] = [
        lambda: adapter.execute_program(pid, ROW),
        lambda: adapter.execute_program(pid, ROW, {"timeout": 5}),
        lambda: asyncio.run(adapter.aexecute_program(pid, ROW)),
    ]
    for call in calls:
        heard = Heard()
        with dspy.context(callbacks=[heard]):
            call()
        assert heard.events == ["module Predict", "lm", "lm answered"]
    of_lm, of_module = Heard(), Heard()
    lm = dspy.LM("openai/mine", api_base=lm_server.url, api_key="k", cache=False, callbacks=[of_lm])
    free = DspyAdapter()
    pid = free.create_program({"module": dspy.Predict(LABEL, callbacks=[of_module])})
    with dspy.context(lm=lm):
        free.execute_program(pid, ROW)
        lm_server.answers = Status(400)
        with pytest.raises(DspexError):
            free.execute_program(pid, ROW)
    assert of_lm.events == ["lm", "lm answered", "lm", "lm failed"]
    assert of_module.events == ["module Predict"] * 2
    lm.close()


def test_a_module_of_the_users_that_calls_a_program_stays_itself(lm_server: LMServer) -> None:
    """Around a program of dspex there may be a program of DSPy's."""
    lm_server.answers = {"label": "refund"}
    adapter, pid = program(lm_server)

    class Around(dspy.Module):
        def forward(self, text: str) -> Any:
            before = seen()
            label = adapter.execute_program(pid, {"text": text}).label
            assert seen() == before
            return dspy.Prediction(label=label)

    assert Around()(text="x").label == "refund"
    assert asyncio.run(dspy.asyncify(Around())(text="x")).label == "refund"
    parallel = dspy.Parallel(num_threads=3, disable_progress_bar=True)
    assert [each.label for each in parallel([(Around(), {"text": "x"})] * 6)] == ["refund"] * 6


def test_threads_that_dspy_starts_within_a_program_belong_to_the_call(lm_server: LMServer) -> None:
    class Many(dspy.Module):
        def __init__(self) -> None:
            super().__init__()
            self.each = dspy.Predict("text -> label")

        def forward(self, text: str) -> Any:
            parallel = dspy.Parallel(num_threads=4, disable_progress_bar=True)
            found = parallel([(self.each, {"text": f"{text} {number}"}) for number in range(6)])
            return dspy.Prediction(label=found[0].label)

    lm_server.answers = {"label": "refund"}
    length = len(GLOBAL_HISTORY)
    for engine in (None, NamedEngine("refund")):
        adapter = over(lm_server)
        if engine is not None:
            adapter.configure_lm({"model": "test/x", "options": {"engine": engine}})
        pid = adapter.create_program({"signature": LABEL, "module": Many()})
        result = adapter.execute_program(pid, ROW)
        assert result.usage is not None
        assert result.usage["requests"] == 6
    assert len(GLOBAL_HISTORY) == length


def test_an_lm_that_a_module_makes_leaves_no_history_either(lm_server: LMServer) -> None:
    class Own(dspy.Module):
        def __init__(self) -> None:
            super().__init__()
            self.ask = dspy.Predict("text -> label")

        def forward(self, text: str) -> Any:
            with dspy.context(lm=dspy.LM("test/own", engine=NamedEngine("own"), cache=False)):
                return self.ask(text=text)

    adapter, pid = program(lm_server, {"signature": "text -> label", "module": Own()})
    length = len(GLOBAL_HISTORY)
    assert adapter.execute_program(pid, ROW).label == "own"
    assert len(GLOBAL_HISTORY) == length


def test_a_program_within_a_stream_of_the_users_sends_nothing_into_it(lm_server: LMServer) -> None:
    lm_server.answers = {"label": "refund", "reply": "word " * 20}
    adapter, pid = program(lm_server)

    class Around(dspy.Module):
        def __init__(self) -> None:
            super().__init__()
            self.ask = dspy.Predict("text -> reply")

        async def aforward(self, text: str) -> Any:
            label = (await adapter.aexecute_program(pid, {"text": text})).label
            assert adapter.execute_program(pid, {"text": text}, {"timeout": 5}).label == label
            return await self.ask.acall(text=f"{text} {label}")

    async def read() -> list[Any]:
        stream = dspy.streamify(Around(), is_async_program=True)  # without listeners: every chunk
        with dspy.context(lm=dspy.LM(**lm_server.lm_config(), cache=False)):
            return [item async for item in stream(text="x")]

    items = asyncio.run(read())
    assert items[-1].reply.split() == ["word"] * 20
    text = "".join(str(each.choices[0].delta.content or "") for each in items[:-1])
    assert "refund" not in text
    assert [entry.request.stream for entry in lm_server.requests] == [False, False, True]


def test_a_protected_lm_can_be_copied_and_not_pickled(lm_server: LMServer) -> None:
    adapter = over(lm_server)
    lm = adapter.lms.get("server")
    assert lm.copy(temperature=0.9).kwargs["temperature"] == 0.9
    assert copy.deepcopy(lm) is lm
    assert copy.copy(lm).model == lm.model
    with pytest.raises(TypeError, match="holds locks"):
        lm.__reduce__()
    assert lm.dump_state()["_dspy_lm_class"] == "dspy.clients.lm.LM"

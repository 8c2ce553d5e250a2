"""Every way to call a live program, and what is stored before an answer is returned."""

from __future__ import annotations

import asyncio
import contextvars
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dspex.distill.live import LiveProgram
from dspex.distill.store import Store
from dspex.distill.trace import Answer
from dspex.errors import ConfigError, InputError, ProgramError
from live_tools import Planted, add_version, home, program, rows, settings, told


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with home(tmp_path) as opened:
        add_version(opened)
        yield opened


@pytest.fixture
def teacher() -> Planted:
    return Planted()


@pytest.fixture
def live(store: Store, teacher: Planted) -> Iterator[LiveProgram]:
    with LiveProgram(store, teacher, settings(audit_share=0.02), seed=1) as made:
        made.promote("test", "live")
        yield made


def test_a_trace_is_durable_before_its_answer_is_returned(store: Store, live: LiveProgram) -> None:
    for inputs in rows(50, seed=1, hard=1.0):
        result = live(**inputs)
        with Store.open(store.home, read_only=True) as other:
            found = other.has_answer(inputs)
        assert found is not None
        assert found.outputs == result.to_dict()
        assert found.seconds is not None


def test_native_answers_are_those_of_the_program(live: LiveProgram) -> None:
    for inputs in rows(100, seed=2, hard=0.0):
        result, alone = live.predict(inputs), program().predict(inputs)
        if result.route == "native":
            assert result == alone
            assert result.probabilities("label") == alone.probabilities("label")


def test_tasks_give_the_same_and_never_hold_up_the_loop(
    store: Store, live: LiveProgram, teacher: Planted, monkeypatch: pytest.MonkeyPatch
) -> None:
    teacher.delay = 0.1
    calls, real, writers = rows(60, seed=3, hard=0.5), store.add, set()

    def noted(traces: Any, **options: Any) -> list[int | None]:
        writers.add(threading.get_ident())
        return real(traces, **options)

    monkeypatch.setattr(store, "add", noted)

    async def all_of_them() -> list[Any]:
        return await asyncio.gather(*(live.acall(**inputs) for inputs in calls))

    begun = time.perf_counter()
    results = asyncio.run(all_of_them())
    assert [result.label for result in results] == [told(inputs["text"]) for inputs in calls]
    assert {str(result.route) for result in results} == {"native", "dspy"}
    assert time.perf_counter() - begun < 2.0, "the teacher is asked at once, not in turn"
    assert writers
    assert threading.get_ident() not in writers, "the loop's thread does not write"


def test_a_cancelled_task_loses_no_answer(
    store: Store, live: LiveProgram, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, writing = store.add, threading.Event()

    def slowly(traces: Any, **options: Any) -> list[int | None]:
        writing.set()
        time.sleep(0.1)
        return real(traces, **options)

    monkeypatch.setattr(store, "add", slowly)

    async def cancel_while_it_writes() -> None:
        task = asyncio.create_task(live.acall(text="nothing is named"))
        await asyncio.to_thread(writing.wait, 5)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(cancel_while_it_writes())
    assert live.flush()
    assert store.has_answer({"text": "nothing is named"}) is not None


def test_long_texts_and_blank_ones_as_tasks(live: LiveProgram) -> None:
    assert asyncio.run(live.acall(text="the apple " * 1000)).route == "native"
    assert asyncio.run(live.acall(text="   " * 2000)).route == "dspy"
    with pytest.raises(InputError):
        asyncio.run(live.acall(text=5))


def test_batches(store: Store, live: LiveProgram, teacher: Planted) -> None:
    calls = rows(400, seed=4, hard=0.3)
    results = live.batch(calls)
    assert [result.label for result in results] == [told(inputs["text"]) for inputs in calls]
    asked = sum(result.route == "dspy" for result in results)
    assert 100 < asked < 160
    assert live.flush()
    counted = live.status()["process"]
    assert (counted["native"], counted["asked"]) == (400 - asked, asked)
    assert live.batch([]) == []


def test_errors_in_a_batch(store: Store, live: LiveProgram, teacher: Planted) -> None:
    calls: list[Any] = [{"text": "the apple here"}, {"text": 3}, {"text": "nothing is named"}]
    found = live.batch(calls, on_error="collect")
    assert [type(each).__name__ for each in found] == ["Result", "InputError", "Result"]
    with pytest.raises(InputError):
        live.batch(calls)
    teacher.fails = ValueError("down")
    found = live.batch(calls, on_error="collect")
    assert [type(each).__name__ for each in found] == ["Result", "InputError", "ValueError"]
    with pytest.raises(ConfigError, match="Did you mean 'collect'"):
        live.batch(calls, on_error="colect")
    with pytest.raises(ConfigError, match="concurrency"):
        live.batch(calls, concurrency=0)


def test_a_batch_asks_at_once_and_in_the_callers_context(live: LiveProgram) -> None:
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="unset")
    seen: list[str] = []
    together = threading.Barrier(4)

    class Looking(Planted):
        def ask(self, inputs: Any, /) -> Answer:
            seen.append(variable.get())
            together.wait(5)
            return super().ask(inputs)

    live._engine._teacher = Looking()
    variable.set("the caller's")
    live.batch(rows(4, seed=9, hard=1.0), concurrency=4)
    assert seen == ["the caller's"] * 4


def test_many_threads(store: Store, live: LiveProgram) -> None:
    calls, wrong = rows(800, seed=5, hard=0.1), []

    def work(part: list[dict[str, str]]) -> None:
        wrong.extend(i for i in part if live.predict(i).label != told(i["text"]))

    threads = [threading.Thread(target=work, args=(calls[k::8],)) for k in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(wrong) < 8
    assert live.flush()
    counted = live.status()["process"]
    assert counted["native"] + counted["asked"] == 800
    assert store.counts()["by_source"]["deferred"] == counted["asked"]


def test_further_outputs_of_the_teacher_come_along(store: Store, live: LiveProgram) -> None:
    class Reasoning(Planted):
        more: Any = "because"

        def _said(self, inputs: Any) -> Answer:
            said = super()._said(inputs)
            return Answer({**said.outputs, "reasoning": self.more}, {"label": {"apple": 0.7, "birch": 0.3}})

    teacher = live._engine._teacher = Reasoning()
    result = live.predict({"text": "nothing is named"})
    assert (result["reasoning"], result.probabilities("label")["apple"]) == ("because", 0.7)
    trace = next(store.traces(newest=1))
    assert trace.answer.outputs["reasoning"] == "because"
    assert trace.answer.soft == {"label": {"apple": 0.7, "birch": 0.3}}
    teacher.more = object()  # nothing that can be stored
    result = live.predict({"text": "nothing else is named"})
    assert result["reasoning"] is teacher.more
    assert set(next(store.traces(newest=1)).answer.outputs) == {"label"}


def test_after_the_end(store: Store, live: LiveProgram) -> None:
    assert live.predict({"text": "the apple here"}).route == "native"
    live.close()
    live.close()
    for call in (
        lambda: live.predict({"text": "the apple here"}),
        lambda: asyncio.run(live.acall(text="the apple here")),
        lambda: live.batch([{"text": "the apple here"}]),
        lambda: live.learn(),
    ):
        with pytest.raises(ProgramError, match="closed"):
            call()
    assert sum(each.counts.get("native", 0) for each in store.usage()) == 1, "counters are written at the end"

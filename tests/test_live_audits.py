"""Audits: after the reply, within bounds, and an unbiased sample of the calls."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from dspex.distill import live as live_module
from dspex.distill.live import LiveProgram
from dspex.distill.store import Store
from dspex.errors import LMError
from live_tools import Planted, add_version, home, rows, settings, stage_of


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with home(tmp_path) as opened:
        add_version(opened)
        yield opened


def served_live(store: Store, teacher: Planted, share: float = 0.25, seed: int = 1) -> LiveProgram:
    program = LiveProgram(store, teacher, settings(audit_share=share, automatic=share > 0), seed=seed)
    program.promote("test", "live")
    return program


def test_the_reply_does_not_wait_for_its_audit(store: Store) -> None:
    teacher = Planted()
    with served_live(store, teacher, share=1.0) as live:
        teacher.gate.clear()
        begun = time.perf_counter()
        results = [live.predict(inputs) for inputs in rows(20, hard=0.0)]
        assert time.perf_counter() - begun < 1.0
        assert {str(result.route) for result in results} == {"native"}
        assert not list(store.audits(1))
        teacher.gate.set()
        assert live.flush()
        assert len(list(store.audits(1))) == 20
        assert [trace.source for trace in store.traces("calibrate")] == ["audit"] * 20


def test_calibrate_rows_are_an_unbiased_sample(store: Store) -> None:
    """Calls that the gate lets through are in the sample as often as they are in the traffic."""
    teacher, hard = Planted(), 0.3
    with served_live(store, teacher, share=0.2, seed=7) as live:
        calls = rows(4000, seed=3, hard=hard)
        passed = set()
        for at, inputs in enumerate(calls):
            if live.predict(inputs).route == "native":
                passed.add(inputs["text"])
            if at % 100 == 0:
                live.flush()
        assert live.flush()
        sample = [trace.inputs["text"] for trace in store.traces("calibrate")]
        n, traffic = len(sample), len(passed) / len(calls)
        assert abs(n / len(calls) - 0.2) < 4 * math.sqrt(0.2 * 0.8 / len(calls))
        share = sum(text in passed for text in sample) / n
        assert abs(share - traffic) < 4 * math.sqrt(traffic * (1 - traffic) / n)
        fit = list(store.traces("fit"))
        assert not any(trace.inputs["text"] in passed for trace in fit), "those are the deferred ones alone"


def test_without_room_a_call_is_no_calibrate_row_whatever_the_gate_says(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live_module, "_ROOM", 8)
    teacher = Planted()
    with served_live(store, teacher, share=1.0) as live:
        release, held = threading.Event(), threading.Event()

        def stuck() -> None:
            held.set()
            release.wait(20)

        assert live._auditor.offer(stuck)
        assert held.wait(5)
        calls = rows(300, seed=2, hard=0.5)
        routes = [live.predict(inputs).route for inputs in calls]
        release.set()
        assert live.flush()
        counted = live.status()["process"]
        sample = {trace.inputs["text"] for trace in store.traces("calibrate")}
        natives = [c["text"] for c, route in zip(calls, routes, strict=True) if route == "native"]
        assert sum(text in sample for text in natives) == 7, "one place is the stuck job's"
        assert counted["unplaced"] == 300 - len(sample)
        # Once the room is full, nothing comes into the sample, deferred calls no more than native ones.
        first = [c["text"] for c in calls].index(natives[6])
        assert not sample & {c["text"] for c in calls[first + 1 :]}


def test_a_teacher_that_fails_in_an_audit_harms_nobody(
    store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    teacher = Planted()
    with served_live(store, teacher, share=1.0) as live:
        teacher.fails = LMError("the LM is down")
        for inputs in rows(10, hard=0.0):
            assert live.predict(inputs).route == "native"
        assert live.flush()
        assert live.status()["process"]["audit_errors"] == 10
        assert not list(store.audits(1))
        assert stage_of(store) == ("live", 1)
        assert "the LM is down" in caplog.text
        teacher.fails = None
        live.predict(rows(1, hard=0.0)[0])
        assert live.flush()
        assert len(list(store.audits(1))) == 1


def test_a_teacher_that_fails_in_a_call_is_heard_unchanged(store: Store) -> None:
    teacher = Planted()
    with served_live(store, teacher, share=1.0) as live:
        teacher.fails = KeyError("mine")
        for _ in range(300):  # more than there are places: each is given back
            with pytest.raises(KeyError, match="mine"):
                live.predict({"text": "nothing is named"})
        assert live.status()["process"]["failed"] == 300
        assert not list(store.traces())
        teacher.fails = None
        assert live.predict({"text": "nothing is named"}).route == "dspy"
        assert live.flush(1.0)


def test_an_answer_that_does_not_fit_is_refused(store: Store) -> None:
    class Odd(Planted):
        def _said(self, inputs):  # type: ignore[no-untyped-def]
            from dspex.distill.trace import Answer

            return Answer({"label": "daisy"})

    with served_live(store, Odd()) as live:
        with pytest.raises(LMError, match="daisy"):
            live.predict({"text": "nothing is named"})
        assert not list(store.traces())


def test_no_audits_where_their_share_is_0(store: Store) -> None:
    teacher = Planted()
    with served_live(store, teacher, share=0.0) as live:
        for inputs in rows(300, hard=0.0):
            live.predict(inputs)
        assert live.flush()
        assert not teacher.asked
        assert live.status()["process"]["native"] == 300


def test_costs_are_watched_by_their_mean(store: Store) -> None:
    """An error that costs 0.1 counts as wrong one time in ten."""
    teacher = Planted()
    teacher.shift = 1.0
    given = {**settings(audit_share=1.0), "guarantee": {"costs": "test_live_audits:a_tenth"}}
    with LiveProgram(store, teacher, given, seed=1) as live:
        live.promote("test", "live")
        live._engine._random.seed(1)
        for inputs in rows(200, hard=0.0):
            live.predict(inputs)
        assert live.flush()
        wrong = [audit.wrong for audit in store.audits(1)]
        assert 0.03 < sum(wrong) / len(wrong) < 0.2


def a_tenth(inputs: object, native: object, teacher: object) -> float:
    return 0.1


def test_a_full_disk_does_not_withhold_an_answer(
    store: Store, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from dspex.errors import ResourceError

    with served_live(store, Planted()) as live:

        def full(*_: object, **__: object) -> list[int]:
            raise ResourceError("the disk is full")

        with monkeypatch.context() as patched:
            patched.setattr(store, "add", full)
            assert live.predict({"text": "nothing is named"}).route == "dspy"
        assert live.status()["process"]["unstored"] == 1
        assert "the disk is full" in caplog.text

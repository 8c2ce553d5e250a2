"""Learning on beside the service: when it is due, one at a time, and what comes of it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from dspex.distill import jobs
from dspex.distill.learner import Lesson
from dspex.distill.live import LiveProgram
from dspex.distill.store import Event, Store
from dspex.distill.tutor import rows_wanted
from dspex.errors import InternalError
from live_tools import (
    SETTINGS,
    Planted,
    add_version,
    home,
    rows,
    serve,
    settings,
    stage_of,
)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with home(tmp_path) as opened:
        yield opened


class FakeJob:
    """Stands for the process that learns."""

    def __init__(self) -> None:
        self.code: int | None = None
        self.killed = False
        self.outcome: Lesson | Exception = Lesson("waiting", "too few rows")

    def poll(self) -> int | None:
        return self.code

    def wait(self) -> Lesson:
        self.code = 0
        if isinstance(self.outcome, Exception):
            raise self.outcome
        return self.outcome

    def kill(self) -> None:
        self.killed = True


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[FakeJob]:
    made: list[FakeJob] = []

    def start(store: Store, settings: object) -> FakeJob:
        made.append(FakeJob())
        return made[-1]

    monkeypatch.setattr(jobs, "start", start)
    return made


def learning(**changes: Any) -> dict[str, Any]:
    return {**SETTINGS, "learning": {"first_rows": 50, "growth": 2.0, **changes}}


@pytest.mark.parametrize(
    ("tried", "breach", "wanted"),
    [
        (0, None, 500),
        (500, None, 750),
        (1000, None, 1500),
        (100, None, 500),  # it was asked for early
        (1000, 4000, 4500),  # since the breach nothing was tried
        (4500, 4000, 4750),
        (5000, 4000, 5500),
    ],
)
def test_when_the_next_is_due(tried: int, breach: int | None, wanted: int) -> None:
    assert rows_wanted(500, 1.5, tried, breach) == wanted


def test_it_starts_when_there_are_enough_rows(store: Store, started: list[FakeJob]) -> None:
    with LiveProgram(store, Planted(), learning(), seed=1) as live:
        serve(live, rows(40, seed=1))
        assert not started
        assert live.status()["learning"] == {"running": False, "last": None, "rows_until_next": 10}
        serve(live, rows(40, seed=2))
        live._auditor._tick()
        assert len(started) == 1
        assert live.status()["learning"]["running"] is True
        event = next(event for event in store.events() if event.kind == "learning started")
        assert (event.by, event.reason) == ("rule", "enough new rows have come")
        serve(live, rows(200, seed=3))
        live._auditor._tick()
        assert len(started) == 1, "one at a time"
        assert live.learn() is False
        started[0].code = 0
        live._auditor._tick()
        assert live.status()["learning"]["last"]["outcome"] == "waiting"
        live._auditor._tick()
        assert len(started) == 2, "the rows have doubled since"
    assert started[1].killed


def test_a_restart_knows_of_the_last_try(store: Store, started: list[FakeJob]) -> None:
    with LiveProgram(store, Planted(), learning(), seed=1) as live:
        serve(live, rows(60, seed=1))
        live._auditor._tick()
        store.record(Event(time.time(), "learning waits", "learner", "too few rows", {}, {}))
    with LiveProgram(store, Planted(), learning(), seed=1) as live:
        assert live.status()["learning"]["rows_until_next"] == 60
        live._auditor._tick()
    assert len(started) == 1


def test_it_starts_after_a_breach(store: Store, started: list[FakeJob]) -> None:
    add_version(store)
    teacher = Planted()
    with LiveProgram(store, teacher, {**settings(), **learning()}, seed=1) as live:
        live.promote("test", "live")
        teacher.shift = 0.7
        serve(live, rows(40, seed=1, hard=0.0), until="shadow", step=1)
        while stage_of(store)[0] == "live":
            serve(live, rows(20, seed=9, hard=0.0), until="shadow", step=1)
        before = store.counts()["rows"]
        assert live.status()["learning"]["rows_until_next"] == 50
        serve(live, rows(60, seed=2))
        live._auditor._tick()
        assert len(started) == 1
        event = [event for event in store.events() if event.kind == "learning started"][-1]
        assert event.reason == "the version in service breached"
        assert event.after["rows"] >= before + 50


def test_a_full_store_learns_on_before_and_after_a_breach(tmp_path: Path, started: list[FakeJob]) -> None:
    """The rows that are there stay level, so those that were ever stored are what counts."""
    teacher, given = Planted(), {**settings(), **learning(first_rows=200)}
    with home(tmp_path, settings={"max_rows": 100}) as store:
        with LiveProgram(store, teacher, given, seed=1) as live:
            serve(live, rows(199, seed=1))
            assert live.status()["learning"]["rows_until_next"] == 1
            serve(live, rows(1, seed=2))
            live._auditor._tick()
            assert len(started) == 1
            started[0].code = 0
            store.record(Event(time.time(), "learning waits", "learner", "too few rows", {}, {}))
            serve(live, rows(150, seed=3))
            assert live.status()["learning"]["rows_until_next"] == 50
        with LiveProgram(store, teacher, given, seed=1) as live:
            assert live.status()["learning"]["rows_until_next"] == 50, "a restart knows"
            serve(live, rows(50, seed=4))
            live._auditor._tick()
            assert len(started) == 2
            started[1].code = 0
            live._auditor._tick()
            assert store.counts()["rows"] < 200
            add_version(store)
            live.promote("test", "live")
            teacher.shift = 0.7
            while stage_of(store)[0] == "live":
                serve(live, rows(20, seed=9, hard=0.0), until="shadow", step=1)
            assert live.status()["learning"]["rows_until_next"] == 200
            serve(live, rows(200, seed=5))
            live._auditor._tick()
            assert len(started) == 3
            assert [event.after["rows"] for event in store.events() if event.kind == "learning started"][
                -1
            ] > 600


def test_a_home_that_stayed_level_before_goes_on(tmp_path: Path, started: list[FakeJob]) -> None:
    """Its events and its breach have the rows that were there then."""
    with home(tmp_path, settings={"max_rows": 100}) as store:
        with LiveProgram(store, Planted(), learning(automatic=False), seed=1) as live:
            serve(live, rows(400, seed=1))
        store.record(Event(time.time(), "learning started", "rule", "", {}, {"rows": 100}))
        store.record(Event(time.time(), "learning waits", "learner", "too few rows", {}, {}))
        state = store.state()
        watch = {"breach": {"at": time.time(), "reason": "", "rows": 100}}
        store.move(
            state.revision, replace(state, watch=watch), Event(time.time(), "breach", "watch", "", {}, {})
        )
        with LiveProgram(store, Planted(), learning(), seed=1) as live:
            live._auditor._tick()
            assert len(started) == 1


def test_a_failure_is_told(store: Store, started: list[FakeJob]) -> None:
    with LiveProgram(store, Planted(), learning(automatic=False), seed=1) as live:
        assert live.learn()
        started[0].outcome = InternalError("the learning process broke")
        live._tutor.wait()
        assert live.status()["learning"]["last"] == {
            "outcome": "failed", "reason": "[system] the learning process broke",
        }  # fmt: skip
        assert store.events(limit=1)[0].kind == "learning failed"


def within(seconds: float, what: Callable[[], bool]) -> bool:
    end = time.monotonic() + seconds
    while not what():
        if time.monotonic() > end:
            return False
        time.sleep(0.05)
    return True


def test_from_nothing_to_live(store: Store) -> None:
    """Really learned, in a process of its own."""
    given = {
        "lifecycle": {"shadow_checks": 30, "canary_checks": 30, "audit_share": 0.2},
        "learning": {"first_rows": 900, "growth": 1.5, "nice": 0},
        "guarantee": {"agreement": 0.9, "calibration_share": 0.3},
    }
    with LiveProgram(store, Planted(), given, seed=3) as live:
        serve(live, rows(1000, seed=1, hard=0.1), step=1000)
        assert within(60, lambda: live.status()["learning"]["last"] is not None)
        assert live.status()["learning"]["last"]["outcome"] == "made"
        assert within(10, lambda: stage_of(store) == ("shadow", 1))
        serve(live, rows(300, seed=2, hard=0.1), until="canary")
        serve(live, rows(300, seed=3, hard=0.1), until="live")
        assert stage_of(store) == ("live", 1)
        native = [live.predict(inputs).route for inputs in rows(100, seed=4, hard=0.1)].count("native")
        assert native > 60


def test_a_learning_process_ends_with_the_service(store: Store) -> None:
    with LiveProgram(store, Planted(), learning(automatic=False), seed=3) as live:
        serve(live, rows(600, seed=1), step=600)
        assert live.learn()
        process = live._tutor._job._process
        assert process.poll() is None
    assert process.poll() is not None
    assert stage_of(store) == ("teacher", None)


def test_a_sample_from_before_a_breach_certifies_no_later_version(store: Store) -> None:
    from dspex.distill.curriculum import curriculum
    from dspex.distill.settings import LearningSettings

    add_version(store)
    teacher = Planted()
    with LiveProgram(store, teacher, settings(), seed=1) as live:
        live.promote("test", "live")
        teacher.shift = 0.7
        while stage_of(store)[0] == "live":
            serve(live, rows(20, seed=9, hard=0.0), until="shadow", step=1)
        before = {trace.id for trace in store.traces("calibrate")}
        live.promote("the teacher was mistaken")
        add_version(store)
        live.adopt(2, "test")
        teacher.shift = 0.0
        serve(live, rows(100, seed=3))
    fresh = {trace.id for trace in curriculum(store, LearningSettings(), store.state()).fresh}
    assert fresh
    assert not fresh & before

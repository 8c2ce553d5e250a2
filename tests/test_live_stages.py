"""A live program through its stages, driven by calls and a planted teacher."""

from __future__ import annotations

from collections.abc import Iterator
from enum import Enum
from pathlib import Path
from typing import Any

import pytest

import dspex
from dspex.distill.live import LiveProgram
from dspex.distill.store import Event, Store
from dspex.distill.trace import Answer
from dspex.errors import InputError, ModelFileError, ProgramError
from live_tools import Planted, add_version, home, rows, serve, settings, stage_of, told


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with home(tmp_path) as opened:
        yield opened


@pytest.fixture
def teacher() -> Planted:
    return Planted()


@pytest.fixture
def live(store: Store, teacher: Planted) -> Iterator[LiveProgram]:
    with LiveProgram(store, teacher, settings(), seed=1) as program:
        yield program


def test_without_a_version_the_teacher_answers_all(store: Store, teacher: Planted, live: LiveProgram) -> None:
    calls = rows(400)
    for inputs in calls:
        result = live.predict(inputs)
        assert result.label == told(inputs["text"])
        assert (result.route, result.route.reason) == ("dspy", "no version is in service")
        assert result.usage["usd"] == 0.001
    assert len(teacher.asked) == 400
    kept = list(store.traces())
    assert [trace.inputs for trace in kept] == calls
    assert {trace.source for trace in kept} == {"teacher"}
    calibrate = sum(trace.role == "calibrate" for trace in kept)
    assert 50 < calibrate < 115, "a coin of 0.2 for each"
    assert live.flush()
    assert stage_of(store) == ("teacher", None)


def test_the_whole_way_and_back(store: Store, teacher: Planted, live: LiveProgram) -> None:
    events: list[Event] = []
    live.on("*", events.append)
    add_version(store)
    serve(live, rows(60, seed=1), until="shadow", step=1)
    assert stage_of(store) == ("shadow", 1)

    sent = serve(live, rows(400, seed=2), until="canary")
    assert 50 <= sent < 200, "40 compared answers of those that the gate lets through"
    sent = serve(live, rows(400, seed=3), until="live")
    assert stage_of(store) == ("live", 1)

    asked = len(teacher.asked)
    calls = rows(600, seed=4)
    answers = [live.predict(inputs) for inputs in calls]
    assert live.flush()
    native = [answer for answer in answers if answer.route == "native"]
    assert len(native) > 400
    assert native[0].route.reason == "version 1, live: the gate lets it through"
    assert sum(told(i["text"]) != a.label for i, a in zip(calls, answers, strict=True)) < 10
    audited = len(teacher.asked) - asked - (600 - len(native))
    assert 60 < audited < 180, "a coin of 0.25 for each native answer"

    teacher.shift = 0.3  # its answers change
    sent = serve(live, rows(2000, seed=5), until="shadow")
    assert stage_of(store) == ("shadow", 1)
    assert sent < 800
    audits = [audit for audit in store.audits(1) if audit.stage == "live"]
    assert len(audits) < audited + 80, "some dozens of audits say enough: 30 % disagree, 5 % may"
    assert "wrong" in store.state().reason
    status = live.status()
    assert status["watch"]["breach"]["reason"] == store.state().reason
    assert status["stage"] == "shadow"

    serve(live, rows(300, seed=6))
    assert stage_of(store) == ("shadow", 1), "what has breached does not move on"
    kinds = [event.kind for event in events]
    assert kinds == ["version made", "adopted", "promoted", "promoted", "breach"]
    assert [event.id for event in events] == [event.id for event in store.events()]


def test_a_new_version_after_a_breach(store: Store, teacher: Planted, live: LiveProgram) -> None:
    add_version(store)
    live.promote("test", "live")
    teacher.shift = 0.5
    serve(live, rows(1000, seed=1), until="shadow")
    teacher.shift = 0.0
    add_version(store, parent=1)
    assert live.flush()
    state = store.state()
    assert (state.stage, state.version, state.previous) == ("shadow", 2, 1)
    assert live.status()["watch"]["n"] == 0, "it is watched from the start"
    serve(live, rows(500, seed=2), until="canary")
    serve(live, rows(500, seed=3), until="live")
    assert stage_of(store) == ("live", 2)
    live.rollback("the new one is slower")
    assert stage_of(store) == ("live", 1)
    assert live.predict(rows(1, hard=0)[0]).route.reason.startswith("version 1")


def test_in_shadow_the_teacher_answers_and_the_native_answer_is_compared(
    store: Store, teacher: Planted, live: LiveProgram
) -> None:
    add_version(store)
    live.promote("test", "shadow")
    live.hold("test")
    calls = rows(200, seed=1)
    results = [live.predict(inputs) for inputs in calls]
    assert {(r.route, r.route.reason) for r in results} == {("dspy", "version 1 is in shadow")}
    assert live.flush()
    audits = list(store.audits(1))
    assert 120 < len(audits) < 190, "those that the gate would let through"
    assert min(audit.score or 0 for audit in audits) >= 0.9
    by_id = {trace.id: trace for trace in store.traces()}
    for audit in audits[:20]:
        assert audit.trace is not None
        assert audit.teacher == by_id[audit.trace].answer.outputs
        assert (audit.stage, audit.wrong) == ("shadow", audit.native != audit.teacher)
    assert live.status()["process"]["compared"] == len(audits)


def test_in_canary_a_share_is_native(store: Store, teacher: Planted) -> None:
    add_version(store)
    with LiveProgram(store, teacher, settings(canary_share=0.3), seed=2) as live:
        live.promote("test", "canary")
        live.hold("test")
        calls = rows(1000, seed=1, hard=0.0)
        routes = [str(live.predict(inputs).route) for inputs in calls]
        share = routes.count("native") / len(routes)
        assert 0.25 < share < 0.35
        assert live.flush()
        audited = [trace for trace in store.traces() if trace.source == "audit"]
        expected = 0.2 * routes.count("native")  # the coin of the stages before live
        assert 0.6 * expected < len(audited) < 1.4 * expected
        assert len(list(store.audits(1))) == routes.count("dspy") + len(audited)


@pytest.mark.parametrize("stage", ["teacher", "shadow", "canary", "live"])
def test_bad_inputs_reach_nobody(store: Store, teacher: Planted, live: LiveProgram, stage: Any) -> None:
    if stage != "teacher":
        add_version(store)
        live.promote("test", stage)
    for bad in ({"text": 3}, {}, {"text": "a", "more": "b"}):
        with pytest.raises(InputError):
            live.predict(bad)
    assert not teacher.asked
    assert live.status()["process"]["asked"] == 0


def test_blank_text_is_the_teachers(store: Store, teacher: Planted, live: LiveProgram) -> None:
    add_version(store)
    live.promote("test", "live")
    result = live.predict({"text": "  "})
    assert result.route == "dspy"
    assert result.route.reason == "the text is empty"


def test_groups_have_thresholds_of_their_own(store: Store, teacher: Planted, live: LiveProgram) -> None:
    add_version(store, threshold=None, thresholds={"apple": 0.5, "birch": None})
    live.promote("test", "live")
    routes = {name: live.predict({"text": f"the {name} here"}).route for name in ("apple", "birch", "cedar")}
    assert routes == {"apple": "native", "birch": "dspy", "cedar": "dspy"}


def test_without_a_teacher_deferred_calls_are_refused(store: Store) -> None:
    add_version(store)
    with LiveProgram(store, None, settings(), seed=1) as live:
        live.promote("test", "live")
        assert live.predict({"text": "the apple here"}).route == "native"
        with pytest.raises(ProgramError, match=r"teacher is needed.*too low.*Give a teacher"):
            live.predict({"text": "nothing is named"})


def test_a_version_without_its_file(store: Store, teacher: Planted, live: LiveProgram) -> None:
    add_version(store)
    live.promote("test", "live")
    add_version(store)
    store.version_path(2).unlink()
    live.adopt(2, "test")
    assert live.predict({"text": "the apple here"}).route == "dspy", "the teacher keeps the service up"
    with pytest.raises(ModelFileError):
        LiveProgram(store, teacher, settings())
    live.rollback("the file is gone")
    live.promote("test", "live")
    assert live.predict({"text": "the apple here"}).route == "native"


def test_an_enum_comes_back_as_its_members(tmp_path: Path) -> None:
    class Tree(Enum):
        APPLE, BIRCH, CEDAR = "apple", "birch", "cedar"

    class Trees(Planted):
        def _said(self, inputs: Any) -> Answer:
            return Answer({"label": Tree(super()._said(inputs).outputs["label"])})

    signature = dspex.Signature.of({"inputs": {"text": str}, "outputs": {"label": Tree}})
    with Store.open(tmp_path / "trees", signature) as store:
        add_version(store)
        with LiveProgram(store, Trees(), settings(audit_share=1.0), seed=1) as live:
            live.promote("test", "live")
            assert live.predict({"text": "the tall apple here"}).label is Tree.APPLE
            assert live.predict({"text": "nothing is named"}).label in Tree
            assert live.flush()
            assert [audit.wrong for audit in store.audits(1)] == [False]


def test_what_redact_drops_is_always_the_teachers(tmp_path: Path) -> None:
    teacher = Planted()
    with home(tmp_path, redact=lambda inputs: None) as store:
        add_version(store)
        with LiveProgram(store, teacher, settings(audit_share=1.0), seed=1) as live:
            live.promote("test", "live")
            for inputs in rows(20):
                answer = live.predict(inputs)
                assert (answer.label, answer.route) == (told(inputs["text"]), "dspy")
            assert "nothing is kept" in answer.route.reason
            assert [each.label for each in live.batch(rows(20))] == [told(row["text"]) for row in rows(20)]
            assert live.flush()
            assert len(teacher.asked) == 40
            assert not list(store.traces())
            assert not list(store.audits(1))

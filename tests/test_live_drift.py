"""Drift of the inputs in service: its reference, its state over restarts, and which process looks."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import dspex
from dspex.distill import inputs
from dspex.distill.inputs import VersionDrift
from dspex.distill.live import LiveProgram
from dspex.distill.references import drift_label, drift_reference
from dspex.distill.store import Store
from dspex.errors import ResourceError
from dspex.signature import Signature
from live_tools import SIGNATURE, Planted, add_version, home, program, rows, serve, settings, stage_of

DELTA = 0.05
BIRCHES = [{"text": f"the birch {k}"} for k in range(3000)]


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with home(tmp_path) as opened:
        yield opened


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """State is written at each look, and a reference of one's own takes few calls."""
    monkeypatch.setattr(inputs, "_EVERY", 0.0)
    monkeypatch.setattr(inputs, "_FIRST", 100)


def reference() -> dict[str, Any]:
    usual = [program().predict(call) for call in rows(2000, seed=11, hard=0.1)]
    scores = np.array([result.score for result in usual])
    return drift_reference(SIGNATURE, scores, [drift_label(SIGNATURE, result) for result in usual]).to_dict()


def live_over(store: Store, seed: int = 1) -> LiveProgram:
    live = LiveProgram(store, Planted(), settings(audit_share=0.0, automatic=False), seed=seed)
    if stage_of(store)[0] != "live":
        live.promote("test", "live")
    return live


def alarms(store: Store) -> list[str]:
    return [event.reason for event in store.events() if event.kind == "drift"]


def seen(live: LiveProgram) -> int:
    return int(live.status()["drift"]["n"])


def test_drift_is_told_before_labels_come(store: Store) -> None:
    """The calls change; what the teacher says of each does not."""
    add_version(store, figures={"reference": reference()})
    with live_over(store) as live:
        serve(live, rows(3000, seed=12, hard=0.1), step=100)
        assert live.status()["drift"]["alarm"] is False
        assert seen(live) > 100
        serve(live, BIRCHES, step=100)
        assert live.status()["drift"]["alarm"] is True
        (reason,) = alarms(store)
        assert reason.startswith("Drift, shown after")
        assert stage_of(store) == ("live", 1), "a report, no verdict"


def test_without_rows_that_are_like_calls_the_first_calls_are_the_reference(store: Store) -> None:
    add_version(store)
    with live_over(store) as live:
        serve(live, rows(800, seed=12, hard=0.1), step=100)
        early = live.status()["drift"]
        assert (early["alarm"], early["n"]) == (False, 0)
        assert "so far there are" in early["text"]
        serve(live, rows(3000, seed=13, hard=0.1), step=100)
        assert 0 < seen(live) < 3800 / 10
        assert not alarms(store)
    with live_over(store, seed=2) as live:
        serve(live, BIRCHES, step=100)
        assert live.status()["drift"]["alarm"] is True
        assert live.status()["drift"]["classes"]["shares"]["birch"][0] < 0.6, "not of the birches"
    assert len(alarms(store)) == 1


def test_a_restart_goes_on_where_it_ended_and_an_alarm_is_told_once(store: Store) -> None:
    add_version(store, figures={"reference": reference()})
    before = 0
    for seed in range(3):
        with live_over(store, seed) as live:
            assert seen(live) == before
            serve(live, rows(400, seed=20 + seed, hard=0.1), step=100)
            before = seen(live)
            assert before > 0
    for seed in range(2):
        with live_over(store, 9 + seed) as live:
            serve(live, BIRCHES, step=100)
            assert live.status()["drift"]["alarm"] is True
    assert len(alarms(store)) == 1


def test_one_program_of_a_home_looks_at_a_time(store: Store) -> None:
    add_version(store, figures={"reference": reference()})
    first = live_over(store)
    serve(first, rows(800, seed=1, hard=0.1), step=100)
    with live_over(store, seed=2) as second:
        mine = seen(first)
        assert mine > 0
        serve(second, BIRCHES, step=100)
        assert seen(first) == mine
        assert seen(second) == mine, "it reads what the other has written"
        first.close()
        serve(second, rows(800, seed=3, hard=0.1), step=100)
        assert seen(second) > mine
    assert not alarms(store)


def test_who_dies_leaves_the_seat_and_who_forks_keeps_it(store: Store) -> None:
    add_version(store, figures={"reference": reference()})
    with live_over(store) as live:
        serve(live, rows(400, seed=1, hard=0.1), step=100)
        before = seen(live)
        child = os.fork()
        if child == 0:
            try:
                serve(live, BIRCHES[:500], step=100)
                os._exit(0 if seen(live) == before else 1)
            finally:
                os._exit(2)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        with pytest.raises(ResourceError, match="another process"), store.drift.seat():
            pass  # the child's end has not given it away
    child = os.fork()
    if child == 0:
        try:
            with live_over(store, seed=5) as live:
                serve(live, rows(400, seed=2, hard=0.1), step=100)
                os.kill(os.getpid(), signal.SIGKILL)
        finally:
            os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    with live_over(store, seed=6) as live:
        kept = seen(live)
        assert kept > before, "what had been written by the one that was killed"
        serve(live, rows(400, seed=3, hard=0.1), step=100)
        assert seen(live) > kept


def test_who_has_no_calls_leaves_the_seat(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    add_version(store, figures={"reference": reference()})
    with live_over(store) as idle, live_over(store, seed=2) as busy:
        with store.drift.seat():
            pass  # nobody has looked yet
        serve(idle, rows(400, seed=1, hard=0.1), step=100)
        mine = seen(idle)
        serve(busy, rows(400, seed=2, hard=0.1), step=100)
        assert seen(busy) == mine
        monkeypatch.setattr(inputs, "_IDLE", 0.0)
        assert idle.flush()
        assert seen(idle) == mine, "it has written before it left"
        monkeypatch.setattr(inputs, "_IDLE", 60.0)
        serve(busy, rows(400, seed=3, hard=0.1), step=100)
        assert seen(busy) > mine
        assert seen(idle) == seen(busy)


DAMAGE: dict[str, Any] = {
    "no JSON": "{",
    "not a mapping": [1, 2],
    "calls that are none": {"first": [0.5, [2.0, "apple"]]},
    "no reference": {"reference": {"format": 1}},
    "no state": {"watch": {"format": 9}},
}


@pytest.mark.parametrize("own", [False, True])
@pytest.mark.parametrize("what", DAMAGE)
def test_a_damaged_record_is_begun_anew(
    store: Store, what: str, own: bool, caplog: pytest.LogCaptureFixture
) -> None:
    add_version(store, figures=None if own else {"reference": reference()})
    text = DAMAGE[what] if what == "no JSON" else json.dumps(DAMAGE[what])
    with store._database.writing() as connection:
        connection.execute("INSERT INTO meta VALUES ('drift of version 1', ?)", (text,))
    with live_over(store) as live:
        assert seen(live) == 0
        serve(live, rows(400, seed=1, hard=0.1), step=100)
        assert live._auditor.errors == 0
    assert store.drift.read(1)["watch" if not own else "first"]
    if what not in ("no state", "no reference"):
        assert "version 1 cannot be read and begins anew" in caplog.text


def test_a_damaged_reference_is_replaced_by_the_first_calls(store: Store) -> None:
    add_version(store, figures={"reference": {"format": "none"}})
    with live_over(store) as live:
        serve(live, rows(400, seed=1, hard=0.1), step=100)
        assert "so far there are" in live.status()["drift"]["text"]
        assert live._auditor.errors == 0


def test_an_alarm_that_cannot_be_written_is_told_later_and_once(
    store: Store, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    add_version(store, figures={"reference": reference()})
    monkeypatch.setattr("dspex.distill.store.database.BUSY_SECONDS", 0.01)
    with Store.open(store.home, SIGNATURE) as mine, live_over(mine) as live:
        live._auditor.close(5.0)  # only the test ticks
        plan = live._keeper.plan
        plan.samples.extend(program().predict(call) for call in BIRCHES[:250])
        with store._database.writing():
            live._keeper.drift()
            live._keeper.drift()
        assert "held up" in caplog.text
        assert not alarms(store)
        assert store.drift.read(1) is None
        for _ in range(2):
            live._keeper.drift()
        assert len(alarms(store)) == 1
        assert store.drift.read(1)["watch"]["alarmed_at"]


@pytest.mark.parametrize("own", [False, True])
def test_restarts_cost_no_evidence_and_no_delta(own: bool) -> None:
    """Begun again after every few calls or never, it comes to the very same."""
    given = None if own else reference()
    calls = [program().predict(call) for call in rows(700, seed=31, hard=0.4)]
    whole, parts = (VersionDrift(SIGNATURE, given, DELTA) for _ in range(2))
    raised = [0, 0]
    for at, result in enumerate(calls):
        raised[0] += whole.update(result)
        raised[1] += parts.update(result)
        if at % 7 == 0:
            parts = VersionDrift(SIGNATURE, given, DELTA, json.loads(json.dumps(parts.to_dict())))
    assert parts.to_dict() == json.loads(json.dumps(whole.to_dict()))
    assert parts.report() == whole.report()
    assert raised[0] == raised[1] == (0 if own else 1)


def test_with_another_delta_the_watch_begins_anew() -> None:
    drift = VersionDrift(SIGNATURE, reference(), DELTA)
    for call in rows(50):
        drift.update(program().predict(call))
    again = VersionDrift(SIGNATURE, reference(), 0.01, drift.to_dict())
    assert (drift.report()["n"], again.report()["n"]) == (50, 0)


def test_numbers_are_watched_by_their_scores() -> None:
    signature = Signature.of("text -> stars: float")
    given = [{"text": f"w{k % 5} w{k % 5}", "stars": float(k % 5)} for k in range(300)]
    fitted = dspex.fit(signature, given, gate=True, agree={"stars": 0.5})
    results = [fitted.predict({"text": row["text"]}) for row in given]
    drift = VersionDrift(fitted.signature, None, DELTA)
    for result in results:
        drift.update(result)
    assert drift.report()["n"] == 200
    assert "classes" not in drift.report()

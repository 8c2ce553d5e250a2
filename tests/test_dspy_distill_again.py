"""Compiled again over the same home: what was decided there stands, and what is told is of what serves."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import dspy
import pytest

from dspex.distill import lifecycle
from dspex.distill.settings import GuaranteeSettings
from dspex.distill.store import Store, VersionRecord
from dspex.distill.terms import A_FUNCTION
from dspex.dspy import Distill, Distilled, DistillReport, route
from dspex.errors import ConfigError
from dspex.testing import LMServer
from dspy_distill_tools import COUNT, FAST, SURE, TASK, rows, teaching

NO_LEARNING = {"learning": {"automatic": False}, "lifecycle": {"audit_share": 1e-9}}


@pytest.fixture
def server() -> Iterator[LMServer]:
    with teaching() as running:
        yield running


@contextlib.contextmanager
def compiled(home: Path | None, count: int = COUNT, **options: Any) -> Iterator[Distilled]:
    given = {**FAST, "settings": NO_LEARNING, **options}
    fast = Distill(home=home, **given).compile(dspy.Predict(TASK), trainset=rows(count))
    try:
        yield fast
    finally:
        fast.close()


def standing(home: Path) -> tuple[str, int | None, bool]:
    with Store.open(home) as store:
        state = store.state()
    return state.stage, state.version, state.held


# --- what was decided ---


@pytest.mark.parametrize("count", [COUNT, 500])
@pytest.mark.parametrize("to", ["shadow", "teacher"])
def test_a_demotion_stays(server: LMServer, tmp_path: Path, count: int, to: Any) -> None:
    """Also when the run makes a new version."""
    with compiled(tmp_path) as fast:
        fast.live.demote("odd answers", to)
    before = standing(tmp_path)
    with compiled(tmp_path, count) as again:
        assert route(again(text=SURE)) == "dspy"
        assert len(again.live.store.versions()) == (1 if count == COUNT else 2)
    assert standing(tmp_path) == before


def test_a_rollback_stays(server: LMServer, tmp_path: Path) -> None:
    with compiled(tmp_path):
        pass
    with compiled(tmp_path, 500) as fast:
        assert fast.live.version == 2
        fast.live.rollback("slower")
    with compiled(tmp_path, 500) as again:
        assert standing(tmp_path) == ("live", 1, False)
        assert again.report().version == 1
        assert again.certificate.delta == again.live.guarded.certificate.delta


@pytest.mark.parametrize("automatic", [True, False])
def test_a_version_that_was_not_adopted(server: LMServer, tmp_path: Path, automatic: bool) -> None:
    """As a run leaves it that was killed in between. Without the rules it waits for whoever promotes it."""
    settings = NO_LEARNING | {"lifecycle": {"automatic": automatic, "audit_share": 1e-9}}
    with compiled(tmp_path):
        pass
    with Store.open(tmp_path) as store:
        state = dataclasses.replace(store.state(), stage="teacher", version=None, watch={})
        event = dataclasses.replace(store.events(limit=1)[0], id=None)
        store.move(store.state().revision, state, event)
    with compiled(tmp_path, settings=settings):
        assert standing(tmp_path) == (("live", 1, False) if automatic else ("teacher", None, False))


@pytest.mark.parametrize("options", [{}, {"stage": "live"}, {"stage": "canary"}])
def test_the_stage(server: LMServer, tmp_path: Path, options: Mapping[str, Any]) -> None:
    """With a home a first version is compared before it answers, and a later one answers few calls first."""
    started = options.get("stage")
    with compiled(tmp_path, **{"stage": None, **options}) as fast:
        assert standing(tmp_path)[0] == (started or "shadow")
        assert fast.report().covers
        assert any("shadow" in note for note in fast.report().notes) == (started is None)
        fast.live.promote("seen enough", "live") if started != "live" else None
    with compiled(tmp_path, 500, **{"stage": None, **options}):
        assert standing(tmp_path)[:2] == (started or "canary", 2)


def test_the_stage_without_a_home(server: LMServer) -> None:
    with compiled(None, stage=None) as fast:
        assert fast.live.status()["stage"] == "live"
        assert route(fast(text=SURE)) == "native"
    settings = Distill(home="there", settings={"lifecycle": {"start": "canary"}}).all_settings().lifecycle
    assert (settings.start, settings.refit_start) == ("canary", "canary")
    assert Distill(settings={"lifecycle": {"start": "canary"}}).all_settings().lifecycle.start == "canary"


# --- what is guaranteed ---


def test_a_weaker_version_is_not_told_as_stricter(server: LMServer, tmp_path: Path) -> None:
    with compiled(tmp_path, agreement=0.8) as fast:
        assert fast.report().agreement == fast.certificate.agreement == 0.8
    with compiled(tmp_path, agreement=0.999) as strict:
        report = strict.report()
        assert not report.covers
        assert report.version is None
        assert any("Version 1 does not answer: it was certified for an agreement" in n for n in report.notes)
        assert route(strict(text=SURE)) == "dspy"
    with compiled(tmp_path, agreement=0.8) as again:
        assert again.report().version == 1


def test_a_stricter_version_will_do(server: LMServer, tmp_path: Path) -> None:
    with compiled(tmp_path):
        pass
    with compiled(tmp_path, agreement=0.8, delta=0.2, method="cross") as again:
        report = again.report()
        assert (report.version, report.covers) == (1, True)
        assert (report.agreement, report.method) == (0.9, "split")
        assert report.delta == again.certificate.delta < 0.05
        assert report.asked == {"agreement": 0.8, "delta": 0.2, "method": "cross"}
        assert "at least 0.9 agree" in str(report)
        assert "Asked for: at least 0.8, with confidence 0.8 for all versions together" in str(report)
        assert DistillReport.from_dict(report.to_dict()) == report


@pytest.mark.parametrize("named", ["slices", "costs"])
def test_functions_without_a_name_are_not_compared(server: LMServer, tmp_path: Path, named: str) -> None:
    """Two of them may do different things."""
    function: Any = {"slices": lambda inputs: "all", "costs": lambda inputs, native, teacher: 0.0}[named]
    with compiled(tmp_path, **{named: function}) as fast:
        assert fast.report().covers
    with Store.open(tmp_path) as store:
        assert (store.guarantee() or {})[named] == A_FUNCTION
        assert store.version(1).figures["terms"][named] == A_FUNCTION
    given: dict[str, Any]
    for given in ({}, {named: function}):
        with compiled(tmp_path, **given) as again:
            assert not again.report().covers
    with pytest.raises(ConfigError, match=named):
        Distilled(dspy.Predict(TASK)).open(tmp_path)


def test_a_home_keeps_its_guarantee(server: LMServer, tmp_path: Path) -> None:
    with compiled(tmp_path, agreement=0.85, tolerance={}):
        pass
    with Store.open(tmp_path) as store:
        assert GuaranteeSettings.of(store.guarantee()).agreement == 0.85
        assert store.learned_outputs() == ("label",)
    again = Distilled(dspy.Predict(TASK)).open(tmp_path)
    try:
        assert again.live.settings.guarantee.agreement == 0.85
        assert route(again(text=SURE)) == "native"
        assert again.certificate.agreement == 0.85
    finally:
        again.close()


# --- what is told ---


def later(fast: Distilled) -> VersionRecord:
    """Another version, as a learning process leaves it."""
    store: Store = fast.live.store
    record = dataclasses.replace(store.version(1), number=2, file=store.version_path(2).name, rows_fit=77)
    record = dataclasses.replace(record, certificate={**record.certificate, "coverage": 0.5})
    store.version_path(2).write_bytes(store.version_file(1).read_bytes())
    store.add_version(record, [])
    return record


def test_a_version_that_was_learned_later(server: LMServer, tmp_path: Path) -> None:
    with compiled(tmp_path) as fast:
        first = fast.report()
        later(fast)
        fast.live.adopt(2, "better")
        report = fast.report()
        assert (report.version, report.rows["fit"], report.coverage) == (2, 77, 0.5)
        assert report.cost == first.cost
        assert fast.certificate.coverage == 0.5
        assert fast.native is fast.live.guarded.program
        assert "Version: 2" in str(report)
        fast.live.rollback("slower")
        assert fast.report() == first
        fast.live.adopt(2, "better after all")
        second = fast.report()
    assert second.version == 2
    assert fast.report() == second  # what was in service is left
    assert fast.certificate.coverage == 0.5


def test_rows_are_read_while_nobody_else_learns(server: LMServer, tmp_path: Path) -> None:
    """Another lesson may use them up meanwhile: no row certifies twice."""
    with compiled(tmp_path), Store.open(tmp_path) as store:
        used = [trace.id for trace in store.traces("calibrate")]
    with Store.open(tmp_path) as store:
        with store.learning():
            done: list[Any] = []
            run = threading.Thread(target=lambda: done.append(_in_thread(tmp_path, server)))
            run.start()
            while server.count < 300:
                run.join(0.01)
            run.join(0.3)  # all is labelled, and it waits
            record = dataclasses.replace(store.version(1), number=2, file=store.version_path(2).name)
            store.version_path(2).write_bytes(store.version_file(1).read_bytes())
            fresh = [trace.id or 0 for trace in store.traces("calibrate", fresh=True)]
            store.add_version(record, fresh)
        run.join(60)
        assert fresh
        assert used
        assert done == ["there are no new rows to certify with"]
        assert [each.number for each in store.versions()] == [1, 2]


def _in_thread(home: Path, server: LMServer) -> str:
    """Why no version was made."""
    from dspex.dspy.distilling import Distilling

    reasons: list[str] = []
    original = Distilling._version

    class Noted(Distilling):
        def _version(self, *given: Any) -> Any:
            made = original(self, *given)
            reasons.append(made.reason)
            return made

    lm = dspy.LM(**server.lm_config(cache=False, num_retries=0))
    with dspy.context(lm=lm, num_threads=2):
        options = Distill(home=home, **FAST, settings=NO_LEARNING)
        student = dspy.Predict(TASK)
        Noted(options, student, student.deepcopy(), is_taught=False).run(rows(300), []).close()
    return reasons[0]


CHILD = """
import os, sys, dspy
from dspex.dspy import Distill
from dspy_distill_tools import FAST, TASK, rows
lm = dspy.LM("openai/test-model", api_base=sys.argv[1], api_key="test", cache=False)
with dspy.context(lm=lm):
    fast = Distill(**FAST).compile(dspy.Predict(TASK), trainset=rows())
    print(fast.live.store.home, os.listdir(fast.live.store.home))
    if sys.argv[2] == "drop":
        del fast
"""


@pytest.mark.parametrize("how", ["keep", "drop"])
def test_a_store_without_a_home_leaves_nothing(server: LMServer, tmp_path: Path, how: str) -> None:
    """Nobody closes it."""
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(CHILD), server.url, how],
        cwd=Path(__file__).parent,
        env={**os.environ, "TMPDIR": str(tmp_path), "LITELLM_LOCAL_MODEL_COST_MAP": "true"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert str(tmp_path) in done.stdout
    assert "store.sqlite3" in done.stdout
    assert [each.name for each in tmp_path.iterdir() if each.name.startswith("dspex-store")] == []


def test_the_lifecycle_still_moves(server: LMServer, tmp_path: Path) -> None:
    """What is held after a demotion goes on once it is released."""
    with compiled(tmp_path) as fast:
        fast.live.demote("odd answers")
    with compiled(tmp_path, 500) as again:
        lifecycle.release(again.live.store, "user", "they were right")
        again.live.flush()
        assert again.live.version == 2
        assert again.report().version == 2

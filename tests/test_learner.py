"""Learning on: from the traces of a home to a version, in this process and in one beside it."""

from __future__ import annotations

import os
import random
import signal
import time
from contextlib import suppress
from dataclasses import replace

import numpy as np
import pytest

from distill_rows import LABELS, TEXT, easy, trace
from dspex.distill import jobs, lifecycle
from dspex.distill.curriculum import curriculum
from dspex.distill.learner import keep, learn
from dspex.distill.making import certified, taught
from dspex.distill.report import facts, page
from dspex.distill.settings import DistillSettings
from dspex.distill.store import Event, Store
from dspex.distill.terms import terms_of, wanted_of, weaker
from dspex.errors import CallTimeoutError, ConfigError, InternalError, ResourceError
from dspex.program import load
from dspex.signature import Signature


def settings(**groups):
    return DistillSettings.of({"guarantee": {"agreement": 0.9}, **groups})


def filled(home, fit=300, calibrate=300, *, noise=0.0, seed=0, at=1000.0):
    store = Store.open(home, TEXT)
    add(store, fit, calibrate, noise=noise, seed=seed, at=at)
    return store


def add(store, fit, calibrate, *, noise=0.0, seed=0, at=1000.0, labels=LABELS):
    rows = easy(fit + calibrate, seed, noise, labels)
    store.add(
        [
            replace(row, role="fit" if number < fit else "calibrate", source="teacher", at=at)
            for number, row in enumerate(rows)
        ]
    )


def test_a_version_is_made_and_its_rows_certify_only_once(tmp_path):
    with filled(tmp_path) as store:
        lesson = learn(store, settings())
        assert (lesson.outcome, lesson.version) == ("made", 1)
        record = store.version(1)
        assert record.status == "ready"
        assert record.rows_calibrate == 300
        assert record.certificate["rows"] == 300
        assert load(store.version_file(1)).predict({"text": "open hours today"}).label == "open"
        assert store.counts()["fresh"] == 0
        assert {trace.used_by for trace in store.traces("calibrate")} == {1}
        again = learn(store, settings())
        assert again.outcome == "waiting"
        assert store.next_version() == 2


def test_rows_that_certified_teach_the_next_version(tmp_path):
    with filled(tmp_path) as store:
        learn(store, settings())
        add(store, 0, 300, seed=9)
        lesson = learn(store, settings())
        assert lesson.version == 2
        second = store.version(2)
        assert second.rows_calibrate == 300
        assert second.rows_fit > store.version(1).rows_fit  # 300 more, some of them equal
        assert second.delta < store.version(1).delta


def test_too_few_rows_wait_and_are_not_used_up(tmp_path):
    with filled(tmp_path, calibrate=4) as store:
        lesson = learn(store, settings())
        assert lesson.outcome == "waiting"
        assert lesson.version is None
        assert lesson.rows_needed > 0
        assert store.counts()["fresh"] == 4
        assert store.versions() == []
        assert store.events()[-1].kind == "learning waits"
        assert store.events()[-1].after["rows_needed"] == lesson.rows_needed


def test_an_empty_home_and_one_class_wait(tmp_path):
    with Store.open(tmp_path, TEXT) as store:
        assert learn(store, settings()).outcome == "waiting"
        store.add([replace(trace(f"hello {n}", "open"), source="teacher") for n in range(50)])
        lesson = learn(store, settings())
        assert lesson.outcome == "waiting"
        assert "nothing to learn" in lesson.reason


def test_a_teacher_that_answers_at_random_is_never_certified(tmp_path):
    with filled(tmp_path, noise=1.0) as store:
        lesson = learn(store, settings())
        assert lesson.outcome == "waiting"
        assert lesson.rows_needed is None
        assert "disagree" in lesson.reason


def test_rows_that_are_unlike_the_held_out_ones_are_refused_and_used_up(tmp_path):
    with filled(tmp_path, calibrate=0) as store:
        add(store, 0, 300, noise=1.0, seed=5)
        lesson = learn(store, settings())
        assert (lesson.outcome, lesson.version) == ("refused", 1)
        assert store.version(1).status == "refused"
        assert store.counts()["fresh"] == 0
        assert lifecycle.newer_version(store, store.state()) is None


def test_a_version_that_covers_less_than_the_running_one_is_kept_out_of_use(tmp_path):
    with filled(tmp_path, fit=600, calibrate=600) as store:
        learn(store, settings())
        lifecycle.adopt(store, 1, "user:test", "go")
        add(store, 0, 200, seed=4)
        lesson = learn(store, settings(guarantee={"agreement": 0.9, "novelty": 0.4}))
        assert (lesson.outcome, lesson.version) == ("kept", 2)
        assert store.version(2).status == "retired"
        compared = store.version(2).figures["compared"]
        assert compared["rows"] == 200
        assert compared["version"] == 1
        assert compared["running"]["coverage"] > compared["new"]["coverage"]
        assert "version 1 covers" in lesson.reason
        told = facts(store)["versions"][0]
        assert (told["version"], told["compared"]) == (2, compared)
        assert "version 1 covers" in page(facts(store))


def test_after_a_breach_only_later_rows_certify_and_old_ones_teach_only_if_they_help(tmp_path):
    turned = {"refund": "lost", "lost": "open", "open": "refund"}
    with filled(tmp_path, fit=500, calibrate=300) as store:
        learn(store, settings())
        state = lifecycle.adopt(store, 1, "user:test", "go")
        breach = {"at": 2000.0, "reason": "it shows", "rows": 800}
        event = Event(2000.0, "breach", "watch", "it shows")
        watch = {**state.watch, "breach": breach, "last_breach": breach}
        store.move(state.revision, replace(state, stage="shadow", watch=watch), event)
        add(store, 0, 50, seed=7, at=1500.0)  # fresh, and from before the breach
        add(store, 300, 300, seed=8, at=2500.0, labels=turned)
        rows = curriculum(store, settings().learning, store.state())
        assert len(rows.fresh) == 300
        assert rows.breach == 2000.0
        lesson = learn(store, settings())
        assert lesson.outcome == "made"
        program = load(store.version_file(lesson.version))
        assert program.predict({"text": "open hours today"}).label == "refund"
        assert store.version(lesson.version).rows_fit < 400  # the old rows say otherwise, and were left


def breached(store, at):
    """What a watch does in another process."""
    state = store.state()
    breach = {"at": at, "reason": "it shows", "rows": store.counts()["rows"]}
    watch = {**state.watch, "breach": breach, "last_breach": breach}
    store.move(state.revision, replace(state, stage="shadow", watch=watch), Event(at, "breach", "watch", ""))


def test_a_breach_while_a_version_is_made_retires_it(tmp_path, monkeypatch):
    with filled(tmp_path) as store:
        learn(store, settings())
        lifecycle.adopt(store, 1, "user:test", "go")
        add(store, 0, 300, seed=4)

        def late(*given, **options):
            made = certified(*given, **options)
            breached(store, 2000.0)
            return made

        monkeypatch.setattr("dspex.distill.learner.certified", late)
        lesson = learn(store, settings())
        assert (lesson.outcome, lesson.version) == ("outdated", 2)
        assert "breached while" in lesson.reason
        assert store.version(2).status == "retired"
        assert store.version(2).certificate["reason"] == lesson.reason


def test_a_version_from_before_a_breach_never_follows_it(tmp_path):
    with filled(tmp_path) as store:
        learn(store, settings())
        lifecycle.adopt(store, 1, "user:test", "go")
        add(store, 0, 400, seed=4)
        assert learn(store, settings()).outcome == "made"  # held, say: nobody adopts it
        assert lifecycle.newer_version(store, store.state()).number == 2
        breached(store, 2000.0)
        assert lifecycle.newer_version(store, store.state()) is None


def test_settings_that_are_not_said_are_those_that_the_home_keeps(tmp_path):
    with filled(tmp_path) as store:
        store.keep_guarantee(
            terms_of(settings(guarantee={"agreement": 0.8, "delta": 0.1}).guarantee), ["label"]
        )
        assert learn(store).outcome == "made"
        terms = store.version(1).figures["terms"]
        assert (terms["agreement"], terms["delta"]) == (0.8, 0.1)
        assert store.version(1).certificate["agreement"] == 0.8
        add(store, 0, 300, seed=4)
        assert learn(store, {"guarantee": {"agreement": 0.7}}).outcome != "waiting"
        terms = store.version(2).figures["terms"]
        assert (terms["agreement"], terms["delta"]) == (0.7, 0.1)
        assert weaker(store.version(2), wanted_of(store))


def test_a_weaker_version_in_service_keeps_no_stricter_one_out(tmp_path):
    with filled(tmp_path, fit=600, calibrate=600) as store:
        learn(store, settings(guarantee={"agreement": 0.5}))
        lifecycle.adopt(store, 1, "user:test", "go")
        add(store, 0, 300, seed=4)
        lesson = learn(store, settings(guarantee={"agreement": 0.9, "novelty": 0.4}))
        assert (lesson.outcome, lesson.version) == ("made", 2)
        assert "compared" not in store.version(2).figures


def test_a_running_version_by_slices_is_compared_by_them(tmp_path):
    sliced = settings(guarantee={"agreement": 0.9, "slices": "test_learner:length"})
    with filled(tmp_path, fit=600, calibrate=600) as store:
        assert learn(store, sliced).outcome == "made"
        lifecycle.adopt(store, 1, "user:test", "go")
        add(store, 0, 300, seed=4)
        learn(store, sliced)
        assert store.version(2).figures["compared"]["running"]["coverage"] > 0.5


def length(inputs):
    return "long" if len(inputs["text"]) > 22 else "short"


def test_outputs_that_were_left_out_are_not_tried_again(tmp_path):
    rng = np.random.default_rng(0)
    with Store.open(tmp_path, Signature.of("text -> label, mood")) as store:
        for row in easy(600, 3):
            outputs = {**row.answer.outputs, "mood": str(rng.integers(3))}
            role = "fit" if rng.random() < 0.5 else "calibrate"
            store.add([replace(row, role=role, answer=replace(row.answer, outputs=outputs))])
        assert learn(store, settings()).outcome == "waiting"  # nobody can tell the mood
        store.keep_guarantee(terms_of(settings().guarantee), ["label"])
        assert learn(store).outcome == "made"
        assert list(load(store.version_file(1)).signature.outputs) == ["label"]


def test_the_newest_rows_are_learned_from(tmp_path):
    with filled(tmp_path, fit=400, calibrate=200) as store:
        lesson = learn(store, settings(learning={"max_rows": 150}))
        assert lesson.version == 1
        assert store.version(1).rows_fit == 150


def test_two_do_not_learn_in_one_home_at_once(tmp_path):
    with filled(tmp_path) as store, store.learning(), pytest.raises(ResourceError) as caught:
        learn(store, settings())
    assert caught.value.retryable


def test_a_job_learns_beside_the_service(tmp_path):
    with filled(tmp_path) as store:
        before = store.data_version()
        job = jobs.start(store, settings())
        assert job.poll() is None
        lesson = job.wait()
        assert (lesson.outcome, lesson.version) == ("made", 1)
        assert job.wait() == lesson
        assert job.poll() == 0
        assert store.data_version() != before
        assert store.version(1).status == "ready"
        job.close()


@pytest.mark.skipif(not hasattr(os, "SCHED_IDLE"), reason="no such class of processes here")
@pytest.mark.parametrize("nice", [19, 5])
def test_a_job_gives_way_to_the_service(tmp_path, nice):
    own = os.getpriority(os.PRIO_PROCESS, 0)
    wanted = (min(19, own + nice), os.SCHED_IDLE if nice == 19 else os.sched_getscheduler(0))
    with filled(tmp_path) as store:
        job = jobs.start(store, settings(learning={"nice": nice}))
        seen = set()
        while job.poll() is None and wanted not in seen:
            with suppress(ProcessLookupError):
                pid = job._process.pid
                seen.add((os.getpriority(os.PRIO_PROCESS, pid), os.sched_getscheduler(pid)))
        job.wait()
        job.close()
    assert wanted in seen


def test_an_error_of_a_job_is_raised_here(tmp_path):
    with filled(tmp_path) as store:
        job = jobs.start(store, settings(guarantee={"slices": "nowhere:at_all"}))
        with pytest.raises(ConfigError, match="nowhere"):
            job.wait()
        job.close()


def test_a_job_that_takes_too_long_is_ended(tmp_path):
    with filled(tmp_path) as store:
        job = jobs.start(store, settings(learning={"timeout": 0.05}))
        with pytest.raises(CallTimeoutError, match="learning took"):
            job.wait()
        assert store.versions() == []
        job.close()


def test_a_killed_job_leaves_the_home_before_or_after(tmp_path):
    """Killed at any moment: no version and all rows fresh, or the whole version and all rows used."""
    rng = random.Random(0)
    rounds = 4 * int(os.environ.get("DSPEX_STRESS", "1"))
    with filled(tmp_path) as store:
        job = jobs.start(store, settings())
        begun = time.monotonic()
        job.wait()
        whole = time.monotonic() - begun
    ends = {"before": 0, "after": 0}
    for number in range(rounds):
        home = tmp_path / str(number)
        with filled(home, seed=number) as store:
            job = jobs.start(store, settings())
            time.sleep(rng.uniform(0.3, 1.05) * whole)
            os.kill(job._process.pid, signal.SIGKILL)
            with suppress(InternalError):  # "ended with code -9", unless it was over
                job.wait()
            job.close()
        with Store.open(home) as store:
            versions, fresh = store.versions(), store.counts()["fresh"]
            assert (len(versions), fresh) in ((0, 300), (1, 0))
            ends["after" if versions else "before"] += 1
            assert len(list((home / "versions").glob("*.dspex"))) == len(versions)
            assert learn(store, settings()).outcome == ("waiting" if versions else "made")
    assert sum(ends.values()) == rounds


def test_numbers_of_rows_are_reported(tmp_path):
    with filled(tmp_path) as store:
        learn(store, settings())
        record = store.version(1)
    assert record.figures["line"]["coverage"] == pytest.approx(record.certificate["coverage"])
    assert np.isfinite(record.seconds)


def test_a_refit_learns_the_outputs_that_the_version_before_it_learned(tmp_path):
    both = Signature.of("text -> label, mood")
    rng = np.random.default_rng(0)
    rows = [
        replace(row, answer=replace(row.answer, outputs={**row.answer.outputs, "mood": str(rng.integers(3))}))
        for row in easy(900, 3)
    ]
    with Store.open(tmp_path, both) as store:
        store.add([replace(row, source="teacher") for row in rows[:300]])
        store.add([replace(row, role="calibrate", source="teacher") for row in rows[300:600]])
        assert learn(store, settings()).outcome == "waiting"  # nobody can tell the mood
        lesson = taught(TEXT, list(store.traces("fit")), [], settings().guarantee)
        fresh = curriculum(store, settings().learning, store.state())
        made = certified(lesson, fresh.fresh, settings().guarantee, version=1)
        with store.learning():
            keep(store, made, fresh, store.state(), settings(), 0.0)
        store.add([replace(row, role="calibrate", source="teacher") for row in rows[600:]])
        again = learn(store, settings())
        assert (again.outcome, again.version) == ("made", 2)
        assert list(load(store.version_file(2)).signature.outputs) == ["label"]

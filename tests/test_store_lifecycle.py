"""Versions, state, events, audits and usage in the store."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from dspex import Signature
from dspex.distill.store import Audit, Event, State, Store, Usage, VersionRecord
from dspex.distill.trace import Answer, Trace
from dspex.errors import InputError, ModelFileError, ProgramError, ResourceError

SIGNATURE = Signature.of("text -> label: Literal['a', 'b'], note: str")
EVENT = Event(2.0, "promoted", "rule", "enough", {"stage": "teacher"}, {"stage": "shadow"})


@pytest.fixture
def store(tmp_path: Path) -> Any:
    with Store.open(tmp_path / "home", SIGNATURE, clock=lambda: 7200.5) as opened:
        yield opened


def rows(store: Store, count: int, role: str = "calibrate") -> list[int]:
    return [
        number
        for number in store.add(
            [Trace({"text": str(n)}, Answer({"label": "a"}), role=role) for n in range(count)]  # type: ignore[arg-type]
        )
        if number is not None
    ]


def record(number: int, **more: Any) -> VersionRecord:
    values: dict[str, Any] = {"created": 1.5, "file": f"{number:06}.dspex", "status": "ready"}
    return VersionRecord(number, **{**values, **more})


def add(store: Store, number: int, used: list[int], **more: Any) -> VersionRecord:
    store.version_path(number).write_bytes(b"model")
    made = record(number, **more)
    store.add_version(made, used)
    return made


# --- versions


def test_a_version_its_rows_and_its_event_come_together(store: Store) -> None:
    used = rows(store, 3)
    assert store.next_version() == 1
    made = add(
        store, 1, used[:2], certificate={"covers": True, "reason": "0.97 agree", "curve": [[0.5, None]]},
        figures={"x": 0.1}, rows_fit=5, rows_calibrate=2, delta=0.03, seconds=1.5,
    )  # fmt: skip
    assert store.versions() == [made]
    assert store.version(1) == made
    assert store.next_version() == 2
    assert store.version_file(1).read_bytes() == b"model"
    (event,) = store.events()
    assert (event.kind, event.by, event.reason, event.after["version"]) == (
        "version made",
        "learner",
        "0.97 agree",
        1,
    )
    assert [(each.id, each.used_by) for each in store.traces()] == [(1, 1), (2, 1), (3, None)]


def test_a_refused_version_needs_no_file(store: Store) -> None:
    store.add_version(record(1, status="refused"), [])
    assert store.events()[0].kind == "version refused"
    with pytest.raises(InputError, match="version 1 is refused"):
        store.move(0, State("shadow", 1), EVENT)


def test_a_row_certifies_once(store: Store) -> None:
    used = rows(store, 4)
    fit = rows(store, 1, "fit")
    add(store, 1, used[:2])
    for wrong, why in (
        (used[1], "has certified version 1"),
        (fit[0], "a row to fit on"),
        (used[2], "version 2"),
    ):
        with pytest.raises(InputError, match=why):
            add(store, 2, [used[2], used[3], wrong] if wrong != used[2] else [used[2], used[2]])
    assert len(store.versions()) == 1
    assert store.counts()["fresh"] == 2
    assert len(store.events()) == 1
    add(store, 2, [used[2], 10_000])  # a row that was dropped meanwhile has certified, too
    assert store.counts()["fresh"] == 1


def test_versions_that_cannot_be(store: Store) -> None:
    with pytest.raises(ModelFileError, match=r"000001\.dspex"):
        store.add_version(record(1), [])
    with pytest.raises(InputError, match="ready"):
        store.add_version(record(1, status="redy"), [])
    with pytest.raises(InputError, match="JSON"):
        store.add_version(record(1, status="refused", figures={"x": object()}), [])
    with pytest.raises(ProgramError, match="no version 3"):
        store.version(3)
    add(store, 1, [])
    with pytest.raises(ResourceError, match="a version 1 already") as caught:
        add(store, 1, [])
    assert caught.value.retryable


def test_a_version_whose_file_is_gone_is_an_error(store: Store) -> None:
    add(store, 1, [])
    store.version_path(1).unlink()
    with pytest.raises(ModelFileError, match=r"version 1 is missing.*000001\.dspex"):
        store.version_file(1)
    with pytest.raises(ModelFileError, match="missing"):
        store.check()


def test_a_retired_version_is_not_moved_to(store: Store) -> None:
    add(store, 1, [], status="retired")
    add(store, 2, [])
    store.move(0, State("shadow", 2), EVENT)
    with pytest.raises(InputError, match="retired"):
        store.move(1, State("shadow", 1), EVENT)


def test_files_of_killed_learners_are_removed_but_not_those_being_made(tmp_path: Path) -> None:
    with Store.open(tmp_path, SIGNATURE) as store:
        add(store, 1, [])
        orphan = store.version_path(2)
        half = orphan.with_name("000002.dspex.77.tmp")
        with store.learning():
            orphan.write_bytes(b"x")
            half.write_bytes(b"x")
            Store.open(tmp_path, SIGNATURE).close()
            assert orphan.exists()
            with pytest.raises(ResourceError, match="learned already"), store.learning():
                pass
        Store.open(tmp_path, read_only=True).close()
        assert orphan.exists()
        Store.open(tmp_path, SIGNATURE).close()
    assert not orphan.exists()
    assert not half.exists()
    assert store.version_path(1).exists()


# --- state and events


def test_a_move_is_the_state_and_its_event(store: Store) -> None:
    assert store.state() == State(since=7200.5)
    add(store, 1, [])
    moved = store.move(0, State("shadow", 1, None, 99, 2.0, "enough", True, {"capital": 0.5}), EVENT)
    assert moved == store.state() == State("shadow", 1, None, 1, 2.0, "enough", True, {"capital": 0.5})
    assert store.events(since=1) == [replace(EVENT, id=2)]


def test_of_two_that_move_at_once_one_is_told(store: Store) -> None:
    add(store, 1, [])
    store.move(0, State("shadow", 1), EVENT)
    before = store.events()
    with pytest.raises(ResourceError, match="'shadow' at revision 1, not 0") as caught:
        store.move(0, State("live", 1), EVENT)
    assert caught.value.retryable
    assert store.state().stage == "shadow"
    assert store.events() == before


def test_many_threads_move_one_at_a_time(store: Store) -> None:
    add(store, 1, [])

    def work() -> None:
        done = 0
        while done < 10:
            revision = store.state().revision
            try:
                store.move(revision, State("shadow", 1), EVENT)
                done += 1
            except ResourceError:
                pass

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert store.state().revision == 40
    assert len(store.events()) == 41


@pytest.mark.parametrize(
    "new",
    [State("shadw", 1), State("shadow", 3), State("shadow"), State("teacher", 1), State("live", 1, 5)],  # type: ignore[arg-type]
)
def test_states_that_cannot_be(store: Store, new: State) -> None:
    add(store, 1, [])
    with pytest.raises(InputError):
        store.move(0, new, EVENT)
    assert store.state().revision == 0


def test_events_are_read_newest_first_cut_and_oldest_first_given(store: Store) -> None:
    numbers = [store.record(Event(float(n), f"kind {n}", "user:me")) for n in range(5)]
    assert numbers == [1, 2, 3, 4, 5]
    assert [event.id for event in store.events(limit=2)] == [4, 5]
    assert [event.id for event in store.events(since=3)] == [4, 5]
    with pytest.raises(InputError):
        store.record(Event(1.0, "x", "y", after={"x": {1}}))


# --- audits and usage


def audit(version: int, wrong: bool = False, **more: Any) -> Audit:
    return Audit(3.0, version, "live", 0.75, {"label": "a"}, {"label": "b", "note": "n"}, wrong, **more)


def test_audits_come_back_and_bring_the_watch_along(store: Store) -> None:
    add(store, 1, [])
    store.move(0, State("live", 1), EVENT)
    assert store.add_audits([audit(1), audit(1, True, trace=7)], {"n": 2, "capital": 0.1})
    assert list(store.audits()) == [audit(1, id=1), audit(1, True, trace=7, id=2)]
    state = store.state()
    assert (state.watch, state.revision) == ({"n": 2, "capital": 0.1}, 1)
    assert not store.add_audits([audit(1)])
    assert store.state().watch["n"] == 2
    store.add_audits([audit(2, True), replace(audit(2), stage="shadow")])
    assert [each.id for each in store.audits(version=2)] == [4, 5]
    assert [each.id for each in store.audits(stage="shadow")] == [5]
    assert [each.id for each in store.audits(wrong=True)] == [2, 4]
    assert [each.id for each in store.audits(newest=2)] == [4, 5]
    assert [each.id for each in store.audits(since=3)] == [4, 5]


def test_a_late_audit_does_not_bring_back_the_watch_of_another_version(store: Store) -> None:
    add(store, 1, [])
    add(store, 2, [])
    assert not store.add_audits([audit(1)], {"n": 1})  # no version is in use
    store.move(0, State("live", 1), EVENT)
    store.move(1, State("live", 2, watch={"n": 0}), EVENT)
    assert not store.add_audits([audit(1)], {"n": 9})
    assert not store.add_audits([audit(2)], {"n": 9}, revision=1)
    assert store.state().watch == {"n": 0}
    assert store.add_audits([audit(2)], {"n": 9}, revision=2)
    assert store.add_audits([], {"n": 10})
    assert store.state().watch == {"n": 10}
    assert len(list(store.audits())) == 4


def test_counters_add_up_within_the_hour(store: Store) -> None:
    store.add_counts({"native": 3, "usd": 0.5}, version=1, stage="live")
    store.add_counts({"native": 2, "deferred": 0}, version=1, stage="live", at=10_799.0)
    store.add_counts({"native": 1}, version=None, stage="teacher", at=10_800.0)
    first = Usage(7200, 1, "live", {"native": 5.0, "usd": 0.5})
    second = Usage(10_800, None, "teacher", {"native": 1.0})
    assert store.usage() == [first, second]
    assert store.usage(since=10_800.0) == [second]
    assert store.usage(since=10_799.0) == [first, second]


# --- processes


def test_another_process_is_noticed_and_may_write_at_once(tmp_path: Path) -> None:
    script = (
        "import sys\nfrom dspex.distill.store import *\nfrom dspex.distill.trace import *\n"
        "with Store.open(sys.argv[1]) as store:\n"
        "    print('open', flush=True)\n"
        "    for n in range(200):\n"
        "        store.add([Trace({'text': f'child {n}'}, Answer({'label': 'b'}), role='calibrate')])\n"
        "    store.record(Event(1.0, 'x', 'user:child'))\n"
    )
    with Store.open(tmp_path, SIGNATURE) as store:
        seen = store.data_version()
        rows(store, 1)
        assert store.data_version() == seen  # its own writing is not news
        child = subprocess.Popen([sys.executable, "-c", script, str(tmp_path)], stdout=subprocess.PIPE)
        assert child.stdout is not None
        with child.stdout:
            assert child.stdout.readline() == b"open\n"
            for n in range(200):
                store.add([Trace({"text": f"parent {n}"}, Answer({"label": "a"}), role="calibrate")])
            assert child.wait() == 0
        assert store.data_version() != seen
        assert store.counts()["rows"] == 401
        assert store.events()[0].by == "user:child"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_after_a_fork_both_processes_go_on(tmp_path: Path) -> None:
    script = """
import os, sys, threading
from dspex.distill.store import *
from dspex.distill.trace import *
def add(store, name, count):
    for n in range(count):
        store.add([Trace({"text": f"{name} {n}"}, Answer({"label": "a"}), role="calibrate")])
with Store.open(sys.argv[1]) as store:
    threads = [threading.Thread(target=add, args=(store, f"thread {n}", 100)) for n in range(3)]
    for thread in threads:
        thread.start()
    children = []
    for n in range(4):
        child = os.fork()
        if not child:
            add(store, f"child {n}", 50)
            store.close()
            os._exit(0)
        children.append(child)
    add(store, "parent", 50)
    assert all(os.waitpid(child, 0)[1] == 0 for child in children)
    for thread in threads:
        thread.join()
"""
    Store.open(tmp_path, SIGNATURE).close()
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script, str(tmp_path)], timeout=60, check=False
    )
    assert done.returncode == 0
    with Store.open(tmp_path, SIGNATURE) as store:
        assert store.counts()["rows"] == 300 + 200 + 50
        store.check()


def test_a_lock_that_is_kept_is_said(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dspex.distill.store.database.BUSY_SECONDS", 0.05)
    with Store.open(store.home, SIGNATURE) as other, other._database.writing() as connection:
        connection.execute("UPDATE meta SET value = value")
        start = time.monotonic()
        with (
            Store.open(store.home, SIGNATURE) as third,
            pytest.raises(ResourceError, match="locked") as caught,
        ):
            third.add([Trace({"text": "x"}, Answer({"label": "a"}))])
        assert caught.value.retryable
        assert time.monotonic() - start < 5
        assert third.read_only is False

"""A live program among others: hooks, counters, other processes, forks, and its end."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from dspex.distill import keeper, lifecycle
from dspex.distill.live import LiveProgram
from dspex.distill.status import stored_status
from dspex.distill.store import Event, Store
from live_tools import Planted, add_version, home, rows, serve, settings, stage_of


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with home(tmp_path) as opened:
        add_version(opened)
        yield opened


@pytest.fixture
def live(store: Store) -> Iterator[LiveProgram]:
    with LiveProgram(store, Planted(), settings(), seed=1) as made:
        made.promote("test", "live")
        yield made


def within(seconds: float, what: Callable[[], bool]) -> bool:
    end = time.monotonic() + seconds
    while not what():
        if time.monotonic() > end:
            return False
        time.sleep(0.02)
    return True


def test_what_another_process_moves_is_noticed(store: Store, live: LiveProgram) -> None:
    seen: list[Event] = []
    live.on("demoted", seen.append)
    script = (
        "import sys\nfrom dspex.distill import lifecycle\nfrom dspex.distill.store import Store\n"
        "with Store.open(sys.argv[1], create=False) as store:\n"
        "    lifecycle.demote(store, 'user:eve', 'odd answers')\n"
    )
    subprocess.run([sys.executable, "-c", script, str(store.home)], check=True)
    assert within(5, lambda: live.predict({"text": "the apple here"}).route == "dspy")
    assert within(5, lambda: len(seen) == 1)
    assert (seen[0].by, seen[0].reason) == ("user:eve", "odd answers")


def test_two_programs_over_one_home_come_to_the_same(store: Store, live: LiveProgram) -> None:
    with Store.open(store.home) as again, LiveProgram(again, Planted(), settings(), seed=2) as other:
        calls = rows(400, seed=1, hard=0.0)
        for one, two in zip(calls[:200], calls[200:], strict=True):
            live.predict(one)
            other.predict(two)
        assert live._auditor.settle(20)
        assert other._auditor.settle(20)
        assert live.flush()
        assert other.flush()
        seen = [each.status()["watch"] for each in (live, other)]
        assert seen[0] == seen[1]
        assert seen[0]["n"] == len(list(store.audits(1))) > 60


def test_the_watch_goes_on_where_the_last_process_ended(store: Store) -> None:
    with LiveProgram(store, Planted(), settings(), seed=1) as first:
        first.promote("test", "live")
        serve(first, rows(200, seed=1, hard=0.0))
        before = first.status()["watch"]
    with LiveProgram(store, Planted(), settings(), seed=2) as second:
        assert second.status()["watch"] == before
        state = store.state()
        assert state.watch["upto"] == max(audit.id or 0 for audit in store.audits(1))
        store.add_audits([], {**state.watch, "upto": 0, "watch": None, "checks": 0, "errors": 0})
    with LiveProgram(store, Planted(), settings(), seed=3) as third:  # from the log alone
        assert third.flush()
        assert third.status()["watch"] == before


def test_callbacks_see_all_and_harm_nobody(
    store: Store, live: LiveProgram, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "dspex.distill")
    seen: list[str] = []

    def broken(event: Event) -> None:
        raise RuntimeError("mine")

    live.on("*", broken)
    live.on("*", lambda event: seen.append(event.kind))
    live.on("held", lambda event: seen.append(f"only {event.kind}"))
    live.on("held", lambda event: live.status())  # a callback may use the program
    live.hold("test")
    live.release("test")
    assert seen == ["held", "only held", "released"]
    assert "a callback for 'held' raised" in caplog.text
    assert "released: test" in caplog.text


def test_counters_reach_the_store(store: Store, live: LiveProgram) -> None:
    results = [live.predict(inputs) for inputs in rows(500, seed=2)]
    assert live.flush()
    native = sum(result.route == "native" for result in results)
    counts = {name: 0.0 for each in store.usage() for name in each.counts}
    for each in store.usage():
        for name, value in each.counts.items():
            counts[name] += value
        assert (each.version, each.stage) == (1, "live")
    assert counts["native"] == native
    assert counts["asked"] == counts["deferred"] == 500 - native
    assert counts["usd"] == pytest.approx(0.001 * (counts["asked"] + counts["audited"]))
    assert counts["usd_saved"] == pytest.approx(0.001 * native)
    assert counts["seconds_saved"] > 0
    assert counts["compared"] == counts["audited"] == len(list(store.audits(1)))
    status = stored_status(store)
    assert status["coverage"] == pytest.approx(native / 500)
    assert status["usage"] == counts


def test_status_is_json(store: Store, live: LiveProgram) -> None:
    import json

    serve(live, rows(100))
    status = json.loads(json.dumps(live.status()))
    assert (status["stage"], status["version"], status["held"]) == ("live", 1, False)
    assert status["certificate"]["coverage"] == 0.8
    low, high = status["watch"]["interval"]
    assert 0 <= low <= high <= 1
    assert status["learning"] == {"running": False, "last": None, "rows_until_next": None}
    assert status["events"][-1]["kind"] == "adopted"


def test_an_alarm_in_shadow_keeps_a_version_there(store: Store) -> None:
    teacher = Planted()
    teacher.shift = 0.5
    with LiveProgram(store, teacher, settings(shadow_checks=1000), seed=1) as live:
        live.promote("test", "shadow")
        serve(live, rows(200, hard=0.0))
        assert stage_of(store) == ("shadow", 1)
        breach = [event for event in store.events() if event.kind == "breach"]
        assert len(breach) == 1
        teacher.shift = 0.0
        serve(live, rows(1200, seed=1, hard=0.0))
        assert stage_of(store) == ("shadow", 1)
        live.promote("the teacher was mistaken")
        assert live.status()["watch"]["breach"] is None


def test_moves_by_rule_stand_back_when_another_process_is_first(store: Store, live: LiveProgram) -> None:
    live.demote("test")
    live.release("test")
    serve(live, rows(30, hard=0.0))
    with Store.open(store.home) as other:
        lifecycle.hold(other, "user:eve", "wait")
        for inputs in rows(60, seed=3, hard=0.0):  # enough to move on, by what this process knows
            live.predict(inputs)
        assert live.flush()
    assert stage_of(store) == ("shadow", 1)
    assert [event.kind for event in store.events(limit=1)] == ["held"]


def test_a_forked_child_goes_on_by_itself(store: Store, live: LiveProgram) -> None:
    calls = rows(100, seed=4, hard=0.0)
    mine = [live.predict(inputs).route for inputs in calls[:50]]
    child = os.fork()
    if child == 0:
        try:
            for inputs in calls[50:]:
                live.predict(inputs)
            live.predict({"text": "nothing is named"})
            live.close()
            os._exit(0)
        except BaseException:
            os._exit(1)
    assert os.waitpid(child, 0)[1] == 0
    assert live.flush()
    counts: dict[str, float] = {}
    for each in store.usage():
        for name, value in each.counts.items():
            counts[name] = counts.get(name, 0) + value
    assert counts["native"] == mine.count("native") + 50, "each process counts its own calls"
    assert store.has_answer({"text": "nothing is named"}) is not None


def test_one_thread_which_ends(store: Store) -> None:
    def alive() -> list[str]:
        return [thread.name for thread in threading.enumerate() if thread.name == "dspex-distill"]

    live = LiveProgram(store, Planted(), settings(), seed=1)
    live.promote("test", "live")
    serve(live, rows(50))
    assert len(alive()) == 1
    live.close()
    assert alive() == []


def test_the_end_does_not_wait_for_ever(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    teacher = Planted()
    live = LiveProgram(store, teacher, settings(audit_share=1.0), seed=1)
    live.promote("test", "live")
    teacher.gate.clear()
    for inputs in rows(10, hard=0.0):
        live.predict(inputs)
    begun = time.monotonic()
    live.close(timeout=0.2)
    assert time.monotonic() - begun < 3
    assert "9 audits were dropped" in caplog.text
    teacher.gate.set()
    assert within(5, lambda: not any(t.name == "dspex-distill" for t in threading.enumerate()))


def test_an_interpreter_that_ends_writes_what_it_counted(store: Store) -> None:
    script = (
        "import sys\nsys.path.insert(0, sys.argv[2])\n"
        "from live_tools import *\n"
        "store = Store.open(sys.argv[1], SIGNATURE)\n"
        "live = LiveProgram(store, Planted(), settings(audit_share=1.0), seed=1)\n"
        "live.promote('test', 'live')\n"
        "for inputs in rows(30, hard=0.0): live.predict(inputs)\n"
    )
    command = [sys.executable, "-c", script, str(store.home), str(Path(__file__).parent)]
    subprocess.run(command, check=True, timeout=60)
    assert sum(each.counts.get("native", 0) for each in store.usage()) == 30
    assert len(list(store.audits(1))) == 30


def test_calls_go_on_while_the_program_is_moved(
    store: Store, live: LiveProgram, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each call follows one plan, and each is counted once, whichever plans come and go."""
    monkeypatch.setattr(keeper, "_RETIRED", 0.2)
    calls, errors, answered = rows(3000, seed=6, hard=0.02), [], [0] * 4

    def work(k: int) -> None:
        for inputs in calls[k::4]:
            try:
                result = live.predict(inputs)
                answered[k] += 1
                if result.route == "native" and not result.route.reason.startswith("version 1, live"):
                    errors.append(result.route.reason)
            except Exception as error:
                errors.append(repr(error))

    threads = [threading.Thread(target=work, args=(k,)) for k in range(4)]
    for thread in threads:
        thread.start()
    moves = 0
    while any(thread.is_alive() for thread in threads) or moves < 4:
        live.demote("test") if moves % 2 == 0 else live.promote("test", "live")
        moves += 1
        time.sleep(0.01)
    for thread in threads:
        thread.join()
    assert errors == []
    time.sleep(0.3)
    assert live.flush()
    counted = live.status()["process"]
    assert counted["native"] + counted["asked"] == sum(answered) == 3000
    usage = [each.counts for each in store.usage()]
    assert sum(each.get("native", 0) + each.get("asked", 0) for each in usage) == 3000


def test_what_is_saved_is_known_at_once_after_a_restart(store: Store) -> None:
    with LiveProgram(store, Planted(usd=0.5), settings(audit_share=0.0, automatic=False), seed=1) as first:
        first.promote("test", "live")
        serve(first, rows(20, hard=1.0))
    with LiveProgram(store, Planted(usd=0.5), settings(audit_share=0.0, automatic=False), seed=1) as second:
        serve(second, rows(10, hard=0.0))
    assert sum(each.counts.get("usd_saved", 0) for each in store.usage()) == pytest.approx(5.0)

"""What a report says of a home, as data."""

from __future__ import annotations

import json
import math
from itertools import pairwise

import pytest

from dspex.distill import lifecycle
from dspex.distill.report import facts
from dspex.distill.store import Event, VersionRecord
from report_tools import NOW, add_audits, add_traces, add_version, certificate, open_home, served_home


@pytest.fixture
def store(tmp_path):
    with open_home(tmp_path / "home", clock=lambda: NOW) as store:
        yield store


def served(store, stage="live", at=NOW):
    add_version(store)
    return lifecycle.promote(store, "user:ada", "fine", to=stage, at=at)


def test_of_an_empty_home(store):
    found = facts(store, now=NOW)
    assert found["made"] == NOW
    assert found["state"]["stage"] == "teacher"
    assert found["guarantee"] is found["watch"] is found["drift"] is None
    assert found["versions"] == found["events"] == found["classes"] == found["boundary"] == []
    assert found["usage"]["calls"] == 0
    assert found["usage"]["usd_saved"] is None


def test_can_be_json(tmp_path):
    with served_home(tmp_path / "home") as store:
        text = json.dumps(facts(store), allow_nan=False)
    assert json.loads(text)["format"] == 1


def test_tells_of_the_version_in_use_and_else_of_the_newest(store):
    add_version(store, covers=False)
    assert not facts(store)["guarantee"]["covers"]
    assert facts(store)["guarantee"]["rows_needed"] == 350
    served(store)
    add_version(store, covers=False)
    found = facts(store)
    assert found["guarantee"]["version"] == found["state"]["version"] == 2
    assert found["guarantee"]["covers"]
    assert [each["version"] for each in found["versions"]] == [3, 2, 1]
    assert [each["current"] for each in found["versions"]] == [False, True, False]
    assert [each["coverage"] for each in found["versions"]] == [None, 0.9, None]


def test_thresholds_of_groups_cover_if_one_of_them_does(store):
    for number, (groups, covers) in enumerate([({"a": None, "b": 0.7}, True), ({"a": None}, False)], 1):
        given = certificate(threshold=None, thresholds=groups)
        store.version_path(number).write_bytes(b"model")
        store.add_version(
            VersionRecord(number, NOW, store.version_path(number).name, "ready", None, given), []
        )
        assert facts(store)["guarantee"]["covers"] is covers


def test_the_curve_may_come_as_rows_and_is_thinned(store):
    rows = [[1 - at / 5000, at / 5000, 0.99, 0.98] for at in range(5000)]
    store.version_path(1).write_bytes(b"model")
    given = certificate(curve=rows)
    store.add_version(VersionRecord(1, NOW, store.version_path(1).name, "ready", None, given), [])
    curve = facts(store)["guarantee"]["curve"]
    assert len(curve) <= 200
    assert curve[1] == {"threshold": 0.995, "coverage": 0.005, "agreement": 0.99, "lower": 0.98}


def test_calls_are_counted_by_who_answered_and_why(store):
    served(store)
    add_traces(store, 10)  # 0.002 dollars and half a second each
    store.add_counts({"asked": 7}, version=None, stage="teacher", at=NOW - 7200)
    store.add_counts({"asked": 5}, version=1, stage="shadow", at=NOW - 7200)
    store.add_counts({"asked": 3, "native": 50, "audited": 4, "failed": 1}, version=1, stage="live", at=NOW)
    usage = facts(store)["usage"]
    expected = {
        "calls": 65, "native": 50, "teacher": 15, "before": 7, "shadow": 5, "deferred": 3, "audited": 4,
        "failed": 1,
    }  # fmt: skip
    assert {name: usage[name] for name in expected} == expected
    assert usage["usd_per_call"] == pytest.approx(0.002)
    assert usage["usd_saved"] == pytest.approx((50 - 4) * 0.002)  # an audit is paid for
    assert usage["seconds_saved"] == pytest.approx(50 * 0.5)  # but nobody waits for it
    assert [point["teacher"] for point in usage["series"]] == [12, 0, 3]  # an hour without calls is one, too
    assert sum(point["usd_saved"] for point in usage["series"]) == pytest.approx(usage["usd_saved"])


@pytest.mark.parametrize("hours", [1, 60, 61, 24 * 40, 24 * 365 * 30])
def test_time_is_cut_into_sixty_bars_at_most(store, hours):
    store.add_counts({"asked": 1}, version=None, stage="teacher", at=NOW)
    store.add_counts({"asked": 2}, version=None, stage="teacher", at=NOW + 3600 * (hours - 1))
    series = facts(store)["usage"]["series"]
    assert len(series) <= 60
    assert sum(point["teacher"] for point in series) == 3
    assert all(one["until"] == other["at"] for one, other in pairwise(series))


def test_the_watch_is_run_again_over_the_audits_of_the_version_in_use(store):
    served(store)
    add_audits(store, 300, 6)
    add_audits(store, 50, 50, version=7)  # another version's
    watch = facts(store)["watch"]
    assert (watch["audited"], watch["wrong"], watch["alarmed"]) == (300, 6, False)
    assert watch["agreement"] == pytest.approx(0.98)
    assert 0.9 < watch["low"] < 0.98 < watch["high"] < 1
    assert watch["alarm_at"] == pytest.approx(math.log(20))
    assert len(watch["series"]) <= 200
    assert watch["series"][-1]["n"] == 300
    assert watch["series"][-1]["capital"] == watch["capital"]


def test_the_watch_says_when_it_alarms(store):
    served(store)
    add_audits(store, 200, 60)
    watch = facts(store)["watch"]
    assert watch["alarmed"]
    assert watch["capital"] >= watch["alarm_at"]


def test_the_watch_begins_anew_with_a_version(store):
    served(store)
    add_audits(store, 100, 100)
    add_version(store)
    lifecycle.adopt(store, 2, "user:ada", "again")
    assert facts(store)["watch"]["audited"] == 0
    lifecycle.rollback(store, "user:ada", "back")
    assert facts(store)["watch"]["audited"] == 0  # what was seen before the roll back does not count
    add_audits(store, 40, 2)
    assert facts(store)["watch"]["audited"] == 40


def test_stages_are_told_in_order(store):
    served(store, at=NOW)
    store.record(Event(NOW + 1, "learning failed", "learner", "no rows"))
    lifecycle.hold(store, "user:ada", "wait", at=NOW + 2)
    lifecycle.demote(store, "watch", "breach", at=NOW + 3)
    stages = facts(store)["stages"]
    assert [each["stage"] for each in stages] == ["teacher", "live", "shadow"]
    assert [each["at"] for each in stages] == [NOW, NOW, NOW + 3]


def test_events_say_who_why_and_what_changed(store):
    served(store)
    lifecycle.hold(store, "user:bob", "wait", at=NOW + 1)
    newest, before, *_ = facts(store)["events"]
    assert newest == {"at": NOW + 1, "kind": "held", "by": "user:bob", "reason": "wait",
                      "change": "held no → yes"}  # fmt: skip
    assert before["change"] == "stage teacher → live, version none → 1"


def test_drift_is_of_the_version_in_use(store):
    served(store)
    assert facts(store)["drift"] == {"version": 1, "alarm": False, "at": None, "text": "", "moved": []}
    move = {"what": "scores below 0.5", "direction": "rose", "reference": 0.1, "lately": 0.4, "part": 0.3}
    other = {**move, "what": "class 'a'", "part": 0.7}
    report = {"alarm": True, "score": {"moved": [move]}, "classes": {"moved": [other], "shares": {}}}
    store.record(Event(NOW, "drift", "watch", "Drift.", {}, report))
    drift = facts(store)["drift"]
    assert drift["alarm"]
    assert [each["what"] for each in drift["moved"]] == ["class 'a'", "scores below 0.5"]
    add_version(store)
    lifecycle.adopt(store, 2, "user:ada", "newer")
    assert not facts(store)["drift"]["alarm"]


def test_long_lists_are_cut_and_counted(store):
    add_version(store, classes=1100)
    for at in range(250):
        store.record(Event(NOW, "note", "user:ada", str(at)))
    found = facts(store)
    assert (len(found["classes"]), found["classes_left_out"]) == (1000, 100)
    assert (len(found["events"]), found["events_total"]) == (200, 251)
    assert found["events"][0]["reason"] == "249"

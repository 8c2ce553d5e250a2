"""The commands around a home, as a user types them."""

from __future__ import annotations

import json
import math
import random
import re
import sqlite3
from types import SimpleNamespace

import pytest

from dspex import demo
from dspex.cli.main import main
from dspex.distill import lifecycle
from dspex.distill.settings import GuaranteeSettings
from dspex.distill.terms import terms_of
from dspex.distill.trace import Answer, Trace
from report_tools import HOSTILE, add_audits, add_traces, add_version, open_home, parsed, served_home

MOVES = ["promote", "demote", "rollback", "hold", "release"]


@pytest.fixture
def run(tmp_path, capsys, monkeypatch):
    """Runs a command beside the homes; gives the code and what it printed."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LOGNAME", "grace")

    def run(*argv):
        capsys.readouterr()
        code = main(list(argv))
        out, err = capsys.readouterr()
        return SimpleNamespace(code=code, out=out, err=err, json=lambda: parsed(out))

    return run


@pytest.fixture
def home(tmp_path):
    """A home with two certified versions, none of them in use."""
    with open_home(tmp_path / "home") as store:
        add_traces(store)
        add_version(store)
        add_version(store)
    return "home"


def failure(result):
    """The one line that a failed command prints."""
    assert result.code == 2
    assert result.out == ""
    assert result.err.count("\n") == 1
    return result.err


def state_of(home):
    with open_home(home, read_only=True) as store:
        return store.state()


# Moves


def test_by_hand_through_all_stages_and_back(run, home):
    for command, stage, held in (
        ("promote", "shadow", False), ("promote", "canary", False), ("hold", "canary", True),
        ("release", "canary", False), ("promote", "live", False), ("demote", "shadow", True),
        ("promote", "canary", False),
    ):  # fmt: skip
        result = run(command, home, "--reason", f"because of {command}")
        assert (result.code, result.err) == (0, "")
        state = state_of(home)
        assert (state.stage, state.version, state.held) == (stage, 2, held)
        assert state.reason == f"because of {command}"
    with open_home(home, read_only=True) as store:
        events = [event for event in store.events() if event.by != "learner"]
    assert len(events) == 7
    assert {event.by for event in events} == {"user:grace"}


def test_promote_straight_to_a_stage(run, home):
    result = run("promote", home, "--to", "live", "--reason", "tested elsewhere")
    assert result.out.splitlines() == ["stage     teacher -> live", "version   none -> 2"]
    assert state_of(home).stage == "live"
    assert run("demote", home, "--to", "canary", "--reason", "x").code == 0
    assert state_of(home).stage == "canary"


def test_rollback_puts_the_version_before_in_use(run, home):
    with open_home(home) as store:
        lifecycle.adopt(store, 1, "user:ada", "first")
        lifecycle.adopt(store, 2, "user:ada", "second")
    result = run("rollback", home, "--reason", "worse", "--json")
    facts = result.json()
    assert (facts["before"]["version"], facts["after"]["version"]) == (2, 1)
    assert facts["revision"] == state_of(home).revision
    assert "version   1" in run("hold", home, "--reason", "x").out


@pytest.mark.parametrize("command", MOVES)
def test_a_move_needs_a_reason(run, home, command):
    assert "--reason" in failure(run(command, home))
    assert "is empty" in failure(run(command, home, "--reason", "  "))
    assert state_of(home).revision == 0


@pytest.mark.parametrize("command", MOVES)
def test_a_move_of_what_is_no_home(run, tmp_path, command):
    assert "no store" in failure(run(command, "nowhere", "--reason", "x"))
    assert not (tmp_path / "nowhere").exists()


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["promote", "home", "--to", "lve", "--reason", "x"], "--to"),
        (["promote", "home", "--too", "live", "--reason", "x"], "--too"),
        (["rollback", "home", "--reason", "x"], "no previous version"),
        (["release", "home", "--reason", "x"], "not held"),
        (["hold", "home", "--to", "live", "--reason", "x"], "--to"),
    ],
)
def test_moves_that_cannot_be(run, home, argv, message):
    assert message in failure(run(*argv))
    assert state_of(home).revision == 0


def test_promote_says_why_there_is_nothing_to_promote(run, tmp_path):
    with open_home(tmp_path / "home") as store:
        add_version(store, covers=False)
    assert "no threshold reaches 0.95" in failure(run("promote", "home", "--reason", "x"))


def test_who_did_it_where_the_machine_has_no_names(run, home, monkeypatch):
    import getpass

    def nameless():
        raise OSError("no login")

    monkeypatch.setattr(getpass, "getuser", nameless)
    run("promote", home, "--reason", "x")
    with open_home(home, read_only=True) as store:
        assert store.events()[-1].by.removeprefix("user:").isdigit()


# Status


def test_status_as_text(run, tmp_path):
    served_home(tmp_path / "home").close()
    result = run("status", "home")
    assert (result.code, result.err) == (0, "")
    words = " ".join(result.out.split())
    for part in (
        "stage live: every call", "version 2; 2 made", "at least 95 %", "Certified on 400 rows",
        "rows 20: 20 to learn from", "calls 600, of these 45 % answered natively", "$0.52",
        "60 native answers, 98.3 % agree", "drift", "promoted by user:ada: looks good",
    ):  # fmt: skip
        assert part in words
    assert max(map(len, result.out.splitlines())) <= 80


def test_status_as_json(run, tmp_path):
    served_home(tmp_path / "home").close()
    facts = run("status", "home", "--json").json()
    assert facts["state"]["stage"] == "live"
    assert facts["guarantee"]["coverage"] == 0.9
    assert facts["watch"]["audited"] == 60
    assert (facts["versions"], len(facts["events"])) == (2, 5)
    assert "curve" not in facts["guarantee"]
    assert "series" not in facts["watch"]


def test_status_of_an_empty_home_and_of_an_alarm(run, tmp_path):
    with open_home(tmp_path / "home") as store:
        assert "the teacher answers every call" in " ".join(run("status", "home").out.split())
        add_version(store)
        lifecycle.promote(store, "user:ada", "x", to="live")
        lifecycle.hold(store, "user:ada", "wait")
        add_audits(store, 200, 60)
    words = " ".join(run("status", "home").out.split())
    assert "the watch has alarmed" in words
    assert "held by hand" in words


def test_status_cannot_harm_a_terminal(run, tmp_path):
    served_home(tmp_path / "home", HOSTILE, reason=HOSTILE).close()
    result = run("status", "home")
    assert "\x1b" not in result.out
    assert "\u202e" not in result.out
    assert len(result.out) < 6000


def test_status_and_report_change_nothing(run, tmp_path):
    served_home(tmp_path / "home").close()
    before = {path.name: path.read_bytes() for path in (tmp_path / "home").rglob("*") if path.is_file()}
    assert run("status", "home").code == run("report", "home", "-o", "page.html").code == 0
    after = {path.name: path.read_bytes() for path in (tmp_path / "home").rglob("*") if path.is_file()}
    assert {name: after[name] for name in before if name != "store.sqlite3-shm"} == {
        name: before[name] for name in before if name != "store.sqlite3-shm"
    }


@pytest.mark.parametrize("command", [["status"], ["report"], ["learn"], ["promote", "--reason", "x"]])
def test_homes_that_cannot_be_read(run, tmp_path, command):
    name, *rest = command
    assert "no store" in failure(run(name, "nowhere", *rest))
    (tmp_path / "file").write_text("not a home")
    failure(run(name, "file", *rest))
    home = tmp_path / "damaged"
    served_home(home).close()
    content = (home / "store.sqlite3").read_bytes()
    (home / "store.sqlite3").write_bytes(content[: len(content) // 2])
    assert "damaged" in failure(run(name, "damaged", *rest))


# Learn


def taught_home(path, share):
    """A home with the example set; a coin picks the rows that certify."""
    coin = random.Random(5)
    with open_home(path) as store:
        store.add(
            Trace({"text": row["text"]}, Answer({"label": row["label"]}), source="trainset",
                  role="calibrate" if coin.random() < share else "fit")
            for row in demo.load()
        )  # fmt: skip


def test_learn_makes_a_version_that_can_be_promoted(run, tmp_path):
    taught_home(tmp_path / "home", 0.4)
    result = run("learn", "home", "--agreement", "0.9", "--delta", "0.1", "--set", "learning.threads=2")
    assert (result.code, result.err) == (0, "")
    assert "outcome       made" in result.out
    assert max(map(len, result.out.splitlines())) <= 80
    with open_home(tmp_path / "home", read_only=True) as store:
        (record,) = store.versions()
    assert record.certificate["agreement"] == 0.9
    assert record.delta == pytest.approx(0.1 * 6 / math.pi**2)
    assert run("promote", "home", "--reason", "made", "--json").json()["after"]["version"] == 1
    facts = run("report", "home", "--json").json()
    assert facts["guarantee"]["covers"]
    assert len(facts["classes"]) == 12
    assert facts["guarantee"]["curve"]
    assert run("report", "home").code == 0


def test_learn_shows_the_version_in_service_on_the_same_rows(run, tmp_path):
    taught_home(tmp_path / "home", 0.4)
    run("learn", "home", "--agreement", "0.85")
    run("promote", "home", "--reason", "made")
    taught_home(tmp_path / "home", 0.4)
    result = run("learn", "home", "--agreement", "0.85")
    assert re.search(r"beside +version 1: coverage \d+\.\d %, agreement \d+\.\d %", result.out), result.out
    compared = run("report", "home", "--json").json()["versions"][0]["compared"]
    assert compared["version"] == 1
    assert compared["rows"] == compared["new"]["rows"] == compared["running"]["rows"] > 400


def test_learn_goes_by_what_the_home_keeps(run, tmp_path):
    taught_home(tmp_path / "home", 0.4)
    with open_home(tmp_path / "home") as store:
        store.keep_guarantee(terms_of(GuaranteeSettings.of({"agreement": 0.9, "delta": 0.1})), ("label",))
    facts = run("learn", "home", "--agreement", "0.8", "--json").json()
    assert (facts["outcome"], facts["certificate"]["agreement"]) == ("made", 0.8)
    assert "0.9 is wanted" in facts["weaker"]
    with open_home(tmp_path / "home", read_only=True) as store:
        terms = store.version(1).figures["terms"]
    assert (terms["agreement"], terms["delta"]) == (0.8, 0.1)
    assert "nothing to promote" in failure(run("promote", "home", "--reason", "all the same"))


def test_learn_says_what_is_missing(run, tmp_path):
    taught_home(tmp_path / "home", 0.02)
    facts = run("learn", "home", "--json").json()
    assert (facts["outcome"], facts["version"]) == ("waiting", None)
    assert facts["rows_needed"] > 0
    words = " ".join(run("learn", "home").out.split())
    assert f"missing about {facts['rows_needed']:,} certifying rows" in words


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--agreement", "1.0"], "agreement"),
        (["--agreement", "x"], "--agreement"),
        (["--delta", "0"], "delta"),
        (["--method", "both"], "--method"),
        (["--set", "learning"], "--set learning.threads=2"),
        (["--set", "learning.thread=2"], "threads"),
        (["--set", "learn.threads=2"], "learning"),
        (["--set", "learning.threads=2", "--set", "learning.threads=3"], "twice"),
        (["--delta", "0.1", "--set", "guarantee.delta=0.2"], "twice"),
        (["--set", "learning.threads=many"], "learning.threads"),
    ],
)
def test_learn_refuses(run, home, argv, message):
    assert message in failure(run("learn", home, *argv))
    with open_home(home, read_only=True) as store:
        assert len(store.versions()) == 2


# Report


def test_report_as_a_page(run, tmp_path):
    served_home(tmp_path / "home").close()
    assert "report.html" in run("report", "home").out
    assert (tmp_path / "home" / "report.html").read_text(encoding="utf-8").startswith("<!DOCTYPE html>")
    assert run("report", "home", "-o", "page.html").code == 0
    assert (tmp_path / "page.html").stat().st_size < 400_000


def test_report_as_json(run, tmp_path):
    served_home(tmp_path / "home").close()
    facts = run("report", "home", "--json").json()
    assert facts["guarantee"]["curve"]
    assert len(facts["watch"]["series"]) == 60
    assert "facts.json" in run("report", "home", "--json", "-o", "facts.json").out
    kept = json.loads((tmp_path / "facts.json").read_text())
    assert {**kept, "made": 0} == {**facts, "made": 0}


def test_report_refuses(run, tmp_path):
    served_home(tmp_path / "home").close()
    assert "is a directory" in failure(run("report", "home", "-o", "."))
    assert "No such file" in failure(run("report", "home", "-o", "no/page.html"))


def test_a_locked_home_is_still_reported(run, tmp_path):
    """Readers do not wait for a writer."""
    served_home(tmp_path / "home").close()
    writer = sqlite3.connect(tmp_path / "home" / "store.sqlite3", isolation_level=None)
    try:
        writer.execute("BEGIN IMMEDIATE")
        writer.execute("UPDATE state SET reason = 'half done'")
        facts = run("report", "home", "--json").json()
        assert facts["state"]["reason"] == "looks good"
    finally:
        writer.close()

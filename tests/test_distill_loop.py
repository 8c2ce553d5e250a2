"""The whole loop through the public face: label, certify, move over, be caught out, learn again, go on."""

from __future__ import annotations

import html
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dspy
import pytest

from distill_loop_tools import (
    RELEARN,
    ROWS,
    SETTINGS,
    Mind,
    Service,
    agreeing,
    command,
    compiled,
    examples,
    intent,
    language_model,
    natives,
    opened,
    status,
    until,
)
from dspex.dspy import route
from dspex.testing import LMServer


@pytest.fixture
def mind() -> Mind:
    return Mind()


@pytest.fixture
def server(mind: Mind) -> Iterator[LMServer]:
    with language_model(mind) as running:
        yield running


def says_the_same(example: Any, prediction: Any, trace: Any = None) -> bool:
    return bool(prediction.label == example.label)


def evaluated(program: Any, mind: Mind, start: int = 30_000) -> float:
    """By dspy.Evaluate in its threads, in per cent: over calls that say something and that are new."""
    given = [example for example in examples(start, start + 60) if intent(example.text) is not None]
    dev = [dspy.Example(text=each.text, label=mind.label(each.text)).with_inputs("text") for each in given]
    evaluate = dspy.Evaluate(devset=dev, metric=says_the_same, num_threads=4, display_progress=False)
    result = evaluate(program)
    assert len(result.results) == len(dev)
    return float(result.score)


def learning_processes() -> list[int]:
    """Children of this process that learn."""
    found = []
    for place in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((place / "stat").read_text().rpartition(")")[2].split()[1])
            words = (place / "cmdline").read_bytes()
        except OSError:
            continue  # it ended
        if parent == os.getpid() and b"dspex.distill.job" in words:
            found.append(int(place.name))
    return found


def test_the_loop(mind: Mind, server: LMServer, tmp_path: Path) -> None:
    home = tmp_path / "home"
    with Service(compiled(home)) as service:
        labels_and_certifies(service, server)
        moves_over(service, mind)
        asks_only_as_it_says(service, mind, server)
        is_caught_out(service, mind, home)
        learns_beside_the_calls(service, mind)
        says_what_is_said_now(service, mind)
    is_reported(home)


def labels_and_certifies(service: Service, server: LMServer) -> None:
    report = service.program.report()
    assert server.count == ROWS, "each row is asked once, over the socket"
    assert (report.covers, report.version, report.taught_by) == (True, 1, "teacher")
    assert (service.state().stage, service.state().version) == ("shadow", 1)
    service.program.live.hold("the story takes its time here")
    answers = service.calls(15)
    assert {str(route(answer)) for _, answer in answers} == {"dspy"}
    assert server.count == ROWS + 15


def moves_over(service: Service, mind: Mind) -> None:
    assert evaluated(service.program, mind) == 100.0, "in shadow the language model answers"
    service.live.release("on it goes")
    service.until("canary", 1)
    service.live.hold("and here")
    assert agreeing(service.calls(40), mind) >= 0.8
    assert evaluated(service.program, mind, 31_000) >= 85
    service.live.release("on it goes")
    service.until("live", 1)
    assert evaluated(service.program, mind, 32_000) >= 85
    moves = [event for event in service.live.store.events() if event.kind == "promoted"]
    assert [(move.by, move.after["stage"]) for move in moves] == [("rule", "canary"), ("rule", "live")]


def asks_only_as_it_says(service: Service, mind: Mind, server: LMServer) -> None:
    """A native answer asks no server; one that a coin picked is asked about afterwards, and then is a row."""
    assert service.live.flush()
    server.clear()
    before = service.live.status()["process"]
    found = service.calls(150)
    after = service.live.status()["process"]
    native = natives(found)
    assert len(native) > 75
    assert agreeing(native, mind) >= 0.85
    sources = {trace.inputs["text"]: trace.source for trace in service.live.store.traces()}
    for text, answer in found:
        assert (text in mind.said) == (text in sources)
        if route(answer) == "dspy":
            assert (sources[text], mind.said[text]) == ("deferred", [answer.label])
        else:
            assert sources.get(text, "audit") == "audit"
    audited = after["audited"] - before.get("audited", 0)
    assert 0 < audited < len(native)
    assert server.count == len(found) - len(native) + audited
    assert after["native"] - before["native"] == len(native)


def is_caught_out(service: Service, mind: Mind, home: Path) -> None:
    seen: list[Any] = []
    service.live.on("breach", seen.append)
    mind.changed = True
    found = service.until("shadow", 1)
    assert any(intent(text) == "card_lost" and answer.label == "card_lost" for text, answer in natives(found))
    (breach,) = until(lambda: seen)
    assert (breach.by, breach.before["stage"], breach.after["stage"]) == ("watch", "live", "shadow")
    assert "wrong" in breach.reason
    assert evaluated(service.program, mind, 33_000) == 100.0, "the language model answers again"
    inside, outside = service.live.status(), status(home)
    assert inside["reason"] == outside["state"]["reason"] == breach.reason
    assert inside["watch"]["alarmed"]
    assert outside["watch"]["alarmed"]
    assert outside["state"]["stage"] == "shadow"
    assert breach.reason in [event["reason"] for event in outside["events"] if event["kind"] == "breach"]


def learns_beside_the_calls(service: Service, mind: Mind) -> None:
    workers: set[int] = set()
    meanwhile = rows = 0
    while service.state().version == 1:
        found = service.calls(10)
        rows += len(found)
        assert agreeing(found, mind) == 1.0, "the language model answers while it is learned"
        meanwhile += len(found) if workers else 0
        workers |= set(learning_processes())
        assert rows < 5000
    assert len(workers) == 1
    assert meanwhile > 0
    assert rows > RELEARN - 100, "rows from before the breach do not count; those of Evaluate do"
    service.until("live", 2)
    events = service.live.store.events()
    started = [event for event in events if event.kind == "learning started"]
    assert [event.by for event in started][:2] == ["user:Distill", "rule"]
    kinds = [event.kind for event in events if event.kind in ("breach", "adopted", "promoted")]
    assert kinds == ["adopted", "promoted", "promoted", "breach", "adopted", "promoted", "promoted"]


def says_what_is_said_now(service: Service, mind: Mind) -> None:
    native = natives(service.calls(200))
    lost = [answer.label for text, answer in native if intent(text) == "card_lost"]
    assert len(lost) > 10
    assert lost.count("fraud") > 0.9 * len(lost)
    assert agreeing(native, mind) >= 0.85
    assert evaluated(service.program, mind, 34_000) >= 85
    assert service.live.status()["certificate"]["delta"] < 0.01, "version 2 gets a share of what was left"


def is_reported(home: Path) -> None:
    path = home.parent / "page.html"
    command("report", home, "-o", path)
    page = path.read_text(encoding="utf-8")
    facts = json.loads(command("report", home, "--json"))
    assert (facts["state"]["stage"], facts["state"]["version"], facts["state"]["previous"]) == ("live", 2, 1)
    assert [each["version"] for each in facts["versions"]] == [2, 1]
    breach = next(event for event in facts["events"] if event["kind"] == "breach")
    assert html.escape(breach["reason"]) in page
    for event in facts["events"]:
        assert event["kind"] in page
    for number in (1, 2):
        assert f"version {number}" in page.lower()
    assert all(label in page for label in ("refund", "hours", "fraud"))


#: Versions start live, and stay as they are put.
AT_ONCE = {**SETTINGS, "lifecycle": {**SETTINGS["lifecycle"], "refit_start": "live"}}
SURE = "hello lost my card thanks 7"


def test_moves_from_the_command_line_reach_a_running_service(
    mind: Mind, server: LMServer, tmp_path: Path
) -> None:
    home = tmp_path / "home"
    compiled(home, stage="live", settings=AT_ONCE).close()
    with Service(compiled(home, 500, stage="live", settings=AT_ONCE), 500) as service:
        assert (service.state().stage, service.state().version) == ("live", 2)
        seen: dict[str, float] = {}
        service.live.on("*", lambda event: seen.__setitem__(event.kind, time.monotonic()))

        def told(verb: str, kind: str, *more: str) -> Any:
            """The command's answer, once the program has noticed; in time for it."""
            seen.clear()
            said = json.loads(command(verb, home, "--reason", f"to {verb}", "--json", *more))
            done = time.monotonic()
            until(lambda: kind in seen, 10)
            assert seen[kind] - done < 2.0
            event = [each for each in service.live.store.events() if each.kind == kind][-1]
            assert event.by.startswith("user:")
            assert event.reason == f"to {verb}"
            assert event.after == said["after"]
            return said["after"]

        def reason() -> str:
            return str(route(service.program(text=SURE)).reason)

        assert reason().startswith("version 2, live")
        assert told("rollback", "rolled back")["version"] == 1
        assert reason().startswith("version 1, live")
        assert told("demote", "demoted")["stage"] == "shadow"
        assert reason() == "version 1 is in shadow"
        service.calls(60)
        assert service.state().stage == "shadow", "what was demoted by hand is held"
        told("release", "released")
        service.until("canary", 1)
        told("hold", "held")
        service.calls(100)
        assert (service.state().stage, service.state().held) == ("canary", True)
        assert told("promote", "promoted", "--to", "live") == {
            "stage": "live", "version": 1, "previous": None, "held": False,
        }  # fmt: skip
        assert reason().startswith("version 1, live")
        assert status(home)["state"]["version"] == 1


def standing(service: Service) -> dict[str, Any]:
    """All but the watch, which goes on."""
    return {name: value for name, value in service.state().to_dict().items() if name != "watch"}


def test_what_was_moved_by_hand_stays_when_the_service_starts_again(
    mind: Mind, server: LMServer, tmp_path: Path
) -> None:
    """Both ways to start again: with `open`, and by compiling with the same home."""
    home = tmp_path / "home"
    compiled(home, stage="live", settings=AT_ONCE).close()
    with Service(compiled(home, 500, stage="live", settings=AT_ONCE), 500) as service:
        assert service.state().version == 2
        service.live.rollback("slower")
        left = standing(service)
    asked = server.count
    for again in (lambda: opened(home), lambda: compiled(home, 500, stage="live", settings=AT_ONCE)):
        with Service(again(), 500) as service:
            assert standing(service) == left, "version 2 does not come back by itself"
            assert str(route(service.program(text=SURE)).reason).startswith("version 1, live")
    with Service(opened(home), 500) as service:
        service.live.demote("nothing native", "teacher")
        left = standing(service)
    with Service(compiled(home, 500, stage="live", settings=AT_ONCE), 500) as service:
        assert standing(service) == left, "it is held with the teacher"
        assert route(service.program(text=SURE)) == "dspy"
    assert server.count - asked < 10


def test_evaluate_in_every_stage(mind: Mind, server: LMServer, tmp_path: Path) -> None:
    settings = {**SETTINGS, "lifecycle": {**SETTINGS["lifecycle"], "automatic": False, "audit_share": 0.001}}
    with Service(compiled(tmp_path / "home", settings=settings)) as service:
        service.live.demote("from the start", "teacher")
        asked, scores = {}, {}
        for place, stage in enumerate(("teacher", "shadow", "canary", "live")):
            if place:
                service.live.promote("next", stage)
            server.clear()
            scores[stage] = evaluated(service.program, mind, 35_000 + 1000 * place)
            assert service.live.flush()
            asked[stage] = server.count
            assert service.state().stage == stage
    assert scores["teacher"] == scores["shadow"] == 100.0
    assert min(scores.values()) >= 85
    assert min(asked["teacher"], asked["shadow"]) >= 45, "one question for each row"
    assert asked["shadow"] > asked["canary"] > asked["live"]
    assert asked["live"] < 20

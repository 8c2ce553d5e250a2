"""``dspex status``: where a distilled program stands."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping
from typing import Any

from dspex.cli import output

HELP = "say where a distilled program stands"
DESCRIPTION = (
    "Prints the stage, the version in use and what is guaranteed of it, what the checks of native answers "
    "say, who answered the calls, and what happened last. 'dspex report' tells more."
)
_LABEL = 12
_EVENTS = 5
_LONGEST = 300  # characters of one text
_LEFT_OUT = {"curve", "series"}  # of the report: long lists
_SECTIONS = ("home", "signature", "state", "rows", "guarantee", "usage", "watch", "drift")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("home", metavar="HOME", help="the directory of a distilled program")


def run(args: argparse.Namespace) -> None:
    from dspex.distill.report import facts
    from dspex.distill.store import Store

    with Store.open(args.home, read_only=True) as store:
        found = facts(store)
    if args.json:
        output.print_json(short(found))
        return
    for label, text in _lines(found):
        output.pair(label, output.shorten(text, _LONGEST), _LABEL)


def short(found: Mapping[str, Any]) -> dict[str, Any]:
    """The facts of a report without its long lists, with the last events."""
    kept = {name: _without(found[name]) for name in _SECTIONS}
    return {**kept, "versions": len(found["versions"]), "events": found["events"][:_EVENTS]}


def _without(value: Any) -> Any:
    if not isinstance(value, Mapping):
        return value
    return {name: each for name, each in value.items() if name not in _LEFT_OUT}


def _lines(found: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    from dspex.distill.report import words

    state, rows = found["state"], found["rows"]
    yield "program", words.visible(found["signature"]["text"])
    yield "stage", f"{state['stage']}: {words.stage(state['stage'])}"
    if state["held"]:
        yield "held", "by hand: it does not move on by itself"
    if state["reason"]:
        yield "since", f"{words.moment(state['since'])} UTC: {words.visible(state['reason'])}"
    version = "none" if state["version"] is None else str(state["version"])
    before = "" if state["previous"] is None else f", before it {state['previous']}"
    yield "version", f"{version}{before}; {len(found['versions'])} made"
    if found["guarantee"] is not None:
        yield "guarantee", words.promise(found["guarantee"])
        yield "", words.visible(words.proof(found["guarantee"]))
    yield (
        "rows",
        f"{words.count(rows['rows'])}: {words.count(rows['fit'])} to learn from, "
        f"{words.count(rows['calibrate'])} drawn to certify, {words.count(rows['fresh'])} of these unused",
    )
    yield from _service(found)
    for at, event in enumerate(found["events"][:_EVENTS]):
        said = f"{event['kind']} by {event['by']}" + (f": {event['reason']}" if event["reason"] else "")
        yield "last" if at == 0 else "", f"{words.moment(event['at'])} {words.visible(said)}"


def _service(found: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """What the calls came to."""
    from dspex.distill.report import words

    usage, watch, drift = found["usage"], found["watch"], found["drift"]
    if usage["calls"]:
        share = words.percent(usage["native"] / usage["calls"])
        yield "calls", f"{words.count(usage['calls'])}, of these {share} answered natively"
        known = [
            words.cost(usage["usd_saved"]) if usage["usd_saved"] is not None else None,
            f"{words.duration(usage['seconds_saved'])} of waiting"
            if usage["seconds_saved"] is not None
            else None,
        ]
        if any(known):
            yield "saved", " and ".join(each for each in known if each)
    if watch is not None and watch["audited"]:
        alarm = "; the watch has alarmed" if watch["alarmed"] else ""
        yield (
            "checks",
            f"{words.count(watch['audited'])} native answers, {words.percent(watch['agreement'])} agree "
            f"(between {words.percent(watch['low'])} and {words.percent(watch['high'])}){alarm}",
        )
    if drift is not None and drift["alarm"]:
        yield "drift", words.visible(drift["text"])

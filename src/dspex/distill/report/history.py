"""The page's sections about what is watched and what has happened."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from dspex.distill.report import words
from dspex.distill.report.charts import Axis, Line, line_chart, ticks
from dspex.distill.report.html import foreign, name, table, text
from dspex.distill.report.times import time_axis

__all__ = ["drift", "log", "versions", "watch"]

Facts = Mapping[str, Any]


def watch(facts: Facts) -> str:
    found = facts["watch"]
    if found is None or not found["audited"]:
        return (
            '<p class="quiet">No native answer of the version in use has been checked by the teacher yet.</p>'
        )
    series = found["series"]
    alarm = '<p><span class="differs">The watch has alarmed: the guarantee no longer holds.</span></p>'
    return (
        f"<p>{text(_found(found))}</p>{alarm if found['alarmed'] else ''}"
        f'<div class="pair">{_audited(found, series)}{_capital(found, series)}</div>'
    )


def _found(found: Facts) -> str:
    return (
        f"Of {words.count(found['audited'])} native answers of version {found['version']} that were compared "
        f"with the teacher's, {words.count(found['wrong'])} differed: {words.percent(found['agreement'])} "
        f"agree. With a chance of {words.percent(1 - found['delta'])}, the true agreement lay between the "
        f"two edges at every moment so far; it is now between {words.percent(found['low'])} and "
        f"{words.percent(found['high'])}."
    )


def _audited(found: Facts, series: Sequence[Facts]) -> str:
    target = found["target"]
    middle = series[len(series) // 8 :]  # the first few comparisons say nothing, and would set the scale
    low = max(0.0, min([point["low"] for point in middle] + [target]) - 0.01)
    y = Axis("", low, 1, lambda share: f"{100 * share:.4g}%", ticks(low, 1))
    seen, low_edge, high_edge = (
        [(point["n"], point[name]) for point in series] for name in ("agreement", "low", "high")
    )
    return line_chart(
        "audited",
        "Agreement of the native answers that were checked",
        f"After {words.count(found['audited'])} checks it is {words.percent(found['agreement'])}, between "
        f"{words.percent(found['low'])} and {words.percent(found['high'])}.",
        [Line("found", seen, "watch")],
        _checks(series),
        y,
        band=(high_edge, low_edge, "watch"),
        rule=(target, f"promised: {words.percent(target)}"),
    )


def _capital(found: Facts, series: Sequence[Facts]) -> str:
    """The bet against the guarantee: it grows where answers differ too often."""
    points = [(point["n"], point["capital"]) for point in series if point["capital"] is not None]
    if not points:
        return ""
    alarm = found["alarm_at"]
    low = min(0.0, *(level for _, level in points))
    high = max(alarm * 1.08, *(level for _, level in points))
    return line_chart(
        "capital",
        "Evidence against the guarantee",
        f"The capital of a bet that the guarantee is broken is now {_capital_of(found['capital'])} times its "
        f"stake; the watch alarms at {_capital_of(alarm)}.",
        [Line("capital of the bet", points, "watch")],
        _checks(series),
        Axis("times the stake", low, high, _capital_of, _powers(low, high)),
        rule=(alarm, f"alarm, at {_capital_of(alarm)}"),
    )


def _checks(series: Sequence[Facts]) -> Axis:
    last = series[-1]["n"]
    return Axis("checks", 0, last, words.count, ticks(0, last))


def _powers(low: float, high: float) -> list[float]:
    """Logarithms of powers of ten from low to high, at most six."""
    first, last = math.ceil(low / math.log(10) - 1e-9), math.floor(high / math.log(10))
    step = max(1, -(-(last - first) // 5))
    return [math.log(10) * at for at in range(first, last + 1, step)]


def _capital_of(log: float | None) -> str:
    if log is None:
        return "–"
    return f"{math.exp(min(log, 700.0)):.3g}"


def drift(facts: Facts) -> str:
    found = facts["drift"]
    if found is None:
        return '<p class="quiet">Drift is not watched yet: there is no version in use.</p>'
    if not found["alarm"]:
        return (
            f"<p>Nothing has said yet that the inputs have changed since version {found['version']} was "
            "made.</p>"
        )
    return (
        f'<p><span class="differs">The inputs have changed since version {found["version"]} was made</span>, '
        f"since {words.moment(found['at'])} UTC at the latest. That says nothing yet about the "
        f"answers: the watch judges these.</p><p>{foreign(found['text'], 600)}</p>{_moved(found['moved'])}"
    )


def _moved(moves: Sequence[Facts]) -> str:
    if not moves:
        return ""
    rows = [
        [name(move["what"]), words.percent(move["reference"]), words.percent(move["lately"])]
        for move in moves
    ]
    header = ["what moved", "before", "lately"]
    return table("Shares of the calls, most evidence first", header, rows, label="what moved")


def versions(facts: Facts) -> str:
    found = facts["versions"]
    if not found:
        return '<p class="quiet">No version has been made.</p>'
    header = ["version", "made, UTC", "learned from", "certified on", "coverage", "agreement", "δ", "took",
              "status"]  # fmt: skip
    rows = [
        [
            str(each["version"]),
            words.moment(each["made"]),
            words.count(each["rows_fit"]),
            words.count(each["rows_calibrate"]),
            words.percent(each["coverage"]),
            words.percent(each["agreement"]),
            words.percent(each["delta"], 2),
            words.duration(each["seconds"]),
            foreign(each["status"]),
        ]
        for each in found
    ]
    if any(each["status"] != "ready" for each in found):
        header.append("why")
        for row, each in zip(rows, found, strict=True):
            row.append("" if each["status"] == "ready" else foreign(each["reason"], 200))
    now = next((at for at, each in enumerate(found) if each["current"]), None)
    caption = "Newest first; the version in use is in bold. Agreement is what is guaranteed."
    return _stage_chart(facts) + table(caption, header, rows, label="versions", left=(1, 8, 9), now=now)


def _stage_chart(facts: Facts) -> str:
    """Stages over time, as steps."""
    moves = facts["stages"]
    if len(moves) < 2:
        return ""
    names = list(words.STAGES)
    points = [(move["at"], float(names.index(move["stage"]))) for move in moves if move["stage"] in names]
    points.append((max(facts["made"], points[-1][0]), points[-1][1]))
    y = Axis("", 0, len(names) - 1, lambda level: names[round(level)], range(len(names)))
    path = ", ".join(f"{move['stage']} from {words.moment(move['at'])}" for move in moves[-20:])
    return (
        '<div class="pair">'
        + line_chart(
            "stages", "Stages over time", f"{path}.", [Line("stage", points, "native", steps=True)],
            time_axis(points[0][0], points[-1][0]), y,
        )
        + "</div>"
    )  # fmt: skip


def log(facts: Facts) -> str:
    events = facts["events"]
    if not events:
        return '<p class="quiet">Nothing has happened yet.</p>'
    items = "".join(_event(event) for event in events)
    left = facts["events_total"] - len(events)
    more = f'<p class="note">{words.count(left)} earlier events are left out.</p>' if left > 0 else ""
    return f'<ol class="log" reversed>{items}</ol>{more}'


def _event(event: Facts) -> str:
    at = words.moment(event["at"], seconds=True)
    change = f" ({text(event['change'])})" if event["change"] else ""
    return (
        f"<li><time>{at}</time><div><p><b>{foreign(event['kind'], 80)}</b>{change}</p>"
        f'<p>{foreign(event["reason"])} <span class="by">by {foreign(event["by"], 80)}</span></p></div></li>'
    )

"""The page's sections about what is guaranteed, what it covers and what it saves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from dspex.distill.report import words
from dspex.distill.report.charts import Axis, Bars, Line, bar_chart, line_chart, share_bar, ticks
from dspex.distill.report.html import Cell, foreign, name, table, text
from dspex.distill.report.times import time_axis

__all__ = ["boundary", "classes", "coverage", "headline", "savings"]

Facts = Mapping[str, Any]
_TALL = 16  # rows of a table that are shown without scrolling
_CURVE_ROWS = 12


def headline(facts: Facts) -> str:
    guarantee, usage = facts["guarantee"], facts["usage"]
    parts = []
    if guarantee is None:
        parts.append(
            '<p class="claim">Nothing has been learned yet, so the teacher answers every call.</p>'
            f"<p>{words.count(facts['rows']['rows'])} answers of the teacher are stored.</p>"
        )
    else:
        claim = text(words.promise(guarantee))
        for share in (guarantee["agreement"], guarantee["delta"]):
            shown = words.percent(share)
            claim = claim.replace(f" {shown}", f" <strong>{shown}</strong>", 1)
        parts.append(f'<p class="claim">{claim}</p><p>{text(words.proof(guarantee))}</p>')
    parts.append(_stages(facts["state"], facts["watch"]))
    parts.append(_tiles(_headline_tiles(facts, guarantee, usage)))
    if guarantee and guarantee["covers"] and guarantee["assumptions"]:
        points = "".join(f"<li>{text(each)}</li>" for each in guarantee["assumptions"])
        parts.append(f"<h3>This holds as long as</h3><ul>{points}</ul>")
    return "".join(parts)


def _stages(state: Facts, watch: Facts | None) -> str:
    steps = [
        f"<li{' aria-current=step' if each == state['stage'] else ''}>{each}</li>" for each in words.STAGES
    ]
    if state["held"]:
        steps.append('<li class="flag">held by hand</li>')
    if watch and watch["alarmed"]:
        steps.append('<li class="alarm">the watch has alarmed</li>')
    now = f"Stage {state['stage']}: {words.stage(state['stage'])}."
    why = f" Since {words.moment(state['since'])} UTC" if state["since"] else ""
    because = f": {foreign(state['reason'])}" if why and state["reason"] else ""
    return f'<ol class="stage" aria-label="stage">{"".join(steps)}</ol><p>{text(now)}{why}{because}</p>'


def _headline_tiles(facts: Facts, guarantee: Facts | None, usage: Facts) -> list[tuple[str, str, str]]:
    state = facts["state"]
    version = "none" if state["version"] is None else str(state["version"])
    tiles = [("version in use", version, f"of {len(facts['versions'])} made")]
    if guarantee:
        covers = guarantee["covers"]
        tiles.append(
            ("coverage, certified", words.percent(guarantee["coverage"] if covers else 0.0), "of the calls")
        )
        if covers:
            found = 1 - guarantee["errors"] / guarantee["accepted"] if guarantee["accepted"] else None
            tiles.append(
                (
                    "agreement, certifying rows",
                    words.percent(found),
                    f"at least {words.percent(1 - guarantee['upper_bound'])} at this δ",
                )
            )
    if usage["calls"]:
        share = words.percent(usage["native"] / usage["calls"])
        tiles.append(("answered natively", share, f"of {words.count(usage['calls'])} calls so far"))
    return tiles


def _tiles(tiles: Sequence[tuple[str, str, str]]) -> str:
    cells = "".join(
        f'<div><dt>{text(label)}</dt><dd>{text(value)}</dd><dd class="more">{text(more)}</dd></div>'
        for label, value, more in tiles
    )
    return f'<dl class="tiles">{cells}</dl>'


def coverage(facts: Facts) -> str:
    """The curve of what could be guaranteed at which coverage."""
    guarantee = facts["guarantee"]
    if guarantee and guarantee["groups"]:
        return _groups(guarantee)
    curve = sorted(guarantee["curve"], key=lambda point: point["coverage"]) if guarantee else []
    if not curve:
        return '<p class="quiet">There is no version yet whose thresholds could be compared.</p>'
    # With few rows the bound says nothing, and would set the scale.
    lowest = min(point["lower"] for point in curve if point["coverage"] > 0.15 or point is curve[-1])
    target = guarantee["agreement"]
    low = max(0.0, min(lowest, target) - 0.01)
    x = Axis("coverage: share of the calls answered natively", 0, 1, _percent, ticks(0, 1))
    y = Axis("of the native answers", low, 1, _percent, ticks(low, 1))
    found = [(point["coverage"], point["agreement"]) for point in curve]
    bound = [(point["coverage"], point["lower"]) for point in curve]
    mark = _chosen(guarantee)
    chosen = (
        f"The chosen threshold covers {words.percent(guarantee['coverage'])} of the rows."
        if guarantee["covers"]
        else "No threshold was chosen."
    )
    chart = line_chart(
        "curve",
        "Agreement at each coverage",
        f"From {words.percent(found[0][0])} to {words.percent(found[-1][0])} coverage the agreement goes "
        f"from {words.percent(found[0][1])} to {words.percent(found[-1][1])}, its lower bound from "
        f"{words.percent(bound[0][1])} to {words.percent(bound[-1][1])}. {chosen}",
        [
            Line("found on the certifying rows", found, "native"),
            Line("lower bound, each point by itself", bound, "native", dashed=True),
        ],
        x,
        y,
        band=(found, bound, "native"),
        rule=(target, f"wanted: {words.percent(target)}"),
        mark=mark,
    )
    return f'<div class="pair">{chart}<div>{_curve_words(guarantee, chosen)}{_curve_table(curve)}</div></div>'


def _groups(guarantee: Facts) -> str:
    """Groups with thresholds of their own have no common curve."""
    rows = [
        [
            Cell(name(group["group"])),
            Cell(words.count(group["rows"]), group["rows"]),
            _of_rows(group),
            Cell(words.count(group["errors"]), group["errors"]),
            _bound(group),
            Cell(words.score(group["threshold"]), -1 if group["threshold"] is None else group["threshold"]),
            Cell(words.count(group["rows_needed"]), group["rows_needed"] or 0),
        ]
        for group in guarantee["groups"]
    ]
    certified = sum(group["threshold"] is not None for group in guarantee["groups"])
    header = ["group", "rows", "coverage", "differing", "agreement at least", "threshold", "rows missing"]
    return table(
        f"Each group has a threshold of its own; {certified:,} of {len(rows):,} shown are guaranteed.",
        header, rows, label="groups", sortable=len(rows) > 1, tall=len(rows) > _TALL,
    )  # fmt: skip


def _of_rows(group: Facts) -> Cell:
    share = group["accepted"] / group["rows"] if group["rows"] else 0.0
    return Cell(words.percent(share) + share_bar(share), share)


def _bound(group: Facts) -> Cell:
    bound = 1 - group["upper_bound"] if group["threshold"] is not None else None
    return Cell(words.percent(bound), -1 if bound is None else bound)


def _chosen(guarantee: Facts) -> tuple[float, float, str] | None:
    if not guarantee["covers"] or not guarantee["accepted"]:
        return None
    agreement = 1 - guarantee["errors"] / guarantee["accepted"]
    return guarantee["coverage"], agreement, "the chosen threshold"


def _curve_words(guarantee: Facts, chosen: str) -> str:
    if guarantee["covers"]:
        where = f" A native answer stands from a score of {words.score(guarantee['threshold'])} on."
    else:
        where = ""
    return (
        f"<p>{text(chosen + where)}</p>"
        '<p class="note">The line is what was counted on the certifying rows. The true agreement at one '
        f"point lies above the dashed bound but for a chance of {words.percent(guarantee['delta'])}. The "
        "thresholds were tried in an order fixed beforehand, so choosing one costs no further chance.</p>"
    )


def _curve_table(curve: Sequence[Facts]) -> str:
    step = -(-len(curve) // _CURVE_ROWS)
    rows = [
        [
            words.percent(point["coverage"]),
            words.percent(point["agreement"]),
            words.percent(point["lower"]),
            words.score(point["threshold"]),
        ]
        for point in curve[::step]
    ]
    header = ["coverage", "agreement", "lower bound", "threshold"]
    made = table("Some points of the curve", header, rows, label="points of the curve")
    return f"<details><summary>The figures as a table</summary>{made}</details>"


def savings(facts: Facts) -> str:
    usage = facts["usage"]
    if not usage["calls"]:
        return '<p class="quiet">No calls have been counted yet.</p>'
    known = usage["usd_per_call"] is not None
    tiles = [
        ("native answers", words.count(usage["native"]), words.percent(usage["native"] / usage["calls"])),
        ("asked of the teacher", words.count(usage["teacher"]), _shares_of_teacher(usage)),
        ("checked afterwards", words.count(usage["audited"]), "native answers, compared with the teacher's"),
        (
            "cost saved",
            words.cost(usage["usd_saved"]),
            f"{words.cost(usage['usd_per_call'])} a call; checks taken off"
            if known
            else "no answer says what it cost",
        ),
        (
            "waiting saved",
            words.duration(usage["seconds_saved"]),
            f"{words.duration(usage['seconds_per_call'])} a call"
            if usage["seconds_per_call"] is not None
            else "no answer says how long it took",
        ),
    ]
    return _tiles(tiles) + _usage_charts(usage["series"], known)


def _shares_of_teacher(usage: Facts) -> str:
    parts = [
        f"{words.count(usage[kind])} {said}"
        for kind, said in (
            ("before", "before there was a version"),
            ("shadow", "in shadow"),
            ("deferred", "deferred"),
            ("failed", "failed"),
        )
        if usage[kind]
    ]
    return ", ".join(parts) or "none"


def _usage_charts(series: Sequence[Facts], priced: bool) -> str:
    if not series:
        return ""
    charts = _calls_chart(series) + _saved_chart(series, priced)
    return f'<div class="pair">{charts}</div>'


def _calls_chart(series: Sequence[Facts]) -> str:
    layers = [
        Bars("native", [max(point["native"] - point["audited"], 0) for point in series], "native"),
        Bars("native and checked", [min(point["audited"], point["native"]) for point in series], "watch"),
        Bars("teacher", [point["teacher"] for point in series], "teacher"),
    ]
    highest = max(point["native"] + point["teacher"] for point in series) or 1
    hours = round((series[0]["until"] - series[0]["at"]) / 3600)
    return bar_chart(
        "calls",
        "Calls over time",
        f"{_native_share(series[0])} of the calls were answered natively at the beginning and "
        f"{_native_share(series[-1])} at the end.",
        layers,
        [f"{words.moment(point['at'])} UTC" for point in series],
        time_axis(series[0]["at"], series[-1]["until"]),
        Axis("each hour" if hours == 1 else f"each {hours} hours", 0, highest, _short, ticks(0, highest, 4)),
    )


def _saved_chart(series: Sequence[Facts], priced: bool) -> str:
    total, points = 0.0, [(series[0]["at"], 0.0)]
    for point in series:
        total += point["usd_saved" if priced else "seconds_saved"] or 0.0
        points.append((point["until"], total))
    highest = max(abs(level) for _, level in points)
    if not highest:
        return ""
    unit, size = ("US dollars", 1) if priced else _unit_of(highest)
    points = [(at, level / size) for at, level in points]
    low, high = min(level for _, level in points), max(level for _, level in points)
    return line_chart(
        "saved",
        "Cost saved so far" if priced else "Waiting saved so far",
        f"It adds up to {words.cost(total) if priced else words.duration(total)}.",
        [Line("saved, checks taken off" if priced else "saved", points, "native")],
        time_axis(points[0][0], points[-1][0]),
        Axis(unit, min(low, 0.0), max(high, 0.0), _short, ticks(min(low, 0.0), max(high, 0.0), 4)),
    )


def _unit_of(seconds: float) -> tuple[str, int]:
    return next(
        (name, size)
        for name, size in (("days", 86_400), ("hours", 3600), ("minutes", 60), ("seconds", 1))
        if seconds >= 2 * size or size == 1
    )


def _native_share(point: Facts) -> str:
    calls = point["native"] + point["teacher"]
    return words.percent(point["native"] / calls) if calls else "none"


def classes(facts: Facts) -> str:
    rows = facts["classes"]
    if not rows:
        return '<p class="quiet">There are no figures by class yet.</p>'
    target = facts["guarantee"]["agreement"]
    promise = (
        "<p>Groups are guaranteed by themselves; the table counts by the teacher's answers.</p>"
        if facts["guarantee"]["thresholds"] is not None
        else "<p>The guarantee is for all of them together; a single class can lie below it.</p>"
    )
    lines = [_class_row(row, target) for row in rows]
    header = ["class", "rows", "coverage", "agreement", "answered", "differing"]
    more = f" {facts['classes_left_out']:,} more are left out." if facts["classes_left_out"] else ""
    caption = f"{len(rows):,} {'class' if len(rows) == 1 else 'classes'} of the certifying rows.{more}"
    made = table(
        text(caption), header, lines, label="classes", sortable=len(rows) > 1, tall=len(rows) > _TALL
    )
    return f"{promise if facts['guarantee']['covers'] else ''}{made}"


def _class_row(row: Facts, target: float) -> list[Cell | str]:
    agreement = row["agreement"]
    return [
        Cell(name(row["class"])),
        Cell(words.count(row["rows"]), row["rows"]),
        Cell(words.percent(row["coverage"]) + share_bar(row["coverage"]), row["coverage"]),
        Cell(
            words.percent(agreement),
            -1 if agreement is None else agreement,
            "low" if agreement is not None and agreement < target else None,
        ),
        Cell(words.count(row["answered"]), row["answered"]),
        Cell(words.count(row["wrong"]), row["wrong"]),
    ]


def boundary(facts: Facts) -> str:
    pairs = facts["boundary"]
    if not pairs:
        return '<p class="quiet">There are no such pairs.</p>'
    cards = "".join(
        f'<ul class="cards">{_card(pair["answered"], "answered")}{_card(pair["deferred"], "deferred")}</ul>'
        for pair in pairs
    )
    return (
        "<p>Certifying rows that the gate deferred, those nearest to the threshold, each below the row most "
        f'like it that was let through.</p><div class="pair close">{cards}</div>'
    )


def _card(row: Facts, which: str) -> str:
    same = row["native"] == row["teacher"]
    asked = (
        foreign(next(iter(row["inputs"].values())))
        if len(row["inputs"]) == 1
        else "\n".join(
            f"<b>{foreign(field, 60)}</b> {foreign(value)}" for field, value in row["inputs"].items()
        )
    )
    verdict = '<span class="agrees">agrees</span>' if same else '<span class="differs">differs</span>'
    teacher = "" if same else f", teacher <b>{name(row['teacher'])}</b>"
    return (
        f'<li class="{"same" if same else "other"}"><p class="asked">{asked}</p>'
        f'<p class="said">{which}, score {words.score(row["score"])}: native '
        f"<b>{name(row['native'])}</b>{teacher} ({verdict})</p></li>"
    )


def _percent(share: float) -> str:
    return f"{100 * share:.4g}%"


def _short(value: float) -> str:
    """A number in few characters."""
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.3g}{unit}"
    return f"{value:.3g}"

"""The figures as markdown: what was to be reached, then one table a section."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from benchmarks.rounds import OTHERS
from benchmarks.sections import Section, Target
from benchmarks.timing import spread


def markdown(title: str, sections: Sequence[Section], machine: dict[str, Any]) -> str:
    parts = [f"# {title}", "", *_targets(sections)]
    for section in sections:
        parts += _section(section)
    parts.append(
        "Medians over the rounds, the range in brackets. Beside: how many times better than the peer, within "
        "a round. Others: cores that other processes kept busy, in the worst round."
    )
    parts += ["", f"{machine['processor']}, {machine['cores']} cores, Python {machine['python']}."]
    return "\n".join(parts) + "\n"


def _targets(sections: Sequence[Section]) -> list[str]:
    lines = ["| target | reached | bound | |", "|---|---:|---:|---|"]
    lines += [_target(target) for section in sections for target in section.targets]
    return [*lines, ""]


def _target(target: Target) -> str:
    bound = f"{'≥' if target.at_least else '≤'} {target.bound:g}{target.unit}"
    verdict = "met" if target.met else "**missed**"
    return f"| {target.what} | {_cell(target.values)}{target.unit} | {bound} | {verdict} |"


def _section(section: Section) -> list[str]:
    figures = list(dict.fromkeys(name for series in section.cases.values() for name in series))
    shown = [name for name in figures if name != OTHERS]
    lines = [f"## {section.title}", "", section.note, ""]
    lines.append("| " + " | ".join(["", *shown, "beside", "others"]) + " |")
    lines.append("|---|" + "---:|" * (len(shown) + 2))
    for name, series in section.cases.items():
        cells = [_cell(series[figure]) if figure in series else "" for figure in shown]
        beside = "" if section.peer_of(name) == name else f"{_cell(section.ratios(name))}x"
        lines.append("| " + " | ".join([name, *cells, beside, f"{max(series[OTHERS]):.2f}"]) + " |")
    return [*lines, ""]


def _cell(values: Sequence[float]) -> str:
    middle, low, high = spread(values)
    if low == high:
        return _short(middle)
    return f"{_short(middle)} ({_short(low)} to {_short(high)})"


def _short(value: float) -> str:
    if value == round(value):
        return f"{value:,.0f}"
    size = abs(value)
    return f"{value:,.0f}" if size >= 100 else f"{value:.1f}" if size >= 10 else f"{value:z.2f}"

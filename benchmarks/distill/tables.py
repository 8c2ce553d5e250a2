"""What a part gives: tables, and targets; as markdown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from benchmarks.sections import Target
from benchmarks.timing import spread


@dataclass
class Table:
    """A table of figures.

    Attributes:
        title: its heading.
        columns: names; the first is that of the line.
        lines: cells, a text or a figure each; a list of figures is shown as median and range.
        note: what one has to know to read it, the split that the figures are from among it.
        targets: what was to be reached.
    """

    title: str
    columns: Sequence[str]
    lines: list[list[Any]] = field(default_factory=list)
    note: str = ""
    targets: list[Target] = field(default_factory=list)

    def add(self, *cells: Any) -> None:
        assert len(cells) == len(self.columns), self.title
        self.lines.append(list(cells))

    def to_dict(self) -> dict[str, Any]:
        return asdict(self) | {"targets": [asdict(each) | {"met": each.met} for each in self.targets]}


def as_markdown(table: Table) -> str:
    """One table alone."""
    return "\n".join(_table(table))


def markdown(tables: Iterable[Table], machine: dict[str, Any]) -> str:
    found = list(tables)
    targets = [_target(target) for table in found for target in table.targets]
    parts = ["# Distillation", ""]
    if targets:
        parts += ["| target | reached | bound | |", "|---|---:|---:|---|", *targets, ""]
    for table in found:
        parts += _table(table)
    parts += [
        "Medians over the seeds or rounds, the range in brackets.",
        "",
        f"{machine['processor']}, {machine['cores']} cores, Python {machine['python']}.",
    ]
    return "\n".join(parts) + "\n"


def _table(table: Table) -> list[str]:
    head = ["| " + " | ".join(table.columns) + " |", "|---|" + "---:|" * (len(table.columns) - 1)]
    lines = ["| " + " | ".join(map(cell, line)) + " |" for line in table.lines]
    return [f"## {table.title}", "", table.note, "", *head, *lines, ""]


def _target(target: Target) -> str:
    bound = f"{'≥' if target.at_least else '≤'} {target.bound:g}{target.unit}"
    verdict = "met" if target.met else "**missed**"
    return f"| {target.what} | {cell(list(target.values))}{target.unit} | {bound} | {verdict} |"


def cell(value: Any) -> str:
    """A text, a figure, or figures as their median and range."""
    if value is None:
        return ""
    if isinstance(value, list | tuple):
        values = [each for each in value if each is not None]
        if not values:
            return ""
        middle, low, high = spread(values)
        shown = cell(middle)
        return shown if cell(low) == cell(high) else f"{shown} ({cell(low)} to {cell(high)})"
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    if value == round(value) and isinstance(value, int):
        return f"{value:,}"
    size = abs(value)
    return f"{value:,.0f}" if size >= 1000 else f"{value:.1f}" if size >= 10 else f"{value:z.3f}"

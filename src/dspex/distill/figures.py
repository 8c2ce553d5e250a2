"""What a report tells of a version, class by class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from dspex.distill.trace import Trace
from dspex.routing.gate import label_group

__all__ = ["line", "per_class", "teacher_name"]

_MOST = 1000  # classes that are listed


def per_class(
    names: Sequence[str], stands: Sequence[bool], wrong: Sequence[bool]
) -> dict[str, dict[str, Any]]:
    """Class that the teacher gave -> rows, how many of them are answered natively, how many of those wrong.

    The classes with the most rows come first; of more than 1,000 the rest is left out.
    """
    table: dict[str, list[int]] = {}
    for name, answered, bad in zip(names, stands, wrong, strict=True):
        counts = table.setdefault(name, [0, 0, 0])
        counts[0] += 1
        counts[1] += bool(answered)
        counts[2] += bool(answered and bad)
    order = sorted(table, key=lambda name: (-table[name][0], name))[:_MOST]
    return {name: line(*table[name]) for name in order}


def line(rows: int, answered: int, wrong: int) -> dict[str, Any]:
    """Counts, with coverage and agreement; the agreement is None where nothing is answered."""
    return {
        "rows": rows,
        "answered": answered,
        "wrong": wrong,
        "coverage": answered / rows if rows else 0.0,
        "agreement": 1 - wrong / answered if answered else None,
    }


def teacher_name(trace: Trace, outputs: Sequence[str]) -> str:
    """The class, or the classes of several outputs, that the teacher gave."""
    said: Mapping[str, Any] = {name: trace.answer.outputs[name] for name in outputs}
    return label_group(said)

"""Rows as a sample of the calls: each is a call for itself, and a coin says what it is for."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from dspex.distill.settings import GuaranteeSettings
from dspex.distill.trace import REJECTED, Answer, Role, Trace
from dspex.dspy.rows import Row

__all__ = ["LABELS", "TRAINSET", "Given", "add_recorded", "missing", "roles_of", "single", "unpaid"]

#: Sources of rows that are no traces.
TRAINSET, LABELS = "trainset", "labels"
_OWN = frozenset({TRAINSET, LABELS, REJECTED})
#: Sources of traces whose role says all: a service's, which tosses its own coin, and refused answers.
_DECIDED = frozenset({"teacher", "shadow", "deferred", "audit", REJECTED})

#: A row, and what it is for.
Given = tuple[Row, Role]


def single(rows: Iterable[Row]) -> list[Row]:
    """Each call of a trace that stands for several as a row, where a coin is still to be tossed for it."""
    found: list[Row] = []
    for row in rows:
        trace = row.trace
        if trace is None or trace.count == 1 or not _is_open(trace):
            found.append(row)
        else:
            found += [replace(row, trace=one) for one in _calls(trace)]
    return found


def roles_of(rows: Sequence[Row], guarantee: GuaranteeSettings, seed: int, *, has_valset: bool) -> list[Role]:
    """What each row is for.

    A coin decides; with "cross" every row certifies. A trace that certifies by its role does so; one that has
    certified a version, or that a service learns from (deferred calls are the hard ones), never does. With a
    valset no other row does.
    """
    coins = random.Random(seed)
    roles: list[Role] = []
    for row in rows:
        certifies = coins.random() < guarantee.calibration_share or guarantee.method == "cross"
        trace = row.trace
        if trace is not None and not _is_open(trace):
            certifies = trace.role == "calibrate" and trace.used_by is None
        roles.append("calibrate" if certifies and not has_valset else "fit")
    return roles


def _is_open(trace: Trace) -> bool:
    """Whether nobody has decided yet what a trace is for."""
    return trace.used_by is None and trace.role == "fit" and trace.source not in _DECIDED


def missing(given: Iterable[Given], store: Any) -> tuple[list[Given], int]:
    """The rows that the store does not have yet, and how many it has.

    Rows with equal inputs are told apart by their number alone: of five, of which two are stored, the last
    three are missing. So a row is stored once, however often a run is begun.

    Args:
        given: no traces.
    """
    stored: dict[str, int] = {}
    left: list[Given] = []
    known = 0
    for row, role in given:
        if row.key not in stored:
            times = store.times(row.inputs)
            stored[row.key] = sum(times.get(source, 0) for source in _OWN)
        if stored[row.key] > 0:
            stored[row.key] -= 1
            known += 1
        else:
            left.append((row, role))
    return left, known


def add_recorded(given: Iterable[Given], store: Any) -> int:
    """Stores traces, but those that an earlier run has stored; returns how many these are.

    A trace with a time is told by it. Without one they are told apart by their number, as in `missing`.
    """
    stored: Counter[tuple[str, str]] = Counter()
    seen: set[tuple[str, str]] = set()
    traces: list[Trace] = []
    timed: list[Trace] = []
    known, last = 0, int(store.counts()["last"])
    for row, role in given:
        trace = row.trace
        assert trace is not None
        if trace.at:
            timed += _of_role(trace, role)
            continue
        key = (row.key, trace.source)
        if key not in seen:
            seen.add(key)
            stored[key] = store.times(row.inputs).get(trace.source, 0)
        here = min(stored[key], trace.count)
        stored[key] -= here
        known += int(here == trace.count)
        if here < trace.count:
            traces += _of_role(replace(trace, count=trace.count - here), role)
    store.add(traces)
    numbers: list[int | None] = store.add(timed, known_upto=last)
    return known + sum(number is not None and number <= last for number in numbers)


def _of_role(trace: Trace, role: Role) -> list[Trace]:
    """Of those that certify, each call for itself."""
    trace = replace(trace, role=role)
    return _calls(trace) if role == "calibrate" else [trace]


def _calls(trace: Trace) -> list[Trace]:
    """As many traces as it stands for; what they cost is told by the first."""
    first = replace(trace, count=1)
    return [first] + [replace(first, answer=unpaid(trace.answer))] * (trace.count - 1)


def unpaid(answer: Answer) -> Answer:
    """The same answer, for a call that was not asked for itself."""
    return replace(answer, usd=None, tokens=None, seconds=None)

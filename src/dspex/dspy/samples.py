"""Rows as a sample of the calls: each is a call for itself, and a coin says what it is for."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

from dspex.distill.settings import GuaranteeSettings
from dspex.distill.trace import REJECTED, Answer, Role, Trace
from dspex.dspy.rows import Row
from dspex.dspy.stored import LABELS, TRAINSET, Stored
from dspex.errors import InputError

__all__ = [
    "LABELS",
    "TRAINSET",
    "Given",
    "add_recorded",
    "missing",
    "refuse_picked",
    "roles_of",
    "single",
    "unpaid",
    "unrepeated",
]

_OWN = frozenset({TRAINSET, LABELS, REJECTED})
#: Sources of traces whose role says all: a service's, which tosses its own coin, and refused answers.
_SERVICE = frozenset({"teacher", "shadow", "deferred", "canary", "audit"})
_DECIDED = _SERVICE | {REJECTED}
#: Of these, calls that a gate or a metric picked.
_PICKED = frozenset({"deferred", "canary", "audit", REJECTED})

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


def missing(
    given: Iterable[Given], store: Any, is_labelled: Callable[[Row], bool] = lambda row: False
) -> tuple[list[Given], int]:
    """The rows that the store does not have yet, and how many it has.

    Rows with equal inputs are told apart by their number alone: of five, of which two are stored, the last
    three are missing. So a row is stored once, however often a run is begun. Labelled rows are told apart by
    their labels, too. What a service has answered takes no row's place: its deferred calls are the hard ones.

    Args:
        given: no traces.
        is_labelled: whether a row's labels are its answer.

    Raises:
        InputError: the store has another answer in the place of a labelled row.
    """
    given = list(given)
    stored = Stored(store, [row for row, _ in given])
    says = {at: stored.said(row.labels) for at, (row, _) in enumerate(given) if is_labelled(row)}
    left = dict(enumerate(given))

    def take(labelled: bool, is_wanted: Callable[[str], bool]) -> None:
        for same_role in (True, False):  # a run that was cut short goes on with the rows that it had
            for at, (row, role) in list(left.items()):
                wanted = role if same_role else None
                if (at in says) is labelled and stored.take(row, is_wanted, role=wanted, said=says.get(at)):
                    del left[at]

    take(True, lambda source: source == LABELS)
    take(True, _OWN.__contains__)
    take(False, _OWN.__contains__)
    take(False, lambda source: source not in _SERVICE)
    take(True, lambda source: source not in _SERVICE)
    _refuse_corrected([left[at][0] for at in says if at in left], stored)
    return list(left.values()), len(given) - len(left)


def _refuse_corrected(rows: Iterable[Row], stored: Stored) -> None:
    """Raises an error for labelled rows that are new only because the store has another answer to them."""
    others = [row for row in rows if stored.take(row, _OWN.__contains__)]
    if others:
        raise InputError(
            f"the home, or the traces, have other answers to {len(others)} labelled rows; this is the first",
            row=others[0].number, field="home",
            hint="Answers in a home are not replaced: for labels that were corrected take a new home",
        )  # fmt: skip


def unrepeated(recorded: Iterable[Given], rows: Counter[str]) -> list[Given]:
    """Without a service's traces that are among the rows of the same run: such a call is one, with a coin.

    Args:
        rows: `Row.key` -> how many there are; those that were found are taken out.
    """
    left: list[Given] = []
    for row, role in recorded:
        assert row.trace is not None
        here = min(rows[row.key], row.trace.count) if row.trace.source in _DECIDED else 0
        rows[row.key] -= here
        if here < row.trace.count:
            left.append((replace(row, trace=replace(row.trace, count=row.trace.count - here)), role))
    return left


def add_recorded(given: Iterable[Given], store: Any) -> int:
    """Stores traces, but those that are stored; returns how many these are.

    A call may have come before from anywhere: as a row, or from a service. So equal inputs and an equal
    answer are the same call, up to the number of times that they are stored; but of the same source a call
    with another time is another one.
    """
    given = list(given)
    stored = Stored(store, [row for row, _ in given])
    known = 0
    for source in dict.fromkeys(row.trace.source for row, _ in given if row.trace is not None):
        group = [one for one in given if one[0].trace is not None and one[0].trace.source == source]
        stored.begin()
        new = _new(group, source, stored)
        known += len(group) - len(new)
        traces = [(row, trace) for row, role in new if row.trace for trace in _of_role(row.trace, role)]
        store.add(trace for _, trace in traces)
        stored.add(replace(row, trace=trace) for row, trace in traces)
    return known


def _new(group: Sequence[Given], source: str, stored: Stored) -> list[Given]:
    """Of traces of one source, those that are not stored, with the number of calls that are not."""
    new: list[Given] = []
    for row, role in sorted(
        group, key=lambda one: not (one[0].trace and one[0].trace.at)
    ):  # with a time first
        trace = row.trace
        assert trace is not None
        said = stored.said(trace.answer.outputs)
        own = 0
        if trace.at and stored.has(row):
            stored.take(row, lambda one: one == source, said=said, count=trace.count)
            continue
        if not trace.at:
            own = stored.take(row, lambda one: one == source, said=said, count=trace.count)
        others = stored.take(row, lambda one: one != source, said=said, count=trace.count - own)
        count = trace.count - own - others
        if count:
            new.append((replace(row, trace=replace(trace, count=count)), role))
    return new


def refuse_picked(valset: Iterable[Row]) -> None:
    """Rows that certify are a sample of the calls.

    Raises:
        InputError: one is a trace that was picked, by a gate or by a metric, and by no coin.
    """
    for row in valset:
        trace = row.trace
        if trace is None or trace.source not in _PICKED:
            continue
        if trace.role != "calibrate" or trace.source == REJECTED:
            raise InputError(
                f"the trace is of source {trace.source!r}: such calls were picked, and are no sample of all",
                row=row.number, field="valset", hint="Give it among the traces: it only teaches",
            )  # fmt: skip


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

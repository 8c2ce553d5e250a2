"""Batches of the hybrid adapter: native rows in one go, and what they leave to DSPy as one batch."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from dspex.adapters.hybrid.flow import FALLS_BACK, dspy_options, failed, rerouted
from dspex.errors import DspexError, ResourceError
from dspex.result import Result, Route
from dspex.routing import Bar, Gate

if TYPE_CHECKING:
    from dspex.adapters.hybrid.program import HybridProgram

__all__ = ["run_batch"]

Rows = Sequence[Mapping[str, Any]]
Outcome = Result | DspexError


def run_batch(program: HybridProgram, rows: Rows, options: Mapping[str, Any]) -> list[Any]:
    """One result a row; with the option `on_error="collect"` an error for each row that cannot be answered.

    Raises:
        Without that option the error of the first such row, with `row`.
    """
    program.tally.take(len(rows))
    try:
        return _answered(program, rows, options)
    except BaseException as error:
        program.tally.give_back(len(rows))
        if not isinstance(error, Exception):  # Ctrl-C: nobody else counts it
            program.tally.error(len(rows))
        raise


def _answered(program: HybridProgram, rows: Rows, options: Mapping[str, Any]) -> list[Any]:
    decision, gate = program.decided("batch", options)
    collect = options.get("on_error") == "collect"
    if not decision.is_native:
        places = dict.fromkeys(range(len(rows)), decision.reason)
        deferral = _Deferral(program, decision.backend, rows, options, binding=decision.binding)
        return _counted(program, deferral.run([None] * len(rows), places), places, collect)
    outcomes = program.native_batch(decision, gate, rows, collect=collect or gate is not None)
    doubts, bad = _doubts(program, gate, rows, outcomes) if collect or gate is not None else ({}, [])
    if bad and not collect:  # before DSPy is asked in vain
        raise _numbered(outcomes, bad[0])
    if doubts:
        program.tally.note("deferred", len(doubts))
        outcomes = _Deferral(program, program.policy.dspy, rows, options).run(outcomes, doubts)
    standing = len(rows) - len(doubts) - len(bad)
    program.tally.answered(decision.backend, degraded=decision.degraded, rows=standing)
    return _counted(program, outcomes, [*doubts, *bad], collect)


def _counted(program: HybridProgram, outcomes: list[Any], places: Iterable[int], collect: bool) -> list[Any]:
    """Counts the outcomes in these places, or raises the first error in them."""
    routes: Counter[tuple[str, bool]] = Counter()
    bad = []
    for place in sorted(places):
        outcome = outcomes[place]
        if isinstance(outcome, Result):
            routes[str(outcome.route), outcome.route.degraded] += 1
        elif collect:
            bad.append(_numbered(outcomes, place))
        else:
            raise _numbered(outcomes, place)
    for (backend, degraded), rows in routes.items():
        program.tally.answered(backend, degraded=degraded, rows=rows)
    if bad:
        program.tally.give_back(len(bad))
        program.tally.error(len(bad))
    return outcomes


def _numbered(outcomes: Sequence[Any], row: int) -> DspexError:
    error: DspexError = outcomes[row]
    error.row = row
    return error


def _doubts(
    program: HybridProgram, gate: Gate | None, rows: Rows, outcomes: Sequence[Outcome]
) -> tuple[dict[int, str], list[int]]:
    """The rows that DSPy is to be asked, and why; and those that cannot be answered."""
    doubts: dict[int, str] = {}
    bad = []
    for place, outcome in enumerate(outcomes):
        if isinstance(outcome, Result):
            doubt = None if gate is None else gate.doubt(outcome)
            if doubt is not None:
                doubts[place] = doubt
        elif gate is not None and program.is_beyond_native(rows[place]):
            doubts[place] = outcome.message
        else:
            bad.append(place)
    return doubts, bad


class _Deferral:
    """Rows on their way to DSPy, and what comes of them."""

    def __init__(
        self,
        program: HybridProgram,
        backend: str,
        rows: Rows,
        options: Mapping[str, Any],
        *,
        binding: bool = False,
    ) -> None:
        self._program = program
        self._backend = backend
        self._rows = rows
        self._collect = options.get("on_error") == "collect"
        self._options = dspy_options(program, backend, options, binding=binding)
        self._binding = binding
        self._falls_back = program.policy.fallback and program.means.native and not binding

    def run(self, answers: Sequence[Outcome | None], why: Mapping[int, str]) -> list[Outcome]:
        """The outcomes of all rows.

        Args:
            answers: what the native program said; None: it was not asked.
            why: the rows to ask DSPy, and the reason.
        """
        outcomes: list[Any] = list(answers)
        bar = None if self._binding else self._program.barred(self._backend, self._options)
        asked = list(why) if bar is None else self._barred(outcomes, why, bar)
        fallen: dict[int, DspexError] = {}
        for place, outcome in zip(asked, self._asked(asked), strict=True):
            if isinstance(outcome, Result):
                outcomes[place] = rerouted(outcome, Route(self._backend, reason=why[place]))
            else:
                fallen[place] = outcome
        could = [
            place for place, error in fallen.items() if self._falls_back and isinstance(error, FALLS_BACK)
        ]
        reasons = {place: f"{why[place]}, but {failed(self._backend, fallen[place])}" for place in could}
        left = self._stand_in(outcomes, reasons)
        for place, error in fallen.items():
            if place not in reasons or place in left:
                outcomes[place] = error
        return outcomes

    def _barred(self, outcomes: list[Any], why: Mapping[int, str], bar: Bar) -> list[int]:
        """Lets native answers stand in; returns the rows that DSPy is asked all the same."""
        left = list(why)
        if self._falls_back:
            left = self._stand_in(outcomes, {place: f"{why[place]}, but {bar.reason}" for place in left})
        if not bar.strict:
            return left
        for place in left:
            outcomes[place] = ResourceError(bar.reason, retryable=False, hint="Raise routing.max_cost")
        return []

    def _stand_in(self, outcomes: list[Any], reasons: Mapping[int, str]) -> list[int]:
        """Puts degraded native answers in these places; returns those for which there are none."""
        unasked = [place for place in reasons if outcomes[place] is None]
        native = self._program.spare_batch([self._rows[place] for place in unasked]) if unasked else []
        outcomes_of = dict(zip(unasked, native, strict=True))
        left = []
        for place, reason in reasons.items():
            answer = outcomes_of.get(place, outcomes[place])
            if isinstance(answer, Result):
                outcomes[place] = rerouted(answer, Route("native", reason=reason, degraded=True))
            else:
                left.append(place)
        self._program.tally.note("fallbacks", len(reasons) - len(left))
        return left

    def _asked(self, places: list[int]) -> list[Outcome]:
        """DSPy's answers or errors, one a row."""
        if not places:
            return []
        adapter = self._program.sides.adapter(self._backend)
        options = dict(self._options)
        if getattr(adapter, "collects_errors", False) and (self._collect or self._falls_back):
            options["on_error"] = "collect"
        rows = [self._rows[place] for place in places]
        try:
            return list(adapter.execute_batch(self._program.id, rows, options or None))
        except DspexError as error:
            if error.row is not None and error.row < len(places):
                error.row = places[error.row]
            if not self._collect and not (self._falls_back and isinstance(error, FALLS_BACK)):
                raise
            return [_of_row(error, place) for place in places]  # it cannot be said which of them would do


def _of_row(error: DspexError, row: int) -> DspexError:
    own = copy.copy(error)
    own.row = row
    return own

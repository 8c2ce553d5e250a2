"""Which rows of a home a version is fitted on, and which certify it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from dspex.distill.settings import LearningSettings
from dspex.distill.store import State, Store
from dspex.distill.trace import REJECTED, Trace

__all__ = ["Curriculum", "curriculum"]


@dataclass(frozen=True, slots=True)
class Curriculum:
    """The rows of one lesson.

    Attributes:
        fit_rows: to fit on, oldest first.
        fresh: an unbiased sample of the calls that has certified nothing yet.
        since_breach: of `fit_rows`, those that came after the version in service breached; empty where it
            has not. What the teacher says may have changed then.
        breach: when that was noticed, in seconds since the epoch; None: it was not.
    """

    fit_rows: list[Trace]
    fresh: list[Trace]
    since_breach: list[Trace]
    breach: float | None


def curriculum(store: Store, settings: LearningSettings, state: State) -> Curriculum:
    """The rows that a home has for the next version.

    Of an unbiased sample taken before a breach nothing can be said of the calls after it: it certifies
    nothing, and is not learned from either, unless it has certified an older version.
    """
    breach = _breach(state)
    newest = settings.max_rows
    taught = [*store.traces("fit", newest=newest), *store.traces("calibrate", fresh=False, newest=newest)]
    taught = [trace for trace in taught if trace.source != REJECTED]
    taught.sort(key=lambda trace: trace.at)
    if newest is not None:
        taught = taught[-newest:]
    last = _breach(state, "last_breach")  # also of a version that has been replaced since
    fresh = [trace for trace in store.traces("calibrate", fresh=True) if _after(trace, last)]
    since = [] if breach is None else [trace for trace in taught if _after(trace, breach)]
    return Curriculum(taught, fresh, since, breach)


def _breach(state: State, which: str = "breach") -> float | None:
    found: Any = state.watch.get(which)
    return None if not found else float(found["at"])


def _after(trace: Trace, breach: float | None) -> bool:
    return breach is None or trace.at >= breach

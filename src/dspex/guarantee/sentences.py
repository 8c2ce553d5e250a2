"""What a certificate says in words."""

from __future__ import annotations

from dspex.guarantee.binomial import rows_without_errors

__all__ = ["Start", "assumptions", "certified", "deferred", "grouped", "refused"]

_COMMON = (
    "the calls to come are drawn like the calibration rows, which were picked without looking at them",
    "the rows are independent of each other",
    "the teacher's answers are what is to be agreed with, its errors included",
)
_SPLIT = ("no calibration row took part in fitting, in the gate, in the grid, or in an earlier certificate",)
_CROSS = (
    "the program, fitted on all rows, disagrees no more often among the answers above the threshold than the "
    "models that judged the rows, each fitted without the rows it judged",
    "errors of rows that different models judged count as independent, although those models share rows",
    "no row took part in the choice of the grid, or in an earlier certificate",
)

#: Rows that reach the first threshold, how many of them are wrong, and how many may be; None: not a number.
Start = tuple[float, int, int, int | None]


def assumptions(method: str) -> tuple[str, ...]:
    return _COMMON + (_SPLIT if method == "split" else _CROSS)


def certified(
    threshold: float, rows: int, accepted: int, errors: int, agreement: float, delta: float, *, costs: bool
) -> str:
    promise = (
        f"the mean cost of the native answers is at most {1 - agreement:.4g}"
        if costs
        else f"at least {100 * agreement:.4g} % of the native answers agree with the teacher"
    )
    return (
        f"with probability at least {1 - delta:.4g} {promise}: from a score of {threshold:.4g} on, "
        f"{accepted:,} of {rows:,} calibration rows ({accepted / rows:.1%}), {errors:,} of them wrong"
    )


def refused(rows: int, start: Start, needed: int | None, agreement: float, delta: float) -> str:
    """Why there is nothing to promise, and what would help."""
    least = rows_without_errors(1 - agreement, delta)
    at, reached, errors, allowed = start
    if rows < least:
        why = f"{rows:,} calibration rows are too few, as it takes {least:,} even without an error"
    elif reached < least:
        why = (
            f"{reached:,} of {rows:,} calibration rows reach the first threshold ({at:.4g}), "
            f"and it takes {least:,} even without an error"
        )
    else:
        may = "which is too many" if allowed is None or allowed < 0 else f"and at most {allowed:,} may be"
        why = f"of {reached:,} calibration rows from a score of {at:.4g} on, {errors:,} are wrong, {may}"
    if needed is None:
        help_ = "no number of rows would do, as far as the rows so far tell"
    else:
        help_ = f"about {needed:,} more rows of this kind would probably do"
    return f"nothing can be guaranteed: {why}; {help_}"


def deferred(rows: int, needed: int | None) -> str:
    """Of a group that gets no part of delta."""
    more = "no number would do, as far as they tell" if needed is None else f"about {needed:,} more might do"
    return f"deferred: {rows:,} calibration rows would take more of delta than they bring; {more}"


def grouped(
    certified: int, groups: int, rows: int, accepted: int, errors: int, agreement: float, delta: float
) -> str:
    if not certified:
        return f"nothing can be guaranteed: none of {groups} groups has enough rows with few enough errors"
    rest = "; the other groups are deferred" if certified < groups else ""
    return (
        f"with probability at least {1 - delta:.4g} the {100 * agreement:.4g} % hold within each "
        f"of {certified} of {groups} groups at once, and so for them together: {accepted:,} of {rows:,} "
        f"calibration rows ({accepted / rows:.1%}) are accepted, {errors:,} of them wrong{rest}"
    )

"""What to test and where to begin, and how many rows it takes: from rows that certify nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dspex.errors import ConfigError, InputError
from dspex.guarantee.binomial import critical, rows_without_errors, tail
from dspex.guarantee.checks import Rows, rows_of
from dspex.guarantee.costs import Betting, HoeffdingBentkus
from dspex.guarantee.groups import Prospect, large_enough

__all__ = [
    "Curve",
    "Grid",
    "Method",
    "curve_of",
    "given_grid",
    "grid_of",
    "grids_of",
    "power_at",
    "prior_grid",
]

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Method = Literal["binomial", "bentkus", "betting"]

_POINTS = 400  # thresholds of a curve
_MOST_ROWS = 10**6
_RESAMPLES = 32
_HOPE = 0.05  # power below that is none


@dataclass(frozen=True, eq=False, slots=True)
class Curve:
    """How often rows above a threshold are accepted and wrong, for planning.

    Attributes:
        thresholds: [m], falling.
        accepted, losses, squares: [m] rows with a score of at least that, the sum of their losses (1 for a
            wrong row, or its cost), and of the squares.
        rows: all of them.
    """

    thresholds: Floats
    accepted: Ints
    losses: Floats
    squares: Floats
    rows: int

    @property
    def coverage(self) -> Floats:
        return np.asarray(self.accepted / max(1, self.rows))

    @property
    def risk(self) -> Floats:
        """[m] mean losses, with half a wrong row on top: none wrong among a few does not mean none ever."""
        return np.asarray((self.losses + 0.5) / (self.accepted + 1))


@dataclass(frozen=True, slots=True)
class Grid:
    """Which thresholds are tested, in what order, at what level: fixed before a calibration row is seen.

    Attributes:
        starts: thresholds at which a part of delta comes in, falling.
        shares: those parts, of a sum of 1.
        thresholds: the thresholds that are tested, falling; None: every number from the first start down.
        source: "held-out": from rows that the program was fitted on, by their held-out scores; "prior": from
            no rows; "given": by hand.
        test: of the errors; "binomial" is for errors that all weigh the same.
        curve: of the held-out rows, for planning.
    """

    starts: tuple[float, ...]
    shares: tuple[float, ...] = (1.0,)
    thresholds: tuple[float, ...] | None = None
    source: Literal["held-out", "prior", "given"] = "given"
    test: Method = "binomial"
    curve: Curve | None = None

    @property
    def main_start(self) -> float:
        """The start at which the largest part of delta comes in."""
        return self.starts[self.shares.index(max(self.shares))]

    def prospect(self) -> Prospect | None:
        """What to expect at the main start, where there is a curve."""
        if self.curve is None:
            return None
        at = int(np.searchsorted(-self.curve.thresholds, -self.main_start, side="right")) - 1
        if at < 0:
            return None
        return Prospect(float(self.curve.coverage[at]), float(self.curve.risk[at]))

    def __post_init__(self) -> None:
        if not self.starts or len(self.starts) != len(self.shares):
            raise ConfigError(
                f"{len(self.starts)} starts and {len(self.shares)} shares", field="starts",
                hint="A grid has one start or more, and a share for each",
            )  # fmt: skip
        if min(self.shares) <= 0 or sum(self.shares) > 1 + 1e-9:
            raise ConfigError("shares are positive and add up to 1", field="shares")
        for name in ("starts", "thresholds"):
            values = getattr(self, name)
            if values is not None and not _falling(values):
                raise ConfigError(
                    f"{name} are finite and fall", field=name, hint="Order them from strict to loose"
                )
        if self.thresholds is not None and not set(self.starts) <= set(self.thresholds):
            raise ConfigError("a start is not among the thresholds", field="starts")


def _falling(values: Sequence[float]) -> bool:
    array = np.asarray(values, np.float64)
    return bool(array.size and np.isfinite(array).all() and (np.diff(array) < 0).all())


def grid_of(
    held_out_scores: ArrayLike,
    held_out_wrong: ArrayLike,
    agreement: float,
    delta: float,
    n: int,
    *,
    costs: ArrayLike | None = None,
) -> Grid:
    """The grid with the most power, from held-out scores of the rows that were fitted on.

    All of delta comes in at the threshold that n calibration rows would certify with the greatest chance if
    they were like these; every number below it is tested. That was the most powerful of the valid procedures
    that were tried: see `docs/guarantee.md`. Wrong held-out scores cost coverage, never the guarantee.

    Args:
        held_out_scores, held_out_wrong: [rows] as for `certify`, none of them a calibration row.
        n: calibration rows that there will be.
        costs: [rows] as for `certify`; the test for them is picked here, by power as well.

    Raises:
        InputError: rows that do not fit, or none.
        ConfigError: an agreement or a delta outside (0, 1), n below 0.
    """
    rows = rows_of(held_out_scores, held_out_wrong, agreement, delta, costs=costs)
    if isinstance(n, bool) or not isinstance(n, int | np.integer) or n < 0:
        raise ConfigError(f"n is {n!r}", field="n", hint="It is the number of calibration rows")
    if not np.isfinite(rows.scores).any():
        raise InputError(
            "no held-out row has a score", field="held_out_scores", hint="Use prior_grid without such rows"
        )
    curve = curve_of(rows)
    if costs is None:
        return Grid((_best_start(curve, int(n), rows.rate, delta),), source="held-out", curve=curve)
    start, test = _most_powerful(rows, curve, int(n), delta)
    return Grid((start,), source="held-out", test=test, curve=curve)


def grids_of(
    held_out_scores: ArrayLike,
    held_out_wrong: ArrayLike,
    held_out_groups: Sequence[str],
    agreement: float,
    delta: float,
    n: int,
    *,
    costs: ArrayLike | None = None,
) -> dict[str, Grid]:
    """A grid for each group that has held-out rows, for its share of n and the part of delta to expect."""
    rows = rows_of(held_out_scores, held_out_wrong, agreement, delta, costs=costs, groups=held_out_groups)
    assert rows.groups is not None
    names, counts = np.unique(rows.groups, return_counts=True)
    sizes = {
        str(name): round(n * int(count) / rows.scores.size) for name, count in zip(names, counts, strict=True)
    }
    part = delta / max(1, len(large_enough(sizes, rows.rate, delta)))
    grids = {}
    for name, expected in sizes.items():
        own = rows.groups == name
        if np.isfinite(rows.scores[own]).any():
            weights = None if rows.costs is None else rows.costs[own]
            grids[name] = grid_of(rows.scores[own], rows.wrong[own], agreement, part, expected, costs=weights)
    return grids


def prior_grid(agreement: float, *, costs: bool = False) -> Grid:
    """A grid that needs no rows, for a score that estimates the chance of agreement.

    For "cross", where no row is left that would not certify, and where there are no held-out scores. Most of
    delta comes in at a score of `agreement`: what scores higher agrees often enough row by row. A tenth each
    comes in above and below, for scores that say too much or too little. With costs the test is the bet.
    """
    if not 0 < agreement < 1:
        raise ConfigError(f"agreement is {agreement!r}", field="agreement", hint="It lies between 0 and 1")
    gap = 1 - agreement
    starts = [1 - gap / 4, agreement, max(1 - 2 * gap, agreement / 2)]
    # Scores are single precision; so are the starts, and comparing them in either gives the same.
    exact = tuple(float(np.float32(start)) for start in starts)
    return Grid(exact, (0.1, 0.8, 0.1), source="prior", test="betting" if costs else "binomial")


def given_grid(grid: Grid | Sequence[float] | Floats) -> Grid:
    """A grid, or falling thresholds that are tested in that order."""
    if isinstance(grid, Grid):
        return grid
    if isinstance(grid, Mapping | str) or np.ndim(grid) != 1 or not np.size(grid):
        raise ConfigError("thresholds are one row of numbers", field="grid", hint="grid_of makes a grid")
    thresholds = tuple(float(value) for value in grid)
    return Grid(thresholds[:1], thresholds=thresholds)


def curve_of(rows: Rows, most: int = _POINTS) -> Curve:
    """Counts at the distinct scores, thinned evenly over the rows to at most `most` and the last one."""
    finite = np.isfinite(rows.scores)
    scores, losses = rows.scores[finite], rows.losses[finite]
    order = np.argsort(-scores, kind="stable")
    scores, losses = scores[order], losses[order]
    ends = (
        np.flatnonzero(np.append(scores[1:] != scores[:-1], True)) if scores.size else np.empty(0, np.int64)
    )
    if ends.size > most:
        wanted = np.linspace(0, scores.size - 1, most)
        ends = np.unique(ends[np.minimum(np.searchsorted(ends, wanted), ends.size - 1)])
    return Curve(
        scores[ends], ends + 1, np.cumsum(losses)[ends], np.cumsum(losses**2)[ends], int(rows.scores.size)
    )


def power_at(curve: Curve, n: int, rate: float, delta: float) -> Floats:
    """[m] chance that n rows like the curve's certify each threshold by itself."""
    rows = np.rint(n * curve.coverage).astype(np.int64)
    most = critical(rows, rate, delta)
    return np.where(most >= 0, tail(most, rows, curve.risk), 0.0)


def _best_start(curve: Curve, n: int, rate: float, delta: float) -> float:
    """The threshold with the most power; of several with next to the same, the one in their middle."""
    size = max(n, rows_without_errors(rate, delta))
    power = power_at(curve, size, rate, delta)
    while power.max() < _HOPE and size < _MOST_ROWS:  # with so few rows: where it would begin to have some
        size *= 2
        power = power_at(curve, size, rate, delta)
    if power.max() < _HOPE:
        return float(curve.thresholds[int(np.argmin(curve.risk))])
    best = np.flatnonzero(power >= power.max() - 0.001)
    return float(curve.thresholds[best[best.size // 2]])


def _most_powerful(rows: Rows, curve: Curve, n: int, delta: float) -> tuple[float, Method]:
    """Start and test that certify the most rows, on average over draws of n rows from these."""
    index = np.unique(np.linspace(0, curve.thresholds.size - 1, 40).astype(int))
    thresholds, coverage = curve.thresholds[index], curve.coverage[index]
    won: dict[Method, Floats] = {"bentkus": np.zeros(index.size), "betting": np.zeros(index.size)}
    rng = np.random.default_rng(0)
    for _ in range(_RESAMPLES):
        drawn = rng.integers(0, rows.scores.size, max(1, n))
        scores, losses = rows.scores[drawn], rows.losses[drawn]
        bentkus = HoeffdingBentkus(scores, losses, rows.rate).p_values(thresholds) <= delta
        won["bentkus"] += _certified(bentkus, coverage)
        betting = Betting(scores, losses, rows.rate, delta).p_values(thresholds) <= delta
        won["betting"] += _certified(betting, coverage)
    test: Method = "betting" if won["betting"].max() >= won["bentkus"].max() else "bentkus"
    best = np.flatnonzero(won[test] >= won[test].max() - 1e-9)
    return float(thresholds[best[best.size // 2]]), test


def _certified(rejected: NDArray[np.bool_], coverage: Floats) -> Floats:
    """[starts] the coverage that a walk from each start comes to."""
    places = np.arange(rejected.size)
    failures = np.where(rejected, rejected.size, places)
    stop = np.minimum.accumulate(failures[::-1])[::-1]  # the first failure from each start on
    return np.where(stop > places, coverage[stop - 1], 0.0)

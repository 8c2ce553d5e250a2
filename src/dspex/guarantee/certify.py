"""Learn-then-Test: a threshold on a score, with a bound on the risk of what is accepted."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dspex.errors import ConfigError
from dspex.guarantee.certificate import Certificate, CurvePoint, GroupCertificate
from dspex.guarantee.checks import Rows, require_between, rows_of
from dspex.guarantee.costs import Betting, HoeffdingBentkus
from dspex.guarantee.groups import Chain, walk_all, worth_testing
from dspex.guarantee.needed import rows_needed
from dspex.guarantee.planning import (
    Grid,
    curve_of,
    given_grid,
    grid_of,
    grids_of,
    prior_grid,
)
from dspex.guarantee.sentences import Start, assumptions, certified, deferred, grouped, refused
from dspex.guarantee.testing import Binomial, Test, levels_of, lowest

__all__ = ["Certificate", "Grid", "certify", "delta_of", "grid_of", "grids_of", "prior_grid"]

_CURVE = 60  # points of a certificate's curve

Method = Literal["split", "cross"]
AnyGrid = Grid | Sequence[float] | NDArray[Any]


def certify(
    scores: ArrayLike,
    wrong: ArrayLike,
    *,
    agreement: float,
    delta: float,
    grid: AnyGrid | Mapping[str, AnyGrid],
    method: Method = "split",
    groups: Sequence[str] | NDArray[Any] | None = None,
    costs: ArrayLike | None = None,
) -> Certificate:
    """Certifies the lowest threshold above which answers agree often enough.

    Learn-then-Test (Angelopoulos, Bates, Candès, Jordan and Lei 2021) with fixed-sequence testing: thresholds
    are tested from the grid's start downwards until one fails, each with the exact binomial tail. With
    probability at least 1 - delta over the rows, the risk of an answer with a score of at least the threshold
    is at most 1 - agreement, whatever the score is like.

    Args:
        scores: [n] of the native answers, higher is surer; -inf for a row that has none.
        wrong: [n] whether the native answer differs from the teacher's.
        agreement: share of accepted answers that has to agree, in (0, 1).
        delta: chance of a certificate that does not hold, in (0, 1).
        grid: what is tested, fixed without these rows: of `grid_of`, of `prior_grid`, or falling thresholds.
            With groups, one for all or one for each (`grids_of`); a group without one gets `prior_grid`.
        method: "split": the rows were used for nothing else. "cross": each row was scored by a model that did
            not see it, and the program is fitted on all of them; takes a `prior_grid` or a given one.
        groups: [n] class or slice of each row, as it is known before the teacher is asked. The guarantee then
            holds within each group that gets a threshold. Groups with too few rows are deferred.
        costs: [n] in [0, 1], what it costs if the row is wrong; the mean cost of accepted rows is bounded.

    Raises:
        ConfigError: an agreement or a delta outside (0, 1), an unknown method, a grid that does not fit.
        InputError: no rows, lengths that differ, a NaN, a cost outside [0, 1].
    """
    rows = rows_of(scores, wrong, agreement, delta, costs=costs, groups=groups)
    if method not in ("split", "cross"):
        raise ConfigError(f"method is {method!r}", field="method", hint="Known: cross, split")
    if rows.groups is not None:
        return _by_group(rows, agreement, delta, grid, method)
    if isinstance(grid, Mapping):
        raise ConfigError("there is a grid for each group and no groups", field="grid", hint="Pass groups")
    plan = _checked(given_grid(grid), method, rows)
    test = _test(rows, plan, delta)
    levels = levels_of(rows.scores, plan.starts, plan.shares, plan.thresholds)
    part = _part(rows, plan, test, lowest(test, levels, delta), agreement, delta)
    return Certificate(
        agreement=agreement,
        delta=delta,
        method=method,
        threshold=part.threshold,
        thresholds=None,
        rows=part.rows,
        accepted=part.accepted,
        errors=part.errors,
        coverage=part.accepted / part.rows,
        risk=part.risk,
        upper_bound=part.upper_bound,
        rows_needed=part.rows_needed,
        reason=part.reason,
        assumptions=assumptions(method),
        test=plan.test,
        start=plan.main_start,
        curve=_curve(rows, test, delta),
    )


def delta_of(delta: float, version: int) -> float:
    """The part of delta for the certificate of a version: delta * 6 / (pi * version) ** 2.

    The parts add up to delta over all versions, so that all certificates together err with a chance of at
    most delta.

    Raises:
        ConfigError: delta outside (0, 1), or a version below 1.
    """
    require_between("delta", delta)
    if isinstance(version, bool) or not isinstance(version, int) or version < 1:
        raise ConfigError(f"version is {version!r}", field="version", hint="Versions count from 1")
    return delta * 6 / (math.pi * version) ** 2


def _checked(grid: Grid, method: Method, rows: Rows) -> Grid:
    """Refuses a grid that would spoil the guarantee, or that is for another kind of errors."""
    if method == "cross" and grid.source == "held-out":
        raise ConfigError(
            "a grid from held-out scores was made from the very rows that certify", field="grid",
            hint="With method 'cross' take prior_grid(agreement)",
        )  # fmt: skip
    if rows.costs is None and grid.test != "binomial":
        raise ConfigError(f"the grid is for costs ({grid.test}) and there are none", field="grid")
    if rows.costs is not None and grid.test == "binomial":
        raise ConfigError(
            "the grid is for errors that all weigh the same", field="grid", hint="Make it with costs as well"
        )
    return grid


def _test(rows: Rows, grid: Grid, delta: float) -> Test:
    if grid.test == "bentkus":
        return HoeffdingBentkus(rows.scores, rows.losses, rows.rate)
    if grid.test == "betting":
        return Betting(rows.scores, rows.losses, rows.rate, delta)
    return Binomial(rows.scores, rows.wrong, rows.rate)


def _part(
    rows: Rows, grid: Grid, test: Test, threshold: float | None, agreement: float, delta: float
) -> GroupCertificate:
    """What is certified of these rows, with figures and in words."""
    taken = np.zeros(rows.scores.size, bool) if threshold is None else rows.scores >= threshold
    size, count, errors = int(rows.scores.size), int(taken.sum()), int(rows.wrong[taken].sum())
    weighted = rows.costs is not None
    needed: int | None = 0
    if threshold is None:
        needed = rows_needed(rows, grid.curve, delta)
        reason = refused(size, _start(rows, grid, test, delta), needed, agreement, delta)
    else:
        reason = certified(threshold, size, count, errors, agreement, delta, costs=weighted)
    return GroupCertificate(
        threshold=threshold,
        delta=delta,
        rows=size,
        accepted=count,
        errors=errors,
        risk=float(rows.losses[taken].mean()) if count else None,
        upper_bound=1.0 if threshold is None else float(test.bounds(np.array([threshold]), delta)[0]),
        rows_needed=needed,
        reason=reason,
    )


def _start(rows: Rows, grid: Grid, test: Test, delta: float) -> Start:
    at = grid.main_start
    taken = rows.scores >= at
    allowed = test.allowed(at, delta) if isinstance(test, Binomial) else None
    return at, int(taken.sum()), int(rows.wrong[taken].sum()), allowed


def _by_group(
    rows: Rows, agreement: float, delta: float, grid: AnyGrid | Mapping[str, AnyGrid], method: Method
) -> Certificate:
    """One threshold for each group that is large enough, all of them valid at once."""
    assert rows.groups is not None
    names, counts = np.unique(rows.groups, return_counts=True)
    sizes = {str(name): int(count) for name, count in zip(names, counts, strict=True)}
    plans = {name: _checked(_plan(grid, name, agreement, rows), method, rows) for name in sizes}
    chosen = worth_testing(sizes, {name: plan.prospect() for name, plan in plans.items()}, rows.rate, delta)
    part = delta / max(1, len(chosen))
    chains = {}
    for name in chosen:
        own, plan = rows.of(name), plans[name]
        levels = levels_of(own.scores, plan.starts, plan.shares, plan.thresholds)
        chains[name] = Chain(_test(own, plan, part), levels)
    results: dict[str, GroupCertificate] = {}
    for name, outcome in walk_all(chains, delta).items():
        chain, last = chains[name], outcome.walk.last
        threshold = None if last is None else float(chain.levels.thresholds[last])
        results[name] = _part(rows.of(name), plans[name], chain.test, threshold, agreement, outcome.delta)
    for name in sizes.keys() - set(chosen):
        results[name] = _deferred(rows.of(name), plans[name], delta / (len(chosen) + 1))
    return _together({name: results[name] for name in sizes}, rows, agreement, delta, method, plans)


def _plan(grid: AnyGrid | Mapping[str, AnyGrid], name: str, agreement: float, rows: Rows) -> Grid:
    if not isinstance(grid, Mapping):
        return given_grid(grid)
    return given_grid(grid[name]) if name in grid else prior_grid(agreement, costs=rows.costs is not None)


def _deferred(rows: Rows, grid: Grid, delta: float) -> GroupCertificate:
    """A group with too few rows; what it lacks is told for its part of delta, were it one more to share."""
    size, needed = int(rows.scores.size), rows_needed(rows, grid.curve, delta)
    return GroupCertificate(None, 0.0, size, 0, 0, None, 1.0, needed, deferred(size, needed))


def _together(
    results: Mapping[str, GroupCertificate],
    rows: Rows,
    agreement: float,
    delta: float,
    method: Method,
    plans: Mapping[str, Grid],
) -> Certificate:
    live = [part for part in results.values() if part.threshold is not None]
    accepted, size = sum(part.accepted for part in live), int(rows.scores.size)
    losses = sum((part.risk or 0.0) * part.accepted for part in live)
    # A group gets its share of rows that are collected without regard to groups.
    needs = [math.ceil(p.rows_needed * size / p.rows) for p in results.values() if p.rows_needed is not None]
    errors = sum(part.errors for part in live)
    return Certificate(
        agreement=agreement,
        delta=delta,
        method=method,
        threshold=None,
        thresholds={name: part.threshold for name, part in results.items()},
        rows=size,
        accepted=accepted,
        errors=errors,
        coverage=accepted / size,
        risk=losses / accepted if accepted else None,
        upper_bound=max((part.upper_bound for part in live), default=1.0),
        rows_needed=0 if live else min(needs, default=None),
        reason=grouped(len(live), len(results), size, accepted, errors, agreement, delta),
        assumptions=assumptions(method),
        test=next(iter(plans.values())).test,
        groups=results,
    )


def _curve(rows: Rows, test: Test, delta: float) -> tuple[CurvePoint, ...]:
    curve = curve_of(rows, _CURVE)
    agreement = 1 - curve.losses / curve.accepted
    points = zip(
        curve.thresholds, curve.coverage, agreement, 1 - test.bounds(curve.thresholds, delta), strict=True
    )
    return tuple((float(at), float(share), float(a), float(least)) for at, share, a, least in points)

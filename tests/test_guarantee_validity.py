"""Certificates hold over many draws from a known population; the same test finds an invalid way out.

The long form is `python -m benchmarks.distill.validity`; DSPEX_STRESS multiplies the draws of this one.
"""

from __future__ import annotations

import os
from collections.abc import Callable

import numpy as np
import pytest

from dspex.guarantee.binomial import tail
from dspex.guarantee.certify import certify, grid_of, grids_of, prior_grid
from dspex.guarantee.planning import Grid
from dspex.guarantee.testing import Binomial, levels_of, lowest

DRAWS = int(200 * float(os.environ.get("DSPEX_STRESS", "1")))
SIZE = 20_000

Procedure = Callable[[np.ndarray, np.ndarray], float | None]


def evenly(risk: np.ndarray) -> np.ndarray:
    """Wrong rows laid out so that the risk of the rows up to each is what it should be."""
    return np.diff(np.floor(np.concatenate(([0.0], np.cumsum(risk))) + 0.5)) > 0


def population(kind: str, rate: float) -> tuple[np.ndarray, np.ndarray]:
    ranks = (np.arange(SIZE) + 0.5) / SIZE
    if kind == "at the bound everywhere":
        wrong = evenly(np.full(SIZE, rate * 1.001))
        wrong[0] = True
        return 1 - ranks, wrong
    if kind == "one score":
        return np.full(SIZE, 0.5), np.arange(SIZE) < rate * SIZE + 1
    scores = np.ceil(20 * (1 - ranks)) / 20 if kind == "coarse" else 1 - ranks
    return scores, evenly(2.2 * rate * ranks)


def breaches(scores: np.ndarray, wrong: np.ndarray, rate: float, rows: int, procedure: Procedure) -> int:
    """Draws in which the true risk above the threshold is higher than the rate."""
    rng = np.random.default_rng(rows)
    order = np.argsort(-scores, kind="stable")
    risk = np.append(0.0, np.cumsum(wrong[order]) / np.arange(1, SIZE + 1))
    count = 0
    for _ in range(DRAWS):
        drawn = rng.integers(0, SIZE, rows)
        threshold = procedure(scores[drawn], wrong[drawn])
        taken = 0 if threshold is None else int((scores >= threshold).sum())
        count += risk[taken] > rate
    return count


def certified(s: np.ndarray, w: np.ndarray, agreement: float, delta: float, grid: Grid) -> float | None:
    """The threshold of `certify`, without the figures around it."""
    levels = levels_of(s, grid.starts, grid.shares, grid.thresholds)
    return lowest(Binomial(s, w, round(1 - agreement, 9)), levels, delta)


def holds(count: int, delta: float) -> bool:
    """Whether so many breaches are to be expected of a valid procedure: not a chance of one in 10,000."""
    return 1 - float(tail(count - 1, DRAWS, delta)) > 1e-4


KINDS = ("at the bound everywhere", "one score", "slow", "coarse")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("agreement", "delta", "rows"), [(0.9, 0.2, 300), (0.95, 0.05, 1000)])
def test_split_certificates_hold(kind: str, agreement: float, delta: float, rows: int) -> None:
    rate = round(1 - agreement, 9)
    scores, wrong = population(kind, rate)
    held = np.random.default_rng(9).integers(0, SIZE, 1000)
    grid = grid_of(scores[held], wrong[held], agreement, delta, rows)

    def procedure(s: np.ndarray, w: np.ndarray) -> float | None:
        return certified(s, w, agreement, delta, grid)

    drawn = np.random.default_rng(0).integers(0, SIZE, rows)
    whole = certify(scores[drawn], wrong[drawn], agreement=agreement, delta=delta, grid=grid)
    assert whole.threshold == procedure(scores[drawn], wrong[drawn])

    assert holds(breaches(scores, wrong, rate, rows, procedure), delta)


def test_several_starts_hold() -> None:
    scores, wrong = population("at the bound everywhere", 0.1)

    def procedure(s: np.ndarray, w: np.ndarray) -> float | None:
        return certified(s, w, 0.9, 0.2, prior_grid(0.9))

    count = breaches(scores, wrong, 0.1, 1000, procedure)
    assert holds(count, 0.2)
    assert not holds(count, 0.02)  # delta is made use of


@pytest.mark.parametrize("kind", ["slow", "one score"])
def test_a_threshold_picked_on_the_same_rows_is_found_out(kind: str) -> None:
    scores, wrong = population(kind, 0.05)

    def picked(s: np.ndarray, w: np.ndarray) -> float | None:
        order = np.argsort(-s, kind="stable")
        good = np.flatnonzero(np.cumsum(w[order]) <= 0.05 * np.arange(1, s.size + 1))
        return float(s[order[good[-1]]]) if good.size else None

    assert not holds(breaches(scores, wrong, 0.05, 1000, picked), 0.05)
    assert not holds(breaches(scores, wrong, 0.05, 300, picked), 0.2)


def test_a_start_picked_on_the_same_rows_is_found_out() -> None:
    """A grid made of the calibration rows begins where luck made them good."""
    scores, wrong = population("at the bound everywhere", 0.1)

    def same_rows(s: np.ndarray, w: np.ndarray) -> float | None:
        return certified(s, w, 0.9, 0.2, grid_of(s, w, 0.9, 0.2, s.size))

    assert not holds(breaches(scores, wrong, 0.1, 500, same_rows), 0.2)


def test_guarantees_within_groups_hold_for_all_at_once() -> None:
    """Three groups right at the bound; a breach is one in any of them."""
    rng = np.random.default_rng(0)
    groups = rng.choice(3, SIZE, p=[0.5, 0.3, 0.2])
    names = np.array(["a", "b", "c"])[groups]
    wrong, scores = np.zeros(SIZE, bool), np.zeros(SIZE)
    for group in range(3):
        own = np.flatnonzero(groups == group)
        wrong[own] = evenly(np.full(own.size, 0.1001))
        wrong[own[0]] = True
        scores[own] = 1 - np.arange(own.size) / own.size
    held = rng.integers(0, SIZE, 1000)
    grids = grids_of(scores[held], wrong[held], names[held], 0.9, 0.2, 600)
    count = 0
    for _ in range(DRAWS // 5):
        drawn = rng.integers(0, SIZE, 600)
        found = certify(
            scores[drawn], wrong[drawn], agreement=0.9, delta=0.2, grid=grids, groups=names[drawn]
        )
        count += found.covers  # every threshold of every group is a breach
    assert 1 - float(tail(count - 1, DRAWS // 5, 0.2)) > 1e-4


@pytest.mark.parametrize("test", ["betting", "bentkus"])
def test_guarantees_of_costs_hold(test: str) -> None:
    rng = np.random.default_rng(0)
    scores, wrong = population("at the bound everywhere", 0.2)
    costs = np.clip(rng.normal(0.5, 0.1, SIZE), 0, 1) if test == "betting" else np.where(wrong, 0.5, 0.0)
    true = np.cumsum(wrong * costs) / np.arange(1, SIZE + 1)
    grid = grid_of(scores[::20], wrong[::20], 0.9, 0.2, 300, costs=costs[::20])
    grid = type(grid)(grid.starts, source="held-out", test=test)  # type: ignore[arg-type]
    count = 0
    for _ in range(DRAWS // 5):
        drawn = rng.integers(0, SIZE, 300)
        found = certify(scores[drawn], wrong[drawn], agreement=0.9, delta=0.2, grid=grid, costs=costs[drawn])
        taken = int((scores >= found.threshold_for()).sum())
        count += bool(taken and true[taken - 1] > 0.1)
    assert 1 - float(tail(count - 1, DRAWS // 5, 0.2)) > 1e-4

"""Guarantees within groups, and for errors that cost."""

from __future__ import annotations

import numpy as np
import pytest

from dspex.errors import ConfigError, InputError
from dspex.guarantee.binomial import rows_without_errors
from dspex.guarantee.certify import certify, grid_of, grids_of, prior_grid
from dspex.guarantee.costs import Betting, HoeffdingBentkus
from dspex.guarantee.groups import Chain, Prospect, large_enough, walk_all, worth_testing
from dspex.guarantee.planning import Grid
from dspex.guarantee.testing import Binomial, levels_of

Three = tuple[np.ndarray, np.ndarray, np.ndarray]


def three(count: int, seed: int = 0) -> Three:
    """Rows of an easy, a hard and a rare group."""
    rng = np.random.default_rng(seed)
    which = rng.choice(3, count, p=[0.6, 0.395, 0.005])
    scores = rng.random(count)
    wrong = rng.random(count) < np.array([0.1, 0.5, 0.1])[which] * (1 - scores) ** 2
    return scores, wrong, np.array(["easy", "hard", "rare"])[which]


def test_each_group_has_its_threshold_and_small_ones_are_deferred() -> None:
    scores, wrong, groups = three(3000)
    grids = grids_of(*three(3000, seed=1), 0.9, 0.05, 3000)
    found = certify(scores, wrong, agreement=0.9, delta=0.05, grid=grids, groups=groups)
    assert found.thresholds is not None
    assert found.groups is not None
    assert found.threshold is None
    assert found.covers
    assert found.threshold_for("easy") < found.threshold_for("hard") < 1
    assert found.thresholds["rare"] is None
    assert found.threshold_for("rare") == found.threshold_for("never seen") == np.inf
    assert "deferred" in found.groups["rare"].reason
    assert found.groups["rare"].rows_needed is not None
    taken = scores >= np.array([found.threshold_for(str(group)) for group in groups])
    assert (found.accepted, found.errors) == (taken.sum(), wrong[taken].sum())
    assert found.upper_bound == max(found.groups[name].upper_bound for name in ("easy", "hard"))
    assert found.upper_bound <= 0.1
    assert found.reason.count("2 of 3 groups") == 1
    assert "- rare: deferred" in str(found)
    with pytest.raises(InputError, match="a threshold for each group"):
        found.threshold_for()


def test_one_grid_serves_all_groups_and_a_missing_one_is_the_prior() -> None:
    scores, wrong, groups = three(3000)
    held = three(3000, seed=1)
    shared = grid_of(held[0], held[1], 0.9, 0.05, 3000)
    assert certify(scores, wrong, agreement=0.9, delta=0.05, grid=shared, groups=groups).covers
    prior = certify(scores, wrong, agreement=0.9, delta=0.05, grid={}, groups=groups)
    assert prior == certify(scores, wrong, agreement=0.9, delta=0.05, grid=prior_grid(0.9), groups=groups)
    assert prior.covers


def test_no_group_with_enough_rows() -> None:
    scores, wrong, groups = three(60)
    found = certify(scores, wrong, agreement=0.95, delta=0.05, grid=prior_grid(0.95), groups=groups)
    assert not found.covers
    assert (found.coverage, found.risk, found.upper_bound) == (0.0, None, 1.0)
    assert found.rows_needed
    assert found.reason.startswith("nothing can be guaranteed: none of")


def test_delta_is_shared_among_groups_that_have_rows_for_it() -> None:
    least = [rows_without_errors(0.05, 0.05 / groups) for groups in (1, 2, 3)]
    sizes = {"a": 500, "b": least[2] - 1, "c": least[1] - 1}
    assert large_enough(sizes, 0.05, 0.05) == ["a", "b"]
    assert large_enough({"a": least[0] - 1}, 0.05, 0.05) == []
    # Twenty groups with hardly a chance are not worth what they take from the large one.
    many = {f"g{i}": 120 for i in range(20)} | {"large": 1500}
    prospects: dict[str, Prospect | None] = {name: Prospect(0.8, 0.035) for name in many}
    assert worth_testing(many, prospects, 0.05, 0.05) == ["large"]
    assert set(worth_testing(many, dict.fromkeys(many, Prospect(1.0, 0.0001)), 0.05, 0.05)) == set(many)
    assert worth_testing(sizes, dict.fromkeys(sizes), 0.05, 0.05) == ["a", "b"]


def test_a_group_that_is_done_passes_its_part_on() -> None:
    """450 rows with 14 errors are certified at 5 %, and not at half of it."""
    full, tight = np.zeros(450, bool), np.arange(450) < 14
    scores = np.full(450, 0.5)
    levels = levels_of(scores, (0.5,), (1.0,), None)

    def chain(wrong: np.ndarray) -> Chain:
        return Chain(Binomial(scores, wrong, 0.05), levels)

    both = walk_all({"full": chain(full), "tight": chain(tight)}, 0.05)
    assert both["tight"].delta == 0.05
    assert both["tight"].walk.last == 0
    assert both["full"].delta == 0.025
    bad = walk_all({"bad": chain(~full), "tight": chain(tight)}, 0.025)
    assert (bad["tight"].walk.last, bad["tight"].delta) == (None, 0.0125)
    assert walk_all({}, 0.05) == {}


def costly(count: int, seed: int, scale: float) -> Three:
    rng = np.random.default_rng(seed)
    scores = rng.random(count)
    return scores, rng.random(count) < 0.6 * (1 - scores), scale * rng.random(count)


def test_the_mean_cost_is_bounded() -> None:
    """Errors that cost little let more through than errors that count in full."""
    held, drawn = costly(4000, 0, 0.3), costly(2000, 1, 0.3)
    grid = grid_of(held[0], held[1], 0.95, 0.05, 2000, costs=held[2])
    found = certify(drawn[0], drawn[1], agreement=0.95, delta=0.05, grid=grid, costs=drawn[2])
    plain = certify(
        drawn[0], drawn[1], agreement=0.95, delta=0.05, grid=grid_of(held[0], held[1], 0.95, 0.05, 2000)
    )
    assert found.coverage > plain.coverage + 0.2
    taken = drawn[0] >= found.threshold_for()
    assert found.risk == pytest.approx((drawn[2] * drawn[1])[taken].mean())
    assert found.risk <= found.upper_bound <= 0.05
    assert "mean cost" in found.reason
    few = certify(drawn[0][:40], drawn[1][:40], agreement=0.95, delta=0.05, grid=grid, costs=drawn[2][:40])
    assert not few.covers
    assert few.rows_needed


def test_the_test_for_costs_is_picked_by_power() -> None:
    small = costly(3000, 0, 0.2)
    assert grid_of(small[0], small[1], 0.95, 0.05, 2000, costs=small[2]).test == "betting"
    scores, sparse = small[0], np.random.default_rng(1).random(3000) < 0.11 * (1 - small[0])
    assert grid_of(scores, sparse, 0.95, 0.05, 2000, costs=np.ones(3000)).test == "bentkus"
    with pytest.raises(ConfigError, match="all weigh the same"):
        certify(small[0], small[1], agreement=0.95, delta=0.05, grid=prior_grid(0.95), costs=small[2])
    prior = prior_grid(0.95, costs=True)
    assert prior.test == "betting"
    assert certify(small[0], small[1], agreement=0.95, delta=0.05, grid=prior, costs=small[2]).covers


@pytest.mark.parametrize("test", ["bentkus", "betting"])
def test_p_values_of_costs_are_valid_and_bounds_invert_them(test: str) -> None:
    """With a mean loss right at the rate, a p-value is at most u with a chance of at most u."""
    rng = np.random.default_rng(0)
    p_values = []
    for _ in range(600):
        losses = np.where(rng.random(300) < 0.1, rng.random(300), 0.0)  # mean 0.05
        scores = np.ones(300)
        made = (
            HoeffdingBentkus(scores, losses, 0.05)
            if test == "bentkus"
            else Betting(scores, losses, 0.05, 0.1)
        )
        p_values.append(float(made.p_values(np.array([0.5]))[0]))
    for level in (0.05, 0.1, 0.2):
        assert np.mean(np.array(p_values) <= level) <= level + 2 * np.sqrt(level / 600)
    bound = float(made.bounds(np.array([0.5]), 0.1)[0])
    again = (
        HoeffdingBentkus(scores, losses, bound) if test == "bentkus" else Betting(scores, losses, bound, 0.1)
    )
    if test == "bentkus":  # bets are tuned to the rate, so only this one is inverted by another rate
        assert float(again.p_values(np.array([0.5]))[0]) == pytest.approx(0.1, rel=0.01)
    assert losses.mean() < bound < 1
    assert float(made.p_values(np.array([2.0]))[0]) == 1.0  # nothing accepted


def test_groups_and_costs_together() -> None:
    scores, wrong, groups = three(4000)
    costs = np.full(4000, 0.5)
    held = three(4000, seed=1)
    grids = grids_of(*held, 0.9, 0.05, 4000, costs=costs)
    assert all(isinstance(grid, Grid) and grid.test != "binomial" for grid in grids.values())
    found = certify(scores, wrong, agreement=0.9, delta=0.05, grid=grids, groups=groups, costs=costs)
    assert found.covers
    assert found.test in ("betting", "bentkus")

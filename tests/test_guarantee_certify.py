"""Certificates: what is certified, what is said when nothing is, and what is refused."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from dspex.errors import ConfigError, InputError
from dspex.guarantee.binomial import rows_without_errors, tail, upper_bound
from dspex.guarantee.certificate import Certificate
from dspex.guarantee.certify import certify, delta_of, grid_of, prior_grid
from dspex.guarantee.planning import Grid

Rows = tuple[np.ndarray, np.ndarray]


def rows(count: int, seed: int = 0, worst: float = 0.6) -> Rows:
    """Scores in [0, 1] and errors, the lower the score the more; single precision, as programs give them."""
    rng = np.random.default_rng(seed)
    scores = rng.random(count).astype(np.float32).astype(np.float64)
    return scores, rng.random(count) < worst * (1 - scores) ** 2


def certified(count: int = 3000, agreement: float = 0.95, delta: float = 0.05, **more: Any) -> Certificate:
    grid = grid_of(*rows(3000, seed=1), agreement, delta, count)
    return certify(*rows(count), agreement=agreement, delta=delta, grid=grid, **more)


def test_the_lowest_threshold_is_found_before_the_first_failure() -> None:
    scores, wrong = rows(3000)
    found = certified()
    assert found.covers
    assert found.threshold is not None
    assert found.start is not None
    for threshold in np.unique(scores[(scores >= found.threshold) & (scores <= found.start)]):
        taken = scores >= threshold
        assert tail(int(wrong[taken].sum()), int(taken.sum()), 0.05) <= 0.05
    below = scores >= scores[scores < found.threshold].max()
    assert tail(int(wrong[below].sum()), int(below.sum()), 0.05) > 0.05


def test_its_figures() -> None:
    scores, wrong = rows(3000)
    found = certified()
    taken = scores >= found.threshold_for()
    assert (found.rows, found.accepted, found.errors) == (3000, taken.sum(), wrong[taken].sum())
    assert found.coverage == taken.mean()
    assert found.risk == pytest.approx(wrong[taken].mean())
    assert found.upper_bound == upper_bound(found.errors, found.accepted, 0.05)
    assert found.upper_bound <= 0.05
    assert found.rows_needed == 0
    assert f"{found.accepted:,} of 3,000" in found.reason
    assert all(low <= agreement for _, _, agreement, low in found.curve)
    assert [point[1] for point in found.curve] == sorted(point[1] for point in found.curve)
    assert found.curve[-1][1] == 1.0


def test_equal_scores_are_accepted_together() -> None:
    scores = np.repeat([0.9, 0.5, 0.1], 200)
    wrong = np.zeros(600, bool)
    wrong[200:205] = True
    wrong[400:450] = True
    found = certify(scores, wrong, agreement=0.95, delta=0.05, grid=Grid((0.9,)))
    assert (found.threshold, found.accepted, found.errors) == (0.5, 400, 5)
    shuffled = np.random.default_rng(0).permutation(600)
    assert certify(scores[shuffled], wrong[shuffled], agreement=0.95, delta=0.05, grid=Grid((0.9,))) == found


def test_all_rows_are_accepted_where_all_agree() -> None:
    scores = np.linspace(0, 1, 100)
    found = certify(scores, np.zeros(100, bool), agreement=0.95, delta=0.05, grid=Grid((0.4,)))
    assert (found.threshold, found.coverage) == (0.0, 1.0)


def test_rows_without_an_answer_are_never_accepted() -> None:
    scores = np.append(np.linspace(0, 1, 100), np.full(50, -np.inf))
    wrong = np.append(np.zeros(100, bool), np.ones(50, bool))
    found = certify(scores, wrong, agreement=0.95, delta=0.05, grid=Grid((0.4,)))
    assert (found.accepted, found.rows, found.errors) == (100, 150, 0)
    nothing = np.full(50, -np.inf)
    assert not certify(nothing, wrong[:50], agreement=0.95, delta=0.05, grid=prior_grid(0.95)).covers


def test_thresholds_given_by_hand_are_tested_in_order() -> None:
    scores, wrong = rows(3000)
    found = certify(scores, wrong, agreement=0.95, delta=0.05, grid=[0.9, 0.8, 0.7, 0.6])
    fine = certify(scores, wrong, agreement=0.95, delta=0.05, grid=Grid((0.9,)))
    assert found.threshold in (0.9, 0.8, 0.7, 0.6)
    assert fine.threshold is not None
    assert found.threshold is not None
    assert fine.threshold <= found.threshold
    with pytest.raises(ConfigError, match="fall"):
        certify(scores, wrong, agreement=0.95, delta=0.05, grid=[0.6, 0.7])


def test_a_later_start_has_its_own_part_of_delta() -> None:
    """The surest rows are wrong: the first start fails, the second certifies at its part of delta."""
    scores = np.linspace(1, 0, 1000)
    wrong = np.zeros(1000, bool)
    wrong[:10] = True
    grid = Grid((0.99, 0.5), (0.5, 0.5))
    found = certify(scores, wrong, agreement=0.95, delta=0.05, grid=grid)
    assert found.threshold == pytest.approx(0.0)
    # 450 rows with 14 errors are rejected at 5 %, and not at half of it.
    wrong = np.zeros(500, bool)
    wrong[:14] = True
    scores = np.append(np.full(450, 0.5), np.full(50, 0.0))
    wrong = np.append(wrong[:450], np.ones(50, bool))
    assert 0.025 / 2 < tail(14, 450, 0.05) < 0.05
    assert certify(scores, wrong, agreement=0.95, delta=0.05, grid=Grid((0.5,))).threshold == 0.5
    assert not certify(scores, wrong, agreement=0.95, delta=0.02, grid=Grid((0.9, 0.5), (0.5, 0.5))).covers


def test_the_start_has_power_where_the_strictest_threshold_has_none() -> None:
    grid = grid_of(*rows(3000, seed=1), 0.9, 0.05, 300)
    strictest = Grid((float(rows(3000, seed=1)[0].max()),))
    wins = {"grid": 0, "strictest": 0}
    for seed in range(2, 22):
        drawn = rows(300, seed)
        wins["grid"] += certify(*drawn, agreement=0.9, delta=0.05, grid=grid).covers
        wins["strictest"] += certify(*drawn, agreement=0.9, delta=0.05, grid=strictest).covers
    assert wins["strictest"] == 0
    assert wins["grid"] >= 10


def test_too_few_rows_are_told_how_many_are_missing() -> None:
    found = certified(30)
    assert not found.covers
    assert found.threshold_for() == math.inf
    assert (found.threshold, found.accepted, found.coverage, found.upper_bound) == (None, 0, 0.0, 1.0)
    assert found.rows_needed is not None
    assert "nothing can be guaranteed: 30 calibration rows are too few" in found.reason
    assert f"about {found.rows_needed:,} more rows" in found.reason


def test_as_many_rows_as_needed_do_in_four_cases_of_five() -> None:
    scores, wrong = rows(30)
    held = rows(5000, seed=1)
    needed = certify(
        scores, wrong, agreement=0.95, delta=0.05, grid=grid_of(*held, 0.95, 0.05, 30)
    ).rows_needed
    assert needed is not None
    total = 30 + needed
    grid = grid_of(*held, 0.95, 0.05, total)
    wins = [certify(*rows(total, 100 + i), agreement=0.95, delta=0.05, grid=grid).covers for i in range(60)]
    assert 0.65 <= np.mean(wins) <= 0.97  # 0.8 in expectation, but for what 5,000 rows do not tell


def test_no_number_of_rows_helps_where_nothing_can_be_learned() -> None:
    rng = np.random.default_rng(0)
    scores, wrong = rng.random(4000), rng.random(4000) < 0.75
    grid = grid_of(scores[:2000], wrong[:2000], 0.95, 0.05, 2000)
    found = certify(scores[2000:], wrong[2000:], agreement=0.95, delta=0.05, grid=grid)
    assert (found.covers, found.rows_needed) == (False, None)
    assert "no number of rows would do" in found.reason


def test_cross_takes_a_prior_grid_and_says_what_it_assumes() -> None:
    found = certify(*rows(3000), agreement=0.95, delta=0.05, grid=prior_grid(0.95), method="cross")
    assert found.covers
    assert any("fitted on all rows" in text for text in found.assumptions)
    assert not any("fitted on all rows" in text for text in certified().assumptions)
    with pytest.raises(ConfigError, match="the very rows that certify"):
        certified(method="cross")
    starts = prior_grid(0.95).starts
    assert all(float(np.float32(start)) == start for start in starts)
    for agreement in (0.01, 0.3, 0.999):
        assert sum(prior_grid(agreement).shares) == pytest.approx(1)


def test_versions_share_delta() -> None:
    assert sum(delta_of(0.05, version) for version in range(1, 100_000)) == pytest.approx(0.05, rel=1e-4)
    assert delta_of(0.05, 1) == pytest.approx(0.05 * 6 / math.pi**2)
    for version in (0, -1, True, 1.0):
        with pytest.raises(ConfigError):
            delta_of(0.05, version)  # type: ignore[arg-type]


def test_a_certificate_goes_through_json() -> None:
    for found in (certified(), certified(30), certified(groups=["a", "b"] * 1500)):
        assert Certificate.from_dict(json.loads(json.dumps(found.to_dict()))) == found
    data = certified().to_dict()
    for broken in ({}, {**data, "more": 1}, {k: v for k, v in data.items() if k != "delta"}, [1]):
        with pytest.raises(InputError, match="no certificate"):
            Certificate.from_dict(broken)  # type: ignore[arg-type]


def test_it_reads_well() -> None:
    text = str(certified())
    assert text.startswith("with probability at least 0.95 at least 95 % of the native answers agree")
    assert "It is assumed that" in text
    with pytest.raises(InputError, match="no groups"):
        certified().threshold_for("a")
    assert replace(certified(), threshold=None).covers is False


GOOD = {"scores": [0.5, 0.6], "wrong": [True, False], "agreement": 0.95, "delta": 0.05, "grid": Grid((0.5,))}


@pytest.mark.parametrize(
    ("change", "error", "field"),
    [
        ({"agreement": 1.0}, ConfigError, "agreement"),
        ({"agreement": 0}, ConfigError, "agreement"),
        ({"agreement": math.nan}, ConfigError, "agreement"),
        ({"agreement": "0.9"}, ConfigError, "agreement"),
        ({"delta": 0.0}, ConfigError, "delta"),
        ({"delta": 1}, ConfigError, "delta"),
        ({"method": "crosss"}, ConfigError, "method"),
        ({"grid": []}, ConfigError, "grid"),
        ({"grid": "0.5"}, ConfigError, "grid"),
        ({"grid": {"a": Grid((0.5,))}}, ConfigError, "grid"),
        ({"grid": Grid((0.5,), test="betting")}, ConfigError, "grid"),
        ({"scores": [0.5, math.nan]}, InputError, "scores"),
        ({"scores": [0.5, math.inf]}, InputError, "scores"),
        ({"scores": [[0.5, 0.6]]}, InputError, "scores"),
        ({"scores": ["a", "b"]}, InputError, "scores"),
        ({"scores": [], "wrong": []}, InputError, "scores"),
        ({"wrong": [True]}, InputError, "wrong"),
        ({"wrong": [0.5, 1]}, InputError, "wrong"),
        ({"costs": [0.5]}, InputError, "costs"),
        ({"costs": [0.5, 1.5]}, InputError, "costs"),
        ({"costs": [0.5, math.nan]}, InputError, "costs"),
        ({"costs": [0.5, 1.0]}, ConfigError, "grid"),
        ({"groups": ["a"]}, InputError, "groups"),
        ({"groups": ["a", 3]}, InputError, "groups"),
    ],
)
def test_bad_input(change: dict[str, Any], error: type[Exception], field: str) -> None:
    with pytest.raises(error) as raised:
        certify(**{**GOOD, **change})
    assert raised.value.field == field  # type: ignore[attr-defined]


def test_bad_grids() -> None:
    for starts, shares in (((), ()), ((0.5,), (0.5, 0.5)), ((0.5,), (0.0,)), ((0.5, 0.4), (0.9, 0.2))):
        with pytest.raises(ConfigError):
            Grid(starts, shares)
    with pytest.raises(ConfigError, match="among the thresholds"):
        Grid((0.5,), thresholds=(0.6, 0.4))
    with pytest.raises(ConfigError, match="number of calibration rows"):
        grid_of([0.5], [True], 0.95, 0.05, -1)
    with pytest.raises(InputError, match="no held-out row has a score"):
        grid_of([-math.inf], [True], 0.95, 0.05, 10)
    with pytest.raises(ConfigError):
        prior_grid(1.0)
    assert grid_of([0.5], [False], 0.95, 0.05, rows_without_errors(0.05, 0.05)).starts == (0.5,)

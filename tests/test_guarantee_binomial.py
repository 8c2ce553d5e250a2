"""Binomial tails and bounds, against exact arithmetic and SciPy."""

from __future__ import annotations

import math
import time
from fractions import Fraction

import numpy as np
import pytest
from scipy import stats

from dspex.errors import ConfigError, InputError
from dspex.guarantee.binomial import critical, rows_without_errors, tail, upper_bound

RATES = (1e-6, 0.001, 0.02, 0.05, 0.1, 0.3, 0.5, 0.7, 0.95, 0.999)


def exact(errors: int, n: int, rate: float) -> Fraction:
    p = Fraction(rate)
    return sum((math.comb(n, k) * p**k * (1 - p) ** (n - k) for k in range(errors + 1)), Fraction(0))


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("n", [1, 2, 7, 40])
def test_small_tails_are_those_of_exact_arithmetic(n: int, rate: float) -> None:
    for errors in range(n + 1):
        truth = exact(errors, n, rate)
        assert abs(Fraction(tail(errors, n, rate)) / truth - 1) < 1e-13


def test_a_large_tail_is_that_of_exact_arithmetic() -> None:
    """P(X <= 4,420) for n = 10,000 and rate 1/2, by whole numbers; SciPy's is off by 1e-13 around there."""
    term, total = math.comb(10_000, 4420), 0
    for k in range(4420, 3300, -1):
        total += term
        term = term * k // (10_000 - k + 1)
    truth = Fraction(total, 2**10_000)
    assert abs(Fraction(tail(4420, 10_000, 0.5)) / truth - 1) < 2e-14


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("n", [100, 10_000, 1_000_000])
def test_tails_are_scipys(n: int, rate: float) -> None:
    """To 1e-12; beyond six deviations of a million rows SciPy itself is off by that much."""
    deviation = math.sqrt(n * rate * (1 - rate)) + 1
    errors = np.unique(np.clip(np.round(n * rate + deviation * np.linspace(-6, 9, 50)), 0, n).astype(int))
    expected = stats.binom.cdf(errors, n, rate)
    assert np.abs(np.asarray(tail(errors, n, rate)) / expected - 1).max() < 1e-12


def test_tails_broadcast_and_have_ends() -> None:
    found = tail([[-1], [0], [5]], [0, 5], 0.5)
    assert np.asarray(found).tolist() == [[0.0, 0.0], [1.0, 0.5**5], [1.0, 1.0]]
    assert tail(0, 5, 0.0) == 1.0
    assert tail(4, 5, 1.0) == 0.0
    assert tail(5, 5, 1.0) == 1.0
    assert np.asarray(tail([], [], 0.5)).size == 0


def test_a_grid_of_2000_thresholds_takes_under_20_ms() -> None:
    rows = np.linspace(5000, 10_000, 2000).astype(int)
    errors = (rows * 0.045).astype(int)
    times = []
    for _ in range(9):
        begin = time.thread_time()
        tail(errors, rows, 0.05)
        times.append(time.thread_time() - begin)
    assert min(times) < 0.020


@pytest.mark.parametrize("delta", [0.2, 0.05, 1e-6])
def test_bounds_are_clopper_pearsons(delta: float) -> None:
    n = np.array([1, 2, 2, 3, 50, 50, 1000, 1000, 100_000])
    errors = np.array([0, 0, 1, 2, 0, 7, 49, 998, 4900])
    expected = stats.beta.ppf(1 - delta, errors + 1, n - errors)
    assert np.abs(np.asarray(upper_bound(errors, n, delta)) / expected - 1).max() < 1e-11
    assert upper_bound(3, 3, delta) == 1.0
    assert upper_bound(0, 0, delta) == 1.0


@pytest.mark.parametrize("delta", [0.2, 0.05, 1e-3, 1e-9])
@pytest.mark.parametrize("rate", [0.02, 0.05, 0.5, 0.9])
def test_critical_is_the_most_errors_that_still_reject(rate: float, delta: float) -> None:
    rows = np.concatenate((np.arange(0, 300), [1000, 12_345, 100_000]))
    most = critical(rows, rate, delta)
    inside = most >= 0
    assert (np.asarray(tail(most[inside], rows[inside], rate)) <= delta).all()
    assert (np.asarray(tail(most + 1, rows, rate)) > delta).all()


def test_rows_without_errors() -> None:
    assert rows_without_errors(0.05, 0.05) == 59
    for rate, delta in ((0.05, 0.05), (0.02, 0.2), (0.1, 1e-4)):
        rows = rows_without_errors(rate, delta)
        assert tail(0, rows, rate) <= delta < tail(0, rows - 1, rate)


def test_bad_input() -> None:
    with pytest.raises(ConfigError):
        tail(1, 2, 1.5)
    with pytest.raises(ConfigError):
        tail(1, 2, math.nan)
    with pytest.raises(InputError):
        tail(1, -2, 0.5)
    with pytest.raises(ConfigError):
        upper_bound(1, 2, 0.0)
    with pytest.raises(InputError):
        upper_bound(3, 2, 0.1)

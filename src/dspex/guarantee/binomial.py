"""Binomial tails and bounds, exact to about 1e-13, over whole arrays, with numpy alone."""

from __future__ import annotations

import math
from statistics import NormalDist
from typing import Any, overload

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dspex.errors import ConfigError, InputError

__all__ = ["critical", "rows_without_errors", "tail", "upper_bound"]

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@overload
def tail(errors: int, n: int, rate: float) -> float: ...
@overload
def tail(errors: ArrayLike, n: ArrayLike, rate: ArrayLike) -> Floats | float: ...
def tail(errors: Any, n: Any, rate: Any) -> Floats | float:
    """P(X <= errors) for X ~ Binomial(n, rate): the p-value of "the rate is at least `rate`".

    The largest term is computed by Loader's saddle-point form ("Fast and accurate computation of binomial
    probabilities", 2000), the others by the ratio of neighbours, on the side of the mean where they fall.

    Args:
        errors: whole numbers; below 0 the tail is 0, from n on it is 1.
        n: whole numbers >= 0.
        rate: in [0, 1]. All three are broadcast against each other.

    Raises:
        InputError: n is negative.
        ConfigError: a rate outside [0, 1].
    """
    k, size, p = np.broadcast_arrays(
        np.asarray(errors, np.int64), np.asarray(n, np.int64), np.asarray(rate, np.float64)
    )
    shape = k.shape
    k, size, p = k.ravel(), size.ravel(), p.ravel()
    if size.size and size.min() < 0:
        raise InputError("a number of rows is negative", field="n")
    if not ((p >= 0) & (p <= 1)).all():
        raise ConfigError("a rate is outside [0, 1]", field="rate")
    out = np.where((k >= size) | (p == 0), 1.0, 0.0)
    out[k < 0] = 0.0
    inner = (k >= 0) & (k < size) & (p > 0) & (p < 1)
    lower = inner & (k <= size * p)
    out[lower] = _falling(k[lower], size[lower], p[lower])
    upper = inner & ~lower
    # P(X <= k) = 1 - P(X >= k + 1) = 1 - P(n - X <= n - k - 1), and that is at most about a half.
    out[upper] = 1.0 - _falling(size[upper] - k[upper] - 1, size[upper], p[upper], mirrored=True)
    return float(out[0]) if shape == () else out.reshape(shape)


def upper_bound(errors: Any, n: Any, delta: float) -> Floats | float:
    """The one-sided Clopper-Pearson bound: the rate at which P(X <= errors) falls to `delta`.

    Args:
        errors, n: whole numbers, 0 <= errors <= n; 1.0 is the bound where n = errors.
        delta: in (0, 1).

    Raises:
        ConfigError: delta outside (0, 1).
        InputError: errors outside [0, n].
    """
    if not 0 < delta < 1:
        raise ConfigError(f"delta is {delta!r}", field="delta", hint="It lies strictly between 0 and 1")
    k, size = np.broadcast_arrays(np.asarray(errors, np.int64), np.asarray(n, np.int64))
    shape = k.shape
    k, size = k.ravel(), size.ravel()
    if ((k < 0) | (k > size)).any():
        raise InputError("errors are fewer than 0 or more than the rows", field="errors")
    bound = np.ones(k.size)
    none, nearly = (k == 0) & (size > 0), (k > 0) & (k == size - 1)
    bound[none] = -np.expm1(math.log(delta) / size[none])  # (1 - rate)^n = delta
    bound[nearly] = np.exp(math.log1p(-delta) / size[nearly])  # 1 - rate^n = delta
    inner = (k > 0) & (k < size - 1)
    bound[inner] = _bound(k[inner], size[inner], delta)
    return float(bound[0]) if shape == () else bound.reshape(shape)


def critical(n: Any, rate: float, delta: float) -> Ints:
    """The most errors among n rows with which "the rate is above `rate`" is rejected at level `delta`.

    -1 where even none would not do.
    """
    size = np.atleast_1d(np.asarray(n, np.int64))
    # By the Cornish-Fisher expansion first, which is seldom off by more than one.
    z = NormalDist().inv_cdf(delta)
    about = size * rate + z * np.sqrt(size * rate * (1 - rate)) + (z * z - 1) * (1 - 2 * rate) / 6 - 0.5
    near = np.clip(np.floor(about).astype(np.int64), 0, size)
    below, above = np.maximum(near - 1, -1), np.minimum(near + 1, size)
    fits_below = np.asarray(tail(below, size, rate)) <= delta
    fits_above = (np.asarray(tail(above, size, rate)) <= delta) & (above < size)
    low = np.where(fits_above, above, np.where(fits_below, below, -1))  # tail(low) <= delta < tail(high)
    high = np.where(fits_above, size, np.where(fits_below, above, np.maximum(below, 0)))
    while (open_ := high - low > 1).any():
        middle = (low + high) // 2
        fits = np.zeros(size.shape, bool)
        fits[open_] = np.atleast_1d(tail(middle[open_], size[open_], rate)) <= delta
        low, high = np.where(open_ & fits, middle, low), np.where(open_ & ~fits, middle, high)
    return low


def rows_without_errors(rate: float, delta: float) -> int:
    """The fewest rows that show a rate of at most `rate` when none of them is wrong."""
    rows = max(1, math.ceil(math.log(delta) / math.log1p(-rate)))
    return rows if (1 - rate) ** rows <= delta else rows + 1


def _falling(k: Ints, n: Ints, p: Floats, *, mirrored: bool = False) -> Floats:
    """P(X <= k) by its terms from k downwards, for k on the near side of the mean or just beyond it.

    Mirrored: the chance of k or fewer *right* rows, that is with rate 1 - p.
    """
    total, term = np.ones(k.size), np.ones(k.size)
    odds = p / (1 - p) if mirrored else (1 - p) / p
    below, above = k.astype(np.float64), (n - k + 1).astype(np.float64)
    live = np.arange(k.size)
    x, y, t, s, o = below.copy(), above.copy(), term, total.copy(), odds.copy()
    step = 0
    while live.size:
        t = t * (x / y * o)
        s = s + t
        x, y = x - 1, y + 1
        step += 1
        if step % 16 == 0 or step < 4:
            # What is left is below t * r / (1 - r), r the ratio of the next terms.
            ratio = np.maximum(x, 0) / y * o
            done = (x <= 0) | (t * ratio <= 1e-17 * s * np.maximum(1 - ratio, 1e-300))
            if done.any():
                total[live[done]] = s[done]
                keep = ~done
                live, x, y, t, s, o = live[keep], x[keep], y[keep], t[keep], s[keep], o[keep]
    return total * _mass(k, n, p, mirrored)


def _mass(k: Ints, n: Ints, p: Floats, mirrored: bool) -> Floats:
    """P(X = k), 0 <= k < n, by Loader's form; mirrored: with rate 1 - p."""
    x, size = k.astype(np.float64), n.astype(np.float64)
    q, q_rest = _two_sum(np.ones_like(p), -p)  # 1 - p = q + q_rest exactly
    zero = np.zeros_like(p)
    if mirrored:
        p, p_rest, q, q_rest = q, q_rest, p, zero
    else:
        p_rest = zero
    right = size - x
    log = _stirling(size) - _stirling(x) - _stirling(right) - _deviance(x, size, p, p_rest)
    log -= _deviance(right, size, q, q_rest)
    inner = x > 0
    edge = np.where(inner, 2 * np.pi * np.where(inner, x, 1) * right / size, 1.0)
    mass = np.exp(np.where(inner, log, 0.0)) / np.sqrt(edge)
    none = size * (np.log1p(-p) if not mirrored else np.log(q))
    return np.where(inner, mass, np.exp(none))


def _deviance(x: Floats, n: Floats, p: Floats, p_rest: Floats) -> Floats:
    """x log(x / np) + np - x without cancellation, for x > 0 (0 stands for anything at x = 0)."""
    mean, rest = _two_product(n, p)
    rest = rest + n * p_rest
    safe = np.where(x > 0, x, 1.0)
    gap = (safe - mean) - rest
    v = gap / (safe + mean)
    near = np.abs(v) < 0.5
    w = np.where(near, v, 0.0)
    square, power = w * w, 2 * safe * w
    series = gap * w
    for odd in range(3, 201, 2):
        power = power * square
        added = power / odd
        series = series + added
        if not (np.abs(added) > 1e-18 * np.abs(series)).any():
            break
    ratio = np.where(near, 1.0, safe / mean)
    far = safe * np.log(ratio) - gap - safe * rest / mean
    return np.where(near, series, far)


#: log(n!) less Stirling's log(sqrt(2 pi n) (n / e)^n), for n below 16.
_SMALL = np.array(
    [0.0]
    + [
        math.log(math.factorial(n)) - (0.5 * math.log(2 * math.pi * n) + n * math.log(n) - n)
        for n in range(1, 16)
    ]
)


def _stirling(n: Floats) -> Floats:
    """The error of Stirling's formula for log(n!)."""
    small = n < 16
    m = np.where(small, 16.0, n)
    square = m * m
    # The last coefficient's term is below 1e-16 from n = 16 on.
    series = (
        1 / 12
        - (1 / 360 - (1 / 1260 - (1 / 1680 - (1 / 1188 - 691 / 360360 / square) / square) / square) / square)
        / square
    )
    return np.where(small, _SMALL[np.where(small, n, 0).astype(np.int64)], series / m)


def _two_sum(a: Floats, b: Floats) -> tuple[Floats, Floats]:
    """a + b as the rounded sum and its rounding error (Knuth)."""
    total = a + b
    part = total - a
    return total, (a - (total - part)) + (b - part)


def _two_product(a: Floats, b: Floats) -> tuple[Floats, Floats]:
    """a * b as the rounded product and its rounding error (Dekker)."""
    product = a * b
    a_high, b_high = (134217729.0 * a), (134217729.0 * b)
    a_high, b_high = a_high - (a_high - a), b_high - (b_high - b)
    a_low, b_low = a - a_high, b - b_high
    return product, ((a_high * b_high - product) + a_high * b_low + a_low * b_high) + a_low * b_low


def _bound(k: Ints, n: Ints, delta: float) -> Floats:
    """The root of tail(k, n, rate) = delta: Newton on the logarithm, held inside a shrinking bracket."""
    low, high = k / n, np.ones(k.size)
    deviation = math.sqrt(2 * math.log(1 / delta))
    rate = np.clip(low + deviation * np.sqrt((low + 1 / n) / n), low + 1e-3 / n, 1 - 1e-12)
    for _ in range(100):
        value = np.asarray(tail(k, n, rate))
        high, low = np.where(value <= delta, rate, high), np.where(value > delta, rate, low)
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            slope = -n * _mass(k, n - 1, rate, mirrored=False)
            step = rate - value * (np.log(value) - math.log(delta)) / slope
        inside = (step >= low) & (step <= high)
        new = np.where(inside, step, (low + high) / 2)
        moved = np.abs(new - rate) > 1e-13 * rate  # Newton: the next one would be exact
        rate = new
        if not moved.any():
            break
    return rate

"""Fixed-sequence testing of thresholds, from a strict one downwards, and the exact test for plain errors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from dspex.guarantee.binomial import critical, tail, upper_bound

__all__ = ["Binomial", "Level", "Test", "Walk", "levels_of", "lowest", "walk"]

Floats = NDArray[np.float64]

_BLOCK = 512  # thresholds whose p-values are worked out at a time


class Test(Protocol):
    """p-values of "among rows with score >= threshold, the risk is above the rate that is allowed"."""

    def p_values(self, thresholds: Floats) -> Floats:
        """[thresholds], each valid by itself: at most u with a chance of at most u where it is true."""

    def bounds(self, thresholds: Floats, delta: float) -> Floats:
        """[thresholds] the least rate that would be rejected at level `delta`; 1.0 where none would."""


class Binomial:
    """The exact test: of N accepted rows the wrong ones are Binomial(N, risk), whatever N came out as."""

    def __init__(self, scores: Floats, wrong: NDArray[np.bool_], rate: float) -> None:
        order = np.argsort(-scores, kind="stable")
        self._falling = -scores[order]
        self._errors = np.concatenate(([0], np.cumsum(wrong[order], dtype=np.int64)))
        self._rate = rate

    def counts(self, thresholds: Floats) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Accepted rows and the wrong ones among them, each [thresholds]."""
        rows = np.searchsorted(self._falling, -thresholds, side="right").astype(np.int64)
        return rows, self._errors[rows]

    def p_values(self, thresholds: Floats) -> Floats:
        rows, errors = self.counts(thresholds)
        return np.asarray(tail(errors, rows, self._rate))

    def bounds(self, thresholds: Floats, delta: float) -> Floats:
        rows, errors = self.counts(thresholds)
        return np.asarray(upper_bound(errors, rows, delta))

    def allowed(self, threshold: float, delta: float) -> int:
        """The most errors with which the threshold would have been certified; -1: not even with none."""
        return int(critical(self.counts(np.array([threshold]))[0], self._rate, delta)[0])


@dataclass(frozen=True, slots=True)
class Level:
    """Thresholds in the order in which they are tested, and the part of delta that comes in at each.

    Attributes:
        thresholds: [m], falling.
        shares: [m], mostly 0; their sum is at most 1.
    """

    thresholds: Floats
    shares: Floats


def levels_of(
    scores: Floats, starts: tuple[float, ...], shares: tuple[float, ...], given: tuple[float, ...] | None
) -> Level:
    """The thresholds that have to be looked at.

    Without thresholds `given` beforehand, all numbers from the first start downwards are tested. That is one
    sequence, fixed beforehand; p-values change at observed scores only, so that nothing else needs a look.
    """
    if given is None:
        below = scores[(scores < starts[0]) & np.isfinite(scores)]
        thresholds = np.unique(np.concatenate((starts, below)))[::-1]
    else:
        thresholds = np.array(given)
    placed = np.zeros(thresholds.size)
    for start, share in zip(starts, shares, strict=True):
        placed[int(np.searchsorted(-thresholds, -start))] += share
    return Level(thresholds, placed)


@dataclass(frozen=True, slots=True)
class Walk:
    """What a sequence of tests came to.

    Attributes:
        last: index of the lowest threshold that is certified; None: none is.
        complete: every threshold was.
    """

    last: int | None
    complete: bool


def walk(test: Test, levels: Level, delta: float) -> Walk:
    """Tests in order at the level that has come in so far; the first failure spends it.

    With one start it is fixed-sequence testing; with several the fallback procedure (Wiens 2003; Wiens and
    Dmitrienko 2005): behind a failure the next start goes on with its own share, and one that is reached
    without a failure adds its share. The chance that any threshold is certified wrongly is at most `delta`.
    """
    size = levels.thresholds.size
    last: int | None = None
    complete = levels.shares[0] > 0
    (starts,) = np.nonzero(levels.shares > 0)
    position = 0
    for start in starts:
        if start < position:  # passed on the way
            continue
        failed = _first_failure(test, levels, int(start), delta)
        if failed > start:
            last = failed - 1
        if failed == size:
            break
        complete, position = False, failed + 1
    else:
        complete = False
    return Walk(last, bool(complete and last is not None))


def lowest(test: Test, levels: Level, delta: float) -> float | None:
    """The lowest threshold that is certified."""
    last = walk(test, levels, delta).last
    return None if last is None else float(levels.thresholds[last])


def _first_failure(test: Test, levels: Level, start: int, delta: float) -> int:
    """Index of the first threshold from `start` on that fails; the number of thresholds if none does."""
    size, carried, block = levels.thresholds.size, 0.0, 32
    while start < size:
        stop = min(start + block, size)
        level = carried + np.cumsum(levels.shares[start:stop])
        failed = test.p_values(levels.thresholds[start:stop]) > np.minimum(level, 1.0) * delta
        if failed.any():
            return start + int(np.argmax(failed))
        carried, start, block = float(level[-1]), stop, _BLOCK
    return size

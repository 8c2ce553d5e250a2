"""Bets against "this rate never exceeds its bound": what the sequential tests here are made of.

A bet on the next outcome of a 0/1 stream is a rate q above the bound p: it multiplies its stake by q/p when
the outcome is 1 and by (1-q)/(1-p) when it is 0. That is the capital factor 1 + lambda (x - p) of
Waudby-Smith and Ramdas ("Estimating means of bounded random variables by betting", JRSS B 2023) with lambda =
(q-p) / (p(1-p)) >= 0. As long as the chance of a 1, given the past, is at most p, the expected factor is at
most 1, so a capital of 1 ever reaches 1/delta with probability at most delta (Ville 1939).

Late changes. A stake that has been on the table for long good times is lost. So only a part of the capital is
staked at the start, and the rest bit by bit (a mixture over start times with weights that sum to 1; compare
Shin, Ramdas and Rinaldo, "E-detectors", 2023). Per bet this needs one number, the stake:
``stake = (stake + fresh) * factor``.
"""

from __future__ import annotations

import math
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

__all__ = ["AT_ONCE", "FACTORS", "MIXED", "Forecast", "odds_times", "unstaked"]

#: Part of the capital that is staked before the first outcome.
AT_ONCE = 0.7
#: Outcomes until half of the rest is staked.
_SCALE = 500.0 * (math.e - 1)
#: The fixed bets: multiples of the bound's odds.
FACTORS = (1.4, 2.0, 4.0, 12.0)
#: Part of the capital of the fixed bets together; the forecaster has the rest.
MIXED = 0.2


@overload
def odds_times(rate: float, factor: float) -> float: ...
@overload
def odds_times(rate: NDArray[np.float64], factor: float) -> NDArray[np.float64]: ...
def odds_times(rate: Any, factor: float) -> Any:
    """The rate (or rates) whose odds are ``factor`` times those of ``rate``, inside 0 and 1."""
    return factor * rate / (1.0 - rate + factor * rate)


def unstaked(n: int) -> float:
    """Part of the capital that is not staked yet after ``n`` outcomes; falls like 1/log n, so that there is
    something left for a change at any time."""
    return (1.0 - AT_ONCE) / (1.0 + math.log1p(n / _SCALE))


class Forecast:
    """The chance of a 1, forecast from the past: which of a grid of rates holds, with switches between them
    (fixed share: Herbster and Warmuth, "Tracking the best expert", 1998).

    Unlike a fixed bet it does not pay for good times: it bets only when it takes the rate to exceed the
    bound.
    """

    #: Rates it knows: multiples of the bound's odds.
    MULTIPLES = (0.12, 0.25, 0.5, 0.8, 1.3, 1.6, 2.2, 4.0, 10.0)
    #: Chance of a switch at each outcome.
    SWITCH = 3e-4

    __slots__ = ("rates", "shares")

    def __init__(self, bound: float, shares: list[float] | None = None) -> None:
        self.rates = tuple(odds_times(bound, m) for m in self.MULTIPLES)
        self.shares = [1.0 / len(self.rates)] * len(self.rates) if shares is None else shares

    def next(self) -> float:
        """The chance that the next outcome is 1. Call it once before each ``learn``."""
        kept, new = 1.0 - self.SWITCH, self.SWITCH / len(self.rates)
        self.shares = [share * kept + new for share in self.shares]
        chance = 0.0
        for share, rate in zip(self.shares, self.rates, strict=True):
            chance += share * rate
        return chance

    def learn(self, outcome: bool) -> None:
        """Bayes' rule for what came."""
        likely = [
            share * (rate if outcome else 1.0 - rate)
            for share, rate in zip(self.shares, self.rates, strict=True)
        ]
        total = 0.0  # not sum(): that rounds differently from one version of Python to the next
        for one in likely:
            total += one
        self.shares = [one / total for one in likely]

"""Many streams side by side through the tests of `dspex.guarantee`, and through the best there can be."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from dspex.guarantee.bank import Bank
from dspex.guarantee.betting import AT_ONCE, FACTORS, MIXED, Forecast, odds_times, unstaked
from dspex.guarantee.drift import cells, credits_of, levels_of
from dspex.guarantee.reference import DriftReference

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


class Watches:
    """`Watch` for many streams: the same sums in the same order, so that every number is the same."""

    def __init__(self, agreement: float, streams: int) -> None:
        self.bound = 1.0 - agreement
        rates = np.array([odds_times(self.bound, factor) for factor in FACTORS])[:, None]
        self._up, self._down = rates / self.bound, (1.0 - rates) / (1.0 - self.bound)
        forecast = Forecast(self.bound)
        self._rates = np.array(forecast.rates)[:, None]
        self._shares = np.tile(np.array(forecast.shares)[:, None], (1, streams))
        self._stakes = np.full((len(FACTORS) + 1, streams), AT_ONCE)
        self.evidence = np.ones(streams)
        self.n = 0

    def update(self, wrong: Bools) -> None:
        self.n += 1
        left = unstaked(self.n)
        self._shares *= 1.0 - Forecast.SWITCH
        self._shares += Forecast.SWITCH / len(self._rates)
        chance = np.maximum(np.add.reduce(self._shares * self._rates, 0), self.bound)
        self._stakes += unstaked(self.n - 1) - left
        self._stakes[:-1] *= np.where(wrong, self._up, self._down)
        self._stakes[-1] *= np.where(wrong, chance / self.bound, (1.0 - chance) / (1.0 - self.bound))
        self._shares *= np.where(wrong, self._rates, 1.0 - self._rates)
        self._shares /= np.add.reduce(self._shares, 0)
        mixed = np.add.reduce(self._stakes[:-1], 0)
        self.evidence = left + MIXED / len(FACTORS) * mixed + (1.0 - MIXED) * self._stakes[-1]


class Plain:
    """The betting process without restarts and without a forecast: all capital on the fixed bets at once."""

    def __init__(self, agreement: float, streams: int) -> None:
        bound = 1.0 - agreement
        rates = np.array([odds_times(bound, factor) for factor in FACTORS])[:, None]
        self._up, self._down = np.log(rates / bound), np.log((1.0 - rates) / (1.0 - bound))
        self._log = np.zeros((len(FACTORS), streams))

    def update(self, wrong: Bools) -> None:
        self._log += np.where(wrong, self._up, self._down)

    @property
    def evidence(self) -> Floats:
        return np.exp(np.minimum(self._log, 700.0)).mean(0)


class Ratio:
    """The likelihood-ratio test that knows the rate after the change and begins at it (Wald): of all tests of
    "the rate is `null`" with at most this chance of a false alarm the quickest, but for its overshoot."""

    def __init__(self, null: float, rate: float, streams: int) -> None:
        self._up, self._down = np.log(rate / null), np.log((1.0 - rate) / (1.0 - null))
        self._log = np.zeros(streams)

    def update(self, wrong: Bools) -> None:
        self._log += np.where(wrong, self._up, self._down)

    @property
    def evidence(self) -> Floats:
        return np.exp(np.minimum(self._log, 700.0))


class DriftWatches:
    """`DriftWatch` for many streams, each with its own reference: the very `Bank`, with a column for each.

    The references must have equally many events: no equal scores or shares, and every class in each.
    """

    def __init__(self, references: Sequence[DriftReference], delta: float) -> None:
        each = [reference.events() for reference in references]
        self._parts = references[0].parts()
        levels = levels_of(self._parts, delta)
        self._banks = {
            group: Bank(
                np.stack(
                    [cells(r, e[group], levels, 0.0) for r, e in zip(references, each, strict=True)], -1
                ),
                credits_of(levels),
                self._parts[group],
            )
            for group in each[0]
        }
        self._limits = {
            group: np.array([[event.limit for event in found[group]] for found in each]).T
            for group in each[0]
            if group != "classes"
        }
        self._below = {
            group: np.array([event.side == "below" for event in each[0][group]])[:, None]
            for group in self._limits
        }
        classes = each[0]["classes"]
        self._names = np.array([-1 if event.name is None else int(event.name) for event in classes])[:, None]
        self._not = np.array([event.side == "is not" for event in classes])[:, None]

    def update(self, scores: Floats, classes: NDArray[np.int64], unknown: Floats) -> None:
        """One call of each stream: [streams] each; a class is the number that its name is."""
        for group, values in (("score", scores), ("unknown", unknown)):
            limits = self._limits[group]
            self._banks[group].update(np.where(self._below[group], values < limits, values > limits))
        self._banks["classes"].update((self._names == classes) != self._not)

    @property
    def evidence(self) -> Floats:
        total = np.zeros(1)
        for bank in self._banks.values():
            total = total + bank.evidence()
        return total / len(self._parts)

"""Watching a rate for as long as it runs: an alarm when it exceeds its bound, and what is known of it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Self

from dspex.errors import ConfigError, InputError
from dspex.guarantee.betting import AT_ONCE, FACTORS, MIXED, Forecast, odds_times, unstaked
from dspex.guarantee.sequence import ConfidenceSequence
from dspex.guarantee.states import inside, numbers_of, outcome_of, state_of, whole_of

__all__ = ["ConfidenceSequence", "Watch"]

#: The fixed bet whose gains say when it began.
_WITNESS = 1
_FORMAT = "watch/1"


class Watch:
    """Raises an alarm when native answers disagree with the teacher more often than ``1 - agreement``.

    As long as the chance that the next audited answer is wrong, given all before, is at most the bound ``1 -
    agreement``, the chance that there is *ever* an alarm is at most ``delta``: for a stream of any length,
    looked at after every answer, independent or not. The capital of a gambler who bets against the bound is
    the evidence; the alarm is when it reaches ``1 / delta`` (see ``dspex.guarantee.betting``). A fifth of the
    capital lies in fixed bets over all start times, the rest follows a forecast; so a change is noticed after
    a long good time, too. The state is some twenty numbers, however long the stream is.

    An alarm stays: from then on outcomes are counted, and the evidence is that of the alarm.

    Attributes:
        n: audited answers so far.
        errors: those that were wrong.
        alarmed: whether the alarm was raised.
        alarmed_at: the value of ``n`` at the alarm, or None.
        since: the value of ``n`` after which the rate seems to be too high (the last time that a bet on twice
            the bound's odds had nothing to show): an estimate for people, not part of the guarantee.

    Raises:
        ConfigError: ``agreement`` or ``delta`` not strictly between 0 and 1; ``state`` of other settings.
        InputError: ``state`` that is not one of a watch.
    """

    __slots__ = (
        "_bets",
        "_evidence",
        "_forecast",
        "_run",
        "_stakes",
        "agreement",
        "alarmed_at",
        "bound",
        "delta",
        "errors",
        "n",
        "since",
    )

    def __init__(self, agreement: float, delta: float, state: Mapping[str, Any] | None = None) -> None:
        self.agreement = inside("agreement", agreement)
        self.delta = inside("delta", delta)
        self.bound = inside("1 - agreement", 1.0 - self.agreement)
        self._bets = tuple(_factors(odds_times(self.bound, factor), self.bound) for factor in FACTORS)
        self.n = self.errors = self.since = 0
        self.alarmed_at: int | None = None
        self._evidence = 1.0
        self._run = 1.0
        self._stakes = [AT_ONCE] * (len(FACTORS) + 1)
        self._forecast = Forecast(self.bound)
        if state:
            self._resume(state)

    def update(self, wrong: bool) -> bool:
        """Takes the next audited answer; returns whether the alarm is raised (now or before).

        Raises:
            InputError: ``wrong`` is not a bool.
        """
        wrong = outcome_of(wrong)
        self.n += 1
        self.errors += wrong
        if self.alarmed_at is None:
            self._bet(wrong)
            if self._evidence * self.delta >= 1.0:
                self.alarmed_at = self.n
        return self.alarmed

    def _bet(self, wrong: bool) -> None:
        left = unstaked(self.n)
        fresh = unstaked(self.n - 1) - left
        chance = self._forecast.next()
        factors = [bet[wrong] for bet in self._bets]
        # The forecaster does not bet when it takes the rate to be within the bound: the factor is 1.
        factors.append(_factors(max(chance, self.bound), self.bound)[wrong])
        self._forecast.learn(wrong)
        stakes = [(stake + fresh) * factor for stake, factor in zip(self._stakes, factors, strict=True)]
        mixed = 0.0
        for stake in stakes[:-1]:
            mixed += stake
        self._stakes = stakes
        self._evidence = left + MIXED / len(FACTORS) * mixed + (1.0 - MIXED) * stakes[-1]
        self._run *= factors[_WITNESS]
        if self._run <= 1.0:
            self._run, self.since = 1.0, self.n

    @property
    def alarmed(self) -> bool:
        return self.alarmed_at is not None

    @property
    def evidence(self) -> float:
        """The capital, which began as 1: the e-value against the bound. The alarm is at ``1 / delta``."""
        return self._evidence

    @property
    def capital(self) -> float:
        """The natural logarithm of the evidence."""
        return math.log(self._evidence)

    def __str__(self) -> str:
        rate = f" ({self.errors / self.n:.2%})" if self.n else ""
        text = (
            f"{self.errors} of {self.n} audited answers were wrong{rate}, the bound is {self.bound:.2%}; "
            f"evidence against it {self.evidence:.3g}, alarm at {1 / self.delta:.3g}"
        )
        if self.alarmed:
            text += f"; alarm at answer {self.alarmed_at}, seemingly too many since answer {self.since}"
        return text

    def state(self) -> dict[str, Any]:
        """All of it as JSON-able data: ``Watch(agreement, delta, state)`` goes on with bit-equal results."""
        return {
            "format": _FORMAT,
            "agreement": self.agreement,
            "delta": self.delta,
            "n": self.n,
            "errors": self.errors,
            "alarmed_at": self.alarmed_at,
            "since": self.since,
            "evidence": self._evidence,
            "run": self._run,
            "stakes": list(self._stakes),
            "shares": list(self._forecast.shares),
        }

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> Self:
        """The watch that ``state`` was taken from, with its settings.

        Raises:
            InputError: it is not the state of a watch.
        """
        state = state_of(state, _FORMAT)
        agreement, delta = numbers_of(state, "agreement", "delta")
        return cls(agreement, delta, state)

    def _resume(self, state: Mapping[str, Any]) -> None:
        state = state_of(state, _FORMAT)
        for name, asked in (("agreement", self.agreement), ("delta", self.delta)):
            if state.get(name) != asked:
                raise ConfigError(
                    f"the state is of a watch with {name} {state.get(name)}, not {asked}",
                    field=name,
                    hint="Begin a new watch when the settings change",
                )
        n, errors, since = whole_of(state, "n", "errors", "since")
        at = whole_of(state, "alarmed_at")[0] if state.get("alarmed_at") is not None else None
        if errors > n or since > n or (at is not None and at > n):
            raise InputError("the state of a watch counts more than it has seen", field="n")
        self._stakes = numbers_of(state, "stakes", size=len(self._stakes))
        self._forecast = Forecast(self.bound, numbers_of(state, "shares", size=len(self._forecast.shares)))
        self._evidence, self._run = numbers_of(state, "evidence", "run")
        self.n, self.errors, self.since, self.alarmed_at = n, errors, since, at


def _factors(chance: float, bound: float) -> tuple[float, float]:
    """What a bet on ``chance`` multiplies its stake by: after a 0, after a 1."""
    return (1.0 - chance) / (1.0 - bound), chance / bound

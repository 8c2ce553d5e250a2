"""What is known of a rate at any time."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Self

from dspex.errors import ConfigError, InputError
from dspex.guarantee.states import inside, numbers_of, outcome_of, state_of, whole_of

__all__ = ["ConfidenceSequence"]

_FORMAT = "confidence-sequence/1"
_STEPS = 60


class ConfidenceSequence:
    """Limits of the rate of a 0/1 stream that hold at all times at once with probability ``1 - delta``.

    A rate is inside as long as the capital of a gambler who bets against it is below ``1 / delta``. For 0/1
    outcomes every such capital is a likelihood ratio (Waudby-Smith and Ramdas 2023), and this one is the
    mixture over all rates with a Beta weight whose mean is ``expected``. At a rate of 2 % that was expected
    to be 5 %, it is 0.082, 0.028 and 0.0099 wide after 100, 1,000 and 10,000 outcomes (delta 0.05), the
    hedged capital of that paper on a grid of means 0.096, 0.027 and 0.0107; and two counts are all it has to
    keep. It holds for a rate that is constant (or outcomes whose chance, given the past, is): after a change
    it is about no rate that ever was; begin a new one.

    Raises:
        ConfigError: ``delta`` or ``expected`` not strictly between 0 and 1; ``state`` of other settings.
        InputError: ``state`` that is not one of a confidence sequence.

    Attributes:
        n: outcomes so far.
        errors: those that were 1.
    """

    __slots__ = ("_a", "_b", "delta", "errors", "expected", "n")

    def __init__(self, delta: float, *, expected: float, state: Mapping[str, Any] | None = None) -> None:
        self.delta = inside("delta", delta)
        self.expected = inside("expected", expected)
        # The weight of one 1: the largest at which it is tight far from ``expected``, too.
        self._a, self._b = 1.0, (1.0 - self.expected) / self.expected
        self.n = self.errors = 0
        if state:
            self._resume(state)

    def update(self, wrong: bool) -> None:
        """Takes the next outcome.

        Raises:
            InputError: it is not a bool.
        """
        self.errors += outcome_of(wrong)
        self.n += 1

    def evidence(self, rate: float) -> float:
        """The natural logarithm of the capital against ``rate`` (inside 0 and 1)."""
        hits, misses = self.errors, self.n - self.errors
        mixed = _log_beta(self._a + hits, self._b + misses) - _log_beta(self._a, self._b)
        return mixed - hits * math.log(rate) - misses * math.log1p(-rate)

    def interval(self) -> tuple[float, float]:
        """The limits (low, high) now; (0, 1) before the first outcome."""
        if self.n == 0:
            return 0.0, 1.0
        middle = self.errors / self.n
        low = 0.0 if self.errors == 0 else self._edge(0.0, middle)
        high = 1.0 if self.errors == self.n else self._edge(1.0, middle)
        return low, high

    def _edge(self, outside: float, within: float) -> float:
        """Where the evidence crosses 1/delta between an end and the observed rate; the outer side of it."""
        limit = -math.log(self.delta)
        for _ in range(_STEPS):
            middle = (outside + within) / 2
            if middle in (0.0, 1.0) or self.evidence(middle) >= limit:
                outside = middle
            else:
                within = middle
        return outside

    def state(self) -> dict[str, Any]:
        """All of it as JSON-able data."""
        return {
            "format": _FORMAT,
            "delta": self.delta,
            "expected": self.expected,
            "n": self.n,
            "errors": self.errors,
        }

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> Self:
        """The sequence that ``state`` was taken from.

        Raises:
            InputError: it is not the state of one.
        """
        state = state_of(state, _FORMAT)
        delta, expected = numbers_of(state, "delta", "expected")
        return cls(delta, expected=expected, state=state)

    def _resume(self, state: Mapping[str, Any]) -> None:
        state = state_of(state, _FORMAT)
        if (state.get("delta"), state.get("expected")) != (self.delta, self.expected):
            raise ConfigError(
                "the state is of a confidence sequence with another delta or expected rate",
                hint="Begin a new one when the settings change",
            )
        n, errors = whole_of(state, "n", "errors")
        if errors > n:
            raise InputError("the state counts more errors than outcomes", field="errors")
        self.n, self.errors = n, errors


def _log_beta(a: float, b: float) -> float:
    return math.lgamma(a) + math.lgamma(b) - math.lgamma(a + b)

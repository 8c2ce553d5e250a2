"""Many watched events at once: has the rate of any of them come to exceed its bound?"""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dspex.errors import InputError
from dspex.guarantee.betting import odds_times, unstaked
from dspex.guarantee.states import numbers_of, whole_of

__all__ = ["Bank"]

#: The bets on each event: multiples of the bound's odds.
FACTORS = (1.4, 2.5, 7.0)
_WITNESS = 0  # the bet whose gains say when it began
_AT_ONCE = 1.0 - unstaked(0)
#: Calls that "lately" goes back, about.
LATELY = 300

Floats = NDArray[np.float64]


class Bank:
    """An equal part of a capital of 1 bet on each of ``of`` events of the same calls (see ``betting``).

    What the true share of an event is, is open: for each of several cells of shares, all at most
    ``bounds``, there is a bet against it, multiplied by ``credits``: an e-value of what is known against
    the shares of that cell. The evidence about the event is the least of all cells', so at most that
    against the true share, which is that of a fair game (universal inference; Wasserman, Ramdas and
    Balakrishnan, PNAS 2020). Shares above all bounds have the last credit and no bet. The events may
    depend on each other in any way: the mean of their evidences is evidence, too.

    Args:
        bounds: [cells, events], or [cells, events, streams] for as many streams as one likes, side by side
            (simulations); a cell with a bound of 1 has no bet.
        credits: [cells + 1].
        of: the parts that the capital has: at least the number of events, and chosen without looking at what
            the bounds and credits come from; the other parts are lost.

    Attributes:
        n: calls so far.
        each: the evidence about each event, [events] or [events, streams].
        since: of each event, the calls before its rate seems to have moved; shaped as ``each``.
        lately: of each event, its share of the last calls (fading, over about LATELY calls).
    """

    def __init__(self, bounds: Floats, credits: Floats, of: int) -> None:
        self._of = of
        bounds = np.asarray(bounds, np.float64)
        self._credits = credits.reshape(-1, *[1] * (bounds.ndim - 1))
        inner = bounds < 1.0
        safe = np.where(inner, bounds, 0.5)
        rates: Floats = np.stack([odds_times(safe, factor) for factor in FACTORS])
        self._up = np.where(inner, rates / safe, 1.0)
        self._down = np.where(inner, (1.0 - rates) / (1.0 - safe), 1.0)
        self.n = 0
        self._stakes: Floats = np.full(rates.shape, _AT_ONCE)
        shape = bounds.shape[1:]
        self._run: Floats = np.ones(shape)
        self.since: NDArray[np.int64] = np.zeros(shape, np.int64)
        self.lately: Floats = np.zeros(shape)
        self.each: Floats = np.full(shape, credits.min())

    def update(self, happened: NDArray[np.bool_]) -> None:
        """Takes the next call: which events happened, shaped as ``each``."""
        self.see(happened)
        left = unstaked(self.n)
        factors = np.where(happened, self._up, self._down)
        self._stakes += unstaked(self.n - 1) - left
        self._stakes *= factors
        capital = left + np.add.reduce(self._stakes, 0) / len(FACTORS)
        capital *= self._credits[:-1]
        self.each = np.minimum(np.minimum.reduce(capital, 0), self._credits[-1])
        self._run *= factors[_WITNESS, 0]
        idle = self._run <= 1.0
        self._run[idle] = 1.0
        self.since[idle] = self.n

    def see(self, happened: NDArray[np.bool_]) -> None:
        """Counts the call without betting on it."""
        self.n += 1
        self.lately += (happened - self.lately) / min(self.n, LATELY)

    def evidence(self) -> Any:
        """The capital: a float, or [streams]."""
        return np.add.reduce(self.each, 0) / self._of

    def state(self) -> dict[str, Any]:
        """What has to be kept, JSON-able and exact."""
        return {
            "n": self.n,
            "stakes": base64.b64encode(self._stakes.astype("<f8").tobytes()).decode(),
            "run": self._run.tolist(),
            "since": self.since.tolist(),
            "lately": self.lately.tolist(),
            "each": self.each.tolist(),
        }

    def resume(self, state: Mapping[str, Any]) -> None:
        """Goes on from a ``state`` of a bank with as many events.

        Raises:
            InputError: it is not one.
        """
        if not isinstance(state, Mapping):
            raise InputError(f"the state of a bank must be a mapping, not {type(state).__name__}")
        size = len(self.each)
        (self.n,) = whole_of(state, "n")
        self._stakes = _stakes_of(state.get("stakes"), self._stakes.shape)
        self._run, self.lately, self.each, since = (
            np.array(numbers_of(state, name, size=size)) for name in ("run", "lately", "each", "since")
        )
        self.since = since.astype(np.int64)


def _stakes_of(text: Any, shape: tuple[int, ...]) -> Floats:
    try:
        raw = base64.b64decode(text, validate=True)
        found = np.frombuffer(raw, "<f8").reshape(shape).astype(np.float64)
    except (TypeError, ValueError) as error:
        raise InputError(f"the stakes of a bank must be base64 of {math.prod(shape)} numbers") from error
    if not (np.isfinite(found) & (found >= 0)).all():
        raise InputError("the stakes of a bank must be finite and not below 0")
    return found

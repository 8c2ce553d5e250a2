"""Independent coins for calls, drawn ahead: a call takes one in the time of a decrement, without a lock."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import numpy as np

__all__ = ["CALIBRATE", "NATIVE", "SAMPLE", "Coins"]

#: The bits of a coin, each by itself: the teacher is asked whatever the gate says, and the row may certify;
CALIBRATE = 1
#: the native answer may go out (the share of the canary stage);
NATIVE = 2
#: the native answer is looked at for drift.
SAMPLE = 4

_BLOCK = 4096


class Coins:
    """Coins of fixed shares. Threads take one with ``next(coins.drawn)``, at its end with `next`.

    A block of coins is one `bytes`, and its iterator moves on atomically in C. So no coin is taken twice, and
    since the coins are independent of each other and of the calls, it does not matter which call takes which.

    Args:
        calibrate, native, sample: share of the coins that have the bit, in [0, 1].
        seed: None: from the system.

    Attributes:
        drawn: iterator over the coins of the block that is being used.
    """

    __slots__ = ("_before", "_lock", "_random", "_shares", "drawn")

    def __init__(self, calibrate: float, native: float, sample: float, seed: int | None = None) -> None:
        self._shares = ((CALIBRATE, calibrate), (NATIVE, native), (SAMPLE, sample))
        self._random = np.random.default_rng(seed)
        self._lock = threading.Lock()
        self._before = 0
        self.drawn: Iterator[int] = iter(self._block())

    def next(self) -> int:
        """One coin; draws the next block when this one is used up."""
        while True:
            drawn = self.drawn
            coin = next(drawn, None)
            if coin is not None:
                return coin
            with self._lock:
                if self.drawn is drawn:  # else another thread was faster
                    self._before += _BLOCK
                    self.drawn = iter(self._block())

    @property
    def taken(self) -> int:
        """Coins that have been taken so far."""
        with self._lock:
            left: int = self.drawn.__length_hint__()  # type: ignore[attr-defined]
            return self._before + _BLOCK - left

    def _block(self) -> bytes:
        coins = np.zeros(_BLOCK, np.uint8)
        for bit, share in self._shares:
            if share > 0:
                coins |= (self._random.random(_BLOCK) < share).astype(np.uint8) * np.uint8(bit)
        return coins.tobytes()

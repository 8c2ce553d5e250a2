"""The time by which a call has to be over, however many tries it takes."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Final

from dspex.errors import CallTimeoutError, InputError

__all__ = ["NEVER", "Deadline"]


class Deadline:
    """A point on the monotonic clock, or never. Immutable; made once for a call and handed down.

    Attributes:
        seconds: how long the call may take in all; None: no limit.
    """

    __slots__ = ("_at", "_clock", "seconds")

    seconds: float | None
    _at: float | None  # read by the guard: a property would cost more than the rest of an admission
    _clock: Callable[[], float]

    def __init__(self, seconds: float | None, clock: Callable[[], float] = time.monotonic) -> None:
        put = super().__setattr__
        put("seconds", seconds)
        put("_clock", clock)
        put("_at", None if seconds is None else clock() + seconds)

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError("a deadline does not change: make another one")

    @classmethod
    def after(cls, seconds: float | None) -> Deadline:
        """The deadline so many seconds from now; 0 and less: it has passed already; None: never.

        Raises:
            InputError: what is no number of seconds.
        """
        if seconds is None:
            return NEVER
        if isinstance(seconds, bool) or not isinstance(seconds, int | float):
            kind = type(seconds).__name__
            raise InputError(f"a timeout is a number of seconds, not {kind}", field="timeout")
        if math.isnan(seconds):
            hint = "Give seconds, or None for no limit"
            raise InputError("a timeout cannot be NaN", field="timeout", hint=hint)
        return NEVER if seconds == math.inf else cls(max(0.0, float(seconds)))

    def left(self) -> float | None:
        """Seconds until then, at least 0; None: no limit."""
        return None if self._at is None else max(0.0, self._at - self._clock())

    @property
    def expired(self) -> bool:
        """Whether it has passed."""
        return self._at is not None and self._clock() >= self._at

    def error(self, program: str | None = None, what: str = "the call") -> CallTimeoutError:
        """What is raised when it passes. `what` was not over by then."""
        limit = "" if self.seconds is None else f" of {self.seconds:.3g} s"
        return CallTimeoutError(
            f"{what} was not over by the deadline{limit}",
            program=program,
            hint="Allow more time, or try again when less is going on",
        )

    def __repr__(self) -> str:
        left = self.left()
        return "Deadline(never)" if left is None else f"Deadline({left:.3g} s left)"


#: No limit.
NEVER: Final = Deadline(None)

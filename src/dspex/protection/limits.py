"""How much of an LM may be used: token buckets and places."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from dspex.config import LimitSettings

__all__ = ["Limits", "TokenBucket"]

_JOT: Final = 1e-9  # what floats may lack of a whole token
_WEIGHT: Final = 0.2  # of the latest request in an average of late


class TokenBucket:
    """Fills with `rate` tokens a second up to `size`, full at first. Not locked.

    In any `t` seconds it gives out at most `rate * t + size`, apart from what is taken beyond its level: that
    makes a debt, which has to be filled first.
    """

    __slots__ = ("_at", "_level", "rate", "size")

    def __init__(self, rate: float, size: float, now: float) -> None:
        self.rate = rate
        self.size = size
        self._level = size
        self._at = now

    def level(self, now: float) -> float:
        """Tokens in it; below zero: a debt."""
        if now > self._at:
            self._level = min(self.size, self._level + (now - self._at) * self.rate)
            self._at = now
        return self._level

    def wait(self, now: float, tokens: float) -> float:
        """Seconds until so many will have come, beyond its size too; 0: they are there."""
        lacking = tokens - self.level(now)
        return lacking / self.rate if lacking > _JOT else 0.0

    def take(self, now: float, tokens: float) -> None:
        """Takes them, there or not; less than 0 gives back."""
        self._level = min(self.size, self.level(now) - tokens)


class Limits:
    """The limits of one LM. Pure: no clock of its own, no lock, nobody waits in it; its guard does that.

    How many tokens a request uses is known when it has ended. Until then it counts with what requests used on
    average of late, so that those who have waited out a debt do not all go at once.

    Attributes:
        under_way: requests that were let in and have not ended.
    """

    __slots__ = ("_expected", "_held", "_places", "_requests", "_tokens", "under_way")

    def __init__(self, settings: LimitSettings, now: float) -> None:
        self._requests = self._tokens = None
        if settings.requests_per_minute is not None:
            rate = settings.requests_per_minute / 60
            size = max(1.0, rate if settings.burst is None else settings.burst)
            self._requests = TokenBucket(rate, size, now)
        if settings.tokens_per_minute is not None:
            rate = settings.tokens_per_minute / 60
            self._tokens = TokenBucket(rate, max(1.0, rate), now)
        self._places = settings.concurrency
        self._expected = 0.0  # tokens of a request
        self._held = 0.0  # seconds that a request was under way
        self.under_way = 0

    def room(self, now: float) -> bool:
        """Whether a request may go now."""
        return (self._places is None or self.under_way < self._places) and self.wait(now) == 0

    def wait(self, now: float, position: int = 1) -> float:
        """Seconds until the buckets let the request go that is at this position in the queue, from 1 on, if
        those before it use what is usual. A place may still be lacking then.
        """
        seconds = 0.0
        if self._requests is not None:
            seconds = self._requests.wait(now, position)
        if self._tokens is not None:
            wanted = (position - 1) * self._expected + 2 * _JOT  # there has to be something in it
            seconds = max(seconds, self._tokens.wait(now, wanted))
        return seconds

    def likely_wait(self, now: float, position: int) -> float | None:
        """As `wait`, with the wait for a place as it was of late; None: unknown."""
        seconds = self.wait(now, position)
        if self._places is not None:
            seconds = max(seconds, self._held * position / self._places)
        return seconds or None

    def start(self, now: float) -> float:
        """Takes a place, a request and the usual tokens; these are returned, and handed back at the end."""
        self.under_way += 1
        if self._requests is not None:
            self._requests.take(now, 1)
        if self._tokens is not None:
            self._tokens.take(now, self._expected)
        return self._expected

    def end(self, now: float, since: float, expected: float, used: float | None) -> None:
        """A request has ended that was started at `since`; `used` tokens, None: unknown, then as expected."""
        self.under_way -= 1
        self._held = _averaged(self._held, now - since)
        if self._tokens is not None and used is not None:
            self._tokens.take(now, used - expected)
            if used > 0:
                self._expected = _averaged(self._expected, used)

    def undo(self, now: float, expected: float) -> None:
        """A request that was started was never sent."""
        self.under_way -= 1
        if self._requests is not None:
            self._requests.take(now, -1)
        if self._tokens is not None:
            self._tokens.take(now, -expected)


def _averaged(average: float, latest: float) -> float:
    return latest if average == 0 else average + _WEIGHT * (latest - average)

"""Leave to send one request to an LM."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dspex.protection.guard import LMGuard
    from dspex.protection.limits import Limits

__all__ = ["Permit"]


class Permit:
    """Leave to send one request. The first of `succeeded`, `failed` and `cancelled` ends it, from any thread;
    more are ignored. One that is dropped without any of them counts as cancelled.
    """

    __slots__ = ("_ended", "_epoch", "_expected", "_guard", "_limits", "_since")

    def __init__(
        self,
        guard: LMGuard,
        epoch: int,
        limits: Limits | None = None,
        since: float = 0.0,
        expected: float = 0.0,
    ) -> None:
        self._guard = guard
        self._epoch = epoch  # of the breaker
        self._limits = limits  # where it holds a place since then, and so many tokens
        self._since = since
        self._expected = expected
        self._ended = False

    def succeeded(self, tokens: int | None = None) -> None:
        """The LM answered, and used so many tokens; None: unknown."""
        guard = self._guard
        now = guard._clock()
        with guard._lock:
            if self._ended:
                return
            self._ended = True
            guard._succeeded += 1
            breaker = guard._breaker
            changed = breaker is not None and breaker.succeeded(now, self._epoch)
            if changed or self._limits is not None:
                guard._free(self, now, tokens)
        if guard._left:
            guard._backlog.work_off()

    def failed(self, error: BaseException, counts: bool) -> None:
        """The request failed.

        Args:
            counts: whether that speaks against the LM, as server errors, time-outs and cut connections do. A
                bad request says nothing about it.
        """
        guard = self._guard
        now = guard._clock()
        with guard._lock:
            if self._ended:
                return
            self._ended = True
            guard._failed += 1
            if guard._breaker is not None:
                if counts:
                    guard._last_failure = type(error).__name__
                    guard._breaker.failed(now, self._epoch)
                else:
                    guard._breaker.ended(self._epoch)
            guard._free(self, now, 0)
        if guard._left:
            guard._backlog.work_off()

    def cancelled(self) -> None:
        """Nobody waits for the answer any more, which says nothing about the LM."""
        self._guard._backlog.put(self)

    def __del__(self) -> None:
        if not self._ended:
            self._guard._backlog.put(self)

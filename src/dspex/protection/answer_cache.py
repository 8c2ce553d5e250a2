"""Answers kept for a while."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Hashable
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from cachetools import TTLCache

from dspex.protection.waiting import forget_in_child

if TYPE_CHECKING:
    from dspex.config import AnswerCacheSettings

__all__ = ["AnswerCache"]

T = TypeVar("T")


class AnswerCache(Generic[T]):
    """At most `size` answers, each for at most `ttl` seconds; the one not used for longest goes first. Size 0
    keeps none. Safe to use from many threads. An answer is handed out as it was put in, not copied.
    """

    def __init__(self, settings: AnswerCacheSettings, clock: Callable[[], float] = time.monotonic) -> None:
        self.enabled = settings.size > 0
        self._kept: TTLCache[Hashable, T] = TTLCache(settings.size, settings.ttl, timer=clock)
        self._lock = threading.Lock()
        self._hits = self._misses = 0
        forget_in_child(self)

    def get(self, key: Hashable) -> T | None:
        """The answer kept under a key, or None."""
        if not self.enabled:
            return None
        with self._lock:
            found = self._kept.get(key)
            if found is None:
                self._misses += 1
            else:
                self._hits += 1
            return found

    def put(self, key: Hashable, answer: T) -> None:
        """Keeps an answer."""
        if self.enabled:
            with self._lock:
                self._kept[key] = answer

    def clear(self) -> None:
        """Forgets all answers."""
        with self._lock:
            self._kept.clear()

    def stats(self) -> dict[str, Any]:
        """Answers kept, and look-ups by what they found, JSON-able."""
        with self._lock:
            return {"kept": len(self._kept), "hits": self._hits, "misses": self._misses}

    def _after_fork(self) -> None:
        self._lock = threading.Lock()

"""What a pool has done, as plain data."""

from __future__ import annotations

import bisect
import functools
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from dspex._pool import histogram_bounds

__all__ = ["Durations", "PoolStats", "WorkerStats"]


@functools.cache
def _bounds() -> list[int]:
    return histogram_bounds()


@dataclass(frozen=True, slots=True)
class Durations:
    """A histogram of durations in log-linear buckets, 16 to a power of two: values are known to 6.25 %.

    Histograms of several pools or processes are merged with `+`.

    Attributes:
        counts: how many fell into each bucket.
        ns_per_tick: the unit of the buckets' bounds.
    """

    counts: tuple[int, ...]
    ns_per_tick: float

    @property
    def count(self) -> int:
        """How many durations there are."""
        return sum(self.counts)

    @property
    def mean(self) -> float:
        """Their mean in seconds, 0 when there are none."""
        total = sum(n * self._middle(i) for i, n in enumerate(self.counts) if n)
        return total / max(1, self.count)

    def percentile(self, q: float) -> float:
        """The duration in seconds that `q` per cent do not exceed; 0 when there are none.

        Raises:
            ValueError: q is outside [0, 100].
        """
        if not 0 <= q <= 100:
            raise ValueError(f"a percentile is in [0, 100], not {q}")
        wanted, seen = q / 100 * self.count, 0
        for i, n in enumerate(self.counts):
            seen += n
            if n and seen >= wanted:
                return self._middle(i)
        return 0.0

    def _middle(self, bucket: int) -> float:
        bounds = _bounds()
        high = bounds[bucket + 1] if bucket + 1 < len(bounds) else 2 * bounds[bucket]
        return (bounds[bucket] + high - 1) / 2 * self.ns_per_tick * 1e-9

    def __add__(self, other: Durations) -> Durations:
        if not isinstance(other, Durations):
            return NotImplemented
        counts = list(self.counts)
        if other.ns_per_tick == self.ns_per_tick:
            counts = [a + b for a, b in zip(counts, other.counts, strict=True)]
        else:
            for i, n in enumerate(other.counts):
                if n:
                    ticks = other._middle(i) * 1e9 / self.ns_per_tick
                    counts[bisect.bisect_right(_bounds(), ticks) - 1] += n
        return Durations(tuple(counts), self.ns_per_tick)

    def to_dict(self) -> dict[str, float]:
        """Count, mean and percentiles, in seconds."""
        out: dict[str, float] = {"count": self.count, "mean": self.mean}
        return out | {f"p{q:g}": self.percentile(q) for q in (50, 90, 99, 99.9, 100)}


@dataclass(frozen=True, slots=True)
class WorkerStats:
    """What one worker has done.

    Attributes:
        ended: tasks it took from the queue that have ended: the sum of the next four.
        done, failed, cancelled, expired: how they ended.
        steals: tasks it took from a lane other than its own.
        parks: how often it went to sleep.
        groups, grouped: how often it ran calls together, and how many those were (see `window`).
        busy: seconds in which it ran calls.
    """

    ended: int
    done: int
    failed: int
    cancelled: int
    expired: int
    steals: int
    parks: int
    groups: int
    grouped: int
    busy: float

    @classmethod
    def of(cls, raw: Mapping[str, Any], ns_per_tick: float) -> WorkerStats:
        """From the compiled pool's counters."""
        own = {name: raw[name] for name in cls.__slots__ if name != "busy"}
        return cls(**own, busy=raw["busy_ticks"] * ns_per_tick * 1e-9)


@dataclass(frozen=True, slots=True)
class PoolStats:
    """What a pool has done since it was made, and how it stands.

    Attributes:
        size, max_size, workers, parked: workers wanted, allowed, there, and asleep.
        capacity, queued: tasks that may wait, and that do.
        accepted: tasks that were let in. `total.ended` of them have ended.
        rejected, caller_runs: submissions that found no room, by what was done with them.
        started, retired, deaths: threads that came, went when asked or idle, and died in a task.
        total, by_worker: what the workers did; those that are gone count in `total`.
        wait, service: how long tasks waited for a worker, and how long they ran.
        sessions: see `SessionStore.stats`.
    """

    size: int
    max_size: int
    workers: int
    parked: int
    capacity: int
    queued: int
    accepted: int
    rejected: int
    caller_runs: int
    started: int
    retired: int
    deaths: int
    total: WorkerStats
    by_worker: Sequence[WorkerStats]
    wait: Durations
    service: Durations
    sessions: Mapping[str, int]

    @property
    def saturation(self) -> float:
        """The share of the capacity that is in use."""
        return self.queued / self.capacity

    def to_dict(self) -> dict[str, Any]:
        """The same as JSON-able data; durations in seconds."""
        return {
            name: getattr(self, name)
            for name in self.__slots__
            if name not in ("total", "by_worker", "wait", "service", "sessions")
        } | {
            "saturation": self.saturation,
            "total": asdict(self.total),
            "by_worker": [asdict(each) for each in self.by_worker],
            "wait": self.wait.to_dict(),
            "service": self.service.to_dict(),
            "sessions": dict(self.sessions),
        }

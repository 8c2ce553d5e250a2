"""What a pool can be told, checked before a thread is started."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass, fields
from typing import Any, Literal, get_args

from dspex._pool import MAX_WORKERS
from dspex.errors import ConfigError, nearest

__all__ = ["Policy", "PoolSettings", "available_cpus"]

#: What happens to a submission that finds the pool full.
Policy = Literal["block", "reject", "caller_runs"]

_MAX_CAPACITY = 1 << 28  # 4 GiB of places
MAX_TTL = 1e9  # seconds


def available_cpus() -> int:
    """The CPUs this process may run on."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not on Linux
        return os.cpu_count() or 1


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolSettings:
    """The settings of a `Pool`.

    Attributes:
        size: workers; by default one for each CPU this process may use.
        max_size: workers with overflow workers, which come while all are busy and as many tasks wait as there
            are workers, and go when they have been idle; by default `size`: none.
        capacity: tasks that may wait; and, for each session, tasks of it that may wait.
        policy: "block" waits for room, "reject" raises PoolSaturated, "caller_runs" runs the call in the
            caller's thread (on an event loop, and for sessions, where order counts, it waits).
        spin: seconds that a worker without work, and a caller without a result, look for it before sleeping.
        idle_timeout: seconds after which an idle overflow worker goes.
        window: seconds, 0 to 500e-6, for which a worker waits for more calls to run together with one it has
            taken; not where calls have come alone of late. 0: never.
        max_batch: most calls that are run together.
        session_ttl: seconds after its last call that a session is kept.
        pin: give each worker a CPU of its own.

    Raises:
        ConfigError: a setting that is out of range or of the wrong type; `field` names it.
    """

    size: int | None = None
    max_size: int | None = None
    capacity: int = 1024
    policy: Policy = "block"
    spin: float = 20e-6
    idle_timeout: float = 1.0
    window: float = 0.0
    max_batch: int = 64
    session_ttl: float = 3600.0
    pin: bool = False

    def __post_init__(self) -> None:
        if self.size is None:
            object.__setattr__(self, "size", min(available_cpus(), MAX_WORKERS))
        _whole("size", self.size, MAX_WORKERS)
        if self.max_size is None:
            object.__setattr__(self, "max_size", self.size)
        _whole("max_size", self.max_size, MAX_WORKERS)
        if self.workers > self.most_workers:
            raise ConfigError(
                f"max_size {self.max_size} is below size {self.size}",
                field="max_size",
                hint="Give at least size",
            )
        _whole("capacity", self.capacity, _MAX_CAPACITY)
        _whole("max_batch", self.max_batch, 256)
        check_seconds("spin", self.spin, 1.0)
        check_seconds("idle_timeout", self.idle_timeout, 1e6)
        check_seconds("window", self.window, 500e-6)
        check_seconds("session_ttl", self.session_ttl, MAX_TTL)
        if self.policy not in get_args(Policy):
            raise ConfigError(
                f"unknown policy {self.policy!r}",
                field="policy",
                hint=nearest(str(self.policy), get_args(Policy)),
            )
        if not isinstance(self.pin, bool):
            raise ConfigError(f"pin is true or false, not {self.pin!r}", field="pin")

    @property
    def workers(self) -> int:
        """`size`, with its default filled in."""
        assert self.size is not None
        return self.size

    @property
    def most_workers(self) -> int:
        """`max_size`, with its default filled in."""
        assert self.max_size is not None
        return self.max_size

    @classmethod
    def of(cls, settings: dict[str, Any]) -> PoolSettings:
        """From keywords.

        Raises:
            ConfigError: a setting that does not exist, or as above.
        """
        known = [field.name for field in fields(cls)]
        for name in settings:
            if name not in known:
                raise ConfigError(f"a pool has no setting {name!r}", field=name, hint=nearest(name, known))
        return cls(**settings)


def _whole(name: str, value: Any, most: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int):
        raise ConfigError(f"{name} is a whole number, not {value!r}", field=name)
    if not 1 <= value <= most:
        raise ConfigError(f"{name} is {value}", field=name, hint=f"Give 1 to {most}")


def check_seconds(name: str, value: Any, most: float) -> None:
    """Raises ConfigError for what is no number of seconds in [0, most]."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ConfigError(f"{name} is a number of seconds, not {value!r}", field=name)
    if math.isnan(value) or not 0 <= value <= most:
        raise ConfigError(f"{name} is {value} s", field=name, hint=f"Give 0 to {most:g} s")

"""What the tests of the protection share. Holds no tests: it proves nothing by itself."""

from __future__ import annotations

from typing import Any

from dspex.config import BreakerSettings, LimitSettings
from dspex.protection import NEVER, LMGuard, Permit


class Clock:
    """Seconds that pass when a test says so."""

    def __init__(self, now: float = 1000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


class Down(Exception):
    """What a test's LM raises."""


def a_guard(
    clock: Any = None, *, breaker: dict[str, Any] | None = None, name: str = "fast", **limits: Any
) -> LMGuard:
    """A guard with the limits given; without `breaker` it has none."""
    given = LimitSettings(**limits)
    broken = BreakerSettings(enabled=False) if breaker is None else BreakerSettings(**breaker)
    return LMGuard(name, given, broken) if clock is None else LMGuard(name, given, broken, clock=clock)


def fail(guard: LMGuard, times: int = 1, counts: bool = True) -> None:
    for _ in range(times):
        guard.admit(NEVER).failed(Down("down"), counts)


def succeed(guard: LMGuard, times: int = 1) -> None:
    for _ in range(times):
        guard.admit(NEVER).succeeded()


def admitted(guard: LMGuard, times: int) -> list[Permit]:
    return [guard.admit(NEVER) for _ in range(times)]

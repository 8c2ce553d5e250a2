"""What the tests of the protection share. Holds no tests: it proves nothing by itself."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from dspex.config import BreakerSettings, LimitSettings, RetrySettings
from dspex.protection import NEVER, Budget, Chain, Deadline, Link, LMGuard, Permit, Usage, Verdict


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


BUSY = Verdict(retryable=True, retry_after=None, counts=True, fall_back=True)
BAD = Verdict(retryable=False, retry_after=None, counts=False, fall_back=False)
NO_KEY = Verdict(retryable=False, retry_after=None, counts=False, fall_back=True)


class Failure(Exception):
    def __init__(self, verdict: Verdict = BUSY, message: str = "") -> None:
        super().__init__(message)
        self.verdict = verdict


def classify(error: BaseException) -> Verdict:
    assert isinstance(error, Failure)
    return error.verdict


class Lab:
    """A chain over LMs that answer what a test has written down, with time that only pauses take."""

    def __init__(self, way: str) -> None:
        self.way = way
        self.clock = Clock()
        self.pauses: list[float] = []
        self.asked: list[str] = []
        self.guards: dict[str, LMGuard] = {}
        self.random = 1.0
        self.script: dict[str, list[Any]] = {}

    def chain(self, *links: Link) -> Chain:
        async def asleep(seconds: float) -> None:
            self._sleep(seconds)

        return Chain(links, classify=classify, rng=lambda: self.random, sleep=self._sleep, asleep=asleep)

    def link(self, name: str = "fast", guard: LMGuard | None = None, **retry: Any) -> Link:
        self.guards[name] = guard or a_guard(self.clock, name=name, breaker={"min_calls": 100})
        return Link(name, self.guards[name], RetrySettings(**retry))

    def run(
        self, chain: Chain, deadline: Deadline = NEVER, budget: Budget | None = None, **script: list[Any]
    ) -> Any:
        self.script = script
        measure: Callable[[Any], Usage] = lambda answer: Usage(10, 0.5)  # noqa: E731
        if self.way == "run":
            return chain.run(self.ask, deadline, "intents", budget, measure)

        async def ask(name: str, deadline: Deadline) -> Any:
            await asyncio.sleep(0)
            return self.ask(name, deadline)

        return asyncio.run(chain.arun(ask, deadline, "intents", budget, measure))

    def ask(self, name: str, deadline: Deadline) -> Any:
        self.asked.append(name)
        outcome = self.script[name].pop(0)
        if callable(outcome):
            outcome = outcome()
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome

    def deadline(self, seconds: float) -> Deadline:
        return Deadline(seconds, self.clock)

    def _sleep(self, seconds: float) -> None:
        self.pauses.append(seconds)
        self.clock.sleep(seconds)


def told(error: BaseException) -> str:
    return "; ".join(getattr(error, "__notes__", []))

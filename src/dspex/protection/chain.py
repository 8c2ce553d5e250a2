"""One request to language models that may fail: tries of one, with pauses, then of the next.

`Chain.run` and `Chain.arun` only ask and sleep. What comes next is decided in `_Course`, for both.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from dspex.errors import CallTimeoutError, ConfigError, DspexError
from dspex.protection.budget import Budget
from dspex.protection.deadline import Deadline
from dspex.protection.guard import LMGuard
from dspex.protection.permit import Permit

if TYPE_CHECKING:
    from dspex.config import RetrySettings

__all__ = ["Chain", "Link", "Usage", "Verdict"]

T = TypeVar("T")
_MOST_DOUBLINGS = 60  # of a pause; more would not fit into a float


@dataclass(frozen=True, slots=True)
class Link:
    """One LM of a chain: its name, its guard, and how often it is tried."""

    name: str
    guard: LMGuard
    retry: RetrySettings


class Verdict(NamedTuple):
    """What a failed request means.

    Attributes:
        retryable: the same request to the same LM can succeed later.
        retry_after: seconds after which, as the LM said; None: it did not.
        counts: it speaks against the LM, and its breaker counts it.
        fall_back: another LM is worth asking; not so for a bad request.
    """

    retryable: bool
    retry_after: float | None = None
    counts: bool = True
    fall_back: bool = True


class Usage(NamedTuple):
    """What a request used; None: not known."""

    tokens: int | None = None
    usd: float | None = None


class Chain:
    """LMs in the order in which they are asked. Safe to use from many threads and event loops.

    Args:
        links: at least one; the first is asked first.
        classify: what an error that `ask` raised means. Errors that are no `Exception`, such as a cancelled
            task, are neither tried again nor classified; after the deadline they count against the LM.
        rng: uniform in [0, 1), for the pauses.
        sleep, asleep: make a pause of so many seconds.

    Raises:
        ConfigError: no link.
    """

    def __init__(
        self,
        links: Sequence[Link],
        *,
        classify: Callable[[BaseException], Verdict],
        rng: Callable[[], float] = random.random,
        sleep: Callable[[float], object] = time.sleep,
        asleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
    ) -> None:
        if not links:
            raise ConfigError("a chain needs an LM to ask", field="links")
        self.links = tuple(links)
        self._classify = classify
        self._rng = rng
        self._sleep = sleep
        self._asleep = asleep

    def run(
        self,
        ask: Callable[[str, Deadline], T],
        deadline: Deadline,
        program: str | None,
        budget: Budget | None,
        measure: Callable[[T], Usage],
    ) -> T:
        """Asks until there is an answer or nothing more to try.

        Args:
            ask: sends one request to the LM of this name; it has to end by the deadline.
            budget: looked at before the first try, charged with what the answer used.
            measure: what an answer used.

        Raises:
            ResourceError: the budget is used up, or no LM has a turn in time.
            LMError: the circuit of every LM is open.
            CallTimeoutError: the deadline passed before an LM was asked.
            Exception: what `ask` raised of the LM that was asked last, with a note of the tries.
        """
        if budget is not None:
            budget.check(program)
        course = _Course(self, deadline)
        end: Exception | None = None
        try:
            while True:
                try:
                    permit = course.link.guard.admit(deadline, program)
                except DspexError as refusal:
                    end = course.refused(refusal)
                else:
                    try:
                        answer = ask(course.link.name, deadline)
                    except Exception as error:
                        end = course.failed(permit, error)
                    except BaseException as ended:
                        _give_up(permit, ended, deadline)
                        raise
                    else:
                        _settle(permit, budget, measure, answer)
                        return answer
                if end is not None:
                    raise end
                if course.pause > 0:
                    self._sleep(course.pause)
        finally:
            del course, end  # they hold the error, whose traceback holds this frame

    async def arun(
        self,
        ask: Callable[[str, Deadline], Awaitable[T]],
        deadline: Deadline,
        program: str | None,
        budget: Budget | None,
        measure: Callable[[T], Usage],
    ) -> T:
        """As `run`, without holding up the event loop. Cancelling the task cancels what it asked."""
        if budget is not None:
            budget.check(program)
        course = _Course(self, deadline)
        end: Exception | None = None
        try:
            while True:
                try:
                    permit = await course.link.guard.aadmit(deadline, program)
                except DspexError as refusal:
                    end = course.refused(refusal)
                else:
                    try:
                        answer = await ask(course.link.name, deadline)
                    except Exception as error:
                        end = course.failed(permit, error)
                    except BaseException as ended:
                        _give_up(permit, ended, deadline)
                        raise
                    else:
                        _settle(permit, budget, measure, answer)
                        return answer
                if end is not None:
                    raise end
                if course.pause > 0:
                    await self._asleep(course.pause)
        finally:
            del course, end


class _Course:
    """Where one request stands.

    Attributes:
        link: the LM to ask next.
        pause: seconds before that.
    """

    __slots__ = ("_chain", "_deadline", "_error", "_number", "_refusals", "_said", "_tries", "link", "pause")

    def __init__(self, chain: Chain, deadline: Deadline) -> None:
        self._chain = chain
        self._deadline = deadline
        self.link = chain.links[0]
        self.pause = 0.0
        self._number = 0  # of the link
        self._tries = 0  # of the link
        self._error: Exception | None = None  # of the LM asked last
        self._refusals: tuple[DspexError, ...] = ()
        self._said: tuple[str, ...] = ()  # what came of the links before

    def refused(self, refusal: DspexError) -> Exception | None:
        """The guard did not let a try through. Returns the error to end with, or None: go on."""
        said = f"refused: {refusal.message}"
        self._say(f"{self._times()}, then {said}" if self._tries else said)
        if isinstance(refusal, CallTimeoutError):  # there is no time for another LM either
            return self._end(self._error or refusal)
        self._refusals += (refusal,)
        return self._next()

    def failed(self, permit: Permit, error: Exception) -> Exception | None:
        """A try failed. Ends its permit; returns the error to end with, or None: go on."""
        try:
            verdict = self._chain._classify(error)
        except BaseException:
            permit.cancelled()
            raise
        permit.failed(error, verdict.counts)
        self._error = error
        self._tries += 1
        pause = self._pause_before_next_try(verdict)
        if pause is not None:
            self.pause = pause
            return None
        self._say(f"{self._times()}, at last {type(error).__name__}")
        return self._next() if verdict.fall_back else self._end(error)

    def _pause_before_next_try(self, verdict: Verdict) -> float | None:
        """Seconds until the same LM is tried again; None: it is not."""
        retry = self.link.retry
        if not verdict.retryable or self._tries >= retry.attempts:
            return None
        longest = min(retry.max_backoff, retry.backoff * 2.0 ** min(self._tries - 1, _MOST_DOUBLINGS))
        pause = self._chain._rng() * longest
        if verdict.retry_after is not None:
            if not verdict.retry_after <= retry.max_retry_after:  # so that NaN ends it too
                return None
            # The jitter comes on top, for all who were told the same time.
            pause += max(0.0, verdict.retry_after)
        left = self._deadline.left()
        if left is not None and pause >= left:
            return None
        refusal = self.link.guard.peek()  # the circuit may have opened just now
        if refusal is not None and (refusal.retry_after is None or refusal.retry_after > pause):
            return None
        return pause

    def _next(self) -> Exception | None:
        """On to the next LM, or to the end."""
        self._number += 1
        if self._number < len(self._chain.links):
            self.link = self._chain.links[self._number]
            self._tries, self.pause = 0, 0.0
            return None
        return self._end(self._error or min(self._refusals, key=_soonness))

    def _end(self, error: Exception) -> Exception:
        if len(self._said) > 1 or self._tries > 1:
            error.add_note(f"LMs asked: {'; '.join(self._said)}")
        return error

    def _say(self, what: str) -> None:
        self._said += (f"{self.link.name!r} {what}",)

    def _times(self) -> str:
        return "once" if self._tries == 1 else f"{self._tries} times"


def _give_up(permit: Permit, ended: BaseException, deadline: Deadline) -> None:
    """Nobody waits for the answer any more. After the deadline that speaks against the LM: one that hangs is
    known by nothing else.
    """
    if deadline.expired:
        permit.failed(ended, counts=True)
    else:
        permit.cancelled()


def _soonness(refusal: DspexError) -> float:
    return float("inf") if refusal.retry_after is None else refusal.retry_after


def _settle(permit: Permit, budget: Budget | None, measure: Callable[[T], Usage], answer: T) -> None:
    """An answer came."""
    try:
        tokens, usd = measure(answer)
    except BaseException:
        permit.succeeded()
        raise
    permit.succeeded(tokens)
    if budget is not None:
        budget.charge(tokens, usd)

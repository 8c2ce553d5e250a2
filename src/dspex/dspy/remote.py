"""A worker's view of limits, breakers and budgets: these hold for all workers, so the parent has them."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Iterator, Mapping
from concurrent.futures import CancelledError, Future
from typing import Any, Protocol

from dspy.dsp.utils.settings import thread_local_overrides

from dspex.config import BreakerSettings, LimitSettings
from dspex.dspy.loops import apart
from dspex.errors import CommunicationError, DspexError, ProgramError
from dspex.protection import Deadline

__all__ = ["RemoteBudget", "RemoteCall", "guarding"]

_KEY = "dspex_remote_call"  # in DSPy's settings, so that it reaches the threads that DSPy starts


class Context(Protocol):
    """How the parent is reached during a call."""

    def ask(self, op: str, payload: Any = None) -> Any: ...
    def tell(self, op: str, payload: Any = None) -> None: ...


class RemoteCall:
    """One call, as the parent knows it. Threads of the call use it at the same time.

    Args:
        context: reaches the parent.
        number: the parent's, of the call.
        prepaid: permits for first requests, by LM.
    """

    def __init__(self, context: Context, number: int, prepaid: Mapping[str, int]) -> None:
        self._context = context
        self._number = number
        self._prepaid = dict(prepaid)
        self._unsaid: deque[tuple[str, dict[str, Any]]] = deque()
        self._has_failed = False

    @contextlib.contextmanager
    def entered(self) -> Iterator[None]:
        """What runs within finds it."""
        token = thread_local_overrides.set({**thread_local_overrides.get(), _KEY: self})
        try:
            yield
        finally:
            thread_local_overrides.reset(token)

    def admit(self, guard: RemoteGuard, deadline: Deadline) -> RemotePermit:
        """Asks for leave to send a request, and waits for it.

        Raises:
            DspexError: the parent does not let it in.
            CommunicationError: the call has ended.
        """
        number = self.ask("admit", lm=guard.name, left=deadline.left())
        return RemotePermit(self, number, guard.limited)

    def prepaid(self, guard: RemoteGuard) -> RemotePermit | None:
        """Leave that was given ahead."""
        number = self._prepaid.pop(guard.name, None)
        return None if number is None else RemotePermit(self, number, guard.limited)

    def peek(self, lm: str) -> DspexError | None:
        """What the parent's guard would say. It had nothing to say when the call came."""
        if not self._has_failed:
            return None
        try:
            self.ask("peek", lm=lm)
        except DspexError as error:
            return error
        return None

    def ended(self, how: dict[str, Any], *, waits: bool) -> None:
        """Tells the parent how a request ended; one that went well, and whose place nobody waits for, is told
        with what comes next.
        """
        self._unsaid.append(("ended", how))
        self._has_failed = self._has_failed or how["ok"] is False
        if waits or not how["ok"]:
            self.say()

    def charge(self, tokens: int | None, usd: float | None) -> None:
        """Tells the parent what a request used."""
        self._unsaid.append(("charge", {"tokens": tokens, "usd": usd}))
        self.say()

    def ask(self, op: str, **what: Any) -> Any:
        """The parent's answer.

        Raises:
            DspexError: as `admit`.
        """
        self.say()
        return self._context.ask(op, {"call": self._number, **what})

    def say(self) -> None:
        """Tells the parent what it has not been told, if it still listens."""
        with contextlib.suppress(CommunicationError):
            for op, what in self.unsaid():
                self._context.tell(op, {"call": self._number, "what": what})

    def unsaid(self) -> list[tuple[str, dict[str, Any]]]:
        """What the parent has not been told, for the answer of the call to take along."""
        taken = []
        with contextlib.suppress(IndexError):
            while True:
                taken.append(self._unsaid.popleft())
        return taken


class RemotePermit:
    """The parent's yes to one request; see `dspex.protection.Permit`."""

    def __init__(self, call: RemoteCall, number: int, waits: bool) -> None:
        self._call = call
        self._number: int | None = number
        self._waits = waits

    def succeeded(self, tokens: int | None = None) -> None:
        self._end(ok=True, tokens=tokens)

    def failed(self, error: BaseException, counts: bool) -> None:
        self._end(ok=False, what=type(error).__name__ if counts else "")

    def cancelled(self) -> None:
        self._end(ok=None)

    def _end(self, **how: Any) -> None:
        number, self._number = self._number, None
        if number is not None:
            self._call.ended({"permit": number, **how}, waits=self._waits)


class RemoteGuard:
    """Stands for the parent's guard of one LM; see `dspex.protection.LMGuard`."""

    def __init__(self, name: str, limited: bool) -> None:
        self.name = name
        self.limited = limited

    def admit(self, deadline: Deadline, program: str | None = None) -> RemotePermit:
        call = _current()
        return call.prepaid(self) or call.admit(self, deadline)

    async def aadmit(self, deadline: Deadline, program: str | None = None) -> RemotePermit:
        call = _current()
        prepaid = call.prepaid(self)
        if prepaid is not None:
            return prepaid
        # On a thread: tasks beside this one may hold the places that it waits for.
        asked: Future[RemotePermit] = apart(call.admit, self, deadline)
        try:
            return await asyncio.shield(asyncio.wrap_future(asked))
        except asyncio.CancelledError:
            asked.add_done_callback(_give_back)
            raise

    def peek(self) -> DspexError | None:
        call = _found()
        return None if call is None else call.peek(self.name)

    def stats(self) -> dict[str, Any]:
        return {}


def guarding(name: str, limits: LimitSettings, breaker: BreakerSettings) -> Any:
    """Makes the guard of one LM."""
    places = (limits.concurrency, limits.requests_per_minute, limits.tokens_per_minute)
    return RemoteGuard(name, any(limit is not None for limit in places))


class RemoteBudget:
    """The parent's budget of a program: looked at when a request is let in, and charged from here."""

    def check(self, program: str | None) -> None:
        pass

    def charge(self, tokens: int | None, usd: float | None) -> None:
        _current().charge(tokens, usd)


def _found() -> RemoteCall | None:
    found: RemoteCall | None = thread_local_overrides.get().get(_KEY)
    return found


def _current() -> RemoteCall:
    found = _found()
    if found is None:
        raise ProgramError("in a worker process, an LM can only be asked during a call")
    return found


def _give_back(asked: Future[RemotePermit]) -> None:
    """The task that asked has gone."""
    with contextlib.suppress(DspexError, CancelledError):
        asked.result().cancelled()

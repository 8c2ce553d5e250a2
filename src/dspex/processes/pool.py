"""A pool of worker processes that run one handler."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import time
import weakref
from collections.abc import Iterable, Mapping
from types import TracebackType
from typing import Any, Self

from dspex.config.backends import ProcessPoolSettings
from dspex.errors import CallTimeoutError, CommunicationError, ConfigError, DspexError, ResourceError
from dspex.processes.channel import NotBegun, OnAsk, OnTell
from dspex.processes.checkout import Checkout
from dspex.processes.fleet import Fleet
from dspex.processes.frames import pack
from dspex.processes.health import PoolHealth, look_at, stats_of
from dspex.processes.member import Entry, Member
from dspex.processes.supervisor import Supervisor
from dspex.protection.deadline import NEVER, Deadline

__all__ = ["ProcessPool"]

_TRIES = 5  # of a call that workers did not begin
_JOIN_SECONDS = 2.0


class ProcessPool:
    """Worker processes for calls from any thread and any event loop. A call is one operation of the handler,
    on one worker; the caller's own thread talks to it.

    `size` workers are ready when the constructor returns. A worker that dies, sends garbage or is late with
    an answer is replaced at once. A pool that is dropped, or still there when the interpreter ends, ends its
    workers; they end by themselves when this process is killed.

    Args:
        handler: "module:factory"; a worker calls the factory with `handler_settings`, and gives each call to
            the `handle(op, payload, context)` of what it returns.
        settings: a `ProcessPoolSettings` or a mapping.
        handler_settings: what msgpack can carry.
        setup: (op, payload) that every worker does when it starts, in order; a worker that fails in one of
            them cannot be started.
        on_ask: answers what a worker asks during a call, in the thread that makes the call; see `Later`.
        on_tell: hears what a worker tells during a call, in the same thread.
        label: what a worker is called in errors and names of threads.

    Raises:
        ConfigError: a setting that does not fit; or the handler cannot be imported or made.
        CommunicationError, ResourceError: the workers cannot be started.
    """

    def __init__(
        self,
        handler: str,
        settings: ProcessPoolSettings | Mapping[str, Any] | None = None,
        *,
        handler_settings: Any = None,
        setup: Iterable[tuple[str, Any]] = (),
        on_ask: OnAsk | None = None,
        on_tell: OnTell | None = None,
        label: str = "worker",
    ) -> None:
        if not isinstance(handler, str) or not all(handler.partition(":")):
            raise ConfigError(f"a handler is 'module:factory', not {handler!r}", field="handler")
        self.settings = ProcessPoolSettings.of(settings)
        self._fleet = Fleet(handler, handler_settings, self.settings, setup, on_ask, on_tell, label)
        self._checkout = Checkout(self._fleet)
        self._supervisor = Supervisor(self._fleet)
        # It may be collected in any thread, whatever locks that holds: another one has to close it.
        weakref.finalize(self, self._supervisor.ask_to_close).atexit = False
        try:
            self._fleet.start()
        except BaseException:
            self.close(0.0)
            raise

    # Calls

    def call(
        self,
        op: str,
        payload: Any = None,
        *,
        deadline: Deadline = NEVER,
        session: str | None = None,
        program: str | None = None,
        on_tell: OnTell | None = None,
    ) -> Any:
        """Has a worker do one operation.

        Args:
            op, payload: given to the handler; the payload is what msgpack can carry.
            deadline: of the whole, waiting included. The worker that is late is killed and replaced.
            session: calls of one session go to the same worker, in order, while it lives.
            program: named in errors.
            on_tell: in place of the pool's own.

        Returns:
            What the handler returned.

        Raises:
            DspexError: as the handler raised it; anything else that it raised is an InternalError.
            CallTimeoutError: the deadline passed.
            PoolSaturated: `capacity` calls wait already, or this one has waited for `max_wait`.
            CommunicationError: the worker died or sent garbage, and the call may have been begun; a call that
                was not begun is repeated on another worker. Or no worker can be started. Or the payload
                cannot be sent, which is not retryable.
            ResourceError: the pool is closed, or belongs to the process that forked this one; not retryable.
        """
        packed, error = pack(payload), None
        for attempt in range(_TRIES):
            member = self._checkout.take(session, deadline, program, attempt > 0)
            try:
                return self._exchange(member, op, packed, deadline, session, program, on_tell)
            except NotBegun as refused:
                error = refused
        raise _never_begun(error, program) from error

    async def acall(
        self,
        op: str,
        payload: Any = None,
        *,
        deadline: Deadline = NEVER,
        session: str | None = None,
        program: str | None = None,
        on_tell: OnTell | None = None,
    ) -> Any:
        """`call`, without holding up the event loop. `on_ask` and `on_tell` are called in another thread.

        A call whose task is cancelled ends in its worker all the same, or at its deadline; nobody hears of
        it.

        Raises:
            As `call`.
        """
        packed, error = pack(payload), None
        for attempt in range(_TRIES):
            member = await self._checkout.atake(session, deadline, program, attempt > 0)
            try:
                return await self._in_crew(member, op, packed, deadline, session, program, on_tell)
            except NotBegun as refused:
                error = refused
        raise _never_begun(error, program) from error

    def _exchange(
        self,
        member: Member,
        op: str,
        packed: Any,
        deadline: Deadline,
        session: str | None,
        program: str | None,
        on_tell: OnTell | None,
    ) -> Any:
        """The call, on a worker that is checked out, which is handed back."""
        fleet, channel, began = self._fleet, member.running.channel, time.monotonic()
        how: str | None = "broken"
        try:
            if deadline.expired:  # while it waited; its worker is not to pay for that
                how = None
                raise deadline.error(program)
            if member.pending:
                fleet.briefing.settle(member, deadline)
            return channel.call(
                op,
                packed,
                deadline,
                on_ask=fleet.on_ask,
                on_tell=on_tell or fleet.on_tell,
                program=program,
            )
        except CallTimeoutError:
            how = how and "timeouts"
            raise
        except NotBegun:
            how = "repeated"
            raise
        except CommunicationError as error:
            if fleet.closing and not channel.usable:
                raise fleet.closed_error() from error
            raise
        finally:
            fleet.hand_back(member, session, how, time.monotonic() - began)

    async def _in_crew(self, member: Member, *arguments: Any) -> Any:
        loop = asyncio.get_running_loop()
        answered: asyncio.Future[Any] = loop.create_future()
        context = contextvars.copy_context()

        def exchange() -> None:
            answer, error = None, None
            try:
                answer = context.run(self._exchange, member, *arguments)
            except BaseException as raised:
                error = raised
            with contextlib.suppress(RuntimeError):  # the loop was closed meanwhile
                loop.call_soon_threadsafe(_settle, answered, answer, error)

        try:
            self._fleet.crew.submit(exchange)
        except RuntimeError as cause:
            self._fleet.hand_back(member)
            raise ResourceError(f"no thread can be started: {cause}") from cause
        return await answered

    # What all workers are told

    def broadcast(self, op: str, payload: Any = None, *, key: str | None = None) -> None:
        """Has every worker do an operation before its next call: idle ones at once, in the background.

        With a key, workers to come do it too, when they start, in the order of the keys' first use; a later
        broadcast takes the place of an earlier one of its key. `health` tells of one that fails in a worker.

        Raises:
            CommunicationError: the payload cannot be sent.
            ResourceError: the pool is closed.
        """
        entry = Entry(key, op, pack(payload))
        if self._fleet.closing:
            raise self._fleet.closed_error()
        self._fleet.tell_all(entry)

    def forget(self, key: str) -> None:
        """Workers are not told any more what was broadcast under the key. Those that know it keep it."""
        self._fleet.forget(key)

    # How it stands

    def refusal(self) -> DspexError | None:
        """What a call would raise at once, because nothing can take it; None: it would be taken."""
        return self._checkout.refusal()

    @property
    def saturation(self) -> float:
        """Calls under way and waiting, for each worker that there can be, at most 1: then all are busy."""
        fleet = self._fleet
        busy = len(fleet.members) - len(fleet.desk.idle)
        return min(1.0, max(0.0, (busy + fleet.desk.waiting) / self.settings.most_workers))

    @property
    def closed(self) -> bool:
        """Whether it takes no more calls."""
        return self._fleet.closing or self._fleet.draining

    def pids(self) -> list[int]:
        """The process ids of the workers that are ready, in the order in which they were started."""
        with self._fleet.lock:
            return [m.running.pid for m in sorted(self._fleet.members, key=lambda m: m.number)]

    def stats(self) -> dict[str, Any]:
        """Counters since the pool was made, and how it stands now; JSON-able.

        `calls` counts those that a worker ended, by an answer or an error; `timeouts` those whose worker was
        killed for being late; `broken` those whose worker broke off; `repeated` those that were not begun by
        a worker, and went to another one.
        """
        return stats_of(self._fleet)

    def health(self) -> PoolHealth:
        """Pings every worker, busy ones too. Takes at most `ping_timeout` and a little; raises nothing."""
        return look_at(self._fleet)

    # The end

    def drain(self, timeout: float | None = None) -> bool:
        """Takes no more calls, and waits until those that were taken have ended, at most so many seconds.

        Returns:
            Whether they have.
        """
        return self._fleet.drain(timeout)

    def close(self, timeout: float = 5.0) -> bool:
        """Takes no more calls, fails those that wait for a worker, gives those under way `timeout` seconds,
        and ends the workers and all threads. Closing twice is harmless.

        Returns:
            Whether no call under way had to be broken off.
        """
        in_time = self._fleet.close(timeout)
        self._supervisor.join(_JOIN_SECONDS)
        return in_time

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


def _never_begun(error: NotBegun | None, program: str | None) -> CommunicationError:
    return CommunicationError(
        f"{_TRIES} workers ended before they had begun the call; the last: {error and error.message}",
        program=program,
        hint="It is safe to try again",
    )


def _settle(future: asyncio.Future[Any], answer: Any, error: BaseException | None) -> None:
    if future.done():  # cancelled
        return
    if error is None:
        future.set_result(answer)
    elif isinstance(error, StopIteration):  # no future takes it
        future.set_exception(RuntimeError(f"a callback raised {error!r}"))
    else:
        future.set_exception(error)

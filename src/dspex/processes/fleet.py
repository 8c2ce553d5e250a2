"""The workers of a pool: how they come, what they are told, how they are replaced, how they go."""

from __future__ import annotations

import contextlib
import functools
import itertools
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

from dspex.config.backends import ProcessPoolSettings
from dspex.errors import CommunicationError, DspexError, InternalError, ResourceError
from dspex.processes.briefing import Briefing
from dspex.processes.channel import OnAsk, OnTell
from dspex.processes.crew import Crew
from dspex.processes.desk import Desk
from dspex.processes.frames import pack
from dspex.processes.member import Entry, Member
from dspex.processes.process import WorkerProcess
from dspex.protection.deadline import Deadline

__all__ = ["Fleet"]

_FIRST_BACKOFF, _LONGEST_BACKOFF = 0.1, 10.0  # seconds
_NEWEST = 0.1  # the weight of the newest call in the mean of their durations
_STOP_SECONDS = 1.0  # that a worker has to end in good order


class Fleet:
    """Everything of a pool but the calls. Its threads hold it, and not the pool, which can so be collected.

    Args:
        handler, handler_settings: what each worker runs.
        settings: of the pool.
        setup: operations that every worker does when it starts.
        on_ask, on_tell: who answers workers and listens to them.
        label: what a worker is called.

    Attributes:
        desk: who gets which worker; its lock guards the fleet too.
        briefing: what every worker is told.
        members: the workers that are ready.
        changed: notified when a worker has come or gone, and at the end of calls while somebody waits for it.
        counts: of what has happened.
        draining: no new call is taken in.
        closing: nothing is taken in any more, and the processes end.
        mean: seconds that a call takes, of late.
        start_error: what the last start failed with; None: it has not.
    """

    def __init__(
        self,
        handler: str,
        handler_settings: Any,
        settings: ProcessPoolSettings,
        setup: Iterable[tuple[str, Any]],
        on_ask: OnAsk | None,
        on_tell: OnTell | None,
        label: str,
    ) -> None:
        self.settings = settings
        self.on_ask = on_ask
        self.on_tell = on_tell
        self.label = label
        self.desk = Desk(settings.session_ttl)
        self.lock = self.desk.lock
        self.changed = threading.Condition(self.lock)
        self.crew = Crew(f"dspex-{label}")
        self.members: set[Member] = set()
        self.counts: Counter[str] = Counter()
        self.draining = self.closing = False
        self.mean = 0.0
        self.start_error: BaseException | None = None
        self.wake: Callable[[], None] = lambda: None  # the supervisor's, once there is one
        self._handler = handler
        self._handler_settings = pack(handler_settings)
        self.briefing = Briefing(self.desk, setup, on_ask, on_tell, self.counts)
        self._starting: set[Member] = set()
        self._numbers = itertools.count(1)
        self._failures = 0
        self._retry_at = 0.0
        self._forked = False

    def start(self) -> None:
        """Starts the workers, all at once, and waits until they are ready.

        Raises:
            DspexError: why one of them cannot be started.
        """
        with self.lock:
            self.fill()
            self.changed.wait_for(lambda: self.start_error or len(self.members) >= self.settings.size)
            error = self.start_error
        if error is not None:
            raise error

    # Under the lock: how many there are

    @property
    def staying(self) -> int:
        """Workers that are ready and not about to be replaced."""
        return sum(not member.retiring for member in self.members)

    @property
    def starting(self) -> int:
        """Workers that are not ready yet."""
        return len(self._starting)

    @property
    def present(self) -> list[Member]:
        """Every worker, also those that are not ready yet."""
        return [*self.members, *self._starting]

    @property
    def retry_at(self) -> float | None:
        """When the next start is tried, on the monotonic clock; None: the last one has not failed."""
        return self._retry_at if self._failures else None

    def fill(self) -> None:
        """Starts what is missing, unless a start has just failed."""
        if self.closing or (self._failures and time.monotonic() < self._retry_at):
            return
        for _ in range(self.settings.size - self.staying - self.starting):
            self._begin()

    def grow(self) -> None:
        """Starts one more when more calls wait than workers are on their way."""
        there = self.staying + self.starting
        if self._failures or self.starting >= self.desk.unbound or there >= self.settings.most_workers:
            return
        self.counts["overflow"] += 1
        self._begin()

    def hopeless(self, program: str | None = None) -> DspexError | None:
        """Why no worker will come for now; None: one is there, or on its way."""
        if self.members or self._starting or not self._failures:
            return None
        return CommunicationError(
            f"no {self.label} process can be started: {self.start_error}",
            program=program,
            retry_after=max(0.0, self._retry_at - time.monotonic()),
            hint="It is tried again by itself",
        )

    def _begin(self) -> None:
        member = Member(next(self._numbers), self.briefing.pending())
        self._starting.add(member)
        try:
            self.crew.submit(lambda: self._start(member))
        except RuntimeError as error:  # no more threads; or the interpreter is ending
            self._start_failed(member, error)

    # In a thread of the crew

    def _start(self, member: Member) -> None:
        deadline = Deadline.after(self.settings.start_timeout)
        try:
            name = f"{self.label} {member.number}"
            member.process = WorkerProcess(self._handler, self._handler_settings, name)
            if not self.closing:
                member.process.start(deadline)
                self.briefing.begin(member, deadline)
        except BaseException as error:
            if member.process is not None:
                member.process.kill()
            with self.lock:
                self._start_failed(member, error)
            return
        with self.lock:
            self._starting.discard(member)
            if not self.closing:
                self._joined(member)
            self.changed.notify_all()
        if self.closing:
            member.running.kill()
        self.wake()

    def _joined(self, member: Member) -> None:
        self._failures, self.start_error = 0, None
        self.counts["started"] += 1
        self.members.add(member)
        self.desk.give(member)
        self._let_go_of_retired()

    def _start_failed(self, member: Member, error: BaseException) -> None:
        self._starting.discard(member)
        self.start_error = error
        self.counts["failed_starts"] += 1
        if not self._failures or time.monotonic() >= self._retry_at:  # else it was started beside another one
            self._failures += 1
            pause = min(_LONGEST_BACKOFF, _FIRST_BACKOFF * 2 ** (self._failures - 1))
            self._retry_at = time.monotonic() + pause
        if self.hopeless() is not None:
            self.desk.fail_all(lambda: self.hopeless() or InternalError("no worker"))
        self.changed.notify_all()
        self.wake()

    # What every worker is told

    def tell_all(self, entry: Entry) -> None:
        """Has every worker do an operation before its next call, idle ones at once; with a key, also every
        worker to come.
        """
        with self.lock:
            self.briefing.add(entry, self.present)
            idle = [member for member in self.members if self.desk.borrow(member)]
        for member in idle:
            self.in_background(functools.partial(self._settle_idle, member), member)

    def forget(self, key: str) -> None:
        """Has no worker do it any more."""
        with self.lock:
            self.briefing.forget(key, self.present)

    def _settle_idle(self, member: Member) -> None:
        with contextlib.suppress(DspexError):  # then it is replaced, and the next one is told
            self.briefing.settle(member, Deadline.after(self.settings.start_timeout))
        self.hand_back(member)

    def in_background(self, work: Callable[[], None], member: Member) -> None:
        """Does work on a worker that is checked out, and hands it back if there is no thread for that."""
        try:
            self.crew.submit(work)
        except RuntimeError:  # no more threads
            self.hand_back(member)

    # How they go

    def hand_back(
        self, member: Member, session: str | None = None, how: str | None = None, took: float = 0.0
    ) -> None:
        """A worker that was checked out is free again, or is not fit for work any more.

        Args:
            session: of the call that it was checked out for.
            how: the call ended, unless the worker ended it in good order; None: it was for no call.
            took: seconds.
        """
        usable = member.running.channel.usable
        member.calls += usable and how is not None
        due = usable and self._is_due(member)
        with self.lock:
            if how is not None:
                self.counts["calls" if usable else how] += 1
                self.mean += _NEWEST * (took - self.mean)
            if due and not member.retiring:
                member.retiring = True
                self.counts["retired"] += 1
                self.fill()
                self._let_go_of_retired()
            if not usable or member.died or member.leaving or self.closing:
                self._drop(member)
            else:
                member.answered_at = time.monotonic()
                if session is not None:
                    self.desk.touch(session, member)
                self.desk.give(member)
            if self.closing or self.draining:
                self.changed.notify_all()

    def lost(self, member: Member) -> None:
        """A worker's process was seen to have ended; under the lock. Who has it checked out sees it too."""
        member.died = True
        if member.idle:
            self._drop(member)

    def let_go(self, member: Member) -> None:
        """An idle worker that is not needed goes; under the lock."""
        self.desk.remove(member)
        member.leaving = True
        self._drop(member)

    def _drop(self, member: Member) -> None:
        """Takes a worker off the books, ends its process, and starts another one in its place."""
        if member not in self.members:
            return
        self.members.discard(member)
        self.desk.remove(member)
        process = member.running
        if not member.leaving and not self.closing:
            self.counts["lost"] += 1
        end = (lambda: process.stop(_STOP_SECONDS)) if process.channel.usable else process.kill
        self.fill()
        try:
            self.crew.submit(end)
        except RuntimeError:  # no more threads
            process.kill()
        self.changed.notify_all()
        self.wake()

    def _is_due(self, member: Member) -> bool:
        """Whether it has worked long enough, or grown too large."""
        settings = self.settings
        if settings.max_calls is not None and member.calls >= settings.max_calls:
            return True
        if settings.max_memory_mib is None:
            return False
        return member.running.rss() > settings.max_memory_mib * 2**20

    def _let_go_of_retired(self) -> None:
        """Replaced workers go, now that others are there."""
        if self.staying < self.settings.size:
            return
        for member in [each for each in self.members if each.retiring]:
            member.leaving = True
            if member.idle:
                self._drop(member)

    # The end

    def drain(self, seconds: float | None) -> bool:
        """Takes no new calls, and waits until none is under way; whether it came to that in time."""
        with self.lock:
            if self.closing:
                return True
            self.draining = True
            return self.changed.wait_for(
                lambda: not self.desk.waiting and len(self.desk.idle) == len(self.members), seconds
            )

    def close(self, seconds: float) -> bool:
        """Takes no more calls, gives those under way so long, and ends every process.

        Returns:
            Whether all calls under way had ended by themselves.
        """
        if self._forked:
            return True
        with self.lock:
            self.closing = True
            self.desk.fail_all(self.closed_error)
            for member in list(self.desk.idle):
                self._drop(member)
            in_time = self.changed.wait_for(lambda: not self.members, seconds)
            for member in self.present:
                if member.process is not None:
                    member.process.send_kill()
            # Whoever has a worker checked out hands it back as soon as it has noticed.
            self.changed.wait_for(lambda: not self.present, _STOP_SECONDS)
        self.wake()
        self.crew.close(2 * _STOP_SECONDS)
        return in_time

    def closed_error(self) -> ResourceError:
        """What is raised after the end."""
        if self._forked:
            what = f"the {self.label} pool belongs to the process that forked this one"
        else:
            what = f"the {self.label} pool is closed, and takes no more calls"
        return ResourceError(what, retryable=False, hint="Make a new one")

    def forked(self) -> None:
        """In a forked child: nothing here is the child's."""
        self._forked = self.closing = True
        self.lock = self.desk.lock = threading.RLock()  # the old one may be held by a thread left behind
        self.changed = threading.Condition(self.lock)
        for member in self.present:
            if member.process is not None:
                member.process.forget()

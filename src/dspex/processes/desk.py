"""Which call gets which worker: the warmest free one, its session's own, or a place in the line.

Whenever a worker is idle, no call waits that it could serve. The methods are called under the desk's lock.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable

from dspex.processes.member import Member
from dspex.processes.waiters import Waiter

__all__ = ["Desk"]


class Desk:
    """The idle workers, the line, and the sessions.

    Args:
        session_ttl: seconds after its last call that a session keeps its worker.

    Attributes:
        lock: guards the desk, and everything else that the pool knows of its workers.
        idle: the idle workers; the last one has worked last and is taken first.
        waiting: how many calls wait.
    """

    def __init__(self, session_ttl: float) -> None:
        self.lock = threading.RLock()  # a signal's handler may close the pool in the middle of a call
        self.idle: list[Member] = []
        self.waiting = 0
        self._line: deque[Waiter] = deque()  # for any worker; in order
        self._ttl = session_ttl
        self._sessions: OrderedDict[str, tuple[Member, float]] = OrderedDict()  # the least recent first
        self._numbers = itertools.count(1)

    # Calls

    def take(self, session: str | None) -> Member | None:
        """A worker for a call, if there is one for it now."""
        if session is None:
            return self._pick(self.idle[-1]) if self.idle else None
        bound = self._worker_of(session)
        if bound is not None:
            return self._pick(bound) if bound.idle else None
        if not self.idle:
            return None
        fewest = min(reversed(self.idle), key=lambda member: len(member.sessions))
        self._bind(session, fewest)
        return self._pick(fewest)

    def line_up(self, waiter: Waiter) -> None:
        """Puts a call at the end of the line."""
        waiter.number = next(self._numbers)
        bound = None if waiter.session is None else self._worker_of(waiter.session)
        (self._line if bound is None else bound.queue).append(waiter)
        self.waiting += 1

    def withdraw(self, waiter: Waiter) -> bool:
        """Takes a call out of the line; False: it is not in it any more."""
        if waiter.member is not None or waiter.error is not None:
            return False
        bound = None if waiter.session is None else self._worker_of(waiter.session)
        for line in (self._line, *(() if bound is None else (bound.queue,))):
            if waiter in line:
                line.remove(waiter)
                self.waiting -= 1
                return True
        return False

    @property
    def unbound(self) -> int:
        """How many of those that wait could be served by a further worker."""
        return len(self._line)

    def fail_all(self, error: Callable[[], Exception]) -> None:
        """Tells all that wait that there will be no worker."""
        lines = [self._line, *{id(member): member.queue for member, _ in self._sessions.values()}.values()]
        for line in lines:
            while line:
                self.waiting -= 1
                line.popleft().fail(error())

    # Workers

    def give(self, member: Member) -> None:
        """A worker is free: it goes to the next call that it can serve, or is idle."""
        while (waiter := self._next_for(member)) is not None:
            self.waiting -= 1
            if waiter.grant(member):
                return
        member.idle = True
        member.idle_since = time.monotonic()
        self.idle.append(member)

    def borrow(self, member: Member) -> bool:
        """Takes a worker out for other things than a call; False: it is not idle."""
        return member.idle and self._pick(member) is member

    def remove(self, member: Member) -> None:
        """A worker is gone: its sessions move to others, and the calls that waited for it with them."""
        if member.idle:
            self._pick(member)
        for session in member.sessions:
            self._sessions.pop(session, None)
        member.sessions.clear()
        for waiter in member.queue:
            _insert(self._line, waiter)
        member.queue.clear()
        while self.idle and self._line:
            self.give(self._pick(self.idle[-1]))

    def _pick(self, member: Member) -> Member:
        self.idle.remove(member)
        member.idle = False
        return member

    def _next_for(self, member: Member) -> Waiter | None:
        """The longest waiting call that it can serve."""
        while self._line or member.queue:
            if not self._line or (member.queue and member.queue[0].number < self._line[0].number):
                return member.queue.popleft()
            waiter = self._line.popleft()
            bound = None if waiter.session is None else self._worker_of(waiter.session)
            if bound is None or bound is member:
                if waiter.session is not None:
                    self._bind(waiter.session, member)
                return waiter
            _insert(bound.queue, waiter)  # its session was given a worker while it stood in the line
        return None

    # Sessions

    @property
    def sessions(self) -> int:
        """How many sessions stick to a worker."""
        return len(self._sessions)

    def expire(self) -> None:
        """Forgets sessions that were not used for their time to live, unless calls of theirs still wait."""
        oldest_allowed = time.monotonic() - self._ttl
        while self._sessions:
            session, (member, used) = next(iter(self._sessions.items()))
            if used > oldest_allowed:
                return
            if any(waiter.session == session for waiter in member.queue):
                self._bind(session, member)
                continue
            del self._sessions[session]
            member.sessions.discard(session)

    def touch(self, session: str, member: Member) -> None:
        """A call of the session has ended: its time to live begins again."""
        if self._sessions.get(session, (member, 0.0))[0] is member:
            self._bind(session, member)

    def _worker_of(self, session: str) -> Member | None:
        found = self._sessions.get(session)
        if found is None:
            return None
        self._bind(session, found[0])
        return found[0]

    def _bind(self, session: str, member: Member) -> None:
        self._sessions[session] = (member, time.monotonic())
        self._sessions.move_to_end(session)
        member.sessions.add(session)


def _insert(line: deque[Waiter], waiter: Waiter) -> None:
    """Where its number belongs: mostly near the end."""
    at = len(line)
    while at and line[at - 1].number > waiter.number:
        at -= 1
    line.insert(at, waiter)

"""Sessions: calls in order on one worker, and the store that forgets those nobody uses."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from dspex.errors import InputError, ResourceError
from dspex.pool.settings import MAX_TTL, check_seconds

if TYPE_CHECKING:
    from dspex._core import Predictor, Result
    from dspex._pool import StrandCore
    from dspex.pool.future import Future
    from dspex.pool.pool import Pool

__all__ = ["Session", "SessionStore"]


class Session:
    """The calls of one session run in the order in which they were submitted, one at a time, on one worker;
    on another once that worker is gone. Made by `Pool.session`.

    Attributes:
        id: the session's id.
        data: for the user's own use; forgotten with the session.
    """

    def __init__(self, session_id: str, pool: Pool, strand: StrandCore, ttl: float) -> None:
        self.id = session_id
        self.data: dict[str, Any] = {}
        self.calls = 0
        self._pool = pool
        self._strand = strand
        self._ttl = ttl
        self._used = time.monotonic()
        self._closed = False

    def submit(
        self, program: Predictor, inputs: Mapping[str, Any], *, timeout: float | None = None
    ) -> Future:
        """As `Pool.submit`, after the session's earlier calls.

        Raises:
            ResourceError: the session is closed or has expired; or as `Pool.submit`.
        """
        self._touch()
        return self._pool._submit_to(self._strand, program, inputs, timeout)

    def call(self, program: Predictor, inputs: Mapping[str, Any], *, timeout: float | None = None) -> Result:
        """Submits a call and waits for its result."""
        result: Result = self.submit(program, inputs, timeout=timeout).result()
        return result

    async def acall(
        self, program: Predictor, inputs: Mapping[str, Any], *, timeout: float | None = None
    ) -> Result:
        """As `Pool.acall`, after the session's earlier calls."""
        self._touch()
        return await self._pool.acall(program, inputs, timeout=timeout, strand=self._strand)

    def close(self) -> None:
        """Forgets the session; calls that were submitted still run."""
        self._pool._sessions.remove(self)

    @property
    def pending(self) -> int:
        """Calls that wait or run."""
        return self._strand.pending

    @property
    def worker(self) -> int:
        """The index of the worker that runs its calls."""
        return self._strand.worker

    def _touch(self) -> None:
        if self._closed:
            raise ResourceError(
                f"session {self.id!r} is closed or has expired",
                retryable=False,
                hint="Ask the pool for it anew",
            )
        self._used = time.monotonic()
        self.calls += 1

    def _is_stale(self, now: float) -> bool:
        return now - self._used > self._ttl and self._strand.pending == 0

    def __repr__(self) -> str:
        return f"<dspex.pool.Session {self.id!r} on worker {self.worker}>"


class SessionStore:
    """Sessions by id. A session that nobody has called for its time to live is forgotten, at the latest a
    quarter of that time later as long as sessions are asked for.
    """

    def __init__(self, ttl: float) -> None:
        self._ttl = ttl
        self._sessions: dict[str, Session] = {}
        self._lock, self._pid = threading.Lock(), os.getpid()
        self._swept = time.monotonic()
        self._created = self._expired = self._closed = 0

    def get(self, session_id: str, ttl: float | None, pool: Pool) -> Session:
        """The session of that id, made on first use.

        Raises:
            InputError: the id is not a string, or is empty.
            ConfigError: the time to live is not a number of seconds.
        """
        if not isinstance(session_id, str) or not session_id:
            raise InputError(
                f"a session id is a string, not {session_id!r}",
                field="session",
                hint="For instance a user's id",
            )
        if ttl is not None:
            check_seconds("ttl", ttl, MAX_TTL)
        now = time.monotonic()
        with self._own_lock():
            self._sweep(now, force=False)
            session = self._sessions.get(session_id)
            if session is not None and session._is_stale(now):
                self._forget(session)
                self._expired += 1
                session = None
            if session is None:
                strand = pool._strand()
                session = Session(session_id, pool, strand, self._ttl if ttl is None else ttl)
                self._sessions[session_id] = session
                self._created += 1
            elif ttl is not None:
                session._ttl = ttl
            session._used = now  # who asked for it has time to use it
            return session

    def _own_lock(self) -> threading.Lock:
        """In a forked child a new one: whoever held the old one is not there."""
        if self._pid != os.getpid():
            self._lock, self._pid = threading.Lock(), os.getpid()
        return self._lock

    def sweep(self) -> int:
        """Forgets stale sessions now; how many they were."""
        with self._own_lock():
            return self._sweep(time.monotonic(), force=True)

    def _sweep(self, now: float, *, force: bool) -> int:
        if not force and now - self._swept < self._ttl / 4:
            return 0
        self._swept = now
        stale = [session for session in self._sessions.values() if session._is_stale(now)]
        for session in stale:
            self._forget(session)
        self._expired += len(stale)
        return len(stale)

    def _forget(self, session: Session) -> None:
        session._closed = True
        if self._sessions.get(session.id) is session:
            del self._sessions[session.id]

    def remove(self, session: Session) -> None:
        """Closes a session; once is enough."""
        with self._own_lock():
            if not session._closed:
                self._forget(session)
                self._closed += 1

    def close(self) -> None:
        """Closes all of them."""
        with self._own_lock():
            for session in list(self._sessions.values()):
                self._forget(session)
                self._closed += 1

    def stats(self) -> dict[str, int]:
        """Sessions there are (`active`), have been (`created`), and how they went (`expired`, `closed`);
        calls that wait or run (`pending`).
        """
        with self._own_lock():
            return {
                "active": len(self._sessions),
                "created": self._created,
                "expired": self._expired,
                "closed": self._closed,
                "pending": sum(session.pending for session in self._sessions.values()),
            }

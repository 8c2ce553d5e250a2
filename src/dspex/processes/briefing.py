"""What every worker of a pool is told: at its start, and while it is there."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable
from typing import Any

from dspex.errors import CommunicationError, DspexError
from dspex.processes.channel import NotBegun, OnAsk, OnTell
from dspex.processes.desk import Desk
from dspex.processes.frames import pack
from dspex.processes.member import Entry, Member
from dspex.protection.deadline import Deadline

__all__ = ["Briefing"]


class Briefing:
    """Operations for all workers, and how they are done.

    Args:
        desk: its lock guards what is remembered.
        setup: (op, payload) that every worker does first.
        on_ask, on_tell: who answers workers and listens to them meanwhile.
        counts: where `failed_setups` are counted.
    """

    def __init__(
        self,
        desk: Desk,
        setup: Iterable[tuple[str, Any]],
        on_ask: OnAsk | None,
        on_tell: OnTell | None,
        counts: Counter[str],
    ) -> None:
        self._desk = desk
        self._setup = [Entry(None, op, pack(payload)) for op, payload in setup]
        self._remembered: dict[str, Entry] = {}
        self._on_ask = on_ask
        self._on_tell = on_tell
        self._counts = counts

    # Under the lock

    def pending(self) -> deque[Entry]:
        """What a new worker has to do, after the setup."""
        return deque(self._remembered.values())

    def add(self, entry: Entry, members: Iterable[Member]) -> None:
        """These have to do an operation, and with a key all to come."""
        if entry.key is not None:
            self._remembered[entry.key] = entry
        for member in members:
            member.pending.append(entry)

    def forget(self, key: str, members: Iterable[Member]) -> None:
        """Those who have not done it do not have to any more."""
        self._remembered.pop(key, None)
        for member in members:
            member.failed.pop(key, None)
            for entry in [each for each in member.pending if each.key == key]:
                member.pending.remove(entry)

    # By whoever has the worker to himself

    def begin(self, member: Member, deadline: Deadline) -> None:
        """Has a new worker do the setup, and what is remembered.

        Raises:
            DspexError: what failed in the setup; or as `settle`.
        """
        for entry in self._setup:
            self._do(member, entry, deadline)
        self.settle(member, deadline)

    def settle(self, member: Member, deadline: Deadline) -> None:
        """Has a worker do what it has been told. An operation that fails in good order is noted; the worker
        is as good as one that was not told.

        Raises:
            NotBegun, CallTimeoutError: the worker broke off, or took too long.
        """
        while (entry := self._next(member)) is not None:
            failure: DspexError | None = None
            try:
                self._do(member, entry, deadline)
            except DspexError as error:
                if not member.running.channel.usable:
                    if isinstance(error, CommunicationError):  # it is not the call that was begun
                        raise NotBegun(error.message) from error
                    raise
                failure = error
            with self._desk.lock:
                self._note(member, entry.key, failure)

    def _next(self, member: Member) -> Entry | None:
        with self._desk.lock:
            return member.pending.popleft() if member.pending else None

    def _do(self, member: Member, entry: Entry, deadline: Deadline) -> None:
        channel = member.running.channel
        channel.call(entry.op, entry.payload, deadline, on_ask=self._on_ask, on_tell=self._on_tell)

    def _note(self, member: Member, key: str | None, failure: DspexError | None) -> None:
        """Whether a worker has done what it was told."""
        self._counts["failed_setups"] += failure is not None
        if key is not None:
            member.failed.pop(key, None)
            if failure is not None and key in self._remembered:
                member.failed[key] = failure

"""Ways for bytes to go between two peers: a socket, or memory."""

from __future__ import annotations

import math
import queue
import select
import socket
import time
from typing import Protocol

__all__ = ["MemoryTransport", "SocketTransport", "Transport"]

_CHUNK = 64 * 1024  # more would be mapped anew by malloc for each of them


class Transport(Protocol):
    """A stream of bytes to and from a peer. One thread at a time sends, and one receives."""

    def send(self, data: bytes, timeout: float | None = None) -> None:
        """Sends all of it.

        Raises:
            OSError: the peer has gone.
            TimeoutError: the peer did not take it in time; part of it may have gone.
        """

    def recv(self, timeout: float | None = None) -> bytes:
        """Some bytes, at least one; b"" when no more will come.

        Raises:
            OSError: the connection broke.
            TimeoutError: nothing came in time.
        """

    def close(self) -> None:
        """Ends both directions; the peer sees the end."""

    def fileno(self) -> int | None:
        """A descriptor that becomes readable when something comes, if there is one."""


class SocketTransport:
    """Over a connected stream socket.

    Args:
        connection: belongs to the transport from here on.
        life: a descriptor that becomes readable when the peer's process has ended (a pidfd). The end of the
            stream alone does not tell: a process that the peer forked may hold its end open.
    """

    def __init__(self, connection: socket.socket, life: int | None = None) -> None:
        connection.setblocking(True)
        self._socket = connection
        self._plain = life is None
        self._readable = select.poll()
        for descriptor in (connection.fileno(), life):
            if descriptor is not None:
                self._readable.register(descriptor, select.POLLIN)

    def send(self, data: bytes, timeout: float | None = None) -> None:
        sent = self._some(data)
        if sent < len(data):
            self._rest(memoryview(data)[sent:], timeout)

    def _some(self, data: bytes | memoryview) -> int:
        try:
            return self._socket.send(data, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return 0

    def _rest(self, rest: memoryview, timeout: float | None) -> None:
        end = None if timeout is None else time.monotonic() + timeout
        if self._socket.fileno() < 0:
            raise BrokenPipeError("the connection was closed")
        writable = select.poll()
        writable.register(self._socket.fileno(), select.POLLOUT)
        while rest:
            if not writable.poll(_milliseconds(None if end is None else end - time.monotonic())):
                raise TimeoutError("the peer does not read")
            rest = rest[self._some(rest) :]

    def recv(self, timeout: float | None = None) -> bytes:
        if timeout is None and self._plain:
            return self._socket.recv(_CHUNK)
        if not self._readable.poll(_milliseconds(timeout)):
            raise TimeoutError("nothing came")
        try:
            return self._socket.recv(_CHUNK, socket.MSG_DONTWAIT)
        except BlockingIOError:  # it was the peer's life that ended
            return b""

    def close(self) -> None:
        self._socket.close()

    def fileno(self) -> int | None:
        return self._socket.fileno()


def _milliseconds(seconds: float | None) -> int | None:
    return None if seconds is None else max(0, math.ceil(seconds * 1000))


class MemoryTransport:
    """One of two ends within a process; see `pair`. What is sent as one comes as one."""

    def __init__(self, inbox: queue.SimpleQueue[bytes], outbox: queue.SimpleQueue[bytes]) -> None:
        self._inbox = inbox
        self._outbox = outbox
        self._ended = False

    @classmethod
    def pair(cls) -> tuple[MemoryTransport, MemoryTransport]:
        """Two ends that are each other's peer."""
        one: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        other: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        return cls(one, other), cls(other, one)

    def send(self, data: bytes, timeout: float | None = None) -> None:
        if self._ended:
            raise BrokenPipeError("the connection has ended")
        if data:
            self._outbox.put(data)

    def recv(self, timeout: float | None = None) -> bytes:
        if self._ended:
            return b""
        try:
            data = self._inbox.get(timeout=None if timeout is None else max(0.0, timeout))
        except queue.Empty:
            raise TimeoutError("nothing came") from None
        if not data:
            self._ended = True
        return data

    def close(self) -> None:
        self._ended = True
        for box in (self._outbox, self._inbox):  # whoever waits at either end wakes up
            box.put(b"")

    def fileno(self) -> int | None:
        return None

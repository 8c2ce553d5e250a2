"""A worker process as its parent has it: started by spawning, never by forking."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import subprocess
from typing import Any

from dspex.errors import CallTimeoutError, CommunicationError, ResourceError
from dspex.processes.channel import Channel
from dspex.processes.command import python_command
from dspex.processes.transport import SocketTransport
from dspex.protection.deadline import Deadline

__all__ = ["WorkerProcess"]

_END_SECONDS = 1.0  # that a process takes, at most, to end after its connection has
_PAGE = os.sysconf("SC_PAGE_SIZE")


class WorkerProcess:
    """A process that runs one handler, and the channel to it.

    Args:
        handler: "module:factory"; called in the worker with `settings`.
        settings: what msgpack can carry.
        label: what it is called in errors.

    Raises:
        ResourceError: the system has no process or descriptors left.
    """

    def __init__(self, handler: str, settings: Any, label: str = "the worker") -> None:
        self.label = label
        self._hello = {"handler": handler, "settings": settings}
        try:
            self._spawn()
        except OSError as cause:
            raise ResourceError(f"{label} cannot be started: {cause}") from cause

    def _spawn(self) -> None:
        with contextlib.ExitStack() as undo, contextlib.ExitStack() as given_away:
            own, its = socket.socketpair()
            undo.callback(own.close)
            given_away.callback(its.close)
            lifeline, self._lifeline = os.pipe()
            undo.callback(os.close, self._lifeline)
            given_away.callback(os.close, lifeline)
            command = python_command("dspex.processes.worker", str(its.fileno()), str(lifeline))
            self._process = subprocess.Popen(
                command, pass_fds=(its.fileno(), lifeline), stdin=subprocess.DEVNULL
            )
            self._own = own
            self._life = _pidfd(self._process.pid)
            self.channel = Channel(SocketTransport(own, self._life), self.label)
            undo.pop_all()

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    @property
    def life(self) -> int:
        """A descriptor that becomes readable, or hangs up, when the process ends."""
        return self._own.fileno() if self._life is None else self._life

    @property
    def life_events(self) -> int:
        """What to poll `life` for: a pidfd becomes readable; of a socket, frames are of no interest."""
        return 0 if self._life is None else select.POLLIN

    def start(self, deadline: Deadline) -> None:
        """Waits until it is ready for calls.

        Raises:
            DspexError: as its handler's factory raised it; ConfigError when that cannot be imported.
            ResourceError: it takes longer.
            CommunicationError: it ended before it was ready. Not retryable.
        """
        try:
            self.channel.hello(self._hello, deadline)
        except CallTimeoutError:
            raise ResourceError(f"{self.label} was not ready within {deadline.seconds:g} s") from None
        except CommunicationError as error:
            try:
                self._process.wait(_END_SECONDS)
            except subprocess.TimeoutExpired:
                raise error from None  # it is there, and sends what it should not
            raise CommunicationError(
                f"{self.label} ended before it was ready, {self._how()}",
                retryable=False,
                hint="What it wrote to stderr may say why",
            ) from error

    @property
    def alive(self) -> bool:
        """Whether the process runs."""
        return self._process.poll() is None

    def rss(self) -> int:
        """Bytes of memory it has resident; 0 where /proc does not tell, or when it has ended."""
        try:
            with open(f"/proc/{self.pid}/statm", "rb") as file:
                return int(file.read().split()[1]) * _PAGE
        except (OSError, IndexError):
            return 0

    def kill(self) -> None:
        """Ends it now, waits for that, and gives back what it held. Doing so twice is harmless."""
        self._process.kill()
        self._process.wait()
        self._release()

    def stop(self, seconds: float) -> None:
        """Lets it end in good order; after so many seconds, kills it."""
        self.channel.stop()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(seconds)
        self.kill()

    def send_kill(self) -> None:
        """Ends it without waiting: whoever talks to it sees that, and has to call `kill` to clean up."""
        self._process.kill()

    def forget(self) -> None:
        """In a forked child, to which the process does not belong: lets go of the copies of what it holds."""
        self._process.returncode = 0
        self._release()

    def _release(self) -> None:
        self.channel.close()
        for name in ("_lifeline", "_life"):
            descriptor = getattr(self, name)
            if descriptor is not None and descriptor >= 0:
                os.close(descriptor)
                setattr(self, name, -1)

    def _how(self) -> str:
        code = self._process.returncode
        if code is not None and code < 0:
            with contextlib.suppress(ValueError):
                return f"killed by {signal.Signals(-code).name}"
        return f"with exit code {code}"


def _pidfd(pid: int) -> int | None:
    """A descriptor of the process; None where the system has none, which leaves the end of the stream."""
    if not hasattr(os, "pidfd_open"):
        return None
    try:
        return os.pidfd_open(pid)
    except OSError:
        return None

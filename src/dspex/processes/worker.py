"""A worker process, as it is started by its parent, and by nobody else."""

from __future__ import annotations

import contextlib
import fcntl
import gc
import importlib
import os
import select
import signal
import socket
import threading
from typing import Any

from dspex.errors import ConfigError, DspexError
from dspex.processes.server import Handler, Server
from dspex.processes.transport import SocketTransport

__all__ = ["main"]

_LOOK_MS = 100  # how long a ping may wait during a call


def main(descriptor: str, lifeline: str) -> None:
    """Becomes what the parent's first frame says, and serves calls until the parent stops it or ends.

    Args:
        descriptor: the worker's end of a socket pair.
        lifeline: the reading end of a pipe that the parent holds open.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent decides
    own, life = int(descriptor), int(lifeline)
    for each in (own, life):
        os.set_inheritable(each, False)
    _end_with(life)
    connection = socket.socket(fileno=own)
    server = Server(SocketTransport(connection))
    threading.Thread(target=_watch, args=(server, own), name="dspex-watch", daemon=True).start()
    handler = _become(server)
    if handler is not None:
        server.serve(handler)


def _become(server: Server) -> Handler | None:
    """The handler that the parent wants; None, after it was told why, when that cannot be had."""
    hello = server.hello()
    if hello is None:
        return None
    try:
        handler = _handler(hello["handler"], hello["settings"])
    except BaseException as error:
        server.refuse(error)
        return None
    gc.collect()
    gc.freeze()  # what has been imported stays: no collection has to look at it again
    server.ready({"pid": os.getpid()})
    return handler


def _handler(path: str, settings: Any) -> Handler:
    module, _, name = path.partition(":")
    try:
        factory = importlib.import_module(module)
        for part in name.split("."):
            factory = getattr(factory, part)
    except Exception as error:
        raise ConfigError(
            f"the worker's handler {path!r} cannot be imported: {type(error).__name__}: {error}",
            field="handler",
        ) from error
    try:
        handler: Handler = factory(settings)  # type: ignore[operator]
    except DspexError:
        raise
    except Exception as error:
        raise ConfigError(
            f"the worker's handler {path!r} cannot be made: {type(error).__name__}: {error}", field="handler"
        ) from error
    return handler


def _end_with(lifeline: int) -> None:
    """Has the kernel kill this process when the parent ends, even if it is in C and never looks up."""
    if not hasattr(fcntl, "F_SETSIG"):  # not on Linux: there, `_watch` has to do
        return
    with contextlib.suppress(OSError):
        fcntl.fcntl(lifeline, fcntl.F_SETOWN, os.getpid())
        fcntl.fcntl(lifeline, fcntl.F_SETSIG, signal.SIGKILL)
        fcntl.fcntl(lifeline, fcntl.F_SETFL, os.O_ASYNC | os.O_NONBLOCK)
        if not _is_open(lifeline):  # it ended before the signal was asked for
            os._exit(1)


def _is_open(lifeline: int) -> bool:
    try:
        return os.read(lifeline, 1) != b""
    except BlockingIOError:
        return True


def _watch(server: Server, descriptor: int) -> None:
    """Answers pings while a call runs, and ends the process when the parent has gone."""
    hang_up = select.poll()
    hang_up.register(descriptor, 0)  # hang-ups are always reported; frames shall not wake this thread
    while not server.stopped:
        gone = bool(hang_up.poll(_LOOK_MS))
        if server.busy:
            server.look()
            if gone or (server.ended and not server.stopped):
                os._exit(1)
        elif gone:
            return  # the main thread sees it too, and ends in good order

"""Both ends of the protocol, for tests of either; `ends` and `puppet` are fixtures. Holds no tests."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from typing import Any

import pytest

from dspex.processes import Channel
from dspex.processes.frames import Decoder, Frame, Kind, encode
from dspex.processes.transport import MemoryTransport, SocketTransport, Transport
from processes_tools import after, in_background


def memory_pair() -> tuple[Transport, Transport]:
    return MemoryTransport.pair()


def socket_pair() -> tuple[Transport, Transport]:
    one, other = socket.socketpair()
    return SocketTransport(one), SocketTransport(other)


@pytest.fixture(params=[memory_pair, socket_pair], ids=["memory", "socket"])
def ends(request: pytest.FixtureRequest) -> Iterator[tuple[Transport, Transport]]:
    near, far = request.param()
    yield near, far
    near.close()
    far.close()


class Puppet:
    """The other end, frame by frame as the test says."""

    def __init__(self, transport: Transport) -> None:
        self.transport = transport
        self._decoder = Decoder()
        self._frames: list[Frame] = []

    def read(self) -> Frame:
        while not self._frames:
            self._frames += self._decoder.feed(self.transport.recv(20))
        return self._frames.pop(0)

    def send(self, kind: Kind, request: int, payload: Any = None) -> None:
        self.transport.send(encode(Frame(kind, request, payload)))


@pytest.fixture
def puppet(ends: tuple[Transport, Transport]) -> Puppet:
    return Puppet(ends[1])


def call(ends: tuple[Transport, Transport], seconds: float = 5.0, **options: Any) -> Any:
    channel = Channel(ends[0])
    return channel, in_background(lambda: channel.call("op", "payload", after(seconds), **options))

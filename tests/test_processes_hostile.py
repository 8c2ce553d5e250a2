"""The protocol with a peer that does not keep to it: frames late, twice, foreign, damaged; peers that go."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

import processes_ends
from dspex.errors import CallTimeoutError, CommunicationError, InternalError, LMError
from dspex.processes import Channel, failures
from dspex.processes.channel import NotBegun
from dspex.processes.frames import Decoder, Frame, Kind, encode
from dspex.processes.server import Server
from dspex.processes.transport import Transport
from processes_ends import Puppet, call, socket_pair
from processes_tools import after, in_background, until
from toy_handlers import Toy

ends, puppet = processes_ends.ends, processes_ends.puppet

# Frames that are not as they should be


def test_an_answer_to_a_call_that_was_given_up_is_not_taken_for_another(
    ends: tuple[Transport, Transport], puppet: Puppet
) -> None:
    channel = Channel(ends[0])
    with pytest.raises(CallTimeoutError):
        channel.call("op", 1, after(0.02))
    outcome = in_background(lambda: channel.call("op", 2, after(5)))
    puppet.read()
    puppet.send(Kind.RESULT, 1, "late")
    puppet.send(Kind.TELL, 1, ["late", None])
    puppet.send(Kind.ERROR, 1, failures.to_data(LMError("late")))
    puppet.send(Kind.RESULT, 2, "answer")
    puppet.send(Kind.RESULT, 2, "twice")
    assert outcome.result() == "answer"
    outcome = in_background(lambda: channel.call("op", 3, after(5)))
    puppet.send(Kind.RESULT, 3, "third")
    assert outcome.result() == "third"


def test_a_call_that_comes_twice_or_late_is_done_once(ends: tuple[Transport, Transport]) -> None:
    near, far = ends
    done: list[Any] = []

    class Notes:
        def handle(self, op: str, payload: Any, context: Any) -> None:
            done.append(payload)

    thread = threading.Thread(target=Server(far).serve, args=(Notes(),))
    thread.start()
    for request, payload in [(2, "b"), (2, "b"), (1, "a"), (3, "c")]:
        near.send(encode(Frame(Kind.CALL, request, ["op", None, payload])))
    until(lambda: "c" in done)
    near.send(encode(Frame(Kind.STOP, 0)))
    thread.join(20)
    assert done == ["b", "c"]


STRANGE: list[Callable[[Puppet], None]] = [
    lambda puppet: puppet.send(Kind.RESULT, 2, "of nobody's call"),
    lambda puppet: puppet.send(Kind.RESULT, 0, "of nobody's call"),
    lambda puppet: puppet.send(Kind.CALL, 1, ["op", None, None]),
    lambda puppet: puppet.send(Kind.READY, 1),
    lambda puppet: puppet.send(Kind.TELL, 1, 3),
    lambda puppet: puppet.send(Kind.ASK, 1, ["op"]),
    lambda puppet: puppet.send(Kind.ERROR, 0, failures.to_data(CommunicationError("it is all wrong"))),
    lambda puppet: puppet.transport.send(b"garbage that is longer than a header"),
    lambda puppet: puppet.transport.close(),
]


@pytest.mark.parametrize("strange", STRANGE, ids=range(len(STRANGE)))
def test_anything_else_breaks_the_connection(
    ends: tuple[Transport, Transport], puppet: Puppet, strange: Callable[[Puppet], None]
) -> None:
    channel, outcome = call(ends, program="p")
    puppet.read()
    strange(puppet)
    with pytest.raises(CommunicationError, match="may have been begun") as caught:
        outcome.result()
    assert caught.value.retryable
    assert caught.value.program == "p"
    assert not isinstance(caught.value, NotBegun)
    assert not channel.usable
    assert not channel.intact


def test_an_error_that_cannot_be_read_is_one(ends: tuple[Transport, Transport], puppet: Puppet) -> None:
    for data in (None, 3, {"class": "NoSuchError"}, {"class": "LMError", "message": "x"}):
        _, outcome = call(ends)
        puppet.read()
        puppet.send(Kind.ERROR, 1, data)
        with pytest.raises(CommunicationError, match="cannot be read"):
            outcome.result()


def test_garbage_from_the_parent_ends_the_worker_with_a_word(ends: tuple[Transport, Transport]) -> None:
    near, far = ends
    server = Server(far)
    thread = threading.Thread(target=server.serve, args=(Toy(None),))
    thread.start()
    near.send(b"garbage that is longer than a header")
    frame = Puppet(near).read()
    thread.join(20)
    assert (frame.kind, frame.request) == (Kind.ERROR, 0)
    assert "begins with" in failures.from_data(frame.payload).message
    assert server.ended


@pytest.mark.parametrize(("kind", "payload"), [(Kind.RESULT, None), (Kind.ANSWER, 3)])
def test_what_a_parent_does_not_send(ends: tuple[Transport, Transport], kind: Kind, payload: Any) -> None:
    server = Server(ends[1])
    thread = threading.Thread(target=server.serve, args=(Toy(None),))
    thread.start()
    ends[0].send(encode(Frame(kind, 1, payload)))
    assert Puppet(ends[0]).read().kind is Kind.ERROR
    thread.join(20)
    assert not thread.is_alive()


# What was begun and what was not


def test_a_peer_that_is_gone_before_the_call() -> None:
    near, far = socket_pair()
    far.close()
    channel = Channel(near)
    with pytest.raises(NotBegun, match="was not begun"):
        channel.call("op", None)
    assert not channel.usable
    near.close()


def test_a_peer_that_ends_without_reading_the_call_has_not_begun_it() -> None:
    near, far = socket_pair()
    channel = Channel(near)
    outcome = in_background(lambda: channel.call("op", None, after(5)))
    until(lambda: channel._sent == 1)
    far.close()
    with pytest.raises(NotBegun):
        outcome.result()
    near.close()


def test_a_peer_that_ends_with_a_ping_unread_may_have_begun_the_call() -> None:
    near, far = socket_pair()
    channel = Channel(near)
    outcome = in_background(lambda: channel.call("op", None, after(5)))
    Puppet(far).read()
    channel.send_ping()
    far.close()
    with pytest.raises(CommunicationError, match="may have been begun") as caught:
        outcome.result()
    assert not isinstance(caught.value, NotBegun)
    near.close()


def test_a_peer_that_does_not_read_is_given_up_at_the_deadline() -> None:
    near, far = socket_pair()
    channel, start = Channel(near), time.monotonic()
    with pytest.raises(CallTimeoutError, match="sending"):
        channel.call("op", b"x" * 10_000_000, after(0.05))
    assert time.monotonic() - start < 2
    assert not channel.intact
    far.close()
    near.close()


# Errors as data


def test_a_subclass_of_somebody_elses_is_known_by_its_next_relative() -> None:
    class Special(LMError):
        pass

    back = failures.from_data(failures.to_data(Special("special", field="f")))
    assert type(back) is LMError
    assert (back.message, back.field) == ("special", "f")


def test_an_error_can_always_be_sent() -> None:
    error = ValueError("\ud800 \x00")
    back = failures.from_data(failures.to_data(error))
    assert isinstance(back, InternalError)
    (frame,) = Decoder().feed(encode(Frame(Kind.ERROR, 1, failures.to_data(error))))
    assert "\\ud800" in failures.from_data(frame.payload).message
    odd = LMError("x", hint=3, retry_after=math.inf)  # type: ignore[arg-type]
    encode(Frame(Kind.ERROR, 1, failures.to_data(odd)))

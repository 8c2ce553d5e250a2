"""Both ends of the protocol against each other in one process: calls, questions, numbers, errors."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest

import processes_ends
from dspex.errors import (
    CallTimeoutError,
    CommunicationError,
    ConfigError,
    DspexError,
    InputError,
    InternalError,
    LMError,
    PoolSaturated,
)
from dspex.processes import Channel, Later
from dspex.processes.frames import Frame, Kind, encode
from dspex.processes.server import Server
from dspex.processes.transport import Transport
from processes_ends import Puppet, call
from processes_tools import after, in_background, until
from toy_handlers import Toy

ends, puppet = processes_ends.ends, processes_ends.puppet


@pytest.fixture
def channel(ends: tuple[Transport, Transport]) -> Iterator[Channel]:
    """With a toy at its other end."""
    near, far = ends
    server = Server(far)
    thread = threading.Thread(target=server.serve, args=(Toy({"a": 1}),))
    thread.start()
    channel = Channel(near)
    yield channel
    channel.close()
    thread.join(20)
    assert not thread.is_alive()


# Calls


def test_a_call_comes_back(channel: Channel) -> None:
    for payload in (None, 3, "text", b"bytes", [1, {"a": 2.5}], {"k": None}, "x" * 3_000_000):
        assert channel.call("echo", payload) == payload
        assert channel.usable
    assert channel.call("settings", None) == {"a": 1}


def test_what_the_peer_may_know_of_the_deadline(channel: Channel) -> None:
    assert channel.call("left", None) is None
    assert 0 < channel.call("left", None, after(5.0)) <= 5.0


def test_errors_keep_their_class_and_all_they_say(channel: Channel) -> None:
    with pytest.raises(LMError) as caught:
        channel.call("raise_own", None)
    error = caught.value
    assert error.to_dict() == {
        "category": "lm",
        "message": "it refused",
        "field": "f",
        "program": "p",
        "row": 3,
        "hint": "wait",
        "retryable": True,
        "retry_after": 1.5,
    }
    assert error.__notes__ == ["a note"]
    assert channel.usable


def test_an_error_that_is_not_ours_becomes_one_with_its_traceback(channel: Channel) -> None:
    with pytest.raises(InternalError, match="ValueError: what is wrong") as caught:
        channel.call("raise", "what is wrong")
    assert "in do_raise" in caught.value.__notes__[0]
    assert channel.call("echo", 1) == 1


def test_a_program_cannot_end_its_worker(channel: Channel) -> None:
    with pytest.raises(InternalError, match="SystemExit"):
        channel.call("system_exit", None)
    assert channel.call("echo", 1) == 1


def test_an_unknown_operation_is_the_handlers_own_error(channel: Channel) -> None:
    with pytest.raises(InputError):
        channel.call("nothing_of_the_kind", None)


def test_what_cannot_be_sent_is_an_error_on_either_side(channel: Channel) -> None:
    for op, payload in (("echo", object()), ("unsendable", None)):
        with pytest.raises(CommunicationError, match="cannot be sent") as caught:
            channel.call(op, payload)
        assert not caught.value.retryable
        assert channel.usable
    assert channel.call("echo", 1) == 1


def test_a_time_out_names_the_program_and_the_deadline(channel: Channel) -> None:
    with pytest.raises(CallTimeoutError, match=r"0\.05 s") as caught:
        channel.call("sleep", 0.2, after(0.05), program="p")
    assert caught.value.program == "p"
    assert not channel.usable
    assert channel.call("echo", 1) == 1  # the late answer is not taken for this one's
    assert channel.usable


def test_hello_and_ready(ends: tuple[Transport, Transport]) -> None:
    server = Server(ends[1])
    said = in_background(server.hello)
    ready = in_background(lambda: Channel(ends[0]).hello({"a": 1}, after(5)))
    assert said.result() == {"a": 1}
    server.ready({"pid": 1})
    assert ready.result() == {"pid": 1}


def test_hello_can_be_refused(ends: tuple[Transport, Transport]) -> None:
    server, channel = Server(ends[1]), Channel(ends[0])
    ready = in_background(lambda: channel.hello(None, after(5)))
    server.hello()
    server.refuse(ConfigError("no such handler"))
    with pytest.raises(ConfigError, match="no such handler"):
        ready.result()


# Questions and news


def test_a_worker_asks_and_is_answered(channel: Channel) -> None:
    assert channel.call("ask", 3, on_ask=lambda op, payload: [op, payload]) == ["question", 3]
    assert channel.call("ask_twice", 3, on_ask=lambda op, payload: payload + 1) == [4, 4]


def test_a_question_can_be_refused(channel: Channel) -> None:
    def refuse(op: str, payload: Any) -> Any:
        raise PoolSaturated("later", retry_after=2.0)

    with pytest.raises(PoolSaturated) as caught:
        channel.call("ask", 3, on_ask=refuse)
    assert caught.value.retry_after == 2.0
    with pytest.raises(InternalError, match="ZeroDivisionError"):
        channel.call("ask", 3, on_ask=lambda op, payload: 1 / 0)
    with pytest.raises(ConfigError, match="nobody"):
        channel.call("ask", 3)
    with pytest.raises(CommunicationError, match="cannot be sent"):
        channel.call("ask", 3, on_ask=lambda op, payload: object())
    assert channel.call("echo", 1) == 1


def test_many_threads_of_a_worker_ask_at_once(channel: Channel) -> None:
    def answer(op: str, payload: int) -> Any:
        return Later(lambda: payload * 10) if payload % 2 else payload * 10

    assert channel.call("ask_together", 20, on_ask=answer) == [10 * n for n in range(20)]


def test_a_later_answer_does_not_hold_up_the_call(channel: Channel) -> None:
    go = threading.Event()
    answer = channel.call(
        "ask_and_release",
        None,
        after(5),
        on_ask=lambda op, payload: Later(lambda: go.wait(4)),
        on_tell=lambda op, payload: go.set(),
    )
    assert answer == [True]


def test_a_later_answer_can_be_an_error(channel: Channel) -> None:
    def refuse() -> Any:
        raise LMError("no")

    with pytest.raises(LMError, match="no"):
        channel.call("ask", None, on_ask=lambda op, payload: Later(refuse))


def test_what_is_told_arrives_in_order(channel: Channel) -> None:
    news: list[Any] = []
    assert channel.call("tell", 100, on_tell=lambda op, payload: news.append((op, payload))) == 100
    assert news == [("news", n) for n in range(100)]
    assert channel.call("tell", 3) == 3  # nobody listens


def test_a_listener_that_raises_does_not_break_the_call_off(channel: Channel) -> None:
    def listen(op: str, payload: int) -> None:
        raise KeyError(payload)

    with pytest.raises(KeyError, match="2"):
        channel.call("tell", 3, on_tell=listen)
    assert channel.usable
    assert channel.call("echo", 1) == 1


def test_a_call_that_has_ended_cannot_be_used(channel: Channel) -> None:
    channel.call("keep_context", None)
    with pytest.raises(CommunicationError, match="the call has ended") as caught:
        channel.call("use_kept_context", None, on_ask=lambda op, payload: 1)
    assert not caught.value.retryable


def test_a_question_at_the_parents_end_is_an_error(ends: tuple[Transport, Transport]) -> None:
    near, far = ends
    server = Server(far)
    errors: list[BaseException] = []

    class Asks:
        def handle(self, op: str, payload: Any, context: Any) -> Any:
            try:
                context.ask("question")
            except DspexError as error:
                errors.append(error)

    thread = threading.Thread(target=server.serve, args=(Asks(),))
    thread.start()
    near.send(encode(Frame(Kind.CALL, 1, ["op", None, None])))
    Puppet(near).read()  # the question
    near.close()
    thread.join(20)
    assert not thread.is_alive()
    assert [type(error) for error in errors] == [CommunicationError]


# Pings


def test_pings(channel: Channel) -> None:
    for _ in range(3):
        channel.ping(after(5))
    assert channel.usable
    assert channel.pongs == 3


def test_a_ping_that_is_not_answered(ends: tuple[Transport, Transport]) -> None:
    channel = Channel(ends[0])
    with pytest.raises(CallTimeoutError):
        channel.ping(after(0.02))
    assert not channel.usable


def test_a_pong_during_a_call_is_noted(ends: tuple[Transport, Transport], puppet: Puppet) -> None:
    channel, outcome = call(ends)
    puppet.read()
    number = channel.send_ping()
    assert puppet.read() == Frame(Kind.PING, number)
    puppet.send(Kind.PONG, number)
    until(lambda: channel.pongs == number)
    puppet.send(Kind.RESULT, 1, "answer")
    assert outcome.result() == "answer"

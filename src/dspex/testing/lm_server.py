"""A local OpenAI-compatible chat server, for tests, examples and benchmarks that need no language model.

    with LMServer(answers={"label": "refund"}) as server:
        lm = dspy.LM("openai/test-model", api_base=server.url, api_key="test", cache=False)

It takes POST /v1/chat/completions, streams if asked to, and counts words for tokens; GET /v1/models lists one
model. Real sockets on 127.0.0.1, a thread for each connection, nothing but the standard library.
"""

from __future__ import annotations

import socket
import threading
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from types import TracebackType
from typing import Any, Self

from dspex.errors import CallTimeoutError, ConfigError
from dspex.testing.lm_faults import Cut, Fault, Faults, HalfRight, Hang, Malformed, Slow, Status
from dspex.testing.lm_request import Request
from dspex.testing.lm_wire import Connection, Head, Reply, refusal

__all__ = [
    "Cut",
    "Fault",
    "Faults",
    "HalfRight",
    "Hang",
    "LMServer",
    "Logged",
    "Malformed",
    "Request",
    "Slow",
    "Status",
]

Answer = str | Mapping[str, Any] | Sequence[str | Mapping[str, Any]] | Fault
"""Text; outputs by name, which are written in the format that the request asks for; several of these for a
request with `n`; or a fault."""
Answers = Callable[[Request], Answer] | list[Answer] | Mapping[str, Any] | str | Fault | None

_CHAT = ("/v1/chat/completions", "/chat/completions")
_MODELS = ("/v1/models", "/models")
_CLOSING = 5.0  # seconds for threads to end; only one that is within the user's `answers` needs them
_SECRET = ("authorization", "api-key", "x-api-key", "cookie", "proxy-authorization")


@dataclass
class Logged:
    """One chat request.

    Attributes:
        time: `time.monotonic()` of its arrival, in seconds.
        headers: by lower-case name, without those that hold secrets.
        outcome: None while it is under way, then "answered", "status 429", "hung", "cut", "malformed",
            "half right", "slow", "gone" (the client went or the server closed before that), or "no answer: "
            and why.
    """

    time: float
    request: Request
    headers: Mapping[str, str]
    outcome: str | None = None

    @property
    def model(self) -> str:
        return self.request.model

    @property
    def messages(self) -> list[dict[str, Any]]:
        return self.request.messages


@dataclass
class _State:
    """What requests count, under one condition."""

    changed: threading.Condition = field(default_factory=threading.Condition)
    log: list[Logged] = field(default_factory=list)
    under_way: int = 0
    most: int = 0
    turn: int = 0


class LMServer:
    """Answers chat requests as told. It runs from `start`, or the `with` statement, to `close`.

    Args:
        answers: what is said. A callable gets the `Request`, in the thread of its connection, and returns an
            answer; a list holds answers in the order of arrival; a mapping of outputs, a text or a fault is
            the answer to every request. None, a list that is used up and a callable that raises are errors:
            status 400, with the reason.
        delay: seconds before each answer.
        faults: for a share of the requests, in place of the answer or to it.

    All three are attributes too and can be set while the server runs.
    """

    def __init__(self, answers: Answers = None, *, delay: float = 0.0, faults: Faults | None = None) -> None:
        self._state = _State()
        self.answers = answers
        self.delay = delay
        self.faults = faults
        self._listener: socket.socket | None = None
        self._closing = False
        self._threads: dict[threading.Thread, Connection | None] = {}

    # --- what it does ---

    @property
    def answers(self) -> Answers:
        """What is said; setting a list begins it."""
        return self._answers

    @answers.setter
    def answers(self, answers: Answers) -> None:
        if not (answers is None or callable(answers) or isinstance(answers, list | Mapping | str | Fault)):
            raise ConfigError(
                f"answers are a callable, list, mapping, text or fault, not {type(answers).__name__}"
            )
        with self._state.changed:
            self._answers = answers
            self._state.turn = 0

    @property
    def url(self) -> str:
        """The `api_base`: "http://127.0.0.1:port/v1"."""
        if self._listener is None:
            raise ConfigError(
                "the server has not been started", hint="Use it in a with statement, or call start()"
            )
        return f"http://127.0.0.1:{self._port}/v1"

    def lm_config(self, **extra: Any) -> dict[str, Any]:
        """The settings of an LM that asks this server, for `configure_lm`, with further ones."""
        return {"model": "openai/test-model", "api_base": self.url, "api_key": "test", **extra}

    # --- what was asked ---

    @property
    def requests(self) -> list[Logged]:
        """The chat requests so far, in the order of arrival."""
        with self._state.changed:
            return list(self._state.log)

    @property
    def count(self) -> int:
        """Chat requests so far, those under way included."""
        return len(self._state.log)

    @property
    def in_flight(self) -> int:
        """Requests that have come and are not yet answered."""
        return self._state.under_way

    @property
    def max_in_flight(self) -> int:
        """The most that were under way at once."""
        return self._state.most

    def wait_for(self, count: int, timeout: float = 10.0) -> None:
        """Wait until so many requests have come.

        Raises:
            CallTimeoutError: they did not, within `timeout` seconds.
        """
        with self._state.changed:
            if not self._state.changed.wait_for(lambda: len(self._state.log) >= count, timeout):
                raise CallTimeoutError(
                    f"{len(self._state.log)} of {count} requests came within {timeout:g} s"
                )

    def wait_idle(self, timeout: float = 10.0) -> None:
        """Wait until no request is under way.

        Raises:
            CallTimeoutError: some still are, after `timeout` seconds.
        """
        with self._state.changed:
            if not self._state.changed.wait_for(lambda: not self._state.under_way, timeout):
                raise CallTimeoutError(f"{self._state.under_way} requests are under way after {timeout:g} s")

    def clear(self) -> None:
        """Forget the requests so far and begin a list of answers again."""
        with self._state.changed:
            self._state.log.clear()
            self._state.most = self._state.under_way
            self._state.turn = 0

    # --- its life ---

    def start(self) -> Self:
        """Listen, on a free port.

        Raises:
            ConfigError: it was started before.
        """
        if self._listener is not None:
            raise ConfigError("the server was started before", hint="Make a new one")
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
        self._port = self._listener.getsockname()[1]
        self._accepting = threading.Thread(target=self._accept, name="dspex-lm-server", daemon=True)
        self._accepting.start()
        return self

    def close(self) -> None:
        """Cut every connection, hung ones too, and end the threads; warns of an `answers` that goes on."""
        with self._state.changed:
            if self._listener is None or self._closing:
                return
            self._closing = True
        socket.create_connection(("127.0.0.1", self._port)).close()  # wakes accept
        self._accepting.join()
        self._listener.close()
        with self._state.changed:
            threads = dict(self._threads)
        for connection in threads.values():
            if connection is not None:
                connection.cut()
        end = time.monotonic() + _CLOSING
        for thread in threads:
            thread.join(max(0.0, end - time.monotonic()))
        if any(thread.is_alive() for thread in threads):
            warnings.warn("an answer of the LM server has not ended", ResourceWarning, stacklevel=2)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _accept(self) -> None:
        assert self._listener is not None
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                time.sleep(0.01)  # no file descriptor is free: some connection ends
                continue
            if self._closing:
                sock.close()
                return
            connection = Connection(sock)
            thread = threading.Thread(
                target=self._serve, args=(connection,), name="dspex-lm-server-connection", daemon=True
            )
            with self._state.changed:
                self._threads[thread] = connection
            thread.start()

    def _serve(self, connection: Connection) -> None:
        """The requests of one connection, one after another."""
        try:
            while (came := connection.receive()) is not None:
                if not self._respond(connection, *came):
                    break
        except OSError:
            pass  # the client went, or `close` did it
        finally:
            connection.close()
            with self._state.changed:
                self._threads.pop(threading.current_thread(), None)

    def _respond(self, connection: Connection, head: Head, body: Mapping[str, Any] | None) -> bool:
        """Answer one request. False: the connection is done with."""
        if head.method == "GET" and head.path in _MODELS:
            model = {"id": "test-model", "object": "model", "created": 0, "owned_by": "dspex"}
            connection.send(Reply.json({"object": "list", "data": [model]}))
        elif head.method != "POST" or head.path not in _CHAT:
            connection.send(refusal(Status(404, message=f"nothing is at {head.method} {head.path}")))
        elif body is None or not isinstance(body.get("messages"), list):
            connection.send(refusal(Status(400, message="the body is no JSON object with messages")))
        else:
            return self._chat(connection, head, Request(body))
        return not head.last

    # --- one chat request ---

    def _chat(self, connection: Connection, head: Head, request: Request) -> bool:
        headers = {name: value for name, value in head.headers.items() if name not in _SECRET}
        entry = Logged(time.monotonic(), request, headers)
        with self._state.changed:
            self._state.log.append(entry)
            self._state.under_way += 1
            self._state.most = max(self._state.most, self._state.under_way)
            turn, self._state.turn = self._state.turn, self._state.turn + 1
            answers = self._answers
            self._state.changed.notify_all()
        try:
            return (
                self._act(connection, request, answers, turn, partial(self._ended, entry)) and not head.last
            )
        except OSError:
            self._ended(entry, "gone")
            entry.outcome = "gone"  # the last bytes did not go out, whatever was noted ahead of them
            raise
        finally:
            self._ended(entry, "gone")

    def _ended(self, entry: Logged, outcome: str) -> None:
        """Note what came of a request; only the first word counts."""
        with self._state.changed:
            if entry.outcome is None:
                entry.outcome = outcome
                self._state.under_way -= 1
                self._state.changed.notify_all()

    def _act(
        self,
        connection: Connection,
        request: Request,
        answers: Answers,
        turn: int,
        ended: Callable[[str], None],
    ) -> bool:
        """Give the answer or do the fault. False: the connection cannot go on."""
        fault = self.faults.draw() if self.faults is not None else None
        try:
            given = None if isinstance(fault, Status | Hang | Malformed) else _pick(answers, request, turn)
            if isinstance(given, Fault):
                fault, given = given, given.answer
            reply = _reply(request, fault, given)
        except Exception as error:
            reason = f"{type(error).__name__}: {error}"
            ended(f"no answer: {reason}")
            connection.send(refusal(Status(400, message=f"LMServer has no answer: {reason}")))
            return True
        if self.delay > 0 and not connection.wait(self.delay):
            return False
        return connection.perform(reply, fault, ended)


def _pick(answers: Answers, request: Request, turn: int) -> Any:
    if answers is None:
        raise ConfigError("it was given none", hint="Set answers=")
    if isinstance(answers, list):
        if turn >= len(answers):
            raise ConfigError(f"its list of {len(answers)} is used up")
        return answers[turn]
    return answers(request) if callable(answers) else answers


def _reply(request: Request, fault: Fault | None, given: Any) -> Reply:
    if isinstance(fault, Status):
        return refusal(fault)
    if isinstance(fault, Hang | Malformed):
        return Reply.of(request, ["{"])
    several = list(given) if isinstance(given, list | tuple) else [given] * request.n
    if len(several) != request.n:
        raise ConfigError(f"{len(several)} answers were given and {request.n} are asked for")
    return Reply.of(request, [_said_as(request, fault, one) for one in several])


def _said_as(request: Request, fault: Fault | None, answer: Any) -> str:
    if isinstance(fault, HalfRight):
        if not isinstance(answer, Mapping):
            raise ConfigError("HalfRight is for a mapping of outputs")
        answer = fault.applied(answer, request.output_fields)
        return request.written(answer) if answer else "{}"
    if isinstance(answer, Mapping):
        return request.written(answer)
    if not isinstance(answer, str):
        raise ConfigError(f"an answer is text, a mapping of outputs or a fault, not {type(answer).__name__}")
    return answer

"""The HTTP side of `LMServer`: one connection, requests off it and replies onto it, good and bad ones."""

from __future__ import annotations

import contextlib
import json
import re
import select
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Self

from dspex.testing.lm_faults import Cut, Fault, HalfRight, Hang, Malformed, Slow, Status
from dspex.testing.lm_request import Request, words

__all__ = ["Connection", "Head", "Reply", "refusal"]

_LONGEST_LINE = 1 << 16
_LARGEST_BODY = 1 << 28
_MOST_HEADERS = 256
_DRIP = 0.02  # seconds between the drops of a slow answer


@dataclass(frozen=True)
class Head:
    """The first lines of a request; names of headers are in lower case."""

    method: str
    path: str
    headers: Mapping[str, str]

    @property
    def last(self) -> bool:
        """Whether the client wants no further request on this connection."""
        return self.headers.get("connection", "").lower() == "close"


@dataclass(frozen=True)
class Reply:
    """A whole answer: its header, and the pieces of its body."""

    header: bytes
    pieces: tuple[bytes, ...]
    stream: bool = False

    @classmethod
    def of(cls, request: Request, texts: list[str]) -> Self:
        """A chat completion with one choice for each text, as a stream if that is asked for."""
        return cls._stream(request, texts) if request.stream else cls._whole(request, texts)

    @classmethod
    def json(cls, value: Any, status: int = 200, *headers: str) -> Self:
        body = json.dumps(value).encode()
        lines = ["Content-Type: application/json", f"Content-Length: {len(body)}", *headers]
        return cls(_header(status, lines), (body,))

    @classmethod
    def _whole(cls, request: Request, texts: list[str]) -> Self:
        choices = [
            {"index": at, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
            for at, text in enumerate(texts)
        ]
        facts = _facts(request, "chat.completion")
        return cls.json({**facts, "choices": choices, "usage": _usage(request, texts)})

    @classmethod
    def _stream(cls, request: Request, texts: list[str]) -> Self:
        events = [*_events(request, texts), b"data: [DONE]\n\n"]
        pieces = [b"%x\r\n%b\r\n" % (len(event), event) for event in events]
        lines = ["Content-Type: text/event-stream", "Cache-Control: no-cache", "Transfer-Encoding: chunked"]
        return cls(_header(200, lines), (*pieces, b"0\r\n\r\n"), stream=True)


def refusal(status: Status) -> Reply:
    """An error as OpenAI writes it."""
    kind = (
        "rate_limit_error"
        if status.code == 429
        else "server_error"
        if status.code >= 500
        else "invalid_request_error"
    )
    after = status.retry_after
    headers = (
        [] if after is None else [f"Retry-After: {after if isinstance(after, str) else format(after, 'g')}"]
    )
    error = {"message": status.message, "type": kind, "param": None, "code": None}
    return Reply.json({"error": error}, status.code, *headers)


class Connection:
    """One client's socket. Only its own thread reads and writes; any may `cut` it."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._sock = sock
        self._file = sock.makefile("rb")
        self._poll = select.poll()
        self._poll.register(sock, select.POLLIN)

    def receive(self) -> tuple[Head, Mapping[str, Any] | None] | None:
        """The next request and its JSON object, None for a body that is none. None: the client is done."""
        head = self._head()
        if head is None:
            return None
        if head.headers.get("expect", "").lower() == "100-continue":
            self._sock.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
        length = head.headers.get("content-length", "0")
        if not length.isdecimal() or int(length) > _LARGEST_BODY or "transfer-encoding" in head.headers:
            self.send(refusal(Status(411, message="a body needs a Content-Length")))
            return None
        body = self._file.read(int(length))
        if len(body) < int(length):
            return None
        try:
            value = json.loads(body)
        except (ValueError, RecursionError):
            return head, None
        return head, value if isinstance(value, dict) else None

    def _head(self) -> Head | None:
        first = self._file.readline(_LONGEST_LINE)
        parts = first.decode("latin-1").split()
        if len(parts) != 3 or not first.endswith(b"\n"):
            if first.endswith(b"\n"):
                self.send(refusal(Status(400, message="no HTTP request")))
            return None
        headers: dict[str, str] = {}
        for _ in range(_MOST_HEADERS):
            line = self._file.readline(_LONGEST_LINE)
            if line in (b"\r\n", b"\n"):
                return Head(parts[0], parts[1].partition("?")[0], headers)
            if not line:
                return None
            name, _, value = line.decode("latin-1").partition(":")
            headers[name.strip().lower()] = value.strip()
        self.send(refusal(Status(431, message="too many headers")))
        return None

    def perform(self, reply: Reply, fault: Fault | None, ended: Callable[[str], None]) -> bool:
        """Send the reply as the fault wants it. False: the connection cannot go on.

        `ended` is told what came of it before the client can know: ahead of the last bytes.
        """
        match fault:
            case Hang():
                ended("hung" if self.wait(fault.seconds) else "gone")
                return False
            case Cut():
                self._send_some(reply, fault.after_bytes)
                ended("cut")
                return False
            case Slow():
                return self._send_slowly(reply, fault.drip, ended)
            case Malformed():
                ended("malformed")
                self._sock.sendall(_broken(reply))
                return True
        self.send(reply, lambda: ended(_good(fault)))
        return True

    def send(self, reply: Reply, ended: Callable[[], None] = lambda: None) -> None:
        """Send a whole reply; `ended` is called ahead of the last bytes."""
        if not reply.stream:
            ended()
            self._sock.sendall(reply.header + reply.pieces[0])
            return
        self._sock.sendall(reply.header)
        for piece in reply.pieces[:-2]:
            self._sock.sendall(piece)
        ended()
        self._sock.sendall(b"".join(reply.pieces[-2:]))

    def wait(self, seconds: float | None) -> bool:
        """Let time pass; None: for ever. False: the client went, or `cut` was called."""
        end = None if seconds is None else time.monotonic() + seconds
        while True:
            left = None if end is None else end - time.monotonic()
            if left is not None and left <= 0:
                return True
            if self._poll.poll(None if left is None else left * 1000):
                if not self._sock.recv(1, socket.MSG_PEEK):
                    return False
                # The client sends ahead: its end can no longer be seen, short of reading on.
                time.sleep(min(_DRIP, _DRIP if left is None else left))

    def _send_some(self, reply: Reply, count: int) -> None:
        # Never so much that a client could take it for whole: of a stream, not the event [DONE] and the end.
        body = b"".join(reply.pieces[:-2] if reply.stream else reply.pieces)[:-1]
        if count > 0:
            self._sock.sendall(reply.header + body[:count])

    def _send_slowly(self, reply: Reply, drip: float, ended: Callable[[str], None]) -> bool:
        body = b"".join(reply.pieces)
        size = max(1, round(drip * _DRIP))
        self._sock.sendall(reply.header)
        for at in range(0, len(body), size):
            if not self.wait(size / drip):
                ended("gone")
                return False
            if at + size >= len(body):
                ended("slow")
            self._sock.sendall(body[at : at + size])
        return True

    def cut(self) -> None:
        """End it from any thread: its own is woken from whatever it waits for."""
        with contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self._file.close()
        self._sock.close()


def _header(status: int, lines: list[str]) -> bytes:
    try:
        phrase = HTTPStatus(status).phrase
    except ValueError:
        phrase = "Error"
    return "\r\n".join([f"HTTP/1.1 {status} {phrase}", *lines, "", ""]).encode("latin-1")


def _good(fault: Fault | None) -> str:
    if isinstance(fault, Status):
        return f"status {fault.code}"
    return "half right" if isinstance(fault, HalfRight) else "answered"


def _broken(reply: Reply) -> bytes:
    """A reply whose body is whole for HTTP, and cut in the middle for JSON."""
    body = b"data: {\n\n" if reply.stream else b'{"choices": [{"message": '
    kind = "text/event-stream" if reply.stream else "application/json"
    return _header(200, [f"Content-Type: {kind}", f"Content-Length: {len(body)}"]) + body


def _facts(request: Request, kind: str) -> dict[str, Any]:
    return {"id": "chatcmpl-test", "object": kind, "created": int(time.time()), "model": request.model}


def _usage(request: Request, texts: list[str]) -> dict[str, int]:
    prompt, completion = words(request.text), sum(words(text) for text in texts)
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}


def _events(request: Request, texts: list[str]) -> Iterator[bytes]:
    facts = _facts(request, "chat.completion.chunk")

    def event(**values: Any) -> bytes:
        return b"data: %b\n\n" % json.dumps({**facts, **values}).encode()

    for at, text in enumerate(texts):
        choice: dict[str, Any] = {"index": at, "finish_reason": None}
        yield event(choices=[{**choice, "delta": {"role": "assistant", "content": ""}}])
        for piece in re.findall(r"\s*\S+|\s+$", text):
            yield event(choices=[{**choice, "delta": {"content": piece}}])
        yield event(choices=[{"index": at, "delta": {}, "finish_reason": "stop"}])
    options = request.body.get("stream_options")
    if isinstance(options, Mapping) and options.get("include_usage"):
        yield event(choices=[], usage=_usage(request, texts))

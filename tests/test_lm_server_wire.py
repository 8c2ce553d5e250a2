"""The local LM server on the wire: HTTP itself, faults byte by byte, and its end."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

from dspex.errors import ConfigError
from dspex.testing.lm_server import Cut, Hang, LMServer, Malformed, Request, Slow, Status

BODY = {"model": "m", "messages": [{"role": "user", "content": "hello there"}]}


@pytest.fixture
def client(lm_server: LMServer) -> Iterator[http.client.HTTPConnection]:
    made = connect(lm_server)
    yield made
    made.close()


def connect(server: LMServer) -> http.client.HTTPConnection:
    return http.client.HTTPConnection("127.0.0.1", int(server.url.split(":")[2].split("/")[0]), timeout=10)


def post(client: http.client.HTTPConnection, path: str = "/v1/chat/completions", **body: Any) -> Any:
    client.request("POST", path, json.dumps({**BODY, **body}), {"Authorization": "Bearer s3cret"})
    return client.getresponse()


def events(response: Any) -> list[Any]:
    lines = response.read().decode().split("\n\n")
    return [
        line if line == "data: [DONE]" else json.loads(line.removeprefix("data: ")) for line in lines if line
    ]


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/chat/completions"])
def test_a_completion(lm_server: LMServer, client: http.client.HTTPConnection, path: str) -> None:
    lm_server.answers = "good day"
    response = post(client, path)
    body = json.loads(response.read())
    assert response.status == 200
    assert body["object"] == "chat.completion"
    assert body["model"] == "m"
    assert body["choices"] == [
        {"index": 0, "message": {"role": "assistant", "content": "good day"}, "finish_reason": "stop"}
    ]
    assert body["usage"] == {"prompt_tokens": 2, "completion_tokens": 2, "total_tokens": 4}
    assert lm_server.requests[0].headers.get("authorization") is None


def test_several_answers_to_one_request(lm_server: LMServer, client: http.client.HTTPConnection) -> None:
    def contents(answers: Any) -> list[str]:
        lm_server.answers = answers
        return [choice["message"]["content"] for choice in json.loads(post(client, n=2).read())["choices"]]

    assert contents("same") == ["same", "same"]
    assert contents(lambda request: ["one", "two"]) == ["one", "two"]


def test_a_connection_serves_many(lm_server: LMServer, client: http.client.HTTPConnection) -> None:
    lm_server.answers = [Status(500), "x", Malformed(), "x"]
    ports = set()
    for _ in range(4):
        post(client).read()
        assert client.sock is not None
        ports.add(client.sock.getsockname()[1])
    assert len(ports) == 1


def test_models(client: http.client.HTTPConnection) -> None:
    client.request("GET", "/v1/models")
    assert [model["id"] for model in json.loads(client.getresponse().read())["data"]] == ["test-model"]


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("GET", "/", None, 404),
        ("GET", "/v1/chat/completions", None, 404),
        ("POST", "/v1/embeddings", "{}", 404),
        ("POST", "/v1/chat/completions", "{", 400),
        ("POST", "/v1/chat/completions", "[]", 400),
        ("POST", "/v1/chat/completions", "{}", 400),
        ("POST", "/v1/chat/completions", "[" * 100_000, 400),
    ],
)
def test_bad_requests(
    lm_server: LMServer, client: http.client.HTTPConnection, method: str, path: str, body: str, status: int
) -> None:
    client.request(method, path, body)
    response = client.getresponse()
    assert response.status == status
    assert json.loads(response.read())["error"]["message"]
    assert lm_server.count == 0


@pytest.mark.parametrize(
    ("raw", "status"),
    [
        (b"nonsense\r\n\r\n", 400),
        (b"POST /v1/chat/completions HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 411),
        (b"POST /v1/chat/completions HTTP/1.1\r\nContent-Length: -1\r\n\r\n", 411),
        (b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * 300 + b"\r\n", 431),
        (b"GET /v1/mod", None),
        (b"POST /v1/chat/completions HTTP/1.1\r\nContent-Length: 9\r\n\r\n{", None),
        (b"", None),
    ],
)
def test_what_is_no_http_ends_the_connection(lm_server: LMServer, raw: bytes, status: int | None) -> None:
    client = connect(lm_server)
    with socket.create_connection((client.host, client.port), timeout=10) as sock:
        sock.sendall(raw)
        sock.shutdown(socket.SHUT_WR)
        got = b"".join(iter(lambda: sock.recv(1 << 16), b""))
    assert got.startswith(b"HTTP/1.1 %d " % status if status else b"")
    assert bool(got) == bool(status)


def test_a_stream_is_events_of_words(lm_server: LMServer, client: http.client.HTTPConnection) -> None:
    lm_server.answers = "one two\n three "
    response = post(client, stream=True, n=2, stream_options={"include_usage": True})
    assert response.getheader("Content-Type") == "text/event-stream"
    *chunks, last = events(response)
    assert last == "data: [DONE]"
    assert chunks.pop()["usage"] == {"prompt_tokens": 2, "completion_tokens": 6, "total_tokens": 8}
    for index in range(2):
        own = [chunk["choices"][0] for chunk in chunks if chunk["choices"][0]["index"] == index]
        pieces = [choice["delta"].get("content", "") for choice in own]
        assert "".join(pieces) == lm_server.answers
        assert len(pieces) == 6
        assert [choice["finish_reason"] for choice in own] == [None] * 5 + ["stop"]
    assert post(client).status == 200, "the connection goes on"


@pytest.mark.parametrize("after", [2, 0.25, "Wed, 21 Oct 2015 07:28:00 GMT", None])
def test_a_status_with_retry_after(
    lm_server: LMServer, client: http.client.HTTPConnection, after: Any
) -> None:
    lm_server.answers = Status(429, retry_after=after)
    response = post(client)
    assert response.status == 429
    assert response.getheader("Retry-After") == (None if after is None else str(after))
    assert json.loads(response.read())["error"]["type"] == "rate_limit_error"


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("count", [1, 60, 1_000_000])
def test_a_cut_comes_after_so_many_bytes(
    lm_server: LMServer, client: http.client.HTTPConnection, stream: bool, count: int
) -> None:
    lm_server.answers = Cut(after_bytes=count)
    response = post(client, stream=stream)
    assert response.status == 200
    with pytest.raises(http.client.IncompleteRead):
        response.read()


def test_a_cut_before_any_byte(lm_server: LMServer, client: http.client.HTTPConnection) -> None:
    lm_server.answers = Cut()
    with pytest.raises(http.client.RemoteDisconnected):
        post(client)


@pytest.mark.parametrize("stream", [False, True])
def test_malformed(lm_server: LMServer, client: http.client.HTTPConnection, stream: bool) -> None:
    lm_server.answers = Malformed()
    response = post(client, stream=stream)
    assert response.status == 200
    with pytest.raises(ValueError, match=r"Expecting"):
        json.loads(response.read().removeprefix(b"data: "))


def test_a_hang_of_some_seconds(lm_server: LMServer, client: http.client.HTTPConnection) -> None:
    lm_server.answers = Hang(0.1)
    begun = time.monotonic()
    with pytest.raises(http.client.RemoteDisconnected):
        post(client)
    assert 0.1 <= time.monotonic() - begun < 2
    assert lm_server.requests[0].outcome == "hung"


def test_a_client_that_sends_ahead_is_served_in_order(lm_server: LMServer) -> None:
    lm_server.answers, lm_server.delay = ["one", "two"], 0.05
    client = connect(lm_server)
    raw = json.dumps(BODY).encode()
    request = b"POST /v1/chat/completions HTTP/1.1\r\nContent-Length: %d\r\n" % len(raw)
    with socket.create_connection((client.host, client.port), timeout=10) as sock:
        sock.sendall(request + b"\r\n" + raw + request + b"Connection: close\r\n\r\n" + raw)
        got = b"".join(iter(lambda: sock.recv(1 << 16), b""))
    assert got.index(b'"one"') < got.index(b'"two"')


def test_expect_100_continue(lm_server: LMServer) -> None:
    lm_server.answers = "x"
    client = connect(lm_server)
    raw = json.dumps(BODY).encode()
    with socket.create_connection((client.host, client.port), timeout=10) as sock:
        sock.sendall(
            b"POST /chat/completions HTTP/1.1\r\nExpect: 100-continue\r\nConnection: close\r\n"
            b"Content-Length: %d\r\n\r\n" % len(raw)
        )
        assert sock.recv(100).startswith(b"HTTP/1.1 100 ")
        sock.sendall(raw)
        assert sock.recv(100).startswith(b"HTTP/1.1 200 ")


# --- the end ---


def threads() -> Counter[str]:
    names = [thread.name for thread in threading.enumerate()]
    return Counter(name for name in names if name.startswith("dspex-lm-server"))


@pytest.mark.parametrize("answers", ["idle", Hang(), Slow(drip=10, answer="slow")])
def test_close_releases_everyone(answers: Any) -> None:
    before = threads()
    with LMServer(answers=answers) as server:
        clients = [connect(server) for _ in range(4)]
        for client in clients:
            client.request("POST", "/v1/chat/completions", json.dumps(BODY))
        server.wait_for(4)
        begun = time.monotonic()
    assert time.monotonic() - begun < 1
    assert threads() <= before
    assert server.in_flight == 0
    for client in clients:
        client.close()
    with pytest.raises(ConnectionRefusedError):
        connect(server).connect()
    server.close()


def test_close_warns_of_an_answer_that_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dspex.testing.lm_server._CLOSING", 0.05)
    go = threading.Event()

    def stuck(request: Request) -> str:
        go.wait(10)
        return "late"

    server = LMServer(answers=stuck).start()
    with contextlib.closing(connect(server)) as client:
        client.request("POST", "/v1/chat/completions", json.dumps(BODY))
        server.wait_for(1)
        with pytest.warns(ResourceWarning, match="has not ended"):
            server.close()
        go.set()
        server.wait_idle()


def test_a_server_starts_once() -> None:
    server = LMServer(answers="x").start()
    with pytest.raises(ConfigError, match="started before"):
        server.start()
    server.close()
    LMServer().close()

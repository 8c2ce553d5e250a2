"""What every worker is told: at its start, and while it is there."""

from __future__ import annotations

import os
import signal
import time
import uuid
from pathlib import Path
from typing import Any

import pytest

from dspex.errors import CommunicationError, ConfigError, LMError, ResourceError
from processes_tools import after, in_threads, pool, until


def known(p: Any) -> list[Any]:
    """What each of the workers knows, in the order in which they were started."""
    size = p.settings.size
    until(lambda: p.stats()["workers"] == p.stats()["idle"] == size)
    # New sessions are spread over the workers.
    found = dict(p.call("known", session=uuid.uuid4().hex, deadline=after(10)) for _ in range(size))
    assert len(found) == size
    return [found[pid] for pid in p.pids()]


def replace_all(p: Any) -> None:
    before = p.pids()
    for pid in before:
        os.kill(pid, signal.SIGKILL)
    until(lambda: len(p.pids()) == len(before) and not set(p.pids()) & set(before))


def test_setup_is_done_by_every_worker_in_order() -> None:
    with pool(size=2, setup=[("learn", 1), ("learn", {"a": 2})]) as p:
        assert known(p) == [[1, {"a": 2}]] * 2
        replace_all(p)
        assert known(p) == [[1, {"a": 2}]] * 2


def test_a_broadcast_reaches_every_worker_and_those_to_come() -> None:
    with pool(size=2, setup=[("learn", 0)]) as p:
        p.broadcast("learn", 1, key="one")
        p.broadcast("learn", 2, key="two")
        assert known(p) == [[0, 1, 2]] * 2
        replace_all(p)
        assert known(p) == [[0, 1, 2]] * 2


def test_a_broadcast_comes_before_the_next_call() -> None:
    with pool(size=2) as p:
        for n in range(20):
            p.broadcast("learn", n, key=str(n))
            assert p.call("known")[1] == list(range(n + 1))


def test_idle_workers_do_it_in_the_background() -> None:
    with pool(size=2) as p:
        p.broadcast("learn_slowly", 1, key="one")
        until(lambda: p.stats()["idle"] == 0)
        until(lambda: p.stats()["idle"] == 2)
        start = time.monotonic()
        assert p.call("known")[1] == [1]
        assert time.monotonic() - start < 0.15


def test_a_busy_worker_does_it_after_its_call() -> None:
    with pool() as p:
        (outcome,) = in_threads(lambda _: _during(p), 1)
        assert outcome == [1]


def _during(p: Any) -> Any:
    def listen(op: str, payload: int) -> None:
        p.broadcast("learn", 1, key="one")

    p.call("tell", 1, on_tell=listen)
    return p.call("known")[1]


def test_what_workers_are_told_may_ask_and_tell() -> None:
    news: list[Any] = []
    with pool(
        setup=[("ask", 1), ("tell", 2)],
        on_ask=lambda op, payload: payload,
        on_tell=lambda op, payload: news.append(payload),
    ) as p:
        assert p.health()
        p.broadcast("ask", 1, key="a")
        assert p.call("echo", 1) == 1
        assert p.stats()["failed_setups"] == 0
    assert news == [0, 1]


def test_without_a_key_only_those_who_are_there_are_told() -> None:
    with pool(size=2) as p:
        p.broadcast("learn", 1)
        assert known(p) == [[1]] * 2
        replace_all(p)
        assert known(p) == [[]] * 2


def test_a_later_broadcast_takes_the_place_of_an_earlier_one() -> None:
    with pool() as p:
        p.broadcast("learn", "a", key="x")
        p.broadcast("learn", "b", key="y")
        p.broadcast("learn", "c", key="x")
        assert known(p) == [["a", "b", "c"]]
        replace_all(p)
        assert known(p) == [["c", "b"]]


def test_what_is_forgotten_is_not_told_again() -> None:
    with pool() as p:
        p.broadcast("learn", "a", key="x")
        p.broadcast("learn", "b", key="y")
        assert known(p) == [["a", "b"]]
        p.forget("x")
        p.forget("never heard of")
        assert known(p) == [["a", "b"]]  # no worker unlearns by itself
        replace_all(p)
        assert known(p) == [["b"]]


def test_what_is_forgotten_before_it_was_done_is_not_done() -> None:
    with pool() as p:

        def listen(op: str, payload: int) -> None:
            p.broadcast("learn", "a", key="x")
            p.broadcast("learn", "b", key="y")
            p.forget("x")

        p.call("tell", 1, on_tell=listen)
        assert known(p) == [["b"]]


def test_workers_that_start_meanwhile_are_told_once() -> None:
    with pool("toy_handlers:make_slowly", handler_settings=0.2, size=2) as p:
        for pid in p.pids():
            os.kill(pid, signal.SIGKILL)
        until(lambda: p.stats()["starting"] == 2)
        for n in range(5):
            p.broadcast("learn", n, key=str(n))
            time.sleep(0.05)
        assert known(p) == [[0, 1, 2, 3, 4]] * 2


def test_what_fails_in_a_worker_is_told_by_health_and_breaks_nothing(tmp_path: Path) -> None:
    with pool() as p:
        p.broadcast("learn_once", str(tmp_path / "once"), key="once")
        p.broadcast("learn", "after", key="after")
        assert len(known(p)[0]) == 2
        assert p.health()
        replace_all(p)
        assert known(p) == [["after"]]  # the file is there already
        health = p.health()
        assert not health
        assert "lacks 'once'" in health.reason
        assert "FileExistsError" in health.reason
        assert p.stats()["failed_setups"] == 1
        p.broadcast("learn", "another", key="once")  # in its place
        assert known(p) == [["after", "another"]]
        assert p.health()


def test_what_failed_is_not_missed_when_it_is_forgotten(tmp_path: Path) -> None:
    with pool() as p:
        for _ in range(2):
            p.broadcast("learn_once", str(tmp_path / "once"), key="once")
        until(lambda: not p.health())
        p.forget("once")
        assert p.health()


@pytest.fixture
def hesitant(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A pool whose idle workers do what they are told before their next call only."""
    with pool() as p:
        monkeypatch.setattr(p._fleet, "in_background", lambda work, member: p._fleet.hand_back(member))
        yield p


def test_what_kills_a_worker_is_not_the_calls_fault(hesitant: Any) -> None:
    (first,) = hesitant.pids()
    hesitant.broadcast("exit", 3)
    assert hesitant.call("echo", 1, deadline=after(10)) == 1
    assert hesitant.pids() != [first]
    assert hesitant.stats()["repeated"] == 1


def test_what_takes_too_long_ends_with_the_deadline_of_the_call(hesitant: Any) -> None:
    (first,) = hesitant.pids()
    hesitant.broadcast("sleep", 60.0)
    start = time.monotonic()
    with pytest.raises(TimeoutError):
        hesitant.call("echo", 1, deadline=after(0.2))
    assert time.monotonic() - start < 1
    assert hesitant.call("pid", deadline=after(10)) != first


def test_a_setup_that_fails_fails_the_start() -> None:
    with pytest.raises(LMError, match="it refused"):
        pool(setup=[("learn", 1), ("raise_own", None)])


def test_a_setup_that_kills_every_worker_fails_the_start() -> None:
    with pytest.raises(CommunicationError, match="has ended"):
        pool(setup=[("exit", 3)])


def test_what_cannot_be_sent_is_refused() -> None:
    with pytest.raises(CommunicationError, match="cannot be sent"):
        pool(setup=[("learn", object())])
    with pytest.raises(CommunicationError, match="cannot be sent"):
        pool(handler_settings=object())
    with pool() as p:
        with pytest.raises(CommunicationError, match="cannot be sent"):
            p.broadcast("learn", object(), key="x")
        assert p.call("known")[1] == []
    with pytest.raises(ResourceError, match="closed"):
        p.broadcast("learn", 1)


def test_a_failing_start_with_a_setup_says_which() -> None:
    with pytest.raises(ConfigError):
        pool("toy_broken:make", setup=[("learn", 1)])

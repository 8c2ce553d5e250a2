"""The store of sessions: the same one until it is forgotten; what is stale goes; what is closed refuses.

DSPEX_STRESS=20 multiplies the counts by 20.
"""

from __future__ import annotations

import math
import time
from types import SimpleNamespace
from typing import Any

import pytest

from dspex import Pool
from dspex.errors import ConfigError, InputError, ResourceError
from dspex.pool import Session
from test_pool_tools import hold, in_threads, let_go, scaled, simple, still, texts, until

TEXT = texts(1)[0]


class Clock:
    """Time that passes when it is told to."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        monkeypatch.setattr("dspex.pool.session.time", SimpleNamespace(monotonic=lambda: self.now))


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def counts(pool: Pool) -> tuple[int, ...]:
    stats = pool.stats().sessions
    return tuple(stats[name] for name in ("active", "created", "expired", "closed"))


def test_a_session_is_the_same_until_it_is_forgotten(clock: Clock) -> None:
    with Pool(size=1, session_ttl=100) as pool:
        session = pool.session("a")
        session.data["name"] = "Ada"
        for _ in range(5):
            clock.now += 99
            assert pool.session("a") is session
            session.call(simple(), TEXT)
        assert pool.session("b") is not session
        assert counts(pool) == (2, 2, 0, 0)
        clock.now += 101
        again = pool.session("a")
        assert again is not session
        assert again.data == {}
        assert counts(pool) == (1, 3, 2, 0)
        with pytest.raises(ResourceError, match="'a' is closed or has expired") as caught:
            session.submit(simple(), TEXT)
        assert not caught.value.retryable
        assert again.call(simple(), TEXT) == simple().predict(TEXT)


def test_stale_sessions_are_swept(clock: Clock) -> None:
    with Pool(size=1, session_ttl=100) as pool:
        for i in range(10):
            pool.session(str(i), ttl=10 * (i + 1))
        assert pool.sweep_sessions() == 0
        clock.now += 55
        assert pool.sweep_sessions() == 5
        assert counts(pool) == (5, 10, 5, 0)
        clock.now += 1000
        pool.session("another")  # using sessions sweeps now and then
        assert counts(pool) == (1, 11, 10, 0)


def test_a_session_with_work_to_do_is_kept(clock: Clock) -> None:
    with Pool(size=1, session_ttl=1) as pool:
        held = hold(pool)
        session = pool.session("a")
        future = session.submit(simple(), TEXT)
        clock.now += 100
        assert pool.sweep_sessions() == 0
        assert pool.session("a") is session
        assert still(held)
        let_go(held)
        assert future.result() == simple().predict(TEXT)
        until(lambda: session.pending == 0)
        clock.now += 2
        assert pool.sweep_sessions() == 1


def test_a_session_that_was_just_asked_for_is_kept(clock: Clock) -> None:
    """Somebody else's sweep comes between the asking and the call."""
    with Pool(size=1, session_ttl=100) as pool:
        pool.session("a").call(simple(), TEXT)
        clock.now += 99.9
        session = pool.session("a")
        clock.now += 0.2
        pool.sweep_sessions()
        assert session.call(simple(), TEXT) == simple().predict(TEXT)


def test_a_time_to_live_can_be_given_anew(clock: Clock) -> None:
    with Pool(size=1, session_ttl=100) as pool:
        session = pool.session("a", ttl=10)
        assert pool.session("a", ttl=1000) is session
        clock.now += 500
        assert pool.session("a") is session
        for ttl in (-1, True, math.nan, "1", [1]):
            with pytest.raises(ConfigError) as caught:
                pool.session("a", ttl=ttl)  # type: ignore[arg-type]
            assert caught.value.field == "ttl"


def test_a_closed_session_refuses_and_what_it_was_given_still_runs() -> None:
    with Pool(size=1) as pool:
        held = hold(pool)
        session = pool.session("a")
        future = session.submit(simple(), TEXT)
        session.close()
        session.close()
        for use in (session.submit, session.call):
            with pytest.raises(ResourceError) as caught:
                use(simple(), TEXT)
            assert not caught.value.retryable
        again = pool.session("a")
        assert again is not session
        later = again.submit(simple(), TEXT)
        assert still(held)
        let_go(held)
        assert future.result() == later.result() == simple().predict(TEXT)
        assert counts(pool) == (1, 2, 0, 1)
    assert counts(pool) == (0, 2, 0, 2)
    with pytest.raises(ResourceError):
        again.submit(simple(), TEXT)


@pytest.mark.parametrize("session_id", ["", None, 3, b"a", ["a"], ("a",), object()], ids=repr)
def test_a_session_id_is_a_string(session_id: Any) -> None:
    with Pool(size=1) as pool:
        with pytest.raises(InputError) as caught:
            pool.session(session_id)
        assert caught.value.field == "session"
        assert counts(pool) == (0, 0, 0, 0)


def test_ids_are_any_strings() -> None:
    with Pool(size=1) as pool:
        ids = ["a", " a", "A", "é", "e\u0301", "\0", "\ud800", "x" * 100_000]
        sessions = [pool.session(each) for each in ids]
        assert len(set(sessions)) == len(ids)
        assert [pool.session(each) for each in ids] == sessions
        assert "'a' on worker 0" in repr(sessions[0])


def test_threads_that_ask_at_once_get_the_same_session() -> None:
    with Pool(size=2) as pool:
        for turn in range(scaled(50)):
            got: list[Session] = []
            in_threads(lambda number, turn=turn, got=got: got.append(pool.session(str(turn))), 4)
            assert len(set(got)) == 1
        assert counts(pool)[:2] == (scaled(50), scaled(50))


def test_many_sessions_cost_little_time() -> None:
    """A sweep does not come with every call."""
    with Pool(size=2) as pool:
        begin = time.monotonic()
        for i in range(20_000):
            pool.session(str(i))
        for i in range(20_000):
            pool.session(str(i))
        assert time.monotonic() - begin < 5
        assert counts(pool)[0] == 20_000

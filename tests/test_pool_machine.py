"""A pool under any sequence of submissions, faults, cancellations, resizings and ends, and a model of it.

The model: what was accepted ends in exactly one way, and the counters say how many in which; calls of a
session never overtake each other; after the end everything is refused.

DSPEX_STRESS=20 runs 20 times as many sequences.
"""

from __future__ import annotations

import concurrent.futures
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from dspex import Pool
from dspex.errors import CallTimeoutError, InputError, InternalError, PoolSaturated, ResourceError
from dspex.pool import Future
from test_pool_tools import scaled, simple, texts, until

ROWS = texts(300)
ANSWERS = [simple().predict(row) for row in ROWS]
NAMES = st.sampled_from(["a", "b", "c"])
SOON = st.sampled_from([0.0, 1e-5, 2e-4])

#: What is expected of a future: what it was for, and the ways in which it may end.
WAYS: dict[str, tuple[str, ...]] = {
    "call": ("done", "cancelled", "lost"),
    "probe": ("done", "cancelled", "lost"),
    "error": ("failed", "cancelled", "lost"),
    "death": ("lost", "cancelled"),
    "late": ("expired", "cancelled", "lost"),
    "empty": ("refused", "cancelled", "lost"),
}


def way_of(future: Future) -> str:
    """How it ended."""
    if future.cancelled():
        return "cancelled"
    error = future.exception(20)
    kinds: dict[type, str] = {
        type(None): "done",
        InternalError: "failed",
        ResourceError: "lost",
        CallTimeoutError: "expired",
        InputError: "refused",
    }
    return kinds[type(error)]


class PoolMachine(RuleBasedStateMachine):
    """Everything that one thread can do to a pool."""

    pool: Pool

    def __init__(self) -> None:
        super().__init__()
        self.expected: list[tuple[Future, str, Any]] = []
        self.by_session: dict[Any, list[Future]] = {}
        self.told: dict[int, int] = {}
        self.cancelled: set[int] = set()
        self.accepted_by_batches = self.turned_away = self.run_here = self.deaths = 0
        self.open = True
        self.steps = 0

    @initialize(
        size=st.integers(1, 3),
        more=st.integers(0, 2),
        capacity=st.sampled_from([1, 3, 1000]),
        policy=st.sampled_from(["block", "reject", "caller_runs"]),
        window=st.sampled_from([0, 0, 500e-6]),
        spin=st.sampled_from([0, 20e-6]),
    )
    def make(self, size: int, more: int, capacity: int, policy: Any, window: float, spin: float) -> None:
        self.pool = Pool(
            size=size,
            max_size=size + more,
            capacity=capacity,
            policy=policy,
            window=window,
            spin=spin,
            idle_timeout=0.001,
        )

    def submit(self, kind: str, session: Any, make: Any, answer: Any = None) -> None:
        """Hands it in; what comes of that depends on whether the pool is open and has room."""
        here = self.pool.stats().caller_runs
        try:
            future: Future = make()
        except PoolSaturated:
            assert self.open
            assert self.pool.policy == "reject" or kind == "late"
            self.turned_away += 1
            return
        except ResourceError:
            assert not self.open
            return
        assert self.open
        ran_here = self.pool.stats().caller_runs - here
        self.run_here += ran_here
        if ran_here:
            assert self.pool.policy == "caller_runs"
            assert future.done()
            assert way_of(future) in ("done", "failed", "refused")
            return
        self.expected.append((future, kind, answer))
        if session is not None and kind != "late":  # that one ends early: whoever waits for it sees to that
            self.by_session.setdefault(session, []).append(future)
        if len(self.expected) % 3 == 0:
            self.told[id(future)] = 0
            future.add_done_callback(self.tell)

    def tell(self, future: Future) -> None:
        self.told[id(future)] += 1

    def strand(self, name: str | None) -> tuple[Any, Any]:
        """(session, its strand), or nothing."""
        if name is None or not self.open:
            return None, None
        session = self.pool.session(name)
        return session, session._strand

    # --- what is done to it

    @rule(row=st.integers(0, 299), name=st.none() | NAMES)
    def call(self, row: int, name: str | None) -> None:
        session, _ = self.strand(name)
        target = self.pool if session is None else session
        self.submit("call", session, lambda: target.submit(simple(), ROWS[row]), ANSWERS[row])

    @rule(
        count=st.integers(1, 30), name=st.none() | NAMES, busy=SOON, fault=st.sampled_from(["none", "error"])
    )
    def probes(self, count: int, name: str | None, busy: float, fault: Any) -> None:
        session, strand = self.strand(name)
        kind = "error" if fault == "error" else "probe"
        for i in range(count):
            self.submit(
                kind,
                session,
                lambda i=i: self.pool._probe(busy=busy, fault=fault, strand=strand, batchable=i % 2 == 0),
            )

    @rule(name=st.none() | NAMES, busy=SOON)
    def death(self, name: str | None, busy: float) -> None:
        if self.pool.policy != "caller_runs":  # a caller does not die of it
            session, strand = self.strand(name)
            self.submit("death", session, lambda: self.pool._probe(busy=busy, fault="death", strand=strand))

    @rule(name=st.none() | NAMES, timeout=st.sampled_from([0, -1.0, 1e-9]))
    def late(self, name: str | None, timeout: float) -> None:
        if self.pool.policy != "caller_runs":  # there it may be run at once, late or not
            session, strand = self.strand(name)
            self.submit("late", session, lambda: self.pool._probe(timeout=timeout, strand=strand))

    @rule()
    def nothing_to_answer(self) -> None:
        self.submit("empty", None, lambda: self.pool.submit(simple(), {"text": " "}))

    @rule(which=st.integers(0, 1000))
    def cancel(self, which: int) -> None:
        if self.expected:
            future = self.expected[which % len(self.expected)][0]
            if future.cancel():
                assert future.cancelled()
                self.cancelled.add(id(future))

    @rule(which=st.integers(0, 1000))
    def read(self, which: int) -> None:
        if self.expected:
            future, kind, answer = self.expected[which % len(self.expected)]
            way = way_of(future)
            assert way in WAYS[kind]
            assert way == way_of(future)
            if answer is not None and way == "done":
                assert future.result() == answer

    @rule(size=st.integers(1, 4), more=st.integers(0, 2))
    def resize(self, size: int, more: int) -> None:
        try:
            self.pool.resize(size, size + more)
        except ResourceError:
            assert not self.open
        else:
            assert self.open
            assert (self.pool.size, self.pool.max_size) == (size, size + more)

    @rule(count=st.sampled_from([0, 1, 7, 100, 300]), bad=st.booleans())
    def batch(self, count: int, bad: bool) -> None:
        rows = [*ROWS[:count], {"text": " "}] if bad else ROWS[:count]
        try:
            outcome = self.pool.batch(simple(), rows, on_error="collect")
        except ResourceError:
            assert not self.open
            return
        assert self.open
        assert outcome[:count] == ANSWERS[:count]
        assert [type(each) for each in outcome[count:]] == [InputError] * bad

    @rule(name=NAMES)
    def close_session(self, name: str) -> None:
        if self.open:
            self.pool.session(name).close()

    @rule()
    def wait_for_all(self) -> None:
        futures = [future for future, _, _ in self.expected]
        assert not concurrent.futures.wait(futures, 20).not_done

    # Seldom: most of the interesting things happen before.
    @precondition(lambda self: self.steps > 15)
    @rule(
        timeout=st.sampled_from([None, 0, 0.001]), how=st.sampled_from(["close", "drain", "drain", "neither"])
    )
    def end(self, timeout: float | None, how: str) -> None:
        if how != "neither":
            self.open = False
            assert getattr(self.pool, how)(timeout) in ((True,) if timeout is None else (True, False))

    # --- what is always so

    @invariant()
    def sessions_are_in_order(self) -> None:
        for futures in self.by_session.values():
            ended = [future.done() for future in reversed(futures) if id(future) not in self.cancelled]
            assert ended == sorted(ended)

    @invariant()
    def figures_fit_each_other(self) -> None:
        self.steps += 1
        if not hasattr(self, "pool"):
            return
        stats = self.pool.stats()
        total = stats.total
        assert total.ended <= total.done + total.failed + total.cancelled + total.expired
        assert total.ended <= stats.accepted
        assert stats.workers <= 6
        assert (stats.rejected, stats.caller_runs) == (self.turned_away, self.run_here)

    def teardown(self) -> None:
        if not hasattr(self, "pool"):
            return
        self.pool.close(None)
        self.sessions_are_in_order()
        stats = self.pool.stats()
        total = stats.total
        assert stats.accepted == total.ended == total.done + total.failed + total.cancelled + total.expired
        ways = [way_of(future) for future, _, _ in self.expected]
        for way, (_, kind, _) in zip(ways, self.expected, strict=True):
            assert way in WAYS[kind]
        assert total.expired == ways.count("expired")
        assert total.failed >= ways.count("failed") + ways.count("lost")  # helpers of batches may be lost too
        assert total.cancelled >= ways.count("cancelled")  # or never begin
        assert total.ended >= len(ways)
        assert stats.workers == 0
        until(lambda: all(count == 1 for count in self.told.values()))
        for future, _, _ in self.expected:
            assert future.done()


PoolMachine.TestCase.settings = settings(
    max_examples=scaled(60),
    stateful_step_count=40,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
TestPoolMachine = PoolMachine.TestCase

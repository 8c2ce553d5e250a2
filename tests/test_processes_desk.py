"""The desk by itself, without a process: who gets which worker; against a simple model, in any order."""

from __future__ import annotations

import itertools
import time
from collections import deque

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from dspex.processes.desk import Desk
from dspex.processes.member import Member
from dspex.processes.waiters import ThreadWaiter

SESSIONS = [None, None, "a", "b", "c"]


def desk(size: int, ttl: float = 1000.0) -> tuple[Desk, list[Member]]:
    made, members = Desk(ttl), [Member(n, deque()) for n in range(size)]
    for member in members:
        made.give(member)
    return made, members


def wait(made: Desk, session: str | None = None) -> ThreadWaiter:
    waiter = ThreadWaiter(session)
    made.line_up(waiter)
    return waiter


def test_the_last_one_back_is_taken_first() -> None:
    made, (one, two) = desk(2)
    assert made.take(None) is two
    assert made.take(None) is one
    assert made.take(None) is None
    made.give(two)
    made.give(one)
    assert made.take(None) is one


def test_a_sessions_calls_keep_their_place_when_their_worker_goes() -> None:
    made, (one, two) = desk(2)
    assert made.take("s") is two
    assert made.take(None) is one
    first, second, third = wait(made), wait(made, "s"), wait(made)
    made.remove(two)
    for waiter in (first, second, third):
        assert waiter.member is None
        made.give(one)
        assert waiter.member is one


def test_a_session_whose_call_waits_is_not_forgotten() -> None:
    made, (one, two) = desk(2, ttl=0.01)
    assert made.take("s") is two
    assert made.take("t") is one
    waiter = wait(made, "s")
    time.sleep(0.02)
    made.expire()
    assert made.sessions == 1
    made.give(one)
    assert waiter.member is None
    made.give(two)
    assert waiter.member is two


def test_who_is_told_that_there_is_no_worker() -> None:
    made, (one,) = desk(1)
    made.take("s")
    waiters = [wait(made), wait(made, "s"), wait(made, "t")]
    made.fail_all(lambda: ValueError("none"))
    assert [str(waiter.error) for waiter in waiters] == ["none"] * 3
    assert made.waiting == 0
    made.give(one)
    assert one.idle


class Anything(RuleBasedStateMachine):
    """Calls come, end and give up, workers come and go; the desk is looked at after each step."""

    @initialize(size=st.integers(0, 3))
    def begin(self, size: int) -> None:
        self.desk, members = desk(size)
        self.present = members
        self.numbers = itertools.count(size)
        self.busy: list[tuple[Member, str | None]] = []
        self.lined_up: list[ThreadWaiter] = []
        self.home: dict[str, Member] = {}

    @rule(session=st.sampled_from(SESSIONS))
    def call(self, session: str | None) -> None:
        member = self.desk.take(session)
        if member is None:
            self.lined_up.append(wait(self.desk, session))
        else:
            self.serve(member, session)

    @rule(data=st.data())
    def end(self, data: st.DataObject) -> None:
        if self.busy:
            at = data.draw(st.integers(0, len(self.busy) - 1))
            self.desk.give(self.busy.pop(at)[0])
            self.look()

    @rule(data=st.data())
    def give_up(self, data: st.DataObject) -> None:
        if self.lined_up:
            at = data.draw(st.integers(0, len(self.lined_up) - 1))
            assert self.desk.withdraw(self.lined_up.pop(at))

    @rule()
    def join(self) -> None:
        if len(self.present) < 4:
            member = Member(next(self.numbers), deque())
            self.present.append(member)
            self.desk.give(member)
            self.look()

    @rule(data=st.data())
    def die(self, data: st.DataObject) -> None:
        if self.present:
            member = self.present.pop(data.draw(st.integers(0, len(self.present) - 1)))
            self.busy = [each for each in self.busy if each[0] is not member]
            self.home = {session: at for session, at in self.home.items() if at is not member}
            self.desk.remove(member)
            self.look()

    def serve(self, member: Member, session: str | None) -> None:
        assert member in self.present
        assert all(each is not member for each, _ in self.busy)
        if session is not None:
            assert self.home.setdefault(session, member) is member
        self.busy.append((member, session))

    def look(self) -> None:
        """Who has been served since."""
        for waiter in [each for each in self.lined_up if each.member is not None]:
            # Nobody of the same session, and nobody without one, has been passed over.
            earlier = self.lined_up[: self.lined_up.index(waiter)]
            assert not any(each.session == waiter.session and each.member is None for each in earlier)
            if waiter.session is None:
                assert not any(each.session is None and each.member is None for each in earlier)
            assert waiter.member is not None
            self.serve(waiter.member, waiter.session)
        self.lined_up = [each for each in self.lined_up if each.member is None]

    @invariant()
    def nobody_waits_for_what_is_idle(self) -> None:
        if not hasattr(self, "desk"):
            return
        assert self.desk.waiting == len(self.lined_up)
        busy = {id(member) for member, _ in self.busy}
        assert {id(member) for member in self.desk.idle} == {id(m) for m in self.present} - busy
        assert all(member.idle == (member in self.desk.idle) for member in self.present)
        for waiter in self.lined_up:
            home = self.home.get(waiter.session) if waiter.session is not None else None
            assert not (home.idle if home is not None else self.desk.idle)
        assert self.desk.sessions == len(self.home)


TestAnything = Anything.TestCase
TestAnything.settings = settings(max_examples=80, stateful_step_count=40, deadline=None)

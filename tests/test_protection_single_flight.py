"""Equal calls made at once, by threads and by tasks of several loops, are made once."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest

from dspex.errors import CallTimeoutError, LMError, ResourceError
from dspex.protection import NEVER, Deadline, SingleFlight
from dspex.protection.single_flight import _led
from test_pool_tools import in_threads, new_loop, on_both_loops, run, scaled, until
from test_protection_tools import Down, a_guard


class Flight:
    """A flight whose leader stays in the air until told to land."""

    def __init__(self) -> None:
        self.flight: SingleFlight[Any] = SingleFlight()
        self.land = threading.Event()
        self.made = 0
        self.pool = ThreadPoolExecutor(16)

    def __enter__(self) -> Flight:
        return self

    def __exit__(self, *_: object) -> None:
        self.land.set()
        self.pool.shutdown()

    def call(self) -> Any:
        self.made += 1
        if not self.land.wait(20):
            raise AssertionError("never told to land")
        return object()

    def lead(self, call: Callable[[], Any] | None = None, deadline: Any = None) -> Future[Any]:
        before = self.made
        future = self.pool.submit(self.flight.run, "key", call or self.call, deadline or Deadline.after(20))
        until(lambda: self.made > before)
        return future

    def follow(self, deadline: Any = None, call: Callable[[], Any] | None = None) -> Future[Any]:
        before = self.following
        future = self.pool.submit(self.flight.run, "key", call or self.call, deadline or Deadline.after(20))
        until(lambda: self.following == before + 1)
        return future

    def follow_on_loop(self, loop: str = "asyncio") -> Future[Any]:
        async def call() -> Any:
            return self.call()

        before = self.following
        future = self.pool.submit(lambda: run(loop, self.flight.arun("key", call, Deadline.after(20))))
        until(lambda: self.following == before + 1)
        return future

    @property
    def following(self) -> int:
        flight = self.flight._flights.get("key")
        return 0 if flight is None else len(flight.followers)


def test_followers_get_the_leaders_answer_wherever_they_are() -> None:
    with Flight() as air:
        futures = [air.lead(), air.follow(), air.follow_on_loop(), air.follow_on_loop("uvloop"), air.follow()]
        assert air.flight.stats() == {"made": 1, "shared": 0, "under_way": 1}
        air.land.set()
        answers = {id(future.result(20)) for future in futures}
        assert (len(answers), air.made) == (1, 1)
        assert air.flight.stats() == {"made": 1, "shared": 4, "under_way": 0}


def test_a_task_leads_threads_and_tasks() -> None:
    flight: SingleFlight[object] = SingleFlight()
    made = 0

    async def main() -> None:
        land, answer = asyncio.Event(), object()

        async def call() -> object:
            nonlocal made
            made += 1
            await land.wait()
            return answer

        tasks = [asyncio.ensure_future(flight.arun("key", call)) for _ in range(3)]
        await asyncio.sleep(0)
        thread = asyncio.ensure_future(asyncio.to_thread(flight.run, "key", object))
        while len(flight._flights["key"].followers) < 3:
            await asyncio.sleep(0.001)
        land.set()
        assert await asyncio.gather(*tasks, thread) == [answer] * 4

    asyncio.run(main())
    assert made == 1


def test_other_keys_and_later_calls_are_calls_of_their_own() -> None:
    flight: SingleFlight[object] = SingleFlight()
    with Flight() as air:
        air.lead()
        assert air.flight.run("other", lambda: 5) == 5
    assert flight.run("key", lambda: 1) == 1
    assert flight.run("key", lambda: 2) == 2
    assert asyncio.run(flight.arun("key", lambda: asyncio.sleep(0, 3))) == 3
    assert flight.stats() == {"made": 3, "shared": 0, "under_way": 0}


def test_an_error_is_shared() -> None:
    def fails() -> Any:
        air.call()
        raise Down("down")

    with Flight() as air:
        futures = [air.lead(fails), air.follow(), air.follow_on_loop()]
        air.land.set()
        errors = [future.exception(20) for future in futures]
        assert isinstance(errors[0], Down)
        assert errors[0] is errors[1] is errors[2]
        assert air.made == 1
        assert air.flight.run("key", lambda: "well") == "well"


def test_a_cancelled_leader_hands_over_to_the_first_follower() -> None:
    flight: SingleFlight[str] = SingleFlight()
    made: list[str] = []

    async def main() -> None:
        land = asyncio.Event()

        async def call(name: str) -> str:
            made.append(name)
            await land.wait()
            return name

        tasks = [asyncio.ensure_future(flight.arun("key", lambda name=name: call(name))) for name in "abcd"]
        await asyncio.sleep(0)
        tasks[0].cancel()
        await asyncio.sleep(0.01)
        assert made == ["a", "b"]
        tasks[1].cancel()  # who has taken over can be cancelled too
        tasks[2].cancel()  # together with its heir
        await asyncio.sleep(0.01)
        assert made == ["a", "b", "d"]
        land.set()
        assert await tasks[3] == "d"
        assert [task.cancelled() for task in tasks] == [True, True, True, False]

    asyncio.run(main())
    assert flight.stats() == {"made": 3, "shared": 0, "under_way": 0}


def test_a_cancelled_task_hands_over_to_a_thread() -> None:
    flight: SingleFlight[str] = SingleFlight()

    async def main() -> None:
        leader = asyncio.ensure_future(flight.arun("key", lambda: asyncio.sleep(60, "late")))
        await asyncio.sleep(0)
        thread = asyncio.ensure_future(asyncio.to_thread(flight.run, "key", lambda: "mine"))
        while not flight._flights["key"].followers:
            await asyncio.sleep(0.001)
        leader.cancel()
        assert await asyncio.wait_for(thread, 20) == "mine"

    asyncio.run(main())


def test_a_leader_cancelled_alone_leaves_nothing_behind() -> None:
    flight: SingleFlight[str] = SingleFlight()

    async def main() -> None:
        leader = asyncio.ensure_future(flight.arun("key", lambda: asyncio.sleep(60, "late")))
        await asyncio.sleep(0)
        leader.cancel()
        await asyncio.wait([leader])
        assert flight.stats()["under_way"] == 0

    asyncio.run(main())


def test_the_leaders_deadline_is_its_own() -> None:
    """That it ran out of time is no answer for those who have some left."""
    short = Deadline.after(0.05)

    def too_slow() -> Any:
        air.made += 1
        until(lambda: air.following == 1)
        time.sleep(max(0.0, short.left() or 0.0))
        raise short.error()

    with Flight() as air:
        leader = air.lead(too_slow, short)
        follower = air.follow(call=lambda: "mine")
        assert isinstance(leader.exception(20), CallTimeoutError)
        assert follower.result(20) == "mine"


def no_turn() -> Exception:
    guard = a_guard(requests_per_minute=1, burst=1)
    guard.admit(NEVER).succeeded()
    with pytest.raises(ResourceError, match="before the deadline") as caught:
        guard.admit(Deadline.after(5))
    return caught.value


@pytest.mark.parametrize("error_of", [lambda: Deadline.after(10).error(), no_turn])
def test_an_error_for_want_of_time_may_come_before_the_deadline(error_of: Callable[[], Exception]) -> None:
    """A worker ends its call a little earlier. Who has more time makes the call; others share the error."""
    short, less, none_left = Deadline.after(10), Deadline.after(9), error_of()

    def too_slow() -> Any:
        air.call()
        raise none_left

    with Flight() as air:
        leader = air.lead(too_slow, short)
        followers = [air.follow(less), air.follow(call=lambda: "mine"), air.follow(NEVER)]
        air.land.set()
        assert leader.exception(20) is none_left
        assert [each.result(20) for each in followers] == ["mine"] * 3
        assert air.flight.stats() == {"made": 2, "shared": 2, "under_way": 0}
    with Flight() as air:
        leader, same, earlier = air.lead(too_slow, short), air.follow(short), air.follow(less)
        air.land.set()
        assert {type(each.exception(20)) for each in (leader, same, earlier)} == {type(none_left)}
        assert air.flight.stats() == {"made": 1, "shared": 2, "under_way": 0}
    with Flight() as air:  # without a deadline it is nobody's own
        leader, follower = air.lead(too_slow, NEVER), air.follow(NEVER)
        air.land.set()
        assert {type(each.exception(20)) for each in (leader, follower)} == {type(none_left)}
        assert air.made == 1


@on_both_loops
def test_a_task_hands_over_for_want_of_time(loop: str) -> None:
    flight: SingleFlight[str] = SingleFlight()
    short = Deadline.after(10)

    async def too_slow() -> str:
        await asyncio.sleep(0.01)
        raise short.error()

    async def main() -> list[Any]:
        tasks = [asyncio.ensure_future(flight.arun("key", too_slow, short)) for _ in range(2)]
        later = flight.arun("key", lambda: asyncio.sleep(0.01, "mine"), Deadline.after(20))
        return await asyncio.gather(*tasks, later, return_exceptions=True)

    leader, same, later = run(loop, main())
    assert isinstance(leader, CallTimeoutError)
    assert (same, later) == ("mine", "mine")


def test_each_has_its_own_copy_of_a_dspex_error() -> None:
    """Their callers write on it what it is about."""

    class Odd(LMError):
        def __init__(self, message: str, code: int) -> None:
            super().__init__(message, hint="wait", retry_after=3)
            self.code = code

    cause = Down("down")

    def shared(error: LMError | CallTimeoutError) -> list[Any]:
        def fails() -> Any:
            air.call()
            error.add_note("asked twice")
            raise error from cause

        def marked() -> Any:
            try:
                return air.flight.run("key", fails)
            except type(error) as mine:
                mine.program, mine.row = "leads", 7
                mine.add_note("the leader's")
                raise

        with Flight() as air:
            leader = air.pool.submit(marked)
            until(lambda: air.made == 1)
            futures = [leader, air.follow(), air.follow_on_loop(), air.follow()]
            air.land.set()
            return [future.exception(20) for future in futures]

    for error in (Odd("bad", 5), CallTimeoutError("late", row=None)):
        first, *others = shared(error)
        assert first is error
        assert len({id(each) for each in (first, *others)}) == 4
        for each in others:
            assert type(each) is type(error)
            assert (each.message, each.args, each.program, each.row) == (
                error.message,
                error.args,
                None,
                None,
            )
            assert each.__cause__ is cause
            assert each.__suppress_context__
            assert each.__notes__ == ["asked twice"]
            assert getattr(each, "code", 5) == 5
            assert (each.hint, each.retry_after) == (error.hint, error.retry_after)


def test_a_followers_deadline_holds() -> None:
    with Flight() as air:
        leader = air.lead()
        begin, worked = time.monotonic(), time.thread_time()
        with pytest.raises(CallTimeoutError) as caught:
            air.flight.run("key", object, Deadline.after(0.05), "intents")
        assert time.thread_time() - worked < 0.02  # it slept
        assert caught.value.program == "intents"
        with pytest.raises(CallTimeoutError):
            asyncio.run(air.flight.arun("key", lambda: asyncio.sleep(0), Deadline.after(0.05)))
        assert 0.1 <= time.monotonic() - begin < 2
        assert air.following == 0
        air.land.set()
        leader.result(20)
        assert air.made == 1


@on_both_loops
def test_a_follower_is_waited_for_without_holding_up_the_loop(loop: str) -> None:
    async def main() -> int:
        follower = asyncio.ensure_future(air.flight.arun("key", lambda: asyncio.sleep(0)))
        beats = 0
        while beats < 20:
            await asyncio.sleep(0.001)
            beats += 1
        air.land.set()
        await follower
        return beats

    with Flight() as air:
        air.lead()
        assert run(loop, main()) == 20


def test_a_call_that_makes_itself_does_not_wait_for_itself() -> None:
    flight: SingleFlight[int] = SingleFlight()

    def inner(depth: int) -> int:
        return depth if depth == 3 else flight.run("key", lambda: inner(depth + 1))

    assert flight.run("key", lambda: inner(0), Deadline.after(5)) == 3

    async def outer() -> int:
        return sum(await asyncio.gather(*(flight.arun("key", lambda: asyncio.sleep(0, 1)) for _ in range(2))))

    assert asyncio.run(asyncio.wait_for(flight.arun("key", outer), 5)) == 2

    def threads() -> int:
        with ThreadPoolExecutor(1) as pool:
            context = contextvars.copy_context()
            return pool.submit(context.run, flight.run, "key", lambda: 7).result(5)

    assert flight.run("key", threads) == 7
    assert flight.stats() == {"made": 9, "shared": 0, "under_way": 0}
    assert _led.get() == frozenset()


@on_both_loops
def test_those_of_a_closed_loop_are_left_behind(loop: str) -> None:
    """A leader among them, when its coroutine is dropped; a follower, when it should take over."""
    flight: SingleFlight[str] = SingleFlight()
    dead = new_loop(loop)
    leader = dead.create_task(flight.arun("key", lambda: asyncio.sleep(60, "never")))
    follower = dead.create_task(flight.arun("key", lambda: asyncio.sleep(60, "never")))
    dead.run_until_complete(asyncio.sleep(0.01))
    with ThreadPoolExecutor(1) as pool:
        mine = pool.submit(flight.run, "key", lambda: "mine", Deadline.after(20))
        until(lambda: len(flight._flights["key"].followers) == 2)
        dead.close()
        for task in (leader, follower):
            task._log_destroy_pending = False  # type: ignore[attr-defined]
        del leader, follower, task
        gc.collect()
        assert mine.result(20) == "mine"
    assert flight.stats()["under_way"] == 0


def test_under_load_each_answer_is_of_a_call_made_meanwhile() -> None:
    flight: SingleFlight[float] = SingleFlight()
    rounds = scaled(100)
    made = 0

    def call() -> float:
        nonlocal made
        made += 1
        begun = time.monotonic()
        time.sleep(0.0005)
        return begun

    async def acall() -> float:
        nonlocal made
        made += 1
        begun = time.monotonic()
        await asyncio.sleep(0.0005)
        return begun

    async def on_loop() -> None:
        for turn in range(rounds):
            tasks = [asyncio.ensure_future(flight.arun("key", acall)) for _ in range(4)]
            if turn % 3 == 0:
                await asyncio.sleep(0)
                tasks[0].cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def work(number: int) -> None:
        if number >= 6:
            asyncio.run(on_loop())
            return
        for _ in range(rounds):
            asked = time.monotonic()
            assert flight.run("key", call, Deadline.after(20)) >= asked - 0.5

    in_threads(work, 8)
    stats = flight.stats()
    assert stats["under_way"] == 0
    assert stats["made"] == made
    assert stats["shared"] > rounds

"""Equal calls that are made at once are made once."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Hashable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from types import TracebackType
from typing import Any, Final, Generic, NamedTuple, TypeVar

from dspex.errors import CallTimeoutError, DspexError, ResourceError
from dspex.protection.deadline import NEVER, Deadline
from dspex.protection.waiting import Backlog, Sleeper, TaskSleeper, ThreadSleeper, forget_in_child

__all__ = ["SingleFlight"]

T = TypeVar("T")
S = TypeVar("S", bound=Sleeper)

#: The flights that this thread or task leads, or one whose context it has: a call must not wait for itself.
_led: Final[ContextVar[frozenset[int]]] = ContextVar("dspex_led", default=frozenset())


class _Flight(Generic[T]):
    """A call under way, and those who wait for what comes of it.

    Attributes:
        followers: who waits, longest first, and until when.
        leader: the follower who has taken over; None: who began it.
        landed: there is an answer, or an error.
    """

    __slots__ = ("answer", "error", "followers", "key", "landed", "leader", "traceback")

    def __init__(self, key: Hashable) -> None:
        self.key = key
        self.followers: OrderedDict[Sleeper, Deadline] = OrderedDict()
        self.leader: Sleeper | None = None
        self.landed = False
        self.answer: T
        self.error: Exception | None = None
        self.traceback: TracebackType | None = None

    def fail(self, error: Exception) -> None:
        """Keeps the error for the followers, as it is now: the leader's callers may write on theirs."""
        self.error, self.traceback = _own_copy(error), error.__traceback__

    def outcome(self) -> T:
        """The answer, or raises the error."""
        if self.error is not None:
            raise _own_copy(self.error).with_traceback(self.traceback)
        return self.answer


class _Leaver(NamedTuple):
    """Leader or follower of a flight who gives up.

    Attributes:
        late: the leader's time was too short: its error, and its deadline. Both hold for whoever has no more.
    """

    flight: _Flight[Any]
    who: Sleeper | None
    late: tuple[Exception, Deadline] | None = None


class SingleFlight(Generic[T]):
    """Of equal calls that come at once, from threads and from tasks of any event loop, one is made.

    Who comes first leads: makes the call. The others follow: they get its answer, the very object, or its
    error, of a DspexError each a copy. When the leader is cancelled, or fails for want of time, the follower
    who has waited longest, of those with more time, makes the call. A call that makes itself again, in a
    thread or task with its context, does not wait for itself.
    """

    def __init__(self) -> None:
        self._made = self._shared = 0
        self._begin()
        forget_in_child(self)

    def _begin(self) -> None:
        self._flights: dict[Hashable, _Flight[T]] = {}
        self._backlog: Backlog[_Leaver] = Backlog(self._leave)

    def _after_fork(self) -> None:
        self._begin()

    def run(
        self, key: Hashable, fn: Callable[[], T], deadline: Deadline = NEVER, program: str | None = None
    ) -> T:
        """What `fn()` returns, called here or by another.

        Raises:
            CallTimeoutError: the deadline passed while another made the call.
            Exception: what `fn` raised, here or there.
        """
        flight, me = self._board(key, ThreadSleeper, deadline)
        if me is not None:
            with self._following(flight, me):
                while not self._over(flight, me, deadline, program):
                    me.sleep(_seconds(deadline))
            if flight.landed:
                return flight.outcome()
        with self._leading(flight, me, deadline):
            flight.answer = fn()
            self._land(flight)
        return flight.answer

    async def arun(
        self,
        key: Hashable,
        fn: Callable[[], Awaitable[T]],
        deadline: Deadline = NEVER,
        program: str | None = None,
    ) -> T:
        """As `run`, without holding up the event loop."""
        flight, me = self._board(key, TaskSleeper, deadline)
        if me is not None:
            with self._following(flight, me):
                while not self._over(flight, me, deadline, program):
                    await me.sleep(_seconds(deadline))
            if flight.landed:
                return flight.outcome()
        with self._leading(flight, me, deadline):
            flight.answer = await fn()
            self._land(flight)
        return flight.answer

    def stats(self) -> dict[str, Any]:
        """Calls made, calls that got what came of another's, and calls under way now; JSON-able."""
        with self._backlog:
            return {"made": self._made, "shared": self._shared, "under_way": len(self._flights)}

    def _board(
        self, key: Hashable, sleeper_of: Callable[[], S], deadline: Deadline
    ) -> tuple[_Flight[T], S | None]:
        """A new flight to lead, and None; or one under way, and oneself as its follower."""
        with self._backlog:
            flight = self._flights.get(key)
            if flight is not None and id(flight) not in _led.get():
                me = sleeper_of()
                flight.followers[me] = deadline
                return flight, me
            self._made += 1
            new: _Flight[T] = _Flight(key)
            return self._flights.setdefault(key, new) if flight is None else new, None

    def _over(self, flight: _Flight[T], me: Sleeper, deadline: Deadline, program: str | None) -> bool:
        """Whether a follower need not wait any more: the flight has landed, or is the follower's to lead."""
        with self._backlog:
            if flight.landed:
                self._shared += 1
                return True
            if flight.leader is me:
                self._made += 1
                return True
        if deadline.expired:
            raise deadline.error(program)
        return False

    @contextmanager
    def _following(self, flight: _Flight[T], me: Sleeper) -> Iterator[None]:
        try:
            yield
        except BaseException:
            self._backlog.put(_Leaver(flight, me))
            raise

    @contextmanager
    def _leading(self, flight: _Flight[T], who: Sleeper | None, deadline: Deadline) -> Iterator[None]:
        token = _led.set(_led.get() | {id(flight)})
        try:
            yield
        except BaseException as error:
            # What is the leader's own is not the followers': they have time left, and are not cancelled.
            if isinstance(error, Exception) and _is_for_want_of_time(error, deadline):
                self._backlog.put(_Leaver(flight, who, (_own_copy(error), deadline)))
            elif isinstance(error, Exception) and not deadline.expired:
                flight.fail(error)
                self._land(flight)
            else:
                self._backlog.put(_Leaver(flight, who))
            raise
        finally:
            with suppress(ValueError):  # a dropped coroutine ends in the context of whoever drops it
                _led.reset(token)

    def _land(self, flight: _Flight[T]) -> None:
        """The answer or the error is there, for everybody."""
        with self._backlog:
            self._landed(flight)

    # With the lock held.

    def _landed(self, flight: _Flight[Any]) -> None:
        flight.landed = True
        self._remove(flight)
        while flight.followers:
            follower, _ = flight.followers.popitem(last=False)
            follower.nudge()

    def _leave(self, leaver: _Leaver) -> None:
        flight, who, late = leaver
        if who is not None:
            flight.followers.pop(who, None)
        if flight.landed or flight.leader is not who:
            return
        for heir, deadline in list(flight.followers.items()):
            if late is None or _is_later(deadline, late[1]):
                del flight.followers[heir]
                flight.leader = heir
                if heir.nudge():
                    return
        if late is not None:
            flight.fail(late[0])
            self._landed(flight)
        self._remove(flight)

    def _remove(self, flight: _Flight[Any]) -> None:
        if self._flights.get(flight.key) is flight:
            del self._flights[flight.key]


def _seconds(deadline: Deadline) -> float:
    left = deadline.left()
    return math.inf if left is None else left


def _is_later(deadline: Deadline, other: Deadline) -> bool:
    return other._at is not None and (deadline._at is None or deadline._at > other._at)


def _is_for_want_of_time(error: Exception, deadline: Deadline) -> bool:
    """Whether a call with this deadline failed because of it: the error may come well before it passes."""
    if deadline._at is None:
        return False
    return isinstance(error, CallTimeoutError) or (
        isinstance(error, ResourceError) and getattr(error, "_by_deadline", False)
    )


def _own_copy(error: Exception) -> Exception:
    """A DspexError once more: callers write on theirs what it is about. Others as they are."""
    if not isinstance(error, DspexError):
        return error
    copy = type(error).__new__(type(error))  # a subclass of somebody else's may want other arguments
    copy.args = error.args
    copy.__dict__.update(error.__dict__)
    if notes := getattr(error, "__notes__", None):
        copy.__notes__ = list(notes)
    copy.__traceback__, copy.__context__ = error.__traceback__, error.__context__
    copy.__cause__, copy.__suppress_context__ = error.__cause__, error.__suppress_context__
    return copy

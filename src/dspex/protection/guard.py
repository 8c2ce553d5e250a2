"""What stands before one language model: its breaker, its limits, and the queue of those who wait for a turn.

One lock guards the counters and the queue, and no caller's code runs under it. A turn is handed to whoever is
first in one step: nobody comes in between, and nobody has to wake up before the next turn can be handed out.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, TypeVar

from dspex.errors import DspexError, LMError, ResourceError
from dspex.protection.breaker import Breaker
from dspex.protection.deadline import Deadline
from dspex.protection.limits import Limits
from dspex.protection.permit import Permit
from dspex.protection.waiting import Backlog, Sleeper, TaskSleeper, ThreadSleeper, forget_in_child

if TYPE_CHECKING:
    from dspex.config import BreakerSettings, LimitSettings

__all__ = ["LMGuard"]

S = TypeVar("S", bound=Sleeper)
_SHUT: Final = -1  # no epoch: nobody is let in without the lock


class _Turn:
    """Somebody's place in the queue.

    Attributes:
        expires: when it is given up; `by_deadline`: because of the call's deadline, or else of max_wait.
        look_at: when its owner wakes up by itself.
        permit: its turn has come.
        refused: the circuit has opened.
    """

    __slots__ = ("by_deadline", "expires", "look_at", "permit", "refused", "sleeper")

    def __init__(self, sleeper: Sleeper, expires: float, by_deadline: bool, look_at: float) -> None:
        self.sleeper = sleeper
        self.expires = expires
        self.by_deadline = by_deadline
        self.look_at = look_at
        self.permit: Permit | None = None
        self.refused = False


class LMGuard:
    """Lets requests to one LM through: the breaker first, then turns by its limits, first come, first served.

    Threads and tasks on any number of event loops wait in one queue. A turn that cannot come in time, as far
    as can be seen, is refused at once, and so are all who wait when the circuit opens.

    Args:
        name: the LM's, for errors.
        clock: seconds that never run backwards.
    """

    def __init__(
        self,
        name: str,
        limits: LimitSettings,
        breaker: BreakerSettings,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.name = name
        self._clock = clock
        self._settings = limits
        self._breaker = Breaker(breaker) if breaker.enabled else None
        self._succeeded = self._failed = self._cancelled = 0
        self._refused = {"circuit": 0, "turn": 0, "deadline": 0}
        self._last_failure = ""
        self._begin()
        forget_in_child(self)

    def _begin(self) -> None:
        """Nobody is here yet."""
        given = self._settings
        limits = (given.requests_per_minute, given.tokens_per_minute, given.concurrency)
        limited = any(limit is not None for limit in limits)
        self._limits = Limits(given, self._clock()) if limited else None
        self._queue: OrderedDict[_Turn, None] = OrderedDict()
        self._backlog: Backlog[Permit | _Turn] = Backlog(self._leave)
        self._lock, self._left = self._backlog.lock, self._backlog.items  # at hand for what is fast
        self._open_way()

    def _after_fork(self) -> None:
        if self._breaker is not None:
            self._breaker.let_go()
        self._begin()

    def admit(self, deadline: Deadline, program: str | None = None) -> Permit:
        """Leave to send a request; waits for its turn.

        Raises:
            LMError: the circuit is open; `retry_after` says when a probe may go.
            ResourceError: no turn within `max_wait`, or before the deadline, as far as can be seen.
            CallTimeoutError: the deadline passed.
        """
        epoch = self._through
        if epoch != _SHUT and (deadline._at is None or not deadline.expired):
            return Permit(self, epoch)
        entered = self._enter(ThreadSleeper, deadline, program)
        if isinstance(entered, Permit):
            return entered
        turn, sleeper = entered
        try:
            while turn.permit is None:
                sleeper.sleep(turn.look_at - self._clock())
                self._look(turn, deadline, program)
            return turn.permit
        except BaseException:
            self._backlog.put(turn)
            raise

    async def aadmit(self, deadline: Deadline, program: str | None = None) -> Permit:
        """As `admit`, without holding up the event loop. Cancelling the task gives its turn to the next."""
        epoch = self._through
        if epoch != _SHUT and (deadline._at is None or not deadline.expired):
            return Permit(self, epoch)
        entered = self._enter(TaskSleeper, deadline, program)
        if isinstance(entered, Permit):
            return entered
        turn, sleeper = entered
        try:
            while turn.permit is None:
                await sleeper.sleep(turn.look_at - self._clock())
                self._look(turn, deadline, program)
            return turn.permit
        except BaseException:
            self._backlog.put(turn)
            raise

    @property
    def limited(self) -> bool:
        """Whether requests may have to wait for a turn."""
        return self._limits is not None

    def peek(self) -> DspexError | None:
        """What `admit` would raise at once, or None: a request would be let in, or wait. Changes nothing."""
        if self._through != _SHUT:
            return None
        now = self._clock()
        with self._backlog:
            return self._refusal(now, None, None)

    def stats(self) -> dict[str, Any]:
        """Requests by how they ended, refusals by reason, and how it stands now; JSON-able."""
        breaker = self._breaker
        with self._backlog:
            return {
                "succeeded": self._succeeded,
                "failed": self._failed,
                "cancelled": self._cancelled,
                "refused": dict(self._refused),
                "waiting": len(self._queue),
                "under_way": None if self._limits is None else self._limits.under_way,
                "circuit": "off" if breaker is None else breaker.state,
                "opened": 0 if breaker is None else breaker.opened,
                "last_failure": self._last_failure or None,
            }

    def _enter(
        self, sleeper_of: Callable[[], S], deadline: Deadline, program: str | None
    ) -> Permit | tuple[_Turn, S]:
        """Lets in, refuses, or puts into the queue."""
        left = deadline.left()
        with self._backlog:
            now = self._clock()
            entered = self._entered(sleeper_of, now, left, deadline, program)
        if isinstance(entered, DspexError):
            raise entered
        return entered

    def _look(self, turn: _Turn, deadline: Deadline, program: str | None) -> None:
        """By one who waited and woke up. Raises when it has waited in vain."""
        error: DspexError | None = None
        with self._backlog:
            now = self._clock()
            if turn.permit is None and not turn.refused:
                turn.look_at = turn.expires
                self._hand_out(now, awake=turn)
            if turn.refused:
                error = self._circuit_error(now, program)
            elif turn.permit is None and now >= turn.expires:
                error = self._too_late(turn, now, deadline, program)
        if error is not None:
            raise error

    # From here on the lock is held.

    def _entered(
        self,
        sleeper_of: Callable[[], S],
        now: float,
        left: float | None,
        deadline: Deadline,
        program: str | None,
    ) -> Permit | tuple[_Turn, S] | DspexError:
        if left == 0:
            self._refused["deadline"] += 1
            return deadline.error(program, f"the wait for LM {self.name!r}")
        self._hand_out(now)  # those who came before
        error = self._refusal(now, left, program)
        if error is not None:
            self._refused["circuit" if isinstance(error, LMError) else "turn"] += 1
            return error
        limits = self._limits
        if limits is None or (not self._queue and limits.room(now)):
            return self._let_in(now)
        wait, longest = limits.wait(now, len(self._queue) + 1), self._longest_wait(left)
        sleeper = sleeper_of()
        expires = now + longest
        turn = _Turn(sleeper, expires, longest == left, min(now + wait, expires) if wait > 0 else expires)
        self._queue[turn] = None
        return turn, sleeper

    def _refusal(self, now: float, left: float | None, program: str | None) -> DspexError | None:
        """Why nobody more is let in, now or in time."""
        if self._breaker is not None and self._breaker.refused_for(now) > 0:
            return self._circuit_error(now, program)
        limits = self._limits
        if limits is None or (not self._queue and limits.room(now)):
            return None
        longest = self._longest_wait(left)
        if 0 < longest >= limits.wait(now, len(self._queue) + 1):
            return None
        return self._no_turn(now, longest, longest == left, program)

    def _longest_wait(self, left: float | None) -> float:
        longest = self._settings.max_wait
        return longest if left is None else min(longest, left)

    def _let_in(self, now: float) -> Permit:
        epoch = 0 if self._breaker is None else self._breaker.admit(now)
        if self._limits is None:
            return Permit(self, epoch)
        return Permit(self, epoch, self._limits, now, self._limits.start(now))

    def _hand_out(self, now: float, awake: _Turn | None = None) -> None:
        """Gives turns to those who are first, while there are any, and sees to it that the next one looks
        again in time. `awake` is up already.
        """
        limits, queue = self._limits, self._queue
        if limits is None:
            return
        while queue:
            first = next(iter(queue))
            if self._breaker is not None and self._breaker.refused_for(now) > 0:
                self._refuse_all()
            elif now >= first.expires:  # it sees that by itself
                del queue[first]
            elif limits.room(now):
                del queue[first]
                first.permit = self._let_in(now)
                if first is not awake and not first.sleeper.nudge():
                    self._take_back(first.permit, now)
            elif self._keep_time(first, now, limits.wait(now), awake):
                break

    def _keep_time(self, first: _Turn, now: float, wait: float, awake: _Turn | None) -> bool:
        """Has the first in the queue look again when the buckets will have filled. False: nobody is there."""
        look_at = min(now + wait, first.expires) if wait > 0 else first.expires
        sooner = look_at < first.look_at
        first.look_at = look_at
        if sooner and first is not awake and not first.sleeper.nudge():
            del self._queue[first]
            return False
        return True

    def _refuse_all(self) -> None:
        """The circuit is open: nobody waits for it."""
        while self._queue:
            turn, _ = self._queue.popitem(last=False)
            turn.refused = True
            self._refused["circuit"] += 1
            turn.sleeper.nudge()

    def _take_back(self, permit: Permit, now: float) -> None:
        """What was let in is never sent."""
        permit._ended = True
        if self._breaker is not None:
            self._breaker.ended(permit._epoch)
        if permit._limits is not None:
            permit._limits.undo(now, permit._expected)

    def _leave(self, item: Permit | _Turn) -> None:
        """A request is given up, under way or in the queue, where its place or its turn goes to the next."""
        now = self._clock()
        if isinstance(item, _Turn):
            self._queue.pop(item, None)
            if item.permit is not None and not item.permit._ended:
                self._take_back(item.permit, now)
            self._hand_out(now)
        elif not item._ended:
            item._ended = True
            self._cancelled += 1
            if self._breaker is not None:
                self._breaker.ended(item._epoch)
            self._free(item, now, None)

    def _free(self, permit: Permit, now: float, tokens: float | None) -> None:
        """A request has ended, or the circuit has changed."""
        if permit._limits is not None:
            permit._limits.end(now, permit._since, permit._expected, tokens)
        self._open_way()
        self._hand_out(now)

    def _open_way(self) -> None:
        """Lets requests in without a look under the lock, or stops that."""
        epoch, state = (0, "closed") if self._breaker is None else (self._breaker.epoch, self._breaker.state)
        self._through = epoch if self._limits is None and state == "closed" else _SHUT

    def _circuit_error(self, now: float, program: str | None) -> LMError:
        seconds = 0.0 if self._breaker is None else self._breaker.refused_for(now)
        return LMError(
            f"LM {self.name!r} kept failing, at last with {self._last_failure}: "
            f"it is left alone for {seconds:.3g} s",
            program=program,
            hint="Try again then, or give the LM fallbacks",
            retryable=True,
            retry_after=seconds,
        )

    def _no_turn(self, now: float, longest: float, by_deadline: bool, program: str | None) -> ResourceError:
        limits = self._limits
        assert limits is not None
        bound = "before the deadline, in" if by_deadline else "within"
        error = ResourceError(
            f"LM {self.name!r} has no turn {bound} {longest:.3g} s: "
            f"{limits.under_way} requests are under way and {len(self._queue)} wait",
            program=program,
            hint="Try again later, or raise the LM's limits",
            retry_after=limits.likely_wait(now, len(self._queue) + 1),
        )
        if by_deadline:
            error.__dict__["_by_deadline"] = True  # for SingleFlight: others may have more time
        return error

    def _too_late(self, turn: _Turn, now: float, deadline: Deadline, program: str | None) -> DspexError:
        self._queue.pop(turn, None)
        self._refused["deadline" if turn.by_deadline else "turn"] += 1
        if turn.by_deadline:
            return deadline.error(program, f"the wait for LM {self.name!r}")
        return self._no_turn(now, self._settings.max_wait, False, program)

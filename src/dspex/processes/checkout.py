"""How a call comes by a worker: at once, after waiting, or not at all."""

from __future__ import annotations

from dspex.errors import DspexError, InputError, PoolSaturated
from dspex.processes.fleet import Fleet
from dspex.processes.member import Member
from dspex.processes.waiters import TaskWaiter, ThreadWaiter, Waiter
from dspex.protection.deadline import Deadline

__all__ = ["Checkout"]


class Checkout:
    """Waits in the line of a fleet's desk; what it gives out is handed back to the fleet."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        self._desk = fleet.desk
        self._capacity = fleet.settings.capacity
        self._max_wait = fleet.settings.max_wait

    def take(self, session: str | None, deadline: Deadline, program: str | None, again: bool) -> Member:
        """A worker for a call; `again` when the call was taken before, and its worker had died.

        Raises:
            CallTimeoutError, PoolSaturated, CommunicationError, ResourceError: as `ProcessPool.call`.
        """
        member = self._at_once(session, program, again)
        if member is None:
            waiter = ThreadWaiter(session)
            member = self._line_up(waiter, program, again)
        if member is None:
            try:
                waiter.wait(self._patience(deadline))
            except BaseException:
                self._give_up(waiter)
                raise
            member = self._given(waiter, deadline, program)
        return member

    async def atake(
        self, session: str | None, deadline: Deadline, program: str | None, again: bool
    ) -> Member:
        """`take`, in a task."""
        member = self._at_once(session, program, again)
        if member is None:
            waiter = TaskWaiter(session)
            member = self._line_up(waiter, program, again)
        if member is None:
            try:
                await waiter.wait(self._patience(deadline))
            except BaseException:  # cancelled, or the loop was closed
                self._give_up(waiter)
                raise
            member = self._given(waiter, deadline, program)
        return member

    def refusal(self, program: str | None = None, again: bool = False) -> DspexError | None:
        """What a call would raise at once; None: it would be taken."""
        fleet, desk = self._fleet, self._desk
        if fleet.closing or (fleet.draining and not again):
            return fleet.closed_error()
        hopeless = fleet.hopeless(program)
        if hopeless is None and not desk.idle and desk.waiting >= self._capacity:
            return self._saturated(program)
        return hopeless

    def _at_once(self, session: str | None, program: str | None, again: bool) -> Member | None:
        if session is not None and not isinstance(session, str):
            kind = type(session).__name__
            raise InputError(f"a session is a string, not {kind}", field="session", program=program)
        fleet = self._fleet
        with fleet.lock:
            if fleet.closing or (fleet.draining and not again):
                raise fleet.closed_error()
            return self._desk.take(session)

    def _line_up(self, waiter: Waiter, program: str | None, again: bool) -> Member | None:
        """A place in the line; or a worker that has become free meanwhile."""
        fleet, desk = self._fleet, self._desk
        with fleet.lock:
            member = desk.take(waiter.session)
            if member is not None:
                return member
            refusal = self.refusal(program, again)
            if refusal is None and desk.waiting >= self._capacity:
                refusal = self._saturated(program)  # its session's worker is busy, though others are idle
            if refusal is not None:
                fleet.counts["saturated"] += isinstance(refusal, PoolSaturated)
                raise refusal
            desk.line_up(waiter)
            fleet.grow()
            return None

    def _patience(self, deadline: Deadline) -> float:
        left = deadline.left()
        return self._max_wait if left is None else left

    def _given(self, waiter: Waiter, deadline: Deadline, program: str | None) -> Member:
        """What a call got that has waited."""
        fleet = self._fleet
        with fleet.lock:
            saturated = self._desk.withdraw(waiter) and deadline.seconds is None
            fleet.counts["saturated"] += saturated
        if waiter.member is not None:
            return waiter.member
        if waiter.error is not None:
            if isinstance(waiter.error, DspexError):
                waiter.error.program = program
            raise waiter.error
        if saturated:
            raise self._saturated(program, f"no worker was free within {self._max_wait:g} s")
        raise deadline.error(program, "waiting for a worker")

    def _give_up(self, waiter: Waiter) -> None:
        with self._fleet.lock:
            self._desk.withdraw(waiter)
        if waiter.member is not None:
            self._fleet.hand_back(waiter.member)

    def _saturated(self, program: str | None, what: str | None = None) -> PoolSaturated:
        waiting, workers = self._desk.waiting, max(1, len(self._fleet.members))
        return PoolSaturated(
            what or f"{waiting} calls wait for a worker already",
            program=program,
            retry_after=max(0.001, self._fleet.mean) * (waiting + 1) / workers,
            hint="Try again later, or give the pool more workers",
        )

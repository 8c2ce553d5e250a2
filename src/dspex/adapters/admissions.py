"""What worker processes may ask of LMs: the parent lets each request in and hears how it ended.

A call never holds a place at an LM while it waits for a worker: calls in workers would wait for that place,
and it for them. So where there are places to wait for, a request asks when it is about to be sent.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterable, Mapping
from typing import Any

from dspex.config import BreakerSettings, LimitSettings
from dspex.errors import CallTimeoutError, DspexError, LMError, ProgramError
from dspex.processes import Later
from dspex.protection import Budget, Deadline, LMGuard, Permit

__all__ = ["Admission", "Admissions"]


class Admission:
    """One call that is under way in a worker.

    Args:
        number: under which the worker speaks of it.
        program: the program's id.
        budget: the program's.
        guards: of its LM and those it falls back to, in order, by name.
        guards_of_code: of LMs that the program's own code makes; they are added here when first asked.
        description: what the program can be made from.

    Attributes:
        prepaid: permits for first requests, by LM, as their numbers.
        abandoned: nobody waits for the call any more: it may send no more requests.
    """

    def __init__(
        self,
        number: int,
        program: str,
        budget: Budget | None,
        guards: Mapping[str, LMGuard],
        guards_of_code: dict[str, LMGuard],
        description: Any,
    ) -> None:
        self.number = number
        self.program = program
        self.description = description
        self.prepaid: dict[str, int] = {}
        self.abandoned = False
        self._budget = budget
        self._guards = guards
        self._guards_of_code = guards_of_code
        self._permits: dict[int, Permit] = {}
        self._places: set[int] = set()  # permits that others may wait for
        self._numbers = itertools.count(1)  # its next() is atomic
        self._over = False

    @property
    def holds_place(self) -> bool:
        """Whether others may have to wait for a request of this call to end."""
        return bool(self._places)

    def open(self, deadline: Deadline) -> None:
        """Sees that one of its LMs would be asked now, and lets a request to it in if nobody has to wait.

        Raises:
            DspexError: none would, or the budget is used up.
        """
        self.check_budget()
        refusal: DspexError | None = None
        for name, guard in self._guards.items():
            try:
                if not guard.limited:
                    self.prepaid[name] = self._admitted(guard, deadline)
                elif (found := guard.peek()) is not None:
                    raise found
                return
            except CallTimeoutError:
                raise
            except DspexError as error:
                refusal = refusal or error
        if refusal is not None:
            refusal.program = self.program
            raise refusal

    def admit(self, lm: str, left: float | None) -> Any:
        """Lets a request in: its permit's number, which takes waiting where the LM has limits.

        Raises:
            DspexError: it is not let in.
        """
        self.check_budget()
        guard, deadline = self._guard(lm), Deadline.after(left)
        if guard.limited:
            # Another thread waits: this one has to hear how the call's other requests end.
            return Later(lambda: self._admitted(guard, deadline))
        return self._admitted(guard, deadline)

    def peek(self, lm: str) -> None:
        """Nothing, while the LM would be asked.

        Raises:
            DspexError: it would not.
        """
        refusal = self._guard(lm).peek()
        if refusal is not None:
            raise refusal

    def hear(self, told: Iterable[tuple[str, dict[str, Any]]]) -> None:
        """Takes in what its worker tells, in order: an operation and its keywords."""
        for op, what in told:
            (self._ended if op == "ended" else self._charge)(**what)

    def _ended(self, permit: int, ok: bool | None, tokens: int | None = None, what: str = "") -> None:
        """A request has ended: well, badly, or in a way that says nothing about the LM (None). `what` is the
        name of an error that speaks against the LM.
        """
        self._places.discard(permit)
        found = self._permits.pop(permit, None)
        if found is None:
            return
        if ok is None:
            found.cancelled()
        elif ok:
            found.succeeded(tokens)
        else:
            found.failed(_failure(what), counts=bool(what))

    def _charge(self, tokens: int | None, usd: float | None) -> None:
        if self._budget is not None:
            self._budget.charge(tokens, usd)

    def check_budget(self) -> None:
        """Raises ResourceError when the program's budget is used up."""
        if self._budget is not None:
            self._budget.check(self.program)

    def end(self) -> None:
        """Takes back what the worker has not ended."""
        self._over = True
        while self._permits:
            self._permits.popitem()[1].cancelled()

    def _guard(self, lm: str) -> LMGuard:
        found = self._guards.get(lm) or self._guards_of_code.get(lm)
        if found is None:
            made = LMGuard(lm, LimitSettings(), BreakerSettings())
            found = self._guards_of_code.setdefault(lm, made)
        return found

    def _admitted(self, guard: LMGuard, deadline: Deadline) -> int:
        """The number of a new permit."""
        permit, number = guard.admit(deadline, self.program), next(self._numbers)
        if guard.limited:
            self._places.add(number)
        self._permits[number] = permit
        if self._over:  # by the time its turn came
            self.end()
        return number


class Admissions:
    """The parent's side of limits, breakers and budgets. Threads of calls use it at the same time."""

    def __init__(self) -> None:
        self._calls: dict[int, Admission] = {}
        self._numbers = itertools.count(1)

    def begin(
        self,
        program: str,
        budget: Budget | None,
        guards: Mapping[str, LMGuard],
        guards_of_code: dict[str, LMGuard],
        description: Any,
        deadline: Deadline,
    ) -> Admission:
        """Lets a call in. It has to be handed to `end`.

        Args:
            program, budget, guards, guards_of_code, description: see `Admission`.

        Raises:
            DspexError: its first request would be refused.
        """
        number = next(self._numbers)
        call = Admission(number, program, budget, guards, guards_of_code, description)
        call.open(deadline)
        self._calls[call.number] = call
        return call

    def end(self, call: Admission) -> None:
        """The call is over: what its worker has not ended is taken back."""
        self._calls.pop(call.number, None)
        call.end()

    def asked(self, op: str, payload: Any) -> Any:
        """Answers what a worker asks during a call.

        Raises:
            DspexError: the answer is no.
        """
        call = self._calls.get(payload["call"])
        if call is None or call.abandoned:
            raise ProgramError("nobody waits for the call any more")
        if op == "admit":
            return call.admit(payload["lm"], payload["left"])
        if op == "peek":
            return call.peek(payload["lm"])
        if op == "program":
            return call.description
        raise ProgramError(f"a worker asked {op!r}, which nobody knows", program=call.program)

    def told(self, op: str, payload: Any) -> None:
        """Hears what a worker tells during a call."""
        call = self._calls.get(payload["call"])
        if call is not None:
            call.hear([(op, payload["what"])])


@functools.lru_cache(maxsize=64)
def _failure(name: str) -> LMError:
    """An error with the name of the one that came in the worker, which guards tell."""
    cls: type[LMError] = type(name or "LMError", (LMError,), {})
    return cls("a request of a worker failed")

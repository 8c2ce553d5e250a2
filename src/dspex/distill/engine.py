"""What becomes of one call: the native answer, or the teacher's, and what is kept of either."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from dspex.checks import check_inputs, check_outputs
from dspex.distill.agreement import imported
from dspex.distill.auditor import Auditor
from dspex.distill.coins import CALIBRATE, NATIVE, SAMPLE
from dspex.distill.guarded import slice_unknown
from dspex.distill.hooks import log
from dspex.distill.keeper import Keeper
from dspex.distill.plan import Plan
from dspex.distill.redacted import Withheld, of_redacted
from dspex.distill.settings import DistillSettings
from dspex.distill.store import Audit, Event, Store
from dspex.distill.tally import Costs
from dspex.distill.teacher import Teacher
from dspex.distill.trace import Answer, Role, Trace
from dspex.errors import InputError, ModelFileError, ProgramError, ResourceError
from dspex.result import Result, Route
from dspex.routing.gate import is_beyond_native

__all__ = ["Engine", "Way"]

_FAILING = 20  # audits in a row, from which on it is an event
#: Of rows that the teacher answered whatever the gate said; see `_source` for the other stages.
_SOURCES = {"teacher": "teacher", "shadow": "shadow"}
_BY_TEACHER = {"teacher": "no version is in service", "shadow": "version {0} is in shadow"}


@dataclass(frozen=True, slots=True)
class Way:
    """How one call goes.

    Attributes:
        inputs: as given; checked, where the teacher answers.
        result: the native answer, if there is one.
        stands: whether the gate lets it through.
        serves: whether it is the reply.
        calibrates: whether the call's row is one of the sample that certifies.
        placed: whether a place at the auditor is taken for it.
        reason: why the teacher is asked.
    """

    inputs: Mapping[str, Any]
    result: Result | None
    stands: bool
    serves: bool
    calibrates: bool
    placed: bool
    reason: str = ""


class Engine:
    """Calls of a live program. See `LiveProgram`; `Keeper` holds the plan that they follow.

    A coin that falls on "calibrate" has the teacher asked whatever the gate says. A native reply is then
    compared by the auditor, which has room for some only. So the place is taken before the gate is looked at:
    without one, the call is no calibrate row either way, and the sample stays one of all calls.
    """

    def __init__(
        self,
        store: Store,
        teacher: Teacher | None,
        settings: DistillSettings,
        keeper: Keeper,
        auditor: Auditor,
        costs: Costs,
        clock: Callable[[], float],
    ) -> None:
        self.auditor, self.keeper, self.costs = auditor, keeper, costs
        self._store, self._teacher, self._clock = store, teacher, clock
        self._signature = store.signature
        self._cost = of_redacted(store, imported(settings.guarantee.costs, "guarantee.costs"))
        self._random = random.Random()
        self._failing = 0  # audits in a row
        self._told = False  # of these
        self.closed = False

    # The ways of a call

    def answer(
        self, plan: Plan, inputs: Mapping[str, Any], result: Result | None = None, coin: int | None = None
    ) -> Result:
        """One call; what has been done of it already comes along."""
        way = self.way(plan, inputs, result, coin)
        return self.served(plan, way) if way.serves else self.asked(plan, way)

    def asked(self, plan: Plan, way: Way) -> Result:
        """The teacher's reply."""
        teacher, started = self._asking(plan, way), time.perf_counter()
        try:
            answer = teacher.ask(way.inputs)
        except BaseException:
            self._failed(plan, way)
            raise
        return self.taught(plan, way, answer, time.perf_counter() - started)

    async def aanswer(
        self, plan: Plan, inputs: Mapping[str, Any], result: Result | None = None, coin: int | None = None
    ) -> Result:
        """The same as a task. An answer that has come is stored even if the task is cancelled meanwhile."""
        way = self.way(plan, inputs, result, coin)
        if way.serves:
            return self.served(plan, way)
        teacher, started = self._asking(plan, way), time.perf_counter()
        try:
            answer = await teacher.aask(way.inputs)
        except BaseException:
            self._failed(plan, way)
            raise
        seconds = time.perf_counter() - started
        return await asyncio.shield(asyncio.to_thread(self.taught, plan, way, answer, seconds))

    async def aanswer_long(self, plan: Plan, inputs: Mapping[str, Any]) -> Result:
        """The same for inputs that take the native program a while."""
        assert plan.native is not None
        try:
            result = await asyncio.to_thread(plan.native, inputs)
        except InputError:
            result = None
        return await self.aanswer(plan, inputs, result)

    def way(self, plan: Plan, inputs: Mapping[str, Any], result: Result | None, coin: int | None) -> Way:
        """Decides how a call goes.

        Raises:
            InputError: the inputs do not fit the signature.
            ProgramError: the program is closed.
        """
        stage, reason = plan.state.stage, ""
        if self.closed:
            raise ProgramError("the live program is closed", hint="Make another one over the store")
        if plan.native is not None and result is None:
            try:
                result = plan.native(inputs)
            except InputError as error:
                if not isinstance(error, Withheld) and not is_beyond_native(self._signature, inputs):
                    raise
                reason = error.message
        stands = False
        if result is not None:
            try:
                stands = self._stands(plan, result, inputs)
            except Exception as error:  # the user's `slices`
                reason = slice_unknown(error)
        checked = inputs if stands else check_inputs(self._signature, inputs)
        coin = plan.coins.next() if coin is None else coin
        if coin & SAMPLE and result is not None:
            plan.samples.append(result)
        serves = stands and (stage == "live" or bool(stage == "canary" and coin & NATIVE))
        calibrates, placed = self._placed(plan, coin)
        return Way(
            checked, result, stands, serves, calibrates, placed,
            "" if serves else reason or self._why(plan, result, stands),
        )  # fmt: skip

    def _placed(self, plan: Plan, coin: int) -> tuple[bool, bool]:
        """Whether the call is a calibrate row, and whether a place at the auditor is taken for it."""
        if not coin & CALIBRATE or self._teacher is None:
            return False, False
        if plan.state.stage not in ("canary", "live"):
            return True, False
        placed = self.auditor.reserve()
        if not placed:
            plan.tally.note(unplaced=1)
        return placed, placed

    def served(self, plan: Plan, way: Way) -> Result:
        """The native reply; its audit is left to the auditor."""
        assert way.result is not None
        if way.placed:
            later = getattr(self._teacher, "later", None)  # now: the caller's context ends with the call
            teacher = self._teacher if later is None else later()
            self.auditor.add(lambda: self._audit(plan, way, teacher))
        return way.result

    def taught(self, plan: Plan, way: Way, answer: Answer, seconds: float) -> Result:
        """Stores what the teacher said, and makes the reply of it.

        Raises:
            LMError: the teacher's outputs do not fit the signature.
        """
        try:
            answer = self._checked(answer, seconds)
            self._spent(plan, answer)
            number = self._stored(plan, way, answer, _source(plan, way))
        except BaseException:
            self._failed(plan, way)
            raise
        self._compared_later(plan, way, answer, number)
        usage = {"usd": answer.usd, "tokens": answer.tokens, "seconds": answer.seconds}
        return Result(
            answer.outputs, route=Route("dspy", reason=way.reason), probabilities=answer.soft, usage=usage
        )

    # Deciding

    def _stands(self, plan: Plan, result: Result, inputs: Mapping[str, Any]) -> bool:
        assert plan.guarded is not None
        return plan.guarded.stands(result, inputs)

    def _why(self, plan: Plan, result: Result | None, stands: bool) -> str:
        stage = plan.state.stage
        if stage in _BY_TEACHER:
            return _BY_TEACHER[stage].format(plan.state.version)
        if stands:
            return f"version {plan.state.version} is in canary, and answers a share only"
        score = None if result is None else result.gate_score
        return f"the gate's score of {score:.3f} is too low" if score is not None else "there is no score"

    def _asking(self, plan: Plan, way: Way) -> Teacher:
        plan.tally.note(asked=1, deferred=plan.native is not None and not way.stands)
        if self._teacher is None:
            self._failed(plan, way)
            raise ProgramError(
                f"the teacher is needed ({way.reason}), and there is none",
                hint="Give a teacher, or catch this where a missing answer will do",
            )
        return self._teacher

    def _failed(self, plan: Plan, way: Way) -> None:
        plan.tally.note(failed=1)
        if way.placed:
            self.auditor.release()

    # Keeping

    def _checked(self, answer: Answer, seconds: float) -> Answer:
        known = {name: answer.outputs[name] for name in self._signature.outputs if name in answer.outputs}
        outputs = {**answer.outputs, **check_outputs(self._signature, known)}
        return replace(answer, outputs=outputs, seconds=seconds if answer.seconds is None else answer.seconds)

    def _spent(self, plan: Plan, answer: Answer) -> None:
        self.costs.add(answer.usd, answer.seconds)
        plan.tally.note(usd=answer.usd or 0.0, tokens=answer.tokens or 0, seconds=answer.seconds or 0.0)

    def _stored(self, plan: Plan, way: Way, answer: Answer, source: str) -> int | None:
        """The number of the stored row; None where `redact` dropped it, or it could not be stored.

        A full disk is no reason to withhold an answer that has been paid for: it is logged and counted.
        """
        role: Role = "calibrate" if way.calibrates else "fit"
        trace = Trace(way.inputs, answer, role, source, self._clock())
        try:
            try:
                return self._store.add([trace])[0]
            except InputError:  # a further output that cannot be stored
                known = {name: answer.outputs[name] for name in self._signature.outputs}
                return self._store.add([replace(trace, answer=replace(answer, outputs=known))])[0]
        except (ResourceError, ModelFileError) as error:
            plan.tally.note(unstored=1)
            log.error("an answer of the teacher could not be stored: %s", error)
            return None

    def _compared_later(self, plan: Plan, way: Way, answer: Answer, number: int | None) -> None:
        if not way.stands:
            if way.placed:
                self.auditor.release()
            return
        if way.placed:
            self.auditor.add(lambda: self._compare(plan, way, answer, number))
        elif not self.auditor.offer(lambda: self._compare(plan, way, answer, number)):
            plan.tally.note(uncompared=1)

    # In the background

    def _audit(self, plan: Plan, way: Way, teacher: Teacher | None) -> None:
        """Asks the teacher about a native answer that has gone out."""
        assert teacher is not None
        try:
            inputs, started = check_inputs(self._signature, way.inputs), time.perf_counter()
            answer = self._checked(teacher.ask(inputs), time.perf_counter() - started)
            self._spent(plan, answer)
            number = self._stored(plan, replace(way, inputs=inputs), answer, "audit")
            plan.tally.note(audited=1)
            self._compare(plan, way, answer, number)
        except Exception as error:
            self._audit_failed(plan, error)
        else:
            self._failing, self._told = 0, False

    def _audit_failed(self, plan: Plan, error: Exception) -> None:
        """Counts it; where audits fail one after the other nobody watches, and that is told once."""
        plan.tally.note(audit_errors=1)
        log.warning("an audit failed: %s: %s", type(error).__name__, error)
        self._failing += 1
        if self._failing >= _FAILING and not self._told:
            reason = f"{_FAILING} audits in a row failed, the last with {type(error).__name__}: {error}"
            self._store.record(Event(self._clock(), "audits fail", "watch", reason))
            self._told = True

    def _compare(self, plan: Plan, way: Way, answer: Answer, number: int | None) -> None:
        result, version = way.result, plan.state.version
        assert result is not None
        assert version is not None
        assert plan.agreement is not None
        native = result.to_dict()
        wrong = bool(plan.agreement.wrong(native, answer.outputs))
        if wrong and self._cost is not None:
            # Weighted errors: wrong with a chance of the cost, so that what is watched is the mean cost.
            wrong = self._random.random() < self._cost(way.inputs, native, answer.outputs)
        outputs = {name: answer.outputs[name] for name in native}
        audit = Audit(
            self._clock(), version, plan.state.stage, result.gate_score, native, outputs, wrong, number
        )  # fmt: skip
        self._store.add_audits([audit])
        plan.tally.note(compared=1, disagreed=wrong)
        self.keeper.look()


def _source(plan: Plan, way: Way) -> str:
    """Of a row that the teacher answered in a call.

    Where the gate has a say, those that it does not let through are the hard ones. Those that it does are the
    easy ones; in canary the teacher answers some of them.
    """
    return _SOURCES.get(plan.state.stage) or ("canary" if way.stands else "deferred")

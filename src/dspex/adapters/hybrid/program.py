"""A program of the hybrid adapter: decided when it is created, so that the native path decides nothing."""

from __future__ import annotations

import itertools
import math
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from dspex.adapters.hybrid.backends import Backends
from dspex.adapters.hybrid.batch import run_batch
from dspex.adapters.hybrid.flow import adrive, answered, astream, crowded, drive, refused, rerouted, unsure
from dspex.adapters.hybrid.sides import Sides, obstacle_of
from dspex.adapters.hybrid.tally import Tally
from dspex.adapters.local import Runner, _keywords
from dspex.adapters.native import native_obstacle
from dspex.errors import DspexError, InputError, PoolSaturated, ProgramError, SignatureError
from dspex.program import Program
from dspex.result import Result, Route
from dspex.routing import (
    OPERATIONS,
    Bar,
    Decision,
    Facts,
    Gate,
    Look,
    Means,
    Policy,
    Race,
    Routed,
    Router,
    standing,
)
from dspex.routing.gate import is_beyond_native
from dspex.signature import Signature
from dspex.spec import ENUMERABLE, ProgramSpec, asked_kind, natural_kind

__all__ = ["HybridProgram"]

Predict = Callable[[Mapping[str, Any]], Result]

#: Of the calls that DSPy was too slow for, one in so many is asked all the same: it may have become faster.
PASSING = 20


class HybridProgram:
    """A program with a native side, a DSPy side, or both. Made with its native side; `plan` makes it ready.

    Attributes:
        predict: answers a call without options; one callable, bound by `plan`.
        facts, means: what the router goes by.
        signature: of the native side or of the spec; None for a module that has to say it itself.
        told_signature: in string form, what such a module says.
        gate: on the native answers; None when none can defer.
    """

    predict: Predict

    def __init__(self, spec: ProgramSpec, program_id: str, policy: Policy, backends: Backends) -> None:
        self.id = program_id
        self.policy = policy
        self.router = Router(policy)
        self.sides = Sides(spec, program_id, backends)
        self.tally = Tally()
        self.gate: Gate | None = None
        self._spec = spec
        self._backends = backends
        self._slow = itertools.count(1)  # its next() is atomic
        obstacle = obstacle_of(spec)
        why = "" if obstacle is None else obstacle[1].partition(";")[0]  # without what could be done about it
        self.means = Means(obstacle is None, why, backends.lm_of(spec))
        if obstacle is not None and self.means.lm is None:
            raise _homeless(spec, obstacle, program_id)
        self.program: Program | None = self.sides.fit() if obstacle is None else None
        self.signature: Any = spec.signature if self.program is None else self.program.signature
        self.facts = _facts(spec, program_id, self.signature, fitted=self.program is not None)
        self.kind = self.facts.kind
        self.told_signature: str | None = None
        self._decisions: dict[str, Decision] = {}
        self._at_once: tuple[Runner, Decision, Gate | None] | None = None
        self._runners: dict[tuple[str, Decision, Gate | None], Runner] = {}

    # Deciding

    def plan(self, calls: int = 0) -> None:
        """Decides where calls go, as far as it can be decided; again when an LM is configured.

        Args:
            calls: how many there were so far.
        """
        self.means = replace(self.means, lm=self._backends.lm_of(self._spec))
        self.gate = self.gate_of(self.means)
        self._decisions = {each: self.router.decide(self.facts, self.means, each) for each in OPERATIONS}
        first = self._decisions["call"]
        self.tally.settle(calls, first.backend, degraded=first.degraded)
        self.predict = self._bound(first)
        self._at_once = self._abound(self._decisions["acall"])

    def is_outdated(self) -> bool:
        """Whether an LM has become known since `plan`."""
        return self.means.lm != self._backends.lm_of(self._spec)

    def ready(self) -> None:
        """Makes the DSPy side now, if calls will go there.

        Raises:
            DspexError: it cannot be made, or there is no LM for it.
        """
        if self.means.lm is None and all(each.is_native for each in self._decisions.values()):
            return
        wanted = {each.backend for each in self._decisions.values() if not each.is_native}
        if self.gate is not None:
            wanted.add(self.policy.dspy)
        for backend in sorted(wanted):
            adapter: Any = self.sides.adapter(backend)
            if self.means.lm is None and hasattr(adapter, "available"):
                refusal = adapter.available(self.id)
                if refusal is not None and refusal.category == "config":
                    raise refusal
        if self.signature is None:
            info = self.sides.adapter(sorted(wanted)[0]).get_program_info(self.id)
            self.told_signature = info.get("signature")

    def decided(self, operation: str, options: Mapping[str, Any]) -> tuple[Decision, Gate | None]:
        """Where a call with these options goes, and the gate on its native answer."""
        backend, view = options.get("backend"), self.seen(options)
        if backend is None and view is self:
            decision = self._decisions[operation]
        else:
            decision = self.router.decide(self.facts, view.means, operation, backend)
        return decision, None if decision.binding else view.gate

    def seen(self, options: Mapping[str, Any]) -> Routed:
        """The program as the router sees it for a call with these options."""
        return self if options.get("lm") is None else _WithLM(self)

    def barred(self, backend: str, options: Mapping[str, Any]) -> Bar | None:
        """Why DSPy is not to be asked now, or None."""
        view = self.seen(options)
        if not self._is_limited:
            if not (self.policy.fallback and self.means.native):
                return None  # nothing would come of it: DSPy says it better itself
            if view is not self or self._refusal(backend) is None:
                return None
        bar = self.router.bar(view.look(backend))
        if bar is not None and bar.passing and next(self._slow) % PASSING == 0:
            return None
        return bar

    def look(self, backend: str) -> Look:
        """How a DSPy backend stands."""
        seen: Mapping[str, float | None] = {}
        if self.sides.is_ready(backend):
            adapter: Any = self.sides.adapter(backend)
            seen = adapter.observed(self.id) if hasattr(adapter, "observed") else {}
        return Look(self._refusal(backend), seen.get("latency_ms"), seen.get("usd"))

    def _refusal(self, backend: str) -> DspexError | None:
        """What a DSPy backend would raise at once."""
        if not self.sides.is_ready(backend):
            return None  # making it here would hold up who only looks
        adapter: Any = self.sides.adapter(backend)
        if not hasattr(adapter, "available"):
            return None
        refusal: DspexError | None = adapter.available(self.id)
        hedged = backend == "dspy_pool" and self.policy.hedge_after_ms is not None
        if hedged and isinstance(refusal, PoolSaturated):
            return self._refusal("dspy")  # the hedge is started at once
        return refusal

    @property
    def _is_limited(self) -> bool:
        """Whether it depends on what DSPy took of late whether it is asked."""
        return self.policy.latency_budget_ms is not None or self.policy.max_cost is not None

    def gate_of(self, means: Means) -> Gate | None:
        if not means.native or means.lm is None:
            return None
        assert self.program is not None
        certificate = self.program.certificate
        numbers = all(field.kind not in ENUMERABLE for field in self.signature.outputs.values())
        if numbers and (certificate is None or not self.policy.certified):
            return None  # they have no confidence: they stand
        return self.policy.gate_of(certificate)

    # Calling

    def _bound(self, first: Decision) -> Predict:
        """The one callable for calls without options."""
        gate = None if first.binding else self.gate
        hedged = self.policy.hedge_after_ms is not None and not first.binding
        if not first.is_native and not self.means.native and not hedged and not self._is_limited:
            return self._dspy_only(first)
        if not first.is_native or (hedged and first.backend == "native_pool" and self.means.lm is not None):
            return lambda inputs: drive(self, answered(self, "call", inputs, {}))
        predict: Predict = self._runner(first, gate).predict
        if gate is None and first.backend == "native":
            return predict
        return self._guarded(predict, first, gate)

    def _abound(self, decision: Decision) -> tuple[Runner, Decision, Gate | None] | None:
        """What answers tasks without options at once, if it is the native program in place."""
        if decision.backend != "native":
            return None
        gate = None if decision.binding else self.gate
        return self._runner(decision, gate), decision, gate

    def _dspy_only(self, decision: Decision) -> Predict:
        """DSPy, and nothing before or after it."""
        backend, route = decision.backend, Route(decision.backend, reason=decision.reason)
        program_id, adapter = self.id, self.sides.adapter

        def call(inputs: Mapping[str, Any]) -> Result:
            return rerouted(adapter(backend).execute_program(program_id, inputs), route)

        return call

    def _guarded(self, predict: Predict, decision: Decision, gate: Gate | None) -> Predict:
        """The native program, and what comes after it when its answer is unsure or does not come."""
        # One float to compare with; with a threshold for each class, the gate itself says.
        threshold = 0.0 if gate is None else gate.threshold if gate.thresholds is None else math.inf

        def call(inputs: Mapping[str, Any]) -> Result:
            try:
                result = predict(inputs)
            except InputError as error:
                return drive(self, refused(self, decision, gate, inputs, {}, error))
            except PoolSaturated as error:
                return drive(self, crowded(self, decision, gate, inputs, {}, error))
            # A gate is where every answer has a score.
            if gate is None or result.gate_score >= threshold:  # type: ignore[operator]
                return result
            if gate.thresholds is not None and gate.doubt(result) is None:
                return result
            return drive(self, unsure(self, decision, gate, inputs, {}, Race(result)))

        return call

    def _runner(self, decision: Decision, gate: Gate | None, backend: str = "") -> Any:
        """The native program on a backend, with the route of a decision on its results; made once."""
        key = (backend or decision.backend, decision, gate)
        if key not in self._runners:
            route = Route(decision.backend, reason=standing(decision, gate), degraded=decision.degraded)
            self._runners[key] = self.sides.runner(key[0], route)
        return self._runners[key]

    def call(self, inputs: Mapping[str, Any], options: Mapping[str, Any]) -> Result:
        """One call with options."""
        return drive(self, answered(self, "call", inputs, options))

    async def acall_with(self, inputs: Mapping[str, Any], options: Mapping[str, Any]) -> Result:
        """One call as a task."""
        keywords = _keywords(inputs)
        if options or self._at_once is None:
            return await adrive(self, answered(self, "acall", keywords, options))
        program, decision, gate = self._at_once
        try:
            result = await program.acall(**keywords)
        except InputError as error:
            return await adrive(self, refused(self, decision, gate, keywords, {}, error))
        if gate is not None and gate.doubt(result) is not None:
            return await adrive(self, unsure(self, decision, gate, keywords, {}, Race(result)))
        self.tally.answered_at_once("native", degraded=decision.degraded)
        return result

    def astream(
        self, inputs: Mapping[str, Any], options: Mapping[str, Any]
    ) -> AsyncGenerator[tuple[str, str] | Result, None]:
        """One call as a task, in pieces where DSPy gives any, then the result."""
        return astream(self, answered(self, "acall", _keywords(inputs), options))

    async def acall(self, /, **inputs: Any) -> Result:
        return await self.acall_with(inputs, {})

    def batch(self, rows: Any, /) -> list[Any]:
        return run_batch(self, rows, {})

    def run_batch(self, rows: Sequence[Mapping[str, Any]], options: Mapping[str, Any]) -> list[Any]:
        """Many rows; options as those of a call, and `on_error`."""
        return run_batch(self, rows, options)

    # What the native side does for the ways of a call

    def native_in_place(self, inputs: Mapping[str, Any]) -> Result:
        """The native answer, from the caller's thread."""
        assert self.program is not None
        return self.program.predict(inputs)

    async def anative_in_place(self, inputs: Mapping[str, Any]) -> Result:
        """The native answer, without holding up the event loop."""
        assert self.program is not None
        return await self.program.acall(**inputs)

    def native_batch(
        self, decision: Decision, gate: Gate | None, rows: Sequence[Any], *, collect: bool
    ) -> list[Any]:
        """Native answers to many rows, and with `collect` errors in the places of those without."""
        program = self._runner(decision, gate, "native")
        on_error = "collect" if collect else "raise"
        pooled: Any = self._backends.native(decision.backend)
        pool = pooled.pool if decision.backend == "native_pool" else None
        outcomes: list[Any] = program.batch(rows, on_error=on_error, pool=pool)
        return outcomes

    def is_beyond_native(self, inputs: Mapping[str, Any]) -> bool:
        """Whether inputs that the native program refused are good ones, such as blank text."""
        return is_beyond_native(self.signature, inputs)

    def spare(self, inputs: Mapping[str, Any]) -> Result | None:
        """The native answer that may stand in for DSPy's; None when there is none."""
        answer = self.native_answer(inputs)
        return answer if isinstance(answer, Result) else None

    def spare_batch(self, rows: Sequence[Mapping[str, Any]]) -> list[Any]:
        """Native answers, or errors."""
        assert self.program is not None
        return self.program.batch(rows, on_error="collect")

    def native_answer(self, inputs: Mapping[str, Any]) -> Result | str:
        """The native answer; or, of good inputs in which there is nothing to go by, why there is none."""
        try:
            return self.native_in_place(inputs)
        except InputError as error:
            if not self.is_beyond_native(inputs):
                raise
            return error.message

    # Telling

    @property
    def backend(self) -> str:
        """Where calls go first."""
        return self._decisions["call"].backend

    def info(self) -> dict[str, Any]:
        """What is known of the program, as JSON-able data."""
        return {
            "routes": {
                each: {"backend": decision.backend, "reason": decision.reason, "degraded": decision.degraded}
                for each, decision in self._decisions.items()
            },
            "threshold": None if self.gate is None else self.gate.threshold,
            "lm": self.means.lm,
            "native": None if self.program is None else self.program.info(),
        }


class _WithLM:
    """A program as it is for a call that names an LM: the default one does not matter."""

    def __init__(self, program: HybridProgram) -> None:
        self._program = program
        self.facts = program.facts
        self.means = replace(program.means, lm="the call names an LM")
        self.gate = program.gate_of(self.means)
        self.native_answer = program.native_answer

    def look(self, backend: str) -> Look:
        return self._program.look(backend)._replace(refusal=None)


def _facts(spec: ProgramSpec, program_id: str, signature: Signature | None, *, fitted: bool) -> Facts:
    dspys_own = not fitted and (spec.module is not None or spec.state is not None)
    kind = asked_kind(spec) if signature is None or dspys_own else spec.kind or natural_kind(signature)
    if signature is None:
        return Facts(program_id, kind, None, False, spec.tags)
    shown = (spec.signature or signature).to_string()
    native = fitted or native_obstacle(signature, has_examples=spec.examples is not None) is None
    return Facts(program_id, kind, shown, native, spec.tags)


def _homeless(spec: ProgramSpec, obstacle: tuple[str | None, str], program_id: str) -> DspexError:
    """The error for a program that is neither native nor has an LM to ask."""
    field, reason = obstacle
    hint = "Configure an LM: configure_lm({'model': ...}), [lms] in dspex.toml, or `lm` in the spec"
    if field is None:
        return ProgramError(
            f"the program is unfitted, and no LM is configured: {reason}",
            program=program_id,
            hint=f"Give examples to fit, the path of a saved program, or a fitted program. {hint}",
        )
    return SignatureError(
        f"the signature cannot run natively, and no LM is configured: {reason}",
        field=field,
        program=program_id,
        hint=hint,
    )

"""The router: which backend a call goes to, and why.

What depends on the program alone is decided when it is created, by `Router.decide`. What can change is asked
per call, and only on the way to DSPy, by `Router.bar`. `Router.explain` goes the same way and writes it down.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from dspex.errors import ConfigError, DspexError, InputError, ProgramError, nearest
from dspex.result import Result, Route
from dspex.routing.explanation import Explanation, Step
from dspex.routing.gate import Gate
from dspex.routing.policy import Policy
from dspex.routing.rules import BACKENDS, NATIVE_BACKENDS, OPERATIONS, Facts, Rule

__all__ = ["Bar", "Decision", "Look", "Means", "Routed", "Router", "standing"]


@dataclass(frozen=True, slots=True)
class Means:
    """What a program can run on.

    Attributes:
        native: whether it has a native side, fitted and ready.
        obstacle: why it has none, in words.
        lm: where its LM comes from, in words; None: none is known.
    """

    native: bool
    obstacle: str = ""
    lm: str | None = None


@dataclass(frozen=True, slots=True)
class Decision:
    """Where the calls of one operation go first.

    Attributes:
        backend: one of `BACKENDS`.
        reason: why, in words.
        binding: that backend and no other: it was named, and neither gate nor fallback changes it.
        degraded: another was wanted and cannot be had.
    """

    backend: str
    reason: str
    binding: bool = False
    degraded: bool = False

    @property
    def is_native(self) -> bool:
        """Whether it is a native backend."""
        return self.backend in NATIVE_BACKENDS


class Look(NamedTuple):
    """How a DSPy backend stands, without asking the LM.

    Attributes:
        refusal: what would be raised at once; None: a call would be tried.
        latency_ms: median of late, or None when unknown.
        usd: median cost of a call of late, or None when unknown.
    """

    refusal: DspexError | None = None
    latency_ms: float | None = None
    usd: float | None = None


@dataclass(frozen=True, slots=True)
class Bar:
    """Why DSPy is not asked although it was wanted.

    Attributes:
        step: "wishes" or "resources".
        reason: in words.
        strict: whether the call is refused where there is no native answer.
        passing: whether a call is let through now and then to see whether it still holds.
    """

    step: str
    reason: str
    strict: bool = False
    passing: bool = False


class Routed(Protocol):
    """A program, as the router sees it."""

    @property
    def facts(self) -> Facts: ...
    @property
    def means(self) -> Means: ...
    @property
    def gate(self) -> Gate | None:
        """The gate on its native answers; None when none can defer."""

    def native_answer(self, inputs: Mapping[str, Any]) -> Result | str:
        """The native answer; or, of good inputs in which there is nothing to go by, why there is none.

        Raises:
            InputError: the inputs do not fit the signature.
        """

    def look(self, backend: str) -> Look:
        """How its DSPy backend stands."""


class Router:
    """Picks backends by a policy."""

    __slots__ = ("policy",)

    def __init__(self, policy: Policy) -> None:
        self.policy = policy

    def decide(
        self,
        facts: Facts,
        means: Means,
        operation: str,
        backend: str | None = None,
        steps: list[Step] | None = None,
    ) -> Decision:
        """Where the calls of one operation go first.

        Args:
            operation: one of `OPERATIONS`.
            backend: one that the call names.
            steps: takes what was considered.

        Raises:
            ConfigError: `backend` does not exist.
            ProgramError: it cannot run the program.
        """
        trail = _Trail(steps)
        decision = (
            self._explicit(facts, means, backend, trail)
            or self._rules(facts, means, operation, trail)
            or self._eligible(means, trail)
            or self._wished(means, trail)
            or self._possible(means, trail)
        )
        if decision is None:
            decision = Decision(self.policy.native, "native comes first")
            trail.add("default", decision.reason, decision.backend)
        return decision

    def bar(self, look: Look) -> Bar | None:
        """Why DSPy is not to be asked, or None."""
        budget, cost = self.policy.latency_budget_ms, self.policy.max_cost
        if cost is not None and look.usd is not None and look.usd > cost:
            what = f"a call of DSPy costs ${look.usd:.2g}, more than max_cost ${cost:g}"
            return Bar("wishes", what, strict=True)
        if budget is not None and look.latency_ms is not None and look.latency_ms > budget:
            what = f"DSPy takes {look.latency_ms:.0f} ms, more than the budget of {budget:g} ms"
            return Bar("wishes", what, passing=True)
        if look.refusal is not None:
            return Bar("resources", f"DSPy is not available: {look.refusal.message}")
        return None

    def explain(
        self, program: Routed, inputs: Mapping[str, Any], operation: str = "call", backend: str | None = None
    ) -> Explanation:
        """What would become of a call, and why. Asks the native program, and never the LM.

        Args:
            operation: one of `OPERATIONS`.
            backend: one that the call would name.

        Raises:
            InputError: the inputs do not fit the signature.
            ConfigError, ProgramError: as `decide`, or there is no such operation.
        """
        if operation not in OPERATIONS:
            hint = nearest(str(operation), OPERATIONS)
            raise ConfigError(f"there is no operation {operation!r}", hint=hint)
        steps: list[Step] = []
        decision = self.decide(program.facts, program.means, operation, backend, steps)
        answer = program.native_answer(inputs) if program.means.native else None
        if decision.is_native:
            route = self._from_native(program, decision, answer, steps)
        else:
            route = self._from_dspy(program, decision.backend, decision, decision.reason, answer, steps)
        confidence = answer.confidence if isinstance(answer, Result) else None
        return Explanation(program.facts.program, operation, tuple(steps), route, confidence)

    def _from_native(
        self, program: Routed, decision: Decision, answer: Result | str | None, steps: list[Step]
    ) -> Route:
        gate = None if decision.binding else program.gate
        if gate is None and isinstance(answer, str):
            raise InputError(answer, program=program.facts.program)
        doubt = answer if isinstance(answer, str) else _doubt(gate, answer)
        if doubt is not None:
            steps.append(Step("gate", doubt, self.policy.dspy))
            return self._from_dspy(program, self.policy.dspy, decision, doubt, answer, steps)
        sure = answer.gate_score if isinstance(answer, Result) else None
        what = "score" if gate is not None and gate.certified else "confidence"
        enough = gate is not None and sure is not None
        found = f"{what} {sure:.2f} is enough" if enough else self._ungated(program, decision)
        steps.append(Step("gate", found, decision.backend))
        return Route(decision.backend, reason=standing(decision, gate), degraded=decision.degraded)

    def _from_dspy(
        self,
        program: Routed,
        backend: str,
        decision: Decision,
        reason: str,
        answer: Result | str | None,
        steps: list[Step],
    ) -> Route:
        bar = None if decision.binding else self.bar(program.look(backend))
        if bar is None:
            steps.append(Step("resources", "DSPy can be asked", backend))
            return Route(backend, reason=reason)
        if self.policy.fallback and isinstance(answer, Result):
            steps.append(Step(bar.step, bar.reason, "native"))
            return Route("native", reason=f"{reason}, but {bar.reason}", degraded=True)
        end = "the call is refused" if bar.strict else "there is nothing to fall back to"
        steps.append(Step(bar.step, f"{bar.reason}; {end}", backend))
        return Route(backend, reason=reason)

    def _ungated(self, program: Routed, decision: Decision) -> str:
        """Why no gate looks at a native answer."""
        if decision.binding:
            return "none: the backend was named"
        if self.policy.threshold is None:
            return "none: routing.threshold is off"
        if program.means.lm is None:
            return "none: no LM is configured"
        return "none: numbers have no confidence"

    def _explicit(self, facts: Facts, means: Means, backend: str | None, trail: _Trail) -> Decision | None:
        says = "the call names it"
        if backend is None:
            says, backend = "it is set for the program", self.policy.backend
        if backend is None:
            trail.add("explicit", "no backend is named")
            return None
        if backend not in BACKENDS:
            raise ConfigError(
                f"there is no backend {backend!r}",
                field="backend",
                program=facts.program,
                hint=nearest(str(backend), BACKENDS),
            )
        if backend in NATIVE_BACKENDS and not means.native:
            raise ProgramError(
                f"backend {backend!r} cannot run the program: {means.obstacle}",
                program=facts.program,
                hint="Use dspy or dspy_pool, or give examples to fit",
            )
        trail.add("explicit", says, backend)
        return Decision(backend, says, binding=True)

    def _rules(self, facts: Facts, means: Means, operation: str, trail: _Trail) -> Decision | None:
        for rule in self.policy.rules:
            misfit = rule.misfit(facts, operation)
            if misfit is not None:
                trail.add("rules", f"{rule} does not fit: {misfit}")
                continue
            says = f"{rule} says {rule.use}"
            if rule.is_native and not means.native:
                trail.add("rules", f"{says}, but {means.obstacle}")
                continue
            return self._ruled(rule, says, means, trail)
        if not self.policy.rules:
            trail.add("rules", "there are none")
        return None

    def _ruled(self, rule: Rule, says: str, means: Means, trail: _Trail) -> Decision:
        if not rule.is_native and means.lm is None and means.native and self.policy.fallback:
            return self._without_lm(says, "rules", trail)
        trail.add("rules", says, rule.use)
        return Decision(rule.use, says)

    def _eligible(self, means: Means, trail: _Trail) -> Decision | None:
        if means.native:
            trail.add("eligibility", "it has a fitted native program")
            return None
        trail.add("eligibility", means.obstacle, self.policy.dspy)
        return Decision(self.policy.dspy, means.obstacle)

    def _wished(self, means: Means, trail: _Trail) -> Decision | None:
        prefer = self.policy.prefer
        if prefer is None:
            trail.add("wishes", "no preference")
            return None
        says = f"routing.prefer is {prefer!r}"
        if prefer in ("native", "speed", "cost"):
            trail.add("wishes", says, self.policy.native)
            return Decision(self.policy.native, says)
        if means.lm is None:
            return self._without_lm(says, "wishes", trail)
        trail.add("wishes", says, self.policy.dspy)
        return Decision(self.policy.dspy, says)

    def _possible(self, means: Means, trail: _Trail) -> Decision | None:
        if means.lm is not None:
            trail.add("resources", f"{means.lm}")
            return None
        reason = "no LM is configured: every native answer stands"
        trail.add("resources", reason, self.policy.native)
        return Decision(self.policy.native, reason)

    def _without_lm(self, says: str, step: str, trail: _Trail) -> Decision:
        reason = f"{says}, but no LM is configured"
        trail.add(step, reason, self.policy.native)
        return Decision(self.policy.native, reason, degraded=True)


class _Trail:
    """Writes steps down, if anybody wants to read them."""

    __slots__ = ("_steps",)

    def __init__(self, steps: list[Step] | None) -> None:
        self._steps = steps

    def add(self, name: str, found: str, backend: str | None = None) -> None:
        if self._steps is not None:
            self._steps.append(Step(name, found, backend))


def standing(decision: Decision, gate: Gate | None) -> str:
    """The reason that a native answer carries which stands."""
    if gate is None:
        return decision.reason
    return f"{decision.reason}, {gate}"


def _doubt(gate: Gate | None, answer: Result | None) -> str | None:
    return None if gate is None or answer is None else gate.doubt(answer)

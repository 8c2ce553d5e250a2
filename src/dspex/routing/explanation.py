"""Why a call goes where it goes, step by step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from dspex.result import Route

__all__ = ["Explanation", "Step"]


@dataclass(frozen=True, slots=True)
class Step:
    """One thing that the router considered.

    Attributes:
        name: "explicit", "rules", "eligibility", "wishes", "resources", "default" or "gate".
        found: what it found, in words.
        backend: where that sends the call; None: nowhere, the next step is considered.
    """

    name: str
    found: str
    backend: str | None = None


@dataclass(frozen=True, slots=True)
class Explanation:
    """What the router would do with a call. Print it.

    Attributes:
        program: the program's id.
        operation: "call", "acall" or "batch".
        steps: what was considered, in order.
        route: where the call would go, with the reason that its result would have.
        confidence: of the native answer, in [0, 1]; None without one, or when it has none.
    """

    program: str
    operation: str
    steps: tuple[Step, ...]
    route: Route
    confidence: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """The explanation as JSON-able data."""
        return {
            "program": self.program,
            "operation": self.operation,
            "steps": [{"name": s.name, "found": s.found, "backend": s.backend} for s in self.steps],
            "route": str(self.route),
            "reason": self.route.reason,
            "degraded": self.route.degraded,
            "confidence": self.confidence,
        }

    def __str__(self) -> str:
        width = max((len(step.name) for step in self.steps), default=0)
        lines = [
            f"  {step.name:{width}}  {step.found}" + (f" -> {step.backend}" if step.backend else "")
            for step in self.steps
        ]
        end = f"{self.route}{', degraded' if self.route.degraded else ''}: {self.route.reason}"
        return "\n".join([f"{self.operation} of {self.program!r}", *lines, f"  = {end}"])

"""A trace: what was asked, what the teacher said, and what it is good for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

__all__ = ["REJECTED", "Answer", "Role", "Trace"]

#: Source of an answer that a metric refused: it was paid for, and is not learned from.
REJECTED = "rejected"

#: "calibrate" for a row that an independent coin picked to certify a version, once; "fit" for all others.
Role = Literal["fit", "calibrate"]


@dataclass(frozen=True, slots=True)
class Answer:
    """What a teacher said.

    Attributes:
        outputs: output -> value, in the field's own type; fields that cannot be learned may be among them.
        soft: output -> {class: probability}, where the teacher gave more than one answer or probabilities.
        usd, tokens, seconds: what it cost; None where not known.
    """

    outputs: Mapping[str, Any]
    soft: Mapping[str, Mapping[Any, float]] | None = None
    usd: float | None = None
    tokens: int | None = None
    seconds: float | None = None


@dataclass(frozen=True, slots=True)
class Trace:
    """One call that a teacher answered.

    Attributes:
        inputs: input -> value, in the field's own type.
        answer: the teacher's.
        role: see `Role`.
        source: where it comes from: "trainset", "jsonl", "mlflow", ...; of a service "teacher", "shadow",
            "deferred" (the gate did not let it through), "canary" (it did) or "audit" (a native reply).
        at: seconds since the epoch.
        count: equal rows that this one stands for.
        id: number in the store; None: not stored yet.
        used_by: the version that it certified; None: none yet. From then on it is a row to fit on.
    """

    inputs: Mapping[str, Any]
    answer: Answer
    role: Role = "fit"
    source: str = "given"
    at: float = 0.0
    count: int = 1
    id: int | None = None
    used_by: int | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)

    @property
    def row(self) -> dict[str, Any]:
        """Inputs and outputs in one mapping, soft labels in place of hard ones: a row for `dspex.fit`."""
        return {**self.inputs, **self.answer.outputs, **(self.answer.soft or {})}

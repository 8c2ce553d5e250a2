"""The gate: whether a native answer may stand."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from dspex.checks import check_inputs
from dspex.errors import InputError
from dspex.result import Result
from dspex.signature import Signature

__all__ = ["Gate", "is_beyond_native", "label_group"]


@dataclass(frozen=True, slots=True)
class Gate:
    """A threshold on the score of a native answer, see `Result.gate_score`.

    Attributes:
        threshold: an answer with at least this score stands; inf: none does. With `thresholds`, the least of
            them.
        thresholds: class that is answered -> its own threshold; a class that is not named never stands.
        certified: whether the thresholds come with a guarantee, rather than from the configuration.
    """

    threshold: float
    thresholds: Mapping[str, float] | None = field(default=None, hash=False)
    certified: bool = False

    @classmethod
    def of(cls, certificate: Mapping[str, Any]) -> Self:
        """The gate of a program's certificate, see `Program.certificate`."""
        groups = certificate["thresholds"]
        if groups is None:
            return cls(_limit(certificate["threshold"]), certified=True)
        limits = {name: _limit(least) for name, least in groups.items()}
        if certificate["by"] == "slice":  # which slice a call is of cannot be told here
            return cls(math.inf, certified=True)
        return cls(min(limits.values(), default=math.inf), limits, certified=True)

    def least(self, result: Result) -> float:
        """The score from which an answer like this stands."""
        if self.thresholds is None:
            return self.threshold
        return self.thresholds.get(label_group(result), math.inf)

    def doubt(self, result: Result) -> str | None:
        """Why an answer may not stand, or None if it may: also where numbers have neither score nor gate."""
        score = result.gate_score
        if score is None:
            return None
        least = self.least(result)
        if score >= least:
            return None
        if math.isinf(least):
            return "no native answer of this kind is certified"
        what = "gate's score" if self.certified else "native confidence"
        return f"{what} {_shown(score, least)} is below {least:.6g}"

    def __str__(self) -> str:
        if not self.certified:
            return f"confidence at least {self.threshold:g}"
        return (
            "certified for its class"
            if self.thresholds is not None
            else f"certified from {self.threshold:.4g}"
        )


def label_group(outputs: Mapping[str, Any]) -> str:
    """The name of the class that an answer gives, or of its classes; that of a group in a certificate."""
    return " | ".join(_label(value) for value in outputs.values())


def _label(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(sorted(map(_label, value)))
    return str(getattr(value, "value", value))


def _limit(threshold: float | None) -> float:
    return math.inf if threshold is None else threshold


def _shown(score: float, least: float) -> str:
    for digits in (2, 3, 4, 6):
        text = f"{score:.{digits}f}"
        if float(text) < least:  # 0.8996 is not "0.90, below 0.9"
            return text
    return repr(score)


def is_beyond_native(signature: Signature, inputs: Mapping[str, Any]) -> bool:
    """Whether inputs that a native program refused are good ones, which another backend may answer.

    They are when they fit the signature but hold nothing that a native program goes by, such as blank text.
    That happens only where every input is text.
    """
    if any(field.kind != "text" for field in signature.inputs.values()):
        return False
    try:
        check_inputs(signature, inputs)
    except InputError:
        return False
    return True

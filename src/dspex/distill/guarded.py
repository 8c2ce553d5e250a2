"""A native program with its certificate: which of its answers may stand."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from dspex.distill.agreement import Slice
from dspex.distill.hooks import log
from dspex.guarantee.certificate import Certificate
from dspex.program import Program
from dspex.result import Result
from dspex.routing.gate import label_group

__all__ = ["Guarded", "slice_unknown"]

_NEVER = math.inf


class Guarded:
    """A native program whose answers stand where its certificate says so.

    Attributes:
        program: answers.
        certificate: as `certify` gave it.
        threshold: the one threshold on the score, inf where nothing may stand; None where there is one for
            each group.
        by: what the groups are: "class" or "slice"; None where there are none. Those of a certificate by
            slices stand only where the function is at hand.
    """

    __slots__ = ("_groups", "_slices", "by", "certificate", "program", "threshold")

    def __init__(self, program: Program, certificate: Certificate, slices: Slice | None = None) -> None:
        self.program = program
        self.certificate = certificate
        self._slices = slices
        self._groups: dict[str, float] | None = None
        self.threshold = None if certificate.thresholds is not None else certificate.threshold_for()
        self.by = _by(program, certificate, slices)
        if certificate.thresholds is not None:
            given = certificate.thresholds.items()
            self._groups = {name: _NEVER if least is None else least for name, least in given}
            if self.by == "slice" and slices is None:
                self._groups = {}  # a class of a slice's name says nothing of the slice

    def stands(self, result: Result, inputs: Mapping[str, Any]) -> bool:
        """Whether a native answer may stand.

        Raises:
            Exception: whatever the function of a guarantee per slice raises; see `slice_unknown`.
        """
        score = result.gate_score
        if score is None:
            return False
        return bool(score >= self.least(result, inputs))

    def least(self, result: Mapping[str, Any], inputs: Mapping[str, Any]) -> float:
        """The score from which an answer like this stands; inf: none does."""
        if self._groups is None:
            assert self.threshold is not None
            return self.threshold
        return self._groups.get(self.group(result, inputs), _NEVER)

    def group(self, result: Mapping[str, Any], inputs: Mapping[str, Any]) -> str:
        """The group of an answer that is guaranteed by itself: its slice, or its class."""
        return str(self._slices(inputs)) if self.by == "slice" and self._slices else label_group(result)

    def to_save(self) -> Program:
        """The program with its certificate in its file, for who serves it without a home."""
        given = self.certificate
        names = ("agreement", "delta", "method", "threshold", "thresholds", "rows", "coverage", "reason")
        summary = {name: getattr(given, name) for name in names}
        return self.program.with_certificate({**summary, "by": self.by})

    def __reduce__(self) -> tuple[Any, ...]:
        return Guarded, (self.program, self.certificate, self._slices)


def slice_unknown(error: Exception) -> str:
    """Why the teacher is asked about a call whose slice the function failed to tell; logs it."""
    reason = f"the slice of the call is not known: {type(error).__name__}: {error}"
    log.warning("%s", reason)
    return reason


def _by(program: Program, certificate: Certificate, slices: Slice | None) -> str | None:
    """What the groups of a certificate are: its file says so; of a new one, the function does."""
    if certificate.thresholds is None:
        return None
    saved = (program.certificate or {}).get("by")
    return str(saved) if saved else "class" if slices is None else "slice"

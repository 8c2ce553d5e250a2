"""A native program with its certificate: which of its answers may stand."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from dspex.distill.agreement import Slice
from dspex.guarantee.certificate import Certificate
from dspex.program import Program
from dspex.result import Result
from dspex.routing.gate import label_group

__all__ = ["Guarded", "label_group"]

_NEVER = math.inf


class Guarded:
    """A native program whose answers stand where its certificate says so.

    Attributes:
        program: answers.
        certificate: as `certify` gave it.
        threshold: the one threshold on the score, inf where nothing may stand; None where there is one for
            each group.
    """

    __slots__ = ("_groups", "_slices", "certificate", "program", "threshold")

    def __init__(self, program: Program, certificate: Certificate, slices: Slice | None = None) -> None:
        self.program = program
        self.certificate = certificate
        self._slices = slices
        self._groups: dict[str, float] | None = None
        self.threshold: float | None = _NEVER if certificate.threshold is None else certificate.threshold
        if certificate.thresholds is not None:
            self.threshold = None
            given = certificate.thresholds.items()
            self._groups = {name: _NEVER if least is None else least for name, least in given}

    def stands(self, result: Result, inputs: Mapping[str, Any]) -> bool:
        """Whether a native answer may stand."""
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
        return label_group(result) if self._slices is None else str(self._slices(inputs))

    def to_save(self) -> Program:
        """The program with its certificate in its file, for who serves it without a home."""
        given = self.certificate
        names = ("agreement", "delta", "method", "threshold", "thresholds", "rows", "coverage", "reason")
        summary = {name: getattr(given, name) for name in names}
        by = None if given.thresholds is None else "class" if self._slices is None else "slice"
        return self.program.with_certificate({**summary, "by": by})

    def __reduce__(self) -> tuple[Any, ...]:
        return Guarded, (self.program, self.certificate, self._slices)

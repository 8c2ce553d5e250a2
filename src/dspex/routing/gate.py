"""The gate: whether a native answer may stand."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from dspex.checks import check_inputs
from dspex.errors import InputError
from dspex.signature import Signature

__all__ = ["Gate", "is_beyond_native"]


@dataclass(frozen=True, slots=True)
class Gate:
    """A threshold on the calibrated confidence of a native answer.

    Attributes:
        threshold: in [0, 1]; an answer at least this confident stands.
    """

    threshold: float

    def doubt(self, confidence: float | None) -> str | None:
        """Why an answer may not stand, or None if it may: also where numbers have no confidence."""
        if confidence is None or confidence >= self.threshold:
            return None
        return f"native confidence {self._shown(confidence)} is below {self.threshold:g}"

    def _shown(self, confidence: float) -> str:
        for digits in (2, 3, 4, 6):
            text = f"{confidence:.{digits}f}"
            if float(text) < self.threshold:  # 0.8996 is not "0.90, below 0.9"
                return text
        return repr(confidence)


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

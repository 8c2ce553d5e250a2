"""What native answers look like, for the watch on drift of the inputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from numpy.typing import NDArray

from dspex.distill.judging import is_one_class
from dspex.guarantee.reference import DriftReference
from dspex.learning.targets import classes_of
from dspex.routing.gate import label_group
from dspex.signature import Signature

__all__ = ["drift_label", "drift_reference"]


def drift_label(signature: Signature, native: Mapping[str, Any]) -> str | None:
    """The class of an answer; None where an output is a number: there the scores alone are watched."""
    if any(field.kind in ("int", "float") for field in signature.outputs.values()):
        return None
    return label_group(native)


def drift_reference(
    signature: Signature, scores: Sequence[float] | NDArray[Any], labels: Sequence[str | None]
) -> DriftReference:
    """The reference of so many native answers.

    Args:
        signature: of the program.
        scores: [n] of the gate, in [0, 1].
        labels: [n] as `drift_label` gives them.
    """
    known = [label for label in labels if label is not None]
    classes: Sequence[Any] = ()
    if is_one_class(signature):
        ((name, field),) = signature.outputs.items()
        classes = [label_group({name: each}) for each in classes_of(field) or ()]
    return DriftReference.of(scores, known or None, classes=classes)

"""Native answers beside a teacher's, row by row."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dspex.distill.agreement import Agreement, Cost, Slice, imported
from dspex.distill.guarded import Guarded
from dspex.distill.settings import GuaranteeSettings
from dspex.distill.trace import Trace
from dspex.errors import ConfigError, InputError
from dspex.learning.gate import held_out as learned_held_out
from dspex.learning.targets import classes_of
from dspex.program import Program
from dspex.result import Result
from dspex.routing.gate import label_group
from dspex.signature import Signature

__all__ = ["Judged", "costs_of", "groups_of", "held_out", "is_one_class", "judge", "stands_of"]


@dataclass(frozen=True, slots=True)
class Judged:
    """What a program says of some rows.

    Attributes:
        natives: [rows] its outputs; None for a row that it cannot answer.
        scores: [rows] of the gate; -inf for such a row, and for one that is unlike what was learned from (a
            score of 0): no threshold lets it through.
        wrong: [rows] whether they disagree with the teacher's.
    """

    natives: list[Mapping[str, Any] | None]
    scores: NDArray[np.float64]
    wrong: NDArray[np.bool_]


def judge(program: Program, rows: Sequence[Trace], settings: GuaranteeSettings) -> Judged:
    """Answers the rows natively and compares."""
    agreement = Agreement(program.signature, settings.tolerance)
    found: list[Result | InputError] = program.batch([row.inputs for row in rows], on_error="collect")
    natives = [each if isinstance(each, Result) else None for each in found]
    scores = [0.0 if each is None else each.gate_score or 0.0 for each in natives]
    wrong = [
        native is None or bool(agreement.wrong(native, row.answer.outputs))
        for native, row in zip(natives, rows, strict=True)
    ]
    return Judged(list(natives), _never_at_0(scores), np.asarray(wrong, bool))


def _never_at_0(scores: Any) -> NDArray[np.float64]:
    found = np.asarray(scores, np.float64)
    return np.where(found > 0, found, -np.inf)


def held_out(program: Program, rows: Sequence[Trace]) -> Judged:
    """What the models of a fit say of the rows that each has not seen.

    Args:
        program: as `dspex.fit(..., gate=True)` returned it.
        rows: that it was fitted on, in order.

    Several outputs, and numbers, are known by the finished program only: its own answers stand in for them.
    """
    held = learned_held_out(program)
    return Judged(_held_natives(program, held.picked, rows), _never_at_0(held.scores), held.wrong)


def is_one_class(signature: Signature) -> bool:
    """Whether there is one output, of one class: so `held_out` gives its held-out answers."""
    kinds = [field.kind for field in signature.outputs.values()]
    return kinds in (["class"], ["bool"], ["text"])


def _held_natives(
    program: Program, picked: NDArray[np.int32], rows: Sequence[Trace]
) -> list[Mapping[str, Any] | None]:
    if is_one_class(program.signature):
        ((name, field),) = program.signature.outputs.items()
        classes = classes_of(field)
        assert classes is not None
        return [{name: classes[pick]} for pick in picked]
    found = program.batch([row.inputs for row in rows], on_error="collect")
    return [each if isinstance(each, Result) else None for each in found]


def groups_of(
    judged: Judged, rows: Sequence[Trace], settings: GuaranteeSettings, slices: Slice | None
) -> list[str] | None:
    """[rows] the group that each is guaranteed with: its slice or its native class; None: all together."""
    slices = slices or imported(settings.slices, "guarantee.slices")
    if slices is not None:
        return [str(slices(row.inputs)) for row in rows]
    if settings.per_class:
        return ["" if native is None else label_group(native) for native in judged.natives]
    return None


def costs_of(
    judged: Judged, rows: Sequence[Trace], settings: GuaranteeSettings, costs: Cost | None
) -> NDArray[np.float64] | None:
    """[rows] what each native answer costs, in [0, 1]; None: a disagreement costs 1.

    Raises:
        ConfigError: a cost outside [0, 1].
    """
    function: Callable[..., float] | None = costs or imported(settings.costs, "guarantee.costs")
    if function is None:
        return None
    values = np.ones(len(rows))
    for at, (native, row) in enumerate(zip(judged.natives, rows, strict=True)):
        if native is None:
            continue
        value = function(row.inputs, native, row.answer.outputs)
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
            raise ConfigError(
                f"the cost of a native answer is {value!r}",
                field="guarantee.costs",
                hint="It takes a number from 0 to 1",
            )
        values[at] = value
    return values


def stands_of(guarded: Guarded, rows: Sequence[Trace], judged: Judged) -> NDArray[np.bool_]:
    """[rows] whether the native answer may stand."""
    return np.asarray(
        [
            native is not None and score >= guarded.least(native, row.inputs)
            for native, row, score in zip(judged.natives, rows, judged.scores, strict=True)
        ],
        bool,
    )

"""The rows of a run, read and checked before anybody is asked, each with what it is for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from dspex.distill.settings import GuaranteeSettings
from dspex.distill.trace import Trace
from dspex.dspy.rows import Row, read_rows, refuse_shared
from dspex.dspy.samples import Given, refuse_picked, roles_of, single
from dspex.dspy.tasks import Task
from dspex.errors import ConfigError

__all__ = ["CallsGiven", "read_given"]


@dataclass(frozen=True, slots=True)
class CallsGiven:
    """What a run was given.

    Attributes:
        rows: of the trainset and the valset.
        traces: given beside them; what is in both is one call.
    """

    rows: list[Given]
    traces: list[Given]


def read_given(
    task: Task,
    train: Sequence[Any],
    traces: Sequence[Trace],
    val: Sequence[Any],
    guarantee: GuaranteeSettings,
    *,
    seed: int,
    slices: Callable[..., Any] | None,
) -> CallsGiven:
    """Reads the sets.

    Raises:
        InputError, SignatureError: a row does not fit, or is none that may certify.
        ConfigError: `slices` fails on a row.
    """
    rows = read_rows(task.signature, [*train, *traces], task.candidates)
    certifying = read_rows(task.signature, val, task.candidates)
    refuse_shared(rows, certifying)
    refuse_picked(certifying)
    _try_slices(slices, [*rows, *certifying])
    rows = single(rows)
    given = [*zip(rows, roles_of(rows, guarantee, seed, has_valset=bool(val)), strict=True)]
    others: list[Given] = [(row, "calibrate") for row in certifying]
    return CallsGiven(
        [one for one in given if one[0].number < len(train)] + others,
        [one for one in given if one[0].number >= len(train)],
    )


def _try_slices(slices: Callable[..., Any] | None, rows: Sequence[Row]) -> None:
    if slices is None:
        return
    for row in rows:
        try:
            slices(row.inputs)
        except Exception as error:
            raise ConfigError(
                f"slices fails on the row's inputs with {type(error).__name__}: {error}", field="slices",
                row=row.number, hint="It takes the mapping of a row's inputs, and returns a name",
            ) from error  # fmt: skip

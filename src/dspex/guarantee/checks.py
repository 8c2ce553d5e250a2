"""What rows that certify have to look like."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dspex.errors import ConfigError, InputError

__all__ = ["Rows", "require_between", "rows_of"]


@dataclass(frozen=True, eq=False, slots=True)
class Rows:
    """Checked rows.

    Attributes:
        scores: [n], no NaN; -inf for a row that is never answered natively.
        wrong: [n].
        losses: [n] in [0, 1]: the cost of a wrong row, 1 without costs, and 0 of a right one.
        costs: [n] as given, or None.
        groups: [n] names, or None.
        rate: the risk that is allowed.
    """

    scores: NDArray[np.float64]
    wrong: NDArray[np.bool_]
    losses: NDArray[np.float64]
    costs: NDArray[np.float64] | None
    groups: NDArray[np.str_] | None
    rate: float

    def of(self, group: str) -> Rows:
        """The rows of one group."""
        assert self.groups is not None
        own = self.groups == group
        costs = None if self.costs is None else self.costs[own]
        return Rows(self.scores[own], self.wrong[own], self.losses[own], costs, None, self.rate)


def rows_of(
    scores: ArrayLike,
    wrong: ArrayLike,
    agreement: float,
    delta: float,
    *,
    costs: ArrayLike | None = None,
    groups: Sequence[str] | NDArray[Any] | None = None,
) -> Rows:
    """Checks what is given to `certify` or `grid_of`.

    Raises:
        ConfigError: an agreement or a delta outside (0, 1).
        InputError: no rows, other lengths, a NaN, a cost outside [0, 1]; with the row where there is one.
    """
    require_between("agreement", agreement)
    require_between("delta", delta)
    points = _numbers("scores", scores)
    flags = _flags(wrong)
    _same_length("wrong", flags.size, points.size)
    if not points.size:
        raise InputError("there are no rows", field="scores", hint="Collect labelled rows first")
    _refuse("scores", points, np.isnan(points) | (points == np.inf), "Scores are finite, or -inf for never")
    weights = None if costs is None else _numbers("costs", costs)
    if weights is not None:
        _same_length("costs", weights.size, points.size)
        _refuse("costs", weights, ~((weights >= 0) & (weights <= 1)), "Costs lie in [0, 1]")
    losses = np.where(flags, 1.0 if weights is None else weights, 0.0)
    # 1 - 0.95 is a hair above 0.05; what is promised is the number that was written.
    return Rows(points, flags, losses, weights, _names(groups, points.size), float(f"{1 - agreement:.15g}"))


def require_between(name: str, value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float | np.number) or not 0 < value < 1:
        raise ConfigError(f"{name} is {value!r}", field=name, hint="It lies strictly between 0 and 1")


def _numbers(field: str, values: ArrayLike) -> NDArray[np.float64]:
    try:
        array = np.asarray(values, np.float64)
    except (TypeError, ValueError) as error:
        raise InputError(f"{field} are no numbers: {error}", field=field) from None
    if array.ndim != 1:
        raise InputError(f"{field} have {array.ndim} dimensions", field=field, hint="Give one number a row")
    return array


def _flags(values: ArrayLike) -> NDArray[np.bool_]:
    array = np.asarray(values)
    if array.ndim != 1 or not (array.dtype == bool or np.isin(array, (0, 1)).all()):
        raise InputError("wrong is not one bool a row", field="wrong", hint="True where the answers disagree")
    return array.astype(bool)


def _names(groups: Sequence[str] | NDArray[Any] | None, rows: int) -> NDArray[np.str_] | None:
    if groups is None:
        return None
    _same_length("groups", len(groups), rows)
    for row, name in enumerate(groups):
        if not isinstance(name, str):
            raise InputError(f"group {name!r} is no name", field="groups", row=row, hint="Groups are strings")
    return np.array(groups, dtype=np.str_)


def _same_length(field: str, length: int, rows: int) -> None:
    if length != rows:
        raise InputError(f"{length} {field} for {rows} scores", field=field, hint="Give one for each row")


def _refuse(field: str, values: NDArray[np.float64], bad: NDArray[np.bool_], hint: str) -> None:
    if bad.any():
        row = int(np.argmax(bad))
        raise InputError(f"a value of {field} is {values[row]}", field=field, row=row, hint=hint)

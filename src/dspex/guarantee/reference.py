"""What the calls looked like when a version was certified: the past that drift is measured against."""

from __future__ import annotations

import functools
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from dspex.errors import InputError
from dspex.guarantee.binomial import upper_bound
from dspex.guarantee.states import numbers_of, state_of, whole_of

__all__ = ["DriftReference", "Event"]

_FORMAT = "drift-reference/1"
#: The order statistics that are kept of scores: most where native answers begin to be doubted.
_SCORE_RANKS = (0.005, 0.02, 0.05, 0.1, 0.2, 0.4, 0.6, 0.85)
#: And of shares of unknown words: most where they are many.
_UNKNOWN_RANKS = (0.4, 0.7, 0.9, 0.97, 0.99, 0.995)
#: The share of the rows from which on it is watched whether a class becomes rarer.
_RARE = 0.02


#: Rank, value, rows below it, rows above it.
Ranked = tuple[int, float, int, int]


@dataclass(frozen=True, slots=True)
class Event:
    """Something that a call is or is not.

    Attributes:
        group: "score", "classes" or "unknown".
        name: the class; None for a limit, and for all classes that the reference does not know.
        limit: of the score or share; None for a class.
        side: "below" or "above" the limit; "is" or "is not" the class.
        share: of the reference rows for which it is so.
        seen: as many rows, by which the true share is bounded; of a limit by its rank, whatever is equal.
    """

    group: str
    name: str | None
    limit: float | None
    side: str
    share: float
    seen: int


class DriftReference:
    """Scores, predicted classes and shares of unknown words of a sample of calls.

    The rows must be such as the live ones: a sample of the traffic, answered by the program that is watched,
    and not rows that it was fitted on (it is surer of those). Kept are a count per class and some order
    statistics.

    A reference is an estimate, too. Of an event it says, for each level p, "the true share is at most u(p)",
    which is wrong with probability at most p: the Clopper-Pearson bound of a class, and of an order statistic
    the beta quantile that is the same function of a count (``open_shares``). DriftWatch refutes *all* shares,
    the less likely ones by what the reference itself says against them; so a small reference is slow to cry
    drift, and none does so merely because live calls become many.

    Attributes:
        rows: how many it was made of.
        counts: rows per class; None for a program whose output is no class.
        scores: of the kept scores their rank (from 1), their value, and how many are below and above it.
        unknown: the same of the shares of unknown words; None when there were none.
    """

    __slots__ = ("counts", "rows", "scores", "unknown")

    def __init__(
        self,
        rows: int,
        scores: tuple[Ranked, ...],
        counts: Mapping[str, int] | None,
        unknown: tuple[Ranked, ...] | None,
    ) -> None:
        self.rows, self.scores, self.counts, self.unknown = rows, scores, counts, unknown

    @classmethod
    def of(
        cls,
        scores: Sequence[float] | NDArray[Any],
        labels: Iterable[str] | None,
        unknown_shares: Sequence[float] | NDArray[Any] | None = None,
        *,
        classes: Iterable[str] = (),
    ) -> Self:
        """The reference of so many rows.

        Args:
            scores: [n] in 0..1.
            labels: [n], the predicted classes; None for a program whose output is no class.
            unknown_shares: [n] in 0..1, of unknown words; None when they are not watched.
            classes: all that may come. Those of the rows are added; but only when all are given does the
                chance of a false alarm not lean on which of them the rows happen to have.

        Raises:
            InputError: no rows, different lengths, a number outside 0..1, a label that is not a string.
        """
        values = _shares("scores", scores)
        unknown = None if unknown_shares is None else _shares("unknown_shares", unknown_shares)
        names = None if labels is None else list(labels)
        for field, column in (("labels", names), ("unknown_shares", unknown)):
            if column is not None and len(column) != len(values):
                raise InputError(f"{len(values)} scores but {len(column)} {field}", field=field)
        counts = None if names is None else _counts(names, classes)
        return cls(
            len(values),
            _ranked(values, _SCORE_RANKS),
            counts,
            None if unknown is None else _ranked(unknown, _UNKNOWN_RANKS),
        )

    def events(self) -> dict[str, list[Event]]:
        """By group, what can be watched: that it becomes more frequent."""
        found = {"score": self._limits("score", self.scores)}
        if self.counts is not None:
            found["classes"] = self._classes(self.counts)
        if self.unknown is not None:
            found["unknown"] = self._limits("unknown", self.unknown)
        # What all rows but one are cannot become more frequent to speak of.
        kept = {group: [e for e in events if e.seen < self.rows - 1] for group, events in found.items()}
        return {group: events for group, events in kept.items() if events}

    def _limits(self, group: str, ranked: tuple[Ranked, ...]) -> list[Event]:
        # F(x) at the k-th of n is at least, and F just below it at most, the k-th of n uniform numbers,
        # whatever the distribution and however many are equal. P(that > u) = P(Binomial(n, u) <= k - 1).
        n, found = self.rows, []
        for rank, limit, below, above in ranked:
            if limit > 0.0:
                found.append(Event(group, None, limit, "below", below / n, rank - 1))
            if limit < 1.0:
                found.append(Event(group, None, limit, "above", above / n, n - rank))
        return found

    def _classes(self, counts: Mapping[str, int]) -> list[Event]:
        n = self.rows
        more = [Event("classes", name, None, "is", k / n, k) for name, k in counts.items()]
        # That a rare class becomes rarer shows too late to be worth its part of the evidence.
        fewer = [
            Event("classes", name, None, "is not", 1.0 - k / n, n - k)
            for name, k in counts.items()
            if k >= _RARE * n
        ]
        return [*more, *fewer, Event("classes", None, None, "is", 0.0, 0)]

    def parts(self) -> dict[str, int]:
        """By group, how many events there could be, whatever the rows are: what evidence is divided by."""
        parts = {"score": 2 * len(self.scores)}
        if self.counts is not None:
            parts["classes"] = 2 * len(self.counts) + 1
        if self.unknown is not None:
            parts["unknown"] = 2 * len(self.unknown)
        return parts

    def open_shares(self, events: Sequence[Event], level: float) -> NDArray[np.float64]:
        """What each event's true share is at most, [events]; wrong with probability at most ``level``."""
        different, back = np.unique(np.array([e.seen for e in events], np.int64), return_inverse=True)
        return np.array(_upper(tuple(different.tolist()), self.rows, level))[back]

    def to_dict(self) -> dict[str, Any]:
        """JSON-able and exact."""
        return {
            "format": _FORMAT,
            "rows": self.rows,
            "scores": [list(line) for line in self.scores],
            "counts": None if self.counts is None else dict(self.counts),
            "unknown": None if self.unknown is None else [list(line) for line in self.unknown],
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """What ``to_dict`` gave.

        Raises:
            InputError: it did not give this.
        """
        data = state_of(data, _FORMAT)
        (rows,) = whole_of(data, "rows")
        counts = data.get("counts")
        if counts is not None:
            if not isinstance(counts, Mapping):
                raise InputError("the counts of a reference must be a mapping", field="counts")
            counts = dict(zip(counts, whole_of(counts, *counts), strict=True))
            if sum(counts.values()) != rows:
                raise InputError(f"the counts do not add up to the {rows} rows", field="counts")
        unknown = data.get("unknown")
        return cls(
            rows,
            _order("scores", data, rows),
            counts,
            None if unknown is None else _order("unknown", data, rows),
        )


@functools.lru_cache(maxsize=256)  # tens of milliseconds each, and needed by every watch of a reference
def _upper(seen: tuple[int, ...], rows: int, level: float) -> tuple[float, ...]:
    return tuple(np.atleast_1d(upper_bound(np.array(seen), rows, level)).tolist())


def _shares(field: str, values: Any) -> NDArray[np.float64]:
    found = np.asarray(values, np.float64)
    if found.ndim != 1 or not found.size:
        raise InputError(f"{field} must be one number per row, and at least one", field=field)
    wrong = ~((found >= 0) & (found <= 1))
    if wrong.any():
        row = int(np.argmax(wrong))
        raise InputError(f"{field} must be from 0 to 1, not {found[row]}", field=field, row=row)
    return found


def _counts(names: list[str], classes: Iterable[str]) -> dict[str, int]:
    seen = Counter(names)
    known = [*classes, *seen]
    for name in known:
        if not isinstance(name, str):
            raise InputError(f"a class must be a string, not {name!r}", field="labels")
    return {name: seen[name] for name in sorted(set(known))}


def _ranked(values: NDArray[np.float64], shares: tuple[float, ...]) -> tuple[Ranked, ...]:
    ranks = sorted({max(1, math.ceil(share * len(values))) for share in shares})
    ordered = np.sort(values)
    found = []
    for rank in ranks:
        value = float(ordered[rank - 1])
        below, upto = (int(np.searchsorted(ordered, value, side)) for side in ("left", "right"))
        found.append((rank, value, below, len(ordered) - upto))
    return tuple(found)


def _order(name: str, data: Mapping[str, Any], rows: int) -> tuple[Ranked, ...]:
    lines = data.get(name)
    if not isinstance(lines, list | tuple) or not lines:
        raise InputError(f"the {name} of a reference must be ranks, values and counts", field=name)
    found = []
    for line in lines:
        rank, value, below, above = numbers_of({"line": line}, "line", size=4)
        if not (below < rank <= rows - above and value <= 1):
            raise InputError(f"of {rows} rows there cannot be: {line!r}", field=name)
        found.append((int(rank), value, int(below), int(above)))
    return tuple(found)

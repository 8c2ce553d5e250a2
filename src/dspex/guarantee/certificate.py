"""What has been certified, on what, and under which assumptions."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal, Self

from dspex.errors import InputError

__all__ = ["Certificate", "CurvePoint", "GroupCertificate"]

#: (threshold, coverage, agreement, lower bound of the agreement) of the rows with at least that score.
CurvePoint = tuple[float, float, float, float]


@dataclass(frozen=True, slots=True)
class GroupCertificate:
    """What has been certified of one group. Fields as in `Certificate`; `delta` is the group's part of it."""

    threshold: float | None
    delta: float
    rows: int
    accepted: int
    errors: int
    risk: float | None
    upper_bound: float
    rows_needed: int | None
    reason: str


@dataclass(frozen=True, slots=True)
class Certificate:
    """A threshold with a guarantee, or the reason why there is none.

    With probability at least 1 - delta over the rows that certified, of the answers with a score of at least
    the threshold at most a share of 1 - agreement disagrees with the teacher; with groups this holds within
    each group that has a threshold, for all of them at once, and so for all of them together.

    Attributes:
        agreement, delta: what was asked for.
        method: "split" or "cross".
        threshold: answers with a score of at least this may stand; None: nothing can be guaranteed, or each
            group has a threshold of its own.
        thresholds: group -> its threshold, None for one that is deferred; None without groups. A group that
            is not named is deferred.
        rows: rows that certified.
        accepted, errors: rows that reach their threshold, and the wrong ones among them.
        coverage: accepted / rows.
        risk: the share of wrong ones, or their mean cost; None where nothing is accepted.
        upper_bound: of the risk of accepted rows, at delta (Clopper-Pearson; with costs, that of the test);
            with groups the highest of the groups', each at its part of delta. 1.0 where nothing is accepted.
        rows_needed: how many more rows certify something with a chance of 80 %, were they like those seen so
            far; 0 where something is certified, None where no number would do.
        reason: a sentence.
        assumptions: sentences.
        test: "binomial", "bentkus" or "betting".
        start: the threshold that was tested first; None with groups.
        groups: group -> what has been certified of it; None without groups.
        curve: points for a plot; each bound holds by itself, not all at once. Empty with groups.
    """

    agreement: float
    delta: float
    method: Literal["split", "cross"]
    threshold: float | None
    thresholds: Mapping[str, float | None] | None
    rows: int
    accepted: int
    errors: int
    coverage: float
    risk: float | None
    upper_bound: float
    rows_needed: int | None
    reason: str
    assumptions: tuple[str, ...]
    test: Literal["binomial", "bentkus", "betting"] = "binomial"
    start: float | None = None
    groups: Mapping[str, GroupCertificate] | None = None
    curve: tuple[CurvePoint, ...] = field(default=(), repr=False)

    @property
    def covers(self) -> bool:
        """Whether any answer may stand."""
        if self.thresholds is None:
            return self.threshold is not None
        return any(threshold is not None for threshold in self.thresholds.values())

    def threshold_for(self, group: str | None = None) -> float:
        """The score from which an answer may stand; inf: none does.

        Raises:
            InputError: a group is named and there are none, or the other way round.
        """
        if (group is None) != (self.thresholds is None):
            has = "no groups" if self.thresholds is None else "a threshold for each group"
            raise InputError(f"the certificate has {has}", field="group")
        found = self.threshold if self.thresholds is None else self.thresholds.get(str(group))
        return math.inf if found is None else found

    def to_dict(self) -> dict[str, Any]:
        """JSON-able; `from_dict` gives an equal certificate back."""
        data = asdict(self)
        data["assumptions"] = list(self.assumptions)
        data["curve"] = [list(point) for point in self.curve]
        return data

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """What `to_dict` gave.

        Raises:
            InputError: something is missing or too much.
        """
        known = {item.name for item in fields(cls)}
        if not isinstance(data, Mapping) or set(data) != known:
            odd = sorted(known ^ set(data)) if isinstance(data, Mapping) else [type(data).__name__]
            raise InputError(
                f"this is no certificate: {', '.join(map(str, odd))}", field="certificate",
                hint="It has the fields that Certificate.to_dict gives",
            )  # fmt: skip
        values = dict(data)
        values["assumptions"] = tuple(values["assumptions"])
        values["curve"] = tuple(tuple(point) for point in values["curve"])
        if values["groups"] is not None:
            values["groups"] = {name: GroupCertificate(**given) for name, given in values["groups"].items()}
        return cls(**values)

    def __str__(self) -> str:
        lines = [self.reason]
        if self.groups is not None:
            lines += [f"- {name}: {group.reason}" for name, group in self.groups.items()]
        lines += ["It is assumed that", *(f"- {text}" for text in self.assumptions)]
        return "\n".join(lines)

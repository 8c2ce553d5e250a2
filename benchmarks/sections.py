"""What a section of the benchmark gives: cases, each with one value a round of every figure; and targets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from benchmarks.rounds import Series
from benchmarks.timing import ratio, spread


@dataclass(frozen=True)
class Target:
    """Something that was to be reached, and whether it was: by the median over the rounds.

    Attributes:
        what: in words.
        values: one a round.
        bound: what the median is held against.
        at_least: whether the bound is a lower one.
        unit: put behind the values.
    """

    what: str
    values: Sequence[float]
    bound: float
    at_least: bool = True
    unit: str = "x"

    @classmethod
    def at_most(cls, what: str, values: Sequence[float], bound: float, unit: str = "") -> Target:
        return cls(what, values, bound, at_least=False, unit=unit)

    @property
    def met(self) -> bool:
        middle = spread(self.values)[0]
        return middle >= self.bound if self.at_least else middle <= self.bound


@dataclass
class Section:
    """A table: one line a case.

    Attributes:
        title: its heading.
        cases: case -> figure -> one value a round.
        peer: the case that the others are compared with, or a function's worth of them: see `peers`.
        compared: the figure that is compared.
        higher: whether more of it is better.
        peers: case -> its own peer, where it is not `peer`.
        targets: what was to be reached.
        note: what one has to know to read it.
    """

    title: str
    cases: dict[str, Series]
    peer: str
    compared: str
    higher: bool = False
    peers: dict[str, str] = field(default_factory=dict)
    targets: list[Target] = field(default_factory=list)
    note: str = ""

    def peer_of(self, case: str) -> str:
        return self.peers.get(case, self.peer)

    def ratios(self, case: str, peer: str | None = None, figure: str | None = None) -> list[float]:
        """How many times better the case is than its peer, round by round."""
        figure = figure or self.compared
        own, other = self.cases[case][figure], self.cases[peer or self.peer_of(case)][figure]
        return [a / b for a, b in zip(own, other, strict=True)] if self.higher else [
            b / a for a, b in zip(own, other, strict=True)
        ]  # fmt: skip

    def above_peer(self, case: str) -> list[float]:
        """What the case's compared figure is above its peer's, round by round."""
        return difference(self.cases[case][self.compared], self.cases[self.peer_of(case)][self.compared])

    def to_dict(self) -> dict[str, Any]:
        return asdict(self) | {"targets": [asdict(each) | {"met": each.met} for each in self.targets]}

    @classmethod
    def of(cls, data: dict[str, Any]) -> Section:
        """From `to_dict`."""
        targets = [Target(**{k: v for k, v in each.items() if k != "met"}) for each in data["targets"]]
        return cls(**data | {"targets": targets})


def difference(a: Sequence[float], b: Sequence[float]) -> list[float]:
    """a - b, round by round."""
    return [x - y for x, y in zip(a, b, strict=True)]


def quotient(a: Sequence[float], b: Sequence[float]) -> list[float]:
    """a / b, round by round."""
    return [x / y for x, y in zip(a, b, strict=True)]


__all__ = ["Section", "Target", "difference", "quotient", "ratio", "spread"]

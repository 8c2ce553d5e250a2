"""How much a run measures."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.rounds import Plan as Rounds


@dataclass
class Plan:
    """What the parts share.

    Attributes:
        seeds: splits of `train`, and fits, that a figure is taken over.
        sets: data sets of `targets`.
        share: of the rows, those that certify.
        quick: fewer of everything, for a look.
        rounds: how times are taken.
        tracer: the interpreter that has TRACER; None: left out.
        cache: folder for embeddings, outside the repository.
    """

    seeds: int = 5
    sets: tuple[str, ...] = ("banking77", "clinc150", "ag_news_small")
    share: float = 0.2
    quick: bool = False
    rounds: Rounds = field(default_factory=Rounds)
    tracer: Path | None = None
    cache: Path | None = None

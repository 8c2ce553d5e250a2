"""Populations of calls of which the true risk at every threshold is known, and draws from them."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

import dspex
from benchmarks.datasets import Row
from benchmarks.distill.tasks import Noise, Teacher, load
from dspex.learning.gate import held_out

NOISES: tuple[tuple[float, Noise], ...] = (
    (0.0, "random"),
    (0.03, "random"),
    (0.03, "confusable"),
    (0.1, "random"),
    (0.1, "confusable"),
)
_SIZE = 20_000  # of a made population


@dataclass(frozen=True, eq=False)
class Population:
    """Rows that are the population itself: what is drawn from it with replacement is judged by all of it.

    Attributes:
        name: of data and teacher.
        scores, wrong: [rows].
        held_scores, held_wrong: [held] of the rows that were learned from, for the grid.
    """

    name: str
    scores: NDArray[np.float64]
    wrong: NDArray[np.bool_]
    held_scores: NDArray[np.float64]
    held_wrong: NDArray[np.bool_]

    def risk(self, threshold: float | None) -> tuple[float, float]:
        """Coverage and risk at a threshold; nothing accepted has none."""
        if threshold is None:
            return 0.0, 0.0
        taken = self.scores >= threshold
        return float(taken.mean()), float(self.wrong[taken].mean()) if taken.any() else 0.0

    def hindsight(self, rate: float) -> float:
        """The coverage of the lowest threshold with a risk of at most `rate`."""
        order = np.argsort(-self.scores, kind="stable")
        ends = np.append(np.diff(self.scores[order]) != 0, True)
        risks = np.cumsum(self.wrong[order]) / np.arange(1, order.size + 1)
        good = np.flatnonzero(ends & (risks <= rate))
        return float((good[-1] + 1) / order.size) if good.size else 0.0


def fitted(
    sets: tuple[str, ...], threads: int, noises: tuple[tuple[float, Noise], ...] = NOISES
) -> Iterator[Population]:
    """Programs fitted on half of train and dev together, with each teacher; the other half is the population.

    The teacher's answers to the population are drawn once, and are what is to be agreed with.
    """
    for name in sets:
        data = load(name)
        rows = [*data.train, *data.dev]
        random.Random(0).shuffle(rows)
        for rate, noise in noises:
            told = Teacher(data, rate, noise).answers(rows)
            half = len(told) // 2
            teacher = f"{rate:.0%} wrong, {noise}" if rate else "gold"
            yield program_population(f"{name}, {teacher}", told[:half], told[half:], threads)


def program_population(name: str, learned: list[Row], others: list[Row], threads: int) -> Population:
    program = dspex.fit("text -> label: str", learned, gate=True, threads=threads)
    held = held_out(program)
    results = program.batch([{"text": row["text"]} for row in others])
    return Population(
        name,
        np.array([result.gate_score for result in results], np.float64),
        np.array([result["label"] != row["label"] for result, row in zip(results, others, strict=True)]),
        held.scores.astype(np.float64),
        held.wrong,
    )


def made(rate: float) -> Iterator[Population]:
    """Populations in which a bound on the risk of `rate` is hard to keep."""
    ranks = (np.arange(_SIZE) + 0.5) / _SIZE  # of the scores, the surest row first
    just_above = np.diff(np.floor(np.arange(_SIZE + 1) * rate * 1.0001 + 1e-6)) > 0
    just_above[: int(1 / rate)] |= np.arange(int(1 / rate)) == 0
    risks: dict[str, NDArray[np.bool_]] = {
        "made: risk just above the bound at every threshold": just_above,
        "made: the surest rows are the worst": _spread(np.where(ranks < 0.2, 3 * rate, 0.4 * rate)),
        "made: risk jumps past the bound": _spread(np.where(ranks < 0.6, 0.9 * rate, 0.9)),
        "made: risk rises slowly": _spread(2.2 * rate * ranks),
    }
    rng = np.random.default_rng(0)
    for name, wrong in risks.items():
        held = rng.integers(0, _SIZE, 2000)
        scores = 1 - ranks
        yield Population(name, scores, wrong, scores[held], wrong[held])
    one = np.full(_SIZE, 0.5)
    errors = np.arange(_SIZE) < np.floor(rate * _SIZE) + 1
    yield Population(
        "made: one score for all, risk just above the bound", one, errors, one[:500], errors[:500]
    )
    wrong = risks["made: risk rises slowly"]
    coarse = np.ceil(10 * (1 - ranks)) / 10
    held = rng.integers(0, _SIZE, 300)
    yield Population("made: ten scores only", coarse, wrong, coarse[held], wrong[held])


def _spread(risk: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Wrong rows laid out evenly, so that the risk of the rows up to each is what it should be."""
    return np.asarray(np.diff(np.floor(np.concatenate(([0.0], np.cumsum(risk))) + 0.5)) > 0)

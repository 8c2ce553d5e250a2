"""A threshold for each group: how delta is shared among them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from dspex.guarantee.binomial import critical, rows_without_errors, tail
from dspex.guarantee.testing import Level, Test, Walk, walk

__all__ = ["Chain", "Outcome", "Prospect", "large_enough", "walk_all", "worth_testing"]


@dataclass(frozen=True, slots=True)
class Chain:
    """The tests of one group, in order."""

    test: Test
    levels: Level


@dataclass(frozen=True, slots=True)
class Outcome:
    """What they came to, and the part of delta that the group had in the end."""

    walk: Walk
    delta: float


@dataclass(frozen=True, slots=True)
class Prospect:
    """Of the rows of a group, the share that reaches its first threshold, and their risk."""

    coverage: float
    risk: float


def large_enough(counts: Mapping[str, int], rate: float, delta: float) -> list[str]:
    """The groups among which delta is shared: as many as can each be certified if none of its rows is wrong.

    Only the groups' sizes are looked at. Given the sizes, each group's rows are a sample of the group, so
    that the tests stay exact.
    """
    order = sorted(counts, key=lambda name: (-counts[name], name))
    for size in range(len(order), 0, -1):
        if counts[order[size - 1]] >= rows_without_errors(rate, delta / size):
            return order[:size]
    return []


def worth_testing(
    counts: Mapping[str, int], prospects: Mapping[str, Prospect | None], rate: float, delta: float
) -> list[str]:
    """The groups among which delta is shared: those with which the most rows can be expected to be accepted.

    Every further group leaves less for the others. What is to be expected comes from the groups' sizes and
    from held-out rows, never from the rows that certify.

    Args:
        prospects: group -> what held-out rows say of its first threshold; None: nothing. Without any, the
            groups that are large enough are taken.
    """
    known = [(name, p) for name, p in prospects.items() if p is not None]
    rows = np.array([round(counts[name] * p.coverage) for name, p in known], np.int64)
    risks = np.array([p.risk for _, p in known])
    best, chosen = 0.0, large_enough(counts, rate, delta)
    for size in _sizes(len(known)):
        most = critical(rows, rate, delta / size)
        gains = np.where(most >= 0, tail(most, rows, risks), 0.0) * rows
        top = np.argsort(-gains, kind="stable")[:size]
        if gains[top].sum() > best:
            best, chosen = float(gains[top].sum()), [known[i][0] for i in top if gains[i] > 0]
    return chosen


def _sizes(groups: int) -> list[int]:
    """1, 2, 3, 4, 6, 8, 11, ... and the number of groups."""
    sizes = {groups} if groups else set()
    size = 1
    while size < groups:
        sizes.add(size)
        size += max(1, size // 3)
    return sorted(sizes)


def walk_all(chains: Mapping[str, Chain], delta: float) -> dict[str, Outcome]:
    """Walks each group's tests at an equal part of delta; a group that is done with passes its part on.

    That is Holm's procedure for chains: a group all of whose thresholds are certified leaves its part to the
    others in equal shares (Bretz, Maurer, Brannath and Posch 2009). The chance that any threshold of any
    group is certified wrongly is at most delta.
    """
    parts = dict.fromkeys(chains, delta / len(chains)) if chains else {}
    done: dict[str, Outcome] = {}
    while len(done) < len(chains):
        walks = {name: walk(c.test, c.levels, parts[name]) for name, c in chains.items() if name not in done}
        finished = [name for name, result in walks.items() if result.complete]
        if not finished:
            return done | {name: Outcome(result, parts[name]) for name, result in walks.items()}
        for name in finished:
            done[name] = Outcome(walks[name], parts[name])
        others = [name for name in walks if name not in done]
        for name in others:
            parts[name] += sum(parts[gone] for gone in finished) / len(others)
    return done

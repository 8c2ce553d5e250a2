"""Whether certificates hold: how often the true risk exceeds the bound, over draws of the rows that certify.

    python -m benchmarks.distill.validity [--splits 500] [--sets banking77 ...] [--only fitted made cross ...]

`fitted` and `cross` need DSPEX_DATA. In `fitted` a program is fitted on half of the rows and the other half
is the population; in `made` the population is made up to be hard. Calibration rows are drawn from the
population with replacement, so that its risk is the true one, exactly. `costs` weighs errors, `groups` looks
at the worst of several groups. `cross` fits anew for every draw, certifies by held-out scores, and judges by
the rows left.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.distill.crossing import cross
from benchmarks.distill.populations import Population, fitted, made
from benchmarks.distill.tables import Table, cell
from dspex.guarantee.binomial import tail, upper_bound
from dspex.guarantee.certify import certify, grid_of, grids_of
from dspex.guarantee.planning import Grid
from dspex.guarantee.testing import Binomial, levels_of, lowest

AGREEMENTS = (0.90, 0.95, 0.98)
DELTAS = (0.05, 0.2)
ROWS = (300, 3000)
_GROUPS = 3

COLUMNS = (
    "population", "rows", "agreement", "δ", "above the bound", "95 % interval", "p-value of ≤ δ",
    "nothing certified", "coverage", "in hindsight", "picked on the same rows: above",
)  # fmt: skip


def threshold_of(grid: Grid, scores: Any, wrong: Any, rate: float, delta: float) -> float | None:
    """What `certify` certifies, without the figures around it; see `_same`."""
    levels = levels_of(scores, grid.starts, grid.shares, grid.thresholds)
    return lowest(Binomial(scores, wrong, rate), levels, delta)


def picked(scores: NDArray[np.float64], wrong: NDArray[np.bool_], rate: float) -> float | None:
    """The lowest threshold whose risk on these rows is low enough: what must not be done."""
    order = np.argsort(-scores, kind="stable")
    ends = np.append(np.diff(scores[order]) != 0, True)
    good = np.flatnonzero(ends & (np.cumsum(wrong[order]) <= rate * np.arange(1, order.size + 1)))
    return float(scores[order[good[-1]]]) if good.size else None


def plain(population: Population, agreements: Iterable[float], splits: int) -> Iterator[tuple[Any, ...]]:
    """A line for each number of rows, agreement and delta."""
    for size in ROWS:
        rng = np.random.default_rng(size)
        draws = [rng.integers(0, population.scores.size, size) for _ in range(splits)]
        rows = [(population.scores[d], population.wrong[d]) for d in draws]
        for agreement in agreements:
            rate = float(f"{1 - agreement:.15g}")
            naive = np.mean([population.risk(picked(s, w, rate))[1] > rate for s, w in rows])
            for delta in DELTAS:
                grid = grid_of(population.held_scores, population.held_wrong, agreement, delta, size)
                found = [threshold_of(grid, s, w, rate, delta) for s, w in rows]
                for (s, w), threshold in zip(rows[:3], found[:3], strict=True):
                    whole = certify(s, w, agreement=agreement, delta=delta, grid=grid)
                    assert whole.threshold == threshold, "the short way is not the way of certify"
                yield _line(population, size, agreement, delta, found, float(naive))


def _line(
    population: Population, size: int, agreement: float, delta: float, found: list[float | None], naive: float
) -> tuple[Any, ...]:
    rate = float(f"{1 - agreement:.15g}")
    covered = [population.risk(threshold) for threshold in found]
    above = sum(risk > rate for _, risk in covered)
    nothing = float(np.mean([threshold is None for threshold in found]))
    coverage = float(np.mean([share for share, _ in covered]))
    return (
        population.name, size, f"{agreement:.2f}", f"{delta:g}", *_share(above, len(found), delta), nothing,
        coverage, population.hindsight(rate), naive,
    )  # fmt: skip


def _share(above: int, splits: int, delta: float) -> tuple[float, str, float]:
    """The share, its Clopper-Pearson interval, and the p-value of "the chance is at most delta"."""
    low = 1 - float(upper_bound(splits - above, splits, 0.025))
    high = float(upper_bound(above, splits, 0.025))
    p_value = 1 - float(tail(above - 1, splits, delta))
    return above / splits, f"{low:.3f} to {high:.3f}", p_value


def weighted(splits: int) -> Iterator[tuple[Any, ...]]:
    """Errors that cost: little mostly, or all or nothing; the true mean cost against the bound."""
    rate, agreement = 0.05, 0.95
    population = next(p for p in made(rate) if "slowly" in p.name)
    rng = np.random.default_rng(5)
    kinds = {
        "costs: evenly between 0 and 1": rng.random(population.scores.size),
        "costs: 0.2": np.full(population.scores.size, 0.2),
        "costs: 1, some 0.5": np.where(rng.random(population.scores.size) < 0.1, 0.5, 1.0),
    }
    for name, costs in kinds.items():
        # The risk crosses the bound within the population, whatever the costs.
        wrong = rng.random(population.scores.size) < (1 - population.scores) * 2.2 * rate / costs.mean()
        true = np.cumsum((wrong * costs)[np.argsort(-population.scores)]) / np.arange(1, costs.size + 1)
        for size, delta in ((300, 0.2), (2000, 0.05)):
            grid = grid_of(population.scores[::9], wrong[::9], agreement, delta, size, costs=costs[::9])
            risks, shares, nothing = [], [], 0
            for _ in range(splits):
                d = rng.integers(0, costs.size, size)
                c = certify(
                    population.scores[d],
                    wrong[d],
                    agreement=agreement,
                    delta=delta,
                    grid=grid,
                    costs=costs[d],
                )
                taken = 0 if c.threshold is None else int((population.scores >= c.threshold).sum())
                nothing += c.threshold is None
                risks.append(true[taken - 1] if taken else 0.0)
                shares.append(taken / costs.size)
            above = sum(risk > rate for risk in risks)
            best = float((np.flatnonzero(true <= rate)[-1] + 1) / costs.size)
            yield (
                f"{name} ({grid.test})", size, "0.95", f"{delta:g}", *_share(above, splits, delta),
                nothing / splits, float(np.mean(shares)), best, "",
            )  # fmt: skip


def grouped(splits: int) -> Iterator[tuple[Any, ...]]:
    """Groups of different size and risk; above the bound is a draw in which any group's true risk is."""
    rate, agreement = 0.1, 0.9
    rng = np.random.default_rng(6)
    rows = 20_000
    group = rng.choice(_GROUPS, rows, p=[0.6, 0.3, 0.1])
    scores = rng.random(rows)
    wrong = rng.random(rows) < (1 - scores) ** 2 * np.array([0.25, 0.5, 0.4])[group]
    names = np.array([f"group {g}" for g in range(_GROUPS)])[group]
    for size, delta in ((300, 0.2), (3000, 0.05)):
        held = rng.integers(0, rows, 2000)
        grids = grids_of(scores[held], wrong[held], names[held], agreement, delta, size)
        above, shares, nothing = 0, [], 0
        for _ in range(splits):
            d = rng.integers(0, rows, size)
            c = certify(scores[d], wrong[d], agreement=agreement, delta=delta, grid=grids, groups=names[d])
            taken = scores >= np.array([c.threshold_for(f"group {g}") for g in range(_GROUPS)])[group]
            above += any(wrong[taken & (group == g)].mean() > rate for g in set(group[taken]))
            shares.append(taken.mean())
            nothing += not c.covers
        yield (
            f"{_GROUPS} groups", size, "0.90", f"{delta:g}", *_share(above, splits, delta), nothing / splits,
            float(np.mean(shares)), "", "",
        )  # fmt: skip


def lines(part: str, options: argparse.Namespace) -> Iterator[tuple[Any, ...]]:
    if part == "fitted":
        for population in fitted(tuple(options.sets), options.threads):
            yield from plain(population, AGREEMENTS, options.splits)
    elif part == "made":
        for agreement in AGREEMENTS:
            for population in made(float(f"{1 - agreement:.15g}")):
                yield from plain(population, (agreement,), options.splits)
    elif part == "costs":
        yield from weighted(options.splits)
    else:
        yield from grouped(options.splits)


def show(table: Table) -> None:
    print(f"\n## {table.title}\n\n{table.note}\n")
    print("| " + " | ".join(table.columns) + " |\n|---|" + "---:|" * (len(table.columns) - 1))
    for line in table.lines:
        print("| " + " | ".join(map(cell, line)) + " |")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parts = ["fitted", "made", "costs", "groups", "cross"]
    parser.add_argument("--only", nargs="+", choices=parts, default=parts)
    parser.add_argument("--splits", type=int, default=500, help="draws of the rows that certify (500)")
    parser.add_argument("--refits", type=int, default=60, help="fits of `cross` for each set (60)")
    parser.add_argument("--sets", nargs="+", default=["banking77", "clinc150", "ag_news_small"])
    parser.add_argument("--threads", type=int, default=1)
    return parser.parse_args()


def main() -> None:
    options, begin = parse(), time.perf_counter()
    p_values: list[float] = []
    for part in options.only:
        if part == "cross":
            show(cross(("ag_news_small", "banking77"), options.refits, options.threads))
            continue
        found = list(lines(part, options))
        p_values += [float(line[6]) for line in found]
        least = 0.05 / max(1, len(found))
        note = f"{options.splits} draws a line; a p-value below {least:.1g} would be a breach."
        show(Table(part, COLUMNS, [list(line) for line in found], note))
    if p_values:
        print(
            f"\n{len(p_values)} lines; the least p-value is {min(p_values):.2g}, and of so many that are all"
        )
        print(f"valid one below {0.05 / len(p_values):.1g} comes with a chance of at most 5 %.")
    print(f"\n{time.perf_counter() - begin:.0f} s")


if __name__ == "__main__":
    main()

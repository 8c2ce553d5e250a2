"""Ways to test thresholds that are all valid: what each certifies, beside the best threshold in hindsight.

    python -m benchmarks.distill.procedures [--splits 300] [--sets banking77 ...]

Needs DSPEX_DATA. Populations as in `validity`, with gold labels; the grid is made from 1,000 held-out rows.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from benchmarks.distill.populations import Population, fitted
from benchmarks.distill.tables import Table, cell
from dspex.guarantee.certify import grid_of, prior_grid
from dspex.guarantee.planning import Grid
from dspex.guarantee.testing import Binomial, levels_of, lowest

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]
Plan = Callable[[Floats, Flags, float, float, int], Grid]

CASES = ((300, 0.95, 0.05), (300, 0.90, 0.05), (300, 0.98, 0.2), (3000, 0.95, 0.05))
_HELD = 1000


def _quantiles(scores: Floats, shares: Floats) -> tuple[float, ...]:
    return tuple(float(x) for x in np.unique(np.quantile(scores, 1 - shares))[::-1])


def _strictest(scores: Floats, wrong: Flags, agreement: float, delta: float, n: int) -> Grid:
    return Grid((float(scores.max()),))


def _coarse(scores: Floats, wrong: Flags, agreement: float, delta: float, n: int) -> Grid:
    """From the best start, in steps of 5 % of the rows."""
    start = grid_of(scores, wrong, agreement, delta, n).starts[0]
    below = _quantiles(scores, np.arange(0.05, 1.001, 0.05))
    return Grid((start,), thresholds=(start, *(x for x in below if x < start)))


def _fallback(scores: Floats, wrong: Flags, agreement: float, delta: float, n: int) -> Grid:
    """A tenth of delta each at a stricter and a looser threshold than the best start."""
    start = grid_of(scores, wrong, agreement, delta, n).starts[0]
    reached = float((scores >= start).mean())
    strict, loose = (float(np.quantile(scores, 1 - min(1.0, reached * f))) for f in (0.6, 1.25))
    starts = {strict: 0.1, loose: 0.1, start: 0.8}
    order = sorted(starts, reverse=True)
    return Grid(tuple(order), tuple(starts[x] for x in order))


def _spread(scores: Floats, wrong: Flags, agreement: float, delta: float, n: int) -> Grid:
    """Five starts with a fifth of delta each."""
    starts = _quantiles(scores, np.array([0.3, 0.45, 0.6, 0.75, 0.9]))
    return Grid(starts, (1 / len(starts),) * len(starts))


def _bonferroni(scores: Floats, wrong: Flags, agreement: float, delta: float, n: int) -> Grid:
    """Fifteen thresholds, each at a fifteenth of delta at least: a start each, nothing between them."""
    starts = _quantiles(scores, np.linspace(0.3, 1, 15))
    return Grid(starts, (1 / len(starts),) * len(starts), thresholds=starts)


PLANS: dict[str, Plan] = {
    "best start, every score": grid_of,
    "best start, steps of 5 %": _coarse,
    "fallback, three starts": _fallback,
    "fallback, five even starts": _spread,
    "fifteen thresholds, delta split": _bonferroni,
    "no rows for the grid (prior_grid)": lambda scores, wrong, agreement, delta, n: prior_grid(agreement),
    "strictest first": _strictest,
}


def table(population: Population, splits: int) -> Table:
    columns = ["mean coverage (nothing certified)"]
    columns += [f"{n:,} rows, {a:.2f}, δ {d:g}" for n, a, d in CASES]
    found = Table(population.name, columns)
    results: dict[str, list[str]] = {name: [] for name in ("in hindsight", *PLANS)}
    for n, agreement, delta in CASES:
        rate = float(f"{1 - agreement:.15g}")
        results["in hindsight"].append(f"{population.hindsight(rate):.3f}")
        shares: dict[str, list[float]] = {name: [] for name in PLANS}
        rng = np.random.default_rng(n)
        for _ in range(splits):
            drawn = rng.integers(0, population.scores.size, n)
            held = rng.integers(0, population.held_scores.size, _HELD)
            scores = population.scores[drawn]
            test = Binomial(scores, population.wrong[drawn], rate)
            for name, plan in PLANS.items():
                grid = plan(population.held_scores[held], population.held_wrong[held], agreement, delta, n)
                levels = levels_of(scores, grid.starts, grid.shares, grid.thresholds)
                shares[name].append(population.risk(lowest(test, levels, delta))[0])
        for name, covered in shares.items():
            results[name].append(f"{np.mean(covered):.3f} ({np.mean(np.array(covered) == 0):.2f})")
    for name, cells in results.items():
        found.add(name, *cells)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--splits", type=int, default=300)
    parser.add_argument("--sets", nargs="+", default=["banking77", "clinc150", "ag_news_small"])
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    for population in fitted(tuple(options.sets), options.threads, noises=((0.0, "random"),)):
        shown = table(population, options.splits)
        print(f"\n## {shown.title}\n\n| " + " | ".join(shown.columns) + " |")
        print("|---|" + "---:|" * (len(shown.columns) - 1))
        for line in shown.lines:
            print("| " + " | ".join(map(cell, line)) + " |", flush=True)


if __name__ == "__main__":
    main()

"""Certificates by held-out scores ("cross"), judged by the rows that were not drawn: a fit for each draw."""

from __future__ import annotations

import random

import numpy as np

from benchmarks.distill.populations import program_population
from benchmarks.distill.tables import Table
from benchmarks.distill.tasks import load
from dspex.guarantee.binomial import tail, upper_bound
from dspex.guarantee.certify import certify, prior_grid

_SIZE = {"ag_news_small": 2000, "banking77": 3000}
_COLUMNS = (
    "set", "rows", "agreement", "δ", "fits", "certified", "above the bound", "95 % interval",
    "shown to be above", "coverage", "true risk less bound", "noise of a true risk",
)  # fmt: skip


def cross(sets: tuple[str, ...], fits: int, threads: int) -> Table:
    """Lines for each set, agreement and delta.

    The true risk is measured on the rows left, and carries their noise: with a risk right at the bound half
    of the fits would be above it. "Shown to be above": by an exact test of those rows at 5 %.
    """
    found: dict[tuple[str, float, float], list[tuple[float, float, int, int]]] = {}
    for name in sets:
        rows = [*load(name).train, *load(name).dev]
        for seed in range(fits):
            random.Random(seed).shuffle(rows)
            size = _SIZE[name]
            truth = program_population(name, rows[:size], rows[size:], threads)
            for agreement in (0.90, 0.95):
                for delta in (0.05, 0.2):
                    certificate = certify(
                        truth.held_scores, truth.held_wrong, agreement=agreement, delta=delta,
                        grid=prior_grid(agreement), method="cross",
                    )  # fmt: skip
                    share, risk = truth.risk(certificate.threshold)
                    taken = round(share * truth.scores.size)
                    found.setdefault((name, agreement, delta), []).append(
                        (share, risk, taken, round(risk * taken))
                    )
    note = "Half of the fits that end right at the bound would be above it by the noise alone."
    table = Table("cross", _COLUMNS, note=note)
    for (name, agreement, delta), results in found.items():
        bound = 1 - agreement
        live = [each for each in results if each[2]]
        above = sum(risk > bound for _, risk, _, _ in live)
        shown = sum(1 - tail(errors - 1, taken, bound) < 0.05 for _, _, taken, errors in live)
        low = 1 - float(upper_bound(fits - above, fits, 0.025))
        table.add(
            name, _SIZE[name], f"{agreement:.2f}", f"{delta:g}", fits, len(live), above / fits,
            f"{low:.3f} to {float(upper_bound(above, fits, 0.025)):.3f}", shown / fits,
            float(np.mean([share for share, *_ in results])),
            float(np.mean([risk - bound for _, risk, _, _ in live])) if live else None,
            float(np.mean([(bound * agreement / taken) ** 0.5 for _, _, taken, _ in live])) if live else None,
        )  # fmt: skip
    return table

"""Texts of none of the classes, and a program with its teacher taken together, on CLINC150."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from benchmarks import datasets
from benchmarks.distill.measure import Found, measure
from benchmarks.distill.plan import Plan
from benchmarks.distill.tables import Table
from benchmarks.distill.targets import METHODS, version
from benchmarks.distill.tasks import load
from benchmarks.sections import Target

SET = "clinc150"
LEAST_DEFERRED, LEAST_AREA = 0.85, 0.96
LEAST_RIGHT, MOST_ASKED = 0.975, 0.10
AGREEMENTS = (0.95, 0.97, 0.975, 0.98, 0.99)
AIMED = 0.975
"""At this agreement the end-to-end figures are held against their aims: 1 - (1 - 0.975) * coverage is right
at least, so that it is the least one which promises them."""


def tables(plan: Plan) -> Iterator[Table]:
    """Out of scope."""
    table = Table(
        "CLINC150, out of scope",
        ("method", "deferred of dev_oos", "coverage of dev", "agreement on dev", "area, familiarity",
         "area, confidence"),
        note="Fitted and certified for 0.95 on `train`, which has no out-of-scope text; `dev_oos` is 100 "
        "texts of no class, `dev` the in-scope ones. Area: under the ROC curve, `dev` against `dev_oos`.",
    )  # fmt: skip
    outside = datasets._read(datasets.data_root() / SET / "dev_oos.jsonl")
    for method in METHODS:
        pairs = []
        for seed in range(plan.seeds):
            made = version(plan, SET, method, 0.95, seed)
            known = [{"text": row["text"], "label": load(SET).classes[0]} for row in outside]
            pairs.append((measure(made.guarded, load(SET).dev), measure(made.guarded, known)))
        deferred = [1 - away.coverage for _, away in pairs]
        areas = [area(own.familiarity, away.familiarity) for own, away in pairs]
        table.add(
            method,
            deferred,
            [own.coverage for own, _ in pairs],
            [own.agreement for own, _ in pairs],
            areas,
            [area(own.confidence, away.confidence) for own, away in pairs],
        )
        table.targets += [
            Target(f"out of scope, deferred, {method}", deferred, LEAST_DEFERRED, unit=""),
            Target(
                f"out of scope, area under the curve of the familiarity, {method}", areas, LEAST_AREA, unit=""
            ),
        ]
    yield table


def end_to_end(plan: Plan) -> Iterator[Table]:
    """With a teacher that is always right."""
    table = Table(
        "CLINC150, with a teacher that is always right",
        ("guaranteed agreement, method", "right of all", "to the teacher", "agreement of native answers"),
        note="Fitted and certified on `train`, measured on `dev`. Right of all: natively answered rightly, "
        "or left to the teacher.",
    )
    for agreement in AGREEMENTS if not plan.quick else (AIMED,):
        for method in METHODS:
            found = [_end_to_end(plan, agreement, method, seed) for seed in range(plan.seeds)]
            right = [1 - each.mistakes / len(each.wrong) for each in found]
            asked = [1 - each.coverage for each in found]
            table.add(f"{agreement:g}, {method}", right, asked, [each.agreement for each in found])
            if agreement == AIMED:
                table.targets += [
                    Target(f"end to end, right at {agreement:g}, {method}", right, LEAST_RIGHT, unit=""),
                    Target.at_most(
                        f"end to end, to the teacher at {agreement:g}, {method}", asked, MOST_ASKED
                    ),
                ]
    yield table


def _end_to_end(plan: Plan, agreement: float, method: str, seed: int) -> Found:
    return measure(version(plan, SET, method, agreement, seed).guarded, load(SET).dev)


def area(inside: NDArray[np.float64], outside: NDArray[np.float64]) -> float:
    """The chance that a row of the first has a higher score than one of the second; ties count half."""
    ordered = np.sort(outside)
    below = np.searchsorted(ordered, inside, side="left")
    level = np.searchsorted(ordered, inside, side="right") - below
    return float((below + level / 2).mean() / len(outside))

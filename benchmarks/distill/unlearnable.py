"""What cannot be learned from the text is not answered natively, and the certificate says why."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence

from benchmarks.datasets import Row
from benchmarks.distill.measure import measure
from benchmarks.distill.plan import Plan
from benchmarks.distill.tables import Table
from benchmarks.distill.targets import METHODS, certifying
from benchmarks.distill.tasks import load, signature, split
from benchmarks.sections import Target
from dspex.distill.making import make
from dspex.distill.settings import GuaranteeSettings

VERDICTS = ("entailment", "neutral", "contradiction")


def tables(plan: Plan) -> Iterator[Table]:
    table = Table(
        "What cannot be learned",
        ("task, method", "coverage", "what the certificate says"),
        note="Guaranteed agreement 0.95. Shuffled: BANKING77 with its labels dealt anew. Entailment from one "
        "sentence: sentences of SST-2, each with a verdict on a second sentence that is not shown, and which "
        "it says nothing of. Fitted and certified on `train`, coverage on `dev`.",
    )
    for title, train, dev in (shuffled(), entailment()):
        classes = sorted({row["label"] for row in train})
        for method in METHODS:
            fit_rows, calibrate_rows = split(train, certifying(method, plan.share), 0)
            settings = GuaranteeSettings(method=method)  # type: ignore[arg-type]
            made = make(signature(classes), fit_rows, calibrate_rows, settings)
            coverage = measure(made.guarded, dev).coverage
            table.add(f"{title}, {method}", coverage, made.certificate.reason)
            table.targets.append(Target.at_most(f"{title}, {method}: coverage", [coverage], 0.0))
    yield table


def shuffled(seed: int = 0) -> tuple[str, list[Row], list[Row]]:
    data, drawn = load("banking77"), random.Random(seed)

    def dealt(rows: Sequence[Row]) -> list[Row]:
        labels = [row["label"] for row in rows]
        drawn.shuffle(labels)
        return [{"text": row["text"], "label": label} for row, label in zip(rows, labels, strict=True)]

    return "labels shuffled", dealt(data.train), dealt(data.dev)


def entailment(seed: int = 0) -> tuple[str, list[Row], list[Row]]:
    data, drawn = load("sst2"), random.Random(seed)

    def judged(rows: Sequence[Row]) -> list[Row]:
        return [{"text": row["text"], "label": drawn.choice(VERDICTS)} for row in rows]

    return "entailment from one sentence", judged(data.train), judged(data.dev)

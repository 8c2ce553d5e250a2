"""What a certified version answers: clean and noisy teachers, both ways to certify, several seeds."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from benchmarks.distill.measure import Found, measure
from benchmarks.distill.plan import Plan
from benchmarks.distill.tables import Table
from benchmarks.distill.tasks import Noise, Teacher, load, signature, split
from benchmarks.rounds import say
from benchmarks.sections import Target
from dspex.distill.making import Made, Taught, certified, taught
from dspex.distill.settings import GuaranteeSettings
from dspex.distill.trace import Trace
from dspex.guarantee.certificate import Certificate
from dspex.learning.gate import held_out

AIMS = {
    ("banking77", 0.95): 0.87,
    ("banking77", 0.90): 0.95,
    ("clinc150", 0.95): 0.92,
    ("clinc150", 0.90): 0.95,
    ("ag_news_small", 0.95): 0.70,
}
GOLD: tuple[str, float, Noise] = ("gold", 0.0, "random")
OPEN = "gold, novelty 0"  # nothing is left out for being unlike the rows
NOISY: tuple[tuple[str, float, Noise], ...] = (
    ("3 % wrong, at random", 0.03, "random"),
    ("10 % wrong, at random", 0.10, "random"),
    ("3 % wrong, by confusable class", 0.03, "confusable"),
    ("10 % wrong, by confusable class", 0.10, "confusable"),
)
METHODS = ("split", "cross")
AGREEMENTS = (0.95, 0.90)
COLUMNS = (
    "teacher, method", "coverage", "agreement", "breached", "told coverage", "hindsight", "rows certifying",
    "certified seeds", "wrong, train", "wrong, dev", "fit s",
)  # fmt: skip
NOTE = (
    "Fitted and certified on `train` (split: a coin for each row says which it does; cross: all do both), "
    "coverage and agreement measured on `dev`, against the same teacher's answers there. Breached: seeds in "
    "which an exact test at 5 % on `dev` finds the true agreement below the guaranteed one; δ is {delta:g}. "
    "Told coverage: what the certificate says, from its own rows. Hindsight: coverage of the threshold on "
    "the same score that would have been the best on `dev`. Wrong: share of all native answers that are, "
    "of held-out rows of `train` and on `dev`: where the latter are harder, the calls are not like the rows "
    "that certify, and the guarantee does not carry over."
)


@dataclass(frozen=True)
class Run:
    """One version, with one seed."""

    found: Found
    certificate: Certificate
    held_out: float
    seconds: float


def tables(plan: Plan) -> Iterator[Table]:
    for name in plan.sets:
        yield from _of_set(plan, name)


def certifying(method: str, share: float) -> float:
    """The share of rows that certify: with "cross" all of them do, and teach as well."""
    return 1.0 if method == "cross" else share


@lru_cache(maxsize=3 * 10)
def lesson(
    name: str,
    method: Any,
    share: float,
    seed: int,
    rate: float = 0.0,
    noise: Noise = "random",
    novelty: float = GuaranteeSettings().novel_share,
) -> tuple[Taught, list[Trace], Teacher]:
    """A program taught by `train` as a teacher answers it, the rows to certify it, and the teacher."""
    data = load(name)
    teacher = Teacher(data, rate, noise, seed)
    fit_rows, calibrate_rows = split(teacher.answers(data.train), certifying(method, share), seed)
    settings = GuaranteeSettings(method=method, novelty=novelty)
    return (
        taught(signature(data.classes), fit_rows, calibrate_rows, settings, seed=seed),
        calibrate_rows,
        teacher,
    )


def version(plan: Plan, name: str, method: Any, agreement: float, seed: int) -> Made:
    """A version made from the gold labels of `train`."""
    settings = GuaranteeSettings(agreement=agreement, method=method)
    fitted, rows, _ = lesson(name, method, plan.share, seed, novelty=settings.novel_share)
    return certified(fitted, rows, settings)


def _of_set(plan: Plan, name: str) -> Iterator[Table]:
    titles = {at: f"{name}, guaranteed agreement {at:g}" for at in AGREEMENTS}
    found = {at: Table(title, COLUMNS, note=NOTE.format(delta=0.05)) for at, title in titles.items()}
    more = () if plan.quick else ((OPEN, 0.0, "random"), *NOISY)
    for label, rate, noise in (GOLD, *more):
        seeds = range(plan.seeds if not rate else min(plan.seeds, 3))
        novelty = 0.0 if label == OPEN else None
        for method in METHODS:
            runs = [_runs(plan, name, method, seed, rate, noise, novelty) for seed in seeds]
            for at, table in found.items():
                _add(table, f"{label}, {method}", [run[at] for run in runs], at)
                aim = AIMS.get((name, at))
                if aim is not None and label == GOLD[0]:
                    values = [run[at].found.coverage for run in runs]
                    what = f"{name}: coverage at {at:g}, {label}, {method}, on `dev`"
                    table.targets.append(Target(what, values, aim, unit=""))
            say(f"{name} {label}, {method}: {[round(run[0.95].found.coverage, 4) for run in runs]}")
    yield from found.values()


def _add(table: Table, label: str, runs: Sequence[Run], agreement: float) -> None:
    found = [run.found for run in runs]
    table.add(
        label,
        [each.coverage for each in found],
        [each.agreement for each in found],
        f"{sum(each.breached(agreement) for each in found)} of {len(found)}",
        [run.certificate.coverage for run in runs],
        [each.hindsight(agreement) for each in found],
        [float(run.certificate.rows) for run in runs],
        f"{sum(run.certificate.covers for run in runs)} of {len(runs)}",
        [run.held_out for run in runs],
        [float(each.wrong.mean()) for each in found],
        [run.seconds for run in runs],
    )


def _runs(
    plan: Plan, name: str, method: Any, seed: int, rate: float, noise: Noise, novelty: float | None
) -> dict[float, Run]:
    """agreement -> the version that is certified for it."""
    found = {}
    for agreement in AGREEMENTS:
        settings = GuaranteeSettings(agreement=agreement, method=method, novelty=novelty)
        fitted, rows, teacher = lesson(name, method, plan.share, seed, rate, noise, settings.novel_share)
        dev = teacher.answers(load(name).dev)
        wrong = float(held_out(fitted.program).wrong.mean())
        made = certified(fitted, rows, settings)
        found[agreement] = Run(measure(made.guarded, dev), made.certificate, wrong, fitted.seconds)
    return found

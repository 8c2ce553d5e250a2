"""From no trace at all: BANKING77 as a stream of calls, answered by a live program that learns from them."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.datasets import Row
from benchmarks.distill.measure import Found, measure
from benchmarks.distill.plan import Plan
from benchmarks.distill.served import Gold
from benchmarks.distill.tables import Table
from benchmarks.distill.targets import certifying
from benchmarks.distill.tasks import load, signature, split
from benchmarks.distill.tracer import TARGET
from benchmarks.peers.tracer_peer import Tracer
from benchmarks.rounds import say
from dspex.distill.live import LiveProgram
from dspex.distill.making import make
from dspex.distill.plan import plan_of
from dspex.distill.settings import DistillSettings, GuaranteeSettings
from dspex.distill.store import Store

SET = "banking77"
SHOWN = (500, 1000, 1500, 2000, 3000, 4000, 5000, 6000, 7000, 8000)
COMPARED = (2000, 6000, 8000)
AUDITS = (0.05, 0.2)
TRACER_SEEDS = 3  # its fits take a minute or two each


@dataclass(frozen=True)
class Point:
    """Where a stream stood after so many rows: figures of the version in service, on `dev`."""

    rows: int
    asked: int
    stage: str
    version: int | None
    found: Found | None
    sent_wrong: int
    sent: int
    tried: int

    @property
    def coverage(self) -> float:
        return self.found.coverage if self.found else 0.0

    @property
    def agreement(self) -> float | None:
        return self.found.agreement if self.found else None


def tables(plan: Plan) -> Iterator[Table]:
    shown, seeds = (SHOWN, range(plan.seeds)) if not plan.quick else ((1000, 2000), range(1))
    runs = {
        share: [stream(shown, share, seed=seed, guarantee={"method": "cross"}) for seed in seeds]
        for share in AUDITS[: 1 if plan.quick else None]
    }
    yield from (_curve(share, streams) for share, streams in runs.items())
    yield _compared(plan, runs)


def ordered(seed: int) -> tuple[list[Row], list[int]]:
    """The rows of `train` in random order, and the place of each in the file."""
    data = load(SET)
    order = list(range(len(data.train)))
    random.Random(seed).shuffle(order)
    return [data.train[place] for place in order], order


def stream(shown: Sequence[int], audit_share: float, seed: int, **more: Mapping[str, Any]) -> list[Point]:
    """Sends the rows one after the other; learns, and waits for it, whenever the rules would begin to.

    Args:
        shown: after how many rows a point is taken.
        more: further settings.
    """
    data, (rows, _) = load(SET), ordered(seed)
    settings = DistillSettings.of(
        {
            **more,
            "learning": {"automatic": False},
            "lifecycle": {**more.get("lifecycle", {}), "audit_share": audit_share},
        }
    )
    teacher, points = Gold(rows), []
    sent = sent_wrong = 0
    with contextlib.ExitStack() as stack:
        store = stack.enter_context(Store.open(None, signature(data.classes)))
        program = stack.enter_context(LiveProgram(store, teacher, settings, seed=seed))
        due: float = settings.learning.first_rows
        for number, row in enumerate(rows[: max(shown)], 1):
            result = program.predict({"text": row["text"]})
            if result.route == "native":
                sent += 1
                sent_wrong += result["label"] != row["label"]
            if teacher.asked >= due:
                program.flush()
                program.learn(wait=True)
                due = max(due * settings.learning.growth, teacher.asked + 1)
            if number % 100 == 0:
                program.flush()  # what is compared in the background keeps up, as it would at a call's pace
            if number in shown:
                points.append(_point(number, teacher.asked, store, settings, data.dev, sent_wrong, sent))
                say(f"stream {audit_share:g}: {number} rows, {teacher.asked} asked, {points[-1].stage}")
    return points


def _point(
    number: int, asked: int, store: Store, settings: Any, dev: list[Row], sent_wrong: int, sent: int
) -> Point:
    state = store.state()
    guarded = plan_of(store, state, settings, None).guarded
    found = None if guarded is None else measure(guarded, dev)
    tried = len(store.versions())
    return Point(number, asked, state.stage, state.version, found, sent_wrong, sent, tried)


def _curve(share: float, streams: Sequence[Sequence[Point]]) -> Table:
    table = Table(
        f"BANKING77 as a stream, {share:.0%} of native answers audited",
        ("rows seen", "teacher calls so far", "of all", "live", "versions tried", "coverage", "agreement",
         "native answers sent", "of them wrong"),
        note="Rows of `train`, one call each, no trace at the start, in a random order for each seed; "
        "learning as the rules have it (500 labelled rows, then half as many again), and finished before the "
        "next call. Coverage and agreement of the version in service, on `dev`, whatever share its stage "
        "lets out; the last two columns are of the stream itself.",
    )  # fmt: skip
    for points in zip(*streams, strict=True):
        rows = points[0].rows
        table.add(
            rows,
            [each.asked for each in points],
            f"{sum(each.asked for each in points) / rows / len(points):.1%}",
            f"{sum(each.stage == 'live' for each in points)} of {len(points)}",
            [each.tried for each in points],
            [each.coverage for each in points],
            [each.agreement for each in points],
            [each.sent for each in points],
            [each.sent_wrong for each in points],
        )
    return table


def _compared(plan: Plan, runs: dict[float, list[list[Point]]]) -> Table:
    """The streams beside versions, and TRACER, that were given every label."""
    table = Table(
        "BANKING77 after so many rows, beside TRACER",
        ("rows, way", "labels", "coverage", "agreement", "fit s"),
        note=f"The same first rows of the same orders for each; agreement of {TARGET} aimed at, measured on "
        "`dev`. The streams learn from the calls that came to their teacher, the others are fitted at once "
        "with a label for every row. TRACER: all-MiniLM-L6-v2, its own search of models but for gradient "
        f"boosting, the first {TRACER_SEEDS} orders.",
    )
    seeds = len(next(iter(runs.values())))
    for count in COMPARED if not plan.quick else (2000,):
        for share, streams in runs.items():
            points = [next(each for each in points if each.rows == count) for points in streams]
            table.add(
                f"{count:,}, stream, {share:.0%} audited",
                [each.asked for each in points],
                [each.coverage for each in points],
                [each.agreement for each in points],
                None,
            )
        for method in ("split", "cross"):
            made = [at_once(plan, count, method, seed) for seed in range(seeds)]
            table.add(
                f"{count:,}, {method}",
                count,
                [found.coverage for found, _ in made],
                [found.agreement for found, _ in made],
                [seconds for _, seconds in made],
            )
        if plan.tracer is not None and plan.cache is not None:
            own = [_tracer(plan, count, seed) for seed in range(min(seeds, TRACER_SEEDS))]
            names = ("coverage", "agreement", "fit_s")
            table.add(f"{count:,}, TRACER", count, *([each[name] for each in own] for name in names))
        say(f"compared at {count}")
    return table


def at_once(plan: Plan, count: int, method: Any, seed: int) -> tuple[Found, float]:
    """A version made from the first rows of a stream, and the seconds of its fit."""
    data, (rows, _) = load(SET), ordered(seed)
    fit_rows, calibrate_rows = split(rows[:count], certifying(method, plan.share), seed)
    settings = GuaranteeSettings(agreement=TARGET, method=method)
    made = make(signature(data.classes), fit_rows, calibrate_rows, settings)
    return measure(made.guarded, data.dev), float(made.figures["fit_seconds"])


def _tracer(plan: Plan, count: int, seed: int) -> dict[str, Any]:
    assert plan.tracer is not None
    assert plan.cache is not None
    data, (rows, order) = load(SET), ordered(seed)
    tracer = Tracer(plan.tracer, plan.cache)
    embedded = tracer.embedded([row["text"] for row in data.train])
    return tracer.fit(
        rows[:count],
        data.dev,
        TARGET,
        embedded=embedded,
        picked=order[:count],
        dev_embedded=tracer.embedded(data.dev_texts),
    )

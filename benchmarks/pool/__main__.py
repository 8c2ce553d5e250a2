"""The worker pool beside `concurrent.futures`, in one run: tables, targets, and what was missed.

    python -m benchmarks.pool [--quick] [--only handoff noops ...] [--keep DIR] [--plot] [--out DIR]

Needs two cores and a quiet machine: with --patience it waits for the latter, and repeats what was disturbed.
Writes `pool.json` and `pool.md`; with --plot also `docs/pool.svg`. --again writes them from the last
`pool.json`, without measuring.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from benchmarks import section_table
from benchmarks.pool import batches, groups, handoff, loops, noops, overload, plot, priorities
from benchmarks.pool.programs import Fitted, fitted
from benchmarks.rounds import Plan, say
from benchmarks.run import machine
from benchmarks.sections import Section

SETS = ("banking77", "clinc150", "sst2", "ag_news_small")
QUICK_SETS = ("banking77", "ag_news_small")
PLOT = Path(__file__).parents[2] / "docs" / "pool.svg"
Programs = list[Fitted]


def handoffs(plan: Plan, programs: Programs) -> Iterator[Section]:
    yield handoff.measure(plan, programs[0])


def no_ops(plan: Plan, programs: Programs) -> Iterator[Section]:
    yield noops.throughput(plan)
    yield noops.by_threads(plan)
    yield noops.by_capacity(plan)


def batch(plan: Plan, programs: Programs) -> Iterator[Section]:
    for each in programs:
        yield batches.throughput(plan, each)
    for each in (programs[0], programs[-1]):
        yield batches.single_rows(plan, each)
        yield batches.crossover(plan, each)
    yield batches.crossover(plan, programs[0], batches.PAUSE_S)


def event_loops(plan: Plan, programs: Programs) -> Iterator[Section]:
    yield loops.measure(plan, programs[0])


def overloads(plan: Plan, programs: Programs) -> Iterator[Section]:
    yield from overload.sections(plan)


def together(plan: Plan, programs: Programs) -> Iterator[Section]:
    yield groups.measure(plan, programs[0])


def beside_a_batch(plan: Plan, programs: Programs) -> Iterator[Section]:
    yield priorities.measure(plan, programs[0])


PARTS: dict[str, Callable[[Plan, Programs], Iterator[Section]]] = {
    "handoff": handoffs,
    "noops": no_ops,
    "batches": batch,
    "loops": event_loops,
    "overload": overloads,
    "groups": together,
    "priorities": beside_a_batch,
}


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="fewer and shorter rounds, fewer sets: a minute")
    parser.add_argument("--only", nargs="*", choices=list(PARTS), default=list(PARTS), help="parts (all)")
    parser.add_argument("--sets", nargs="*", help=f"data sets of batches ({', '.join(SETS)})")
    parser.add_argument("--rounds", type=int, help="rounds of each part (7; quick: 3)")
    parser.add_argument("--keep", type=Path, help="keep fitted programs in this folder and take them from it")
    parser.add_argument(
        "--patience",
        type=float,
        default=0,
        metavar="S",
        help="wait so many seconds in all for a quiet machine",
    )
    parser.add_argument(
        "--out", type=Path, default=Path("benchmark-results"), help="folder for what it writes"
    )
    parser.add_argument("--plot", action="store_true", help=f"also write {PLOT.parent.name}/{PLOT.name}")
    parser.add_argument("--again", action="store_true", help="measure nothing: write again what was measured")
    return parser.parse_args()


def run(options: argparse.Namespace) -> dict[str, Any]:
    plan = Plan(rounds=options.rounds or 7, patience_s=options.patience)
    if options.quick:
        plan = Plan(rounds=options.rounds or 3, block_s=0.06, quick=True, patience_s=options.patience)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if cores < 2:
        raise SystemExit("this needs two cores")
    found: list[Section] = []
    begin = time.perf_counter()
    programs = [
        fitted(name, options.keep) for name in options.sets or (QUICK_SETS if options.quick else SETS)
    ]
    for name in options.only:
        for section in PARTS[name](plan, programs):
            found.append(section)
            say(f"{time.perf_counter() - begin:6.1f} s  {section.title}")
    return {
        "machine": machine(),
        "took_s": time.perf_counter() - begin,
        "waited_s": plan.waited_s,
        "sections": [section.to_dict() for section in found],
    }


def main() -> None:
    options = parse()
    kept = options.out / "pool.json"
    results = json.loads(kept.read_text()) if options.again else run(options)
    options.out.mkdir(parents=True, exist_ok=True)
    kept.write_text(json.dumps(results, indent=1, default=float) + "\n")
    sections = [Section.of(data) for data in results["sections"]]
    text = section_table.markdown("The worker pool", sections, results["machine"])
    (options.out / "pool.md").write_text(text)
    print(text)
    if options.plot:
        plot.draw(sections, PLOT)


if __name__ == "__main__":
    main()

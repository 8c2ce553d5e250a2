"""The routes of a call, and the protection around an LM, in one run: tables, targets, and what was missed.

    python -m benchmarks.routes [--quick] [--only native asking ...] [--patience S] [--json FILE]

Needs two cores and a quiet machine; with --patience it waits for the latter. The part `instructions` takes
some minutes under valgrind, and only runs where it is named.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from benchmarks import section_table
from benchmarks.rounds import Plan, say
from benchmarks.routes import asking, breaker, faults, instructions, kills, native, throughput
from benchmarks.run import machine
from benchmarks.sections import Section

PARTS: dict[str, Callable[[Plan], Iterator[Section]]] = {
    "native": native.sections,
    "asking": asking.sections,
    "pool": asking.pool_sections,
    "inside": asking.inside_sections,
    "throughput": throughput.sections,
    "breaker": breaker.sections,
    "faults": faults.sections,
    "kills": kills.sections,
    "instructions": instructions.sections,
}
BY_NAME_ONLY = ("instructions",)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    usual = [name for name in PARTS if name not in BY_NAME_ONLY]
    parser.add_argument("--quick", action="store_true", help="fewer and shorter rounds: two minutes")
    parser.add_argument("--only", nargs="+", choices=list(PARTS), default=usual, help="parts (the usual)")
    parser.add_argument("--patience", type=float, default=0, metavar="S", help="wait so long for quiet")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures of every round")
    return parser.parse_args()


def main() -> None:
    options = parse()
    plan = Plan(patience_s=options.patience)
    if options.quick:
        plan = Plan(rounds=3, block_s=0.1, quick=True, patience_s=options.patience)
    begin, load = time.perf_counter(), os.getloadavg()
    found: list[Section] = []
    for name in options.only:
        for section in PARTS[name](plan):
            found.append(section)
            say(f"{time.perf_counter() - begin:6.1f} s  {section.title}")
    here = machine()
    print(section_table.markdown("Routes", found, here))
    if options.json is not None:
        results = {
            "machine": here,
            "load": {"before": load, "after": os.getloadavg()},
            "took_s": time.perf_counter() - begin,
            "sections": [section.to_dict() for section in found],
        }
        options.json.write_text(json.dumps(results, indent=1, default=float) + "\n")


if __name__ == "__main__":
    main()

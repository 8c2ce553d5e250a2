"""``dspex traces``: what a home has recorded, in and out."""

from __future__ import annotations

import argparse
import random
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from typing import TYPE_CHECKING, Any

from dspex.cli import output

if TYPE_CHECKING:
    from dspex.distill.imports import Reading
    from dspex.distill.store import Store
    from dspex.distill.trace import Trace

HELP = "import, export and count the recorded calls of a home"
DESCRIPTION = "Imports recorded calls into the store of a home, exports them, or says what it holds."
_BATCH = 1000  # rows of one transaction
_SHOWN = 5


def add_arguments(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(title="actions", metavar="ACTION", required=True, dest="action")

    load = actions.add_parser(
        "import", help="add calls from a file; those that are there already are skipped"
    )
    load.add_argument("home", metavar="HOME", help="the directory of the store")
    load.add_argument("file", metavar="FILE", help="JSON, a JSON list or JSONL")
    load.add_argument(
        "--format", choices=("jsonl", "mlflow", "otel"), default="jsonl", help="of the file (default: jsonl)"
    )
    load.add_argument(
        "--signature", help="makes the home, where there is none: 'text -> label: Literal[...]'"
    )
    load.add_argument(
        "--skip-errors", action="store_true", help="leave out rows that do not fit, and list them"
    )
    load.add_argument(
        "--calibrate", metavar="SHARE", type=_share, default=0.0,
        help="of the rows, the share that is drawn to certify a version (default: 0, or as the file says)",
    )  # fmt: skip
    load.add_argument("--seed", type=int, default=0, help="of that draw")

    save = actions.add_parser("export", help="write all calls as JSONL")
    save.add_argument("home", metavar="HOME", help="the directory of the store")
    save.add_argument("file", metavar="FILE", help="the file to write")

    stats = actions.add_parser("stats", help="read through the store and count")
    stats.add_argument("home", metavar="HOME", help="the directory of the store")
    for action in (load, save, stats):
        # The default would take back a --json before the action.
        action.add_argument(
            "--json", action="store_true", default=argparse.SUPPRESS, help="print JSON instead of text"
        )


def run(args: argparse.Namespace) -> None:
    facts = {"import": _import, "export": _export, "stats": _stats}[args.action](args)
    if args.json:
        output.print_json(facts)
    else:
        _print(facts)


def _import(args: argparse.Namespace) -> dict[str, Any]:
    from dspex.distill.imports import read_jsonl, read_mlflow, read_otel
    from dspex.distill.store import Store
    from dspex.signature import Signature

    signature = None if args.signature is None else Signature.of(args.signature)
    readers = {"jsonl": read_jsonl, "mlflow": read_mlflow, "otel": read_otel}
    with Store.open(args.home, signature, create=signature is not None) as store:
        reading = readers[args.format](
            args.file, store.signature, on_error="collect" if args.skip_errors else "raise"
        )
        before = store.counts()
        _add(store, _drawn(reading, args.calibrate, args.seed), before["last"])
        after = store.counts()
    return {
        "home": str(store.home), "read": reading.taken, "new_rows": after["rows"] - before["rows"],
        "rows": after["rows"], "skipped": len(reading.problems), "problems": _problems(reading),
    }  # fmt: skip


def _drawn(reading: Reading, share: float, seed: int) -> Iterator[Trace]:
    coin = random.Random(seed)
    for trace in reading:
        drawn = share > 0 and coin.random() < share and trace.used_by is None and trace.count == 1
        yield replace(trace, role="calibrate") if drawn else trace


def _add(store: Store, traces: Iterator[Trace], known_upto: int) -> None:
    while batch := list(islice(traces, _BATCH)):
        store.add(batch, known_upto=known_upto)


def _problems(reading: Reading) -> list[str]:
    shown = [problem.error.message for problem in reading.problems[:_SHOWN]]
    left = len(reading.problems) - len(shown)
    return [*shown, f"... and {left} more"] if left else shown


def _export(args: argparse.Namespace) -> dict[str, Any]:
    from dspex.distill.store import Store

    with Store.open(args.home, create=False, read_only=True) as store:
        return {"file": args.file, "rows": store.export(args.file)}


def _stats(args: argparse.Namespace) -> dict[str, Any]:
    from dspex.distill.store import Store

    with Store.open(args.home, create=False, read_only=True) as store:
        store.check()
        state = store.state()
        return {
            "home": str(store.home), "signature": store.signature.to_string(), **store.counts(),
            "versions": len(store.versions()), "stage": state.stage, "version": state.version,
        }  # fmt: skip


def _print(facts: dict[str, Any]) -> None:
    for name, value in facts.items():
        label = name.replace("_", " ")
        if name == "by_source":
            for source, rows in value.items():
                print(f"  {source:<10} {rows:,}")
        elif name == "problems":
            for problem in value:
                print(f"  {output.shorten(problem, output.WIDTH - 2)}")
        elif name == "usd":
            print(f"{label:<12} {value:.4f}")
        else:
            shown = f"{value:,}" if isinstance(value, int) else output.shorten(str(value), output.WIDTH - 13)
            print(f"{label:<12} {shown}")


def _share(text: str) -> float:
    value = float(text)
    if not 0 <= value < 1:
        raise argparse.ArgumentTypeError("a share is at least 0 and below 1")
    return value

"""``dspex report``: everything about a distilled program on one page."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from dspex.cli import output
from dspex.errors import ConfigError

HELP = "write a page about a distilled program"
DESCRIPTION = (
    "Writes one self-contained HTML page: what is guaranteed, coverage against agreement, what is saved, "
    "classes, examples at the boundary, checks, drift, versions, and who moved what and why. With --json the "
    "same as JSON; see docs/report.md for its keys."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("home", metavar="HOME", help="the directory of a distilled program")
    parser.add_argument(
        "-o", "--output", metavar="FILE", type=Path, help="where to (default: report.html in HOME)"
    )


def run(args: argparse.Namespace) -> None:
    from dspex.distill.report import facts, write_page
    from dspex.distill.store import Store

    if args.json and args.output is None:
        with Store.open(args.home, read_only=True) as store:
            output.print_json(facts(store))
        return
    path: Path = args.output or Path(args.home) / "report.html"
    if path.is_dir():
        raise ConfigError(f"{path} is a directory", hint="Give -o the name of a file")
    with Store.open(args.home, read_only=True) as store:
        found = facts(store)
    if args.json:
        _write_json(path, found)
    else:
        write_page(path, found)
    print(f"saved   {path} ({output.size(os.path.getsize(path))})")


def _write_json(path: Path, found: object) -> None:
    path.write_text(output.to_json(found) + "\n", encoding="ascii")

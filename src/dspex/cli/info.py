"""``dspex info``: what a saved program is."""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping
from typing import Any

from dspex.cli import output

HELP = "describe a saved program"
DESCRIPTION = "Prints the signature, classes, options and sizes of a saved program."
_INDENT = 2
_LABEL = 18


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", metavar="FILE", help="a saved program")


def run(args: argparse.Namespace) -> None:
    import dspex

    program = dspex.load(args.file)
    facts = {"file": args.file, "file_bytes": os.path.getsize(args.file), **program.info()}
    if args.json:
        output.print_json(facts)
    else:
        _print(facts, 0)


def _print(facts: Mapping[str, Any], depth: int) -> None:
    """Nested facts, one a line, indented by depth."""
    for key, value in facts.items():
        label = f"{' ' * _INDENT * depth}{key.replace('_', ' ')}"
        if isinstance(value, Mapping):
            print(label)
            _print(value, depth + 1)
        elif isinstance(value, list) and any(isinstance(item, Mapping) for item in value):
            print(label)
            for item in value:
                _print({"-": item} if not isinstance(item, Mapping) else item, depth + 1)
        else:
            print(f"{label.ljust(_LABEL)} {_show(key, value, output.WIDTH - max(_LABEL, len(label)) - 1)}")


def _show(key: str, value: Any, width: int) -> str:
    if isinstance(value, list):
        return output.shorten(f"{len(value)}: {', '.join(_show('', item, width) for item in value)}", width)
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}" + (f" ({output.size(value)})" if "bytes" in key else "")
    if isinstance(value, float):
        return f"{value:.6g}"
    return str(value)

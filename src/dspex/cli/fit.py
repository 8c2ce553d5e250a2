"""``dspex fit``: learn a program from a data file and save it."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from time import perf_counter
from typing import Any

from dspex.cli import output
from dspex.errors import ConfigError, SignatureError

HELP = "fit a program on examples and save it"
DESCRIPTION = (
    "Fits a program on the rows of DATA, which has a column for each field of the signature; other columns "
    "are left out. CSV cells are read as the type of their field: true/false, numbers, and several labels as "
    "a JSON list or separated by '|'."
)
_OWN_OPTIONS = {"seed": "--seed", "threads": "--threads", "progress": "--no-progress"}
_PYTHON_ONLY = ("sample_weight", "signature", "examples")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "data", metavar="DATA", help="rows: .jsonl, .csv, .tsv, .parquet, or - for JSONL on stdin"
    )
    parser.add_argument(
        "-s", "--signature", required=True,
        help="such as \"text -> label\", \"subject, body -> team: Literal['a', 'b'], urgent: bool\", "
        "a JSON mapping, or @FILE that holds one of them",
    )  # fmt: skip
    parser.add_argument(
        "-o", "--output", metavar="FILE", required=True, type=Path, help="where to save the program"
    )
    parser.add_argument("--seed", type=int, default=0, help="same seed, same rows: same program (default 0)")
    parser.add_argument("--threads", type=int, help="threads to use (default: all cores)")
    parser.add_argument(
        "--set",
        metavar="OPTION=VALUE",
        action="append",
        default=[],
        help="an option of dspex.fit (repeatable)",
    )
    parser.add_argument("--no-progress", action="store_true", help="no progress bar, even on a terminal")


def run(args: argparse.Namespace) -> None:
    options = _options(args.set)
    signature_form = read_signature(args.signature)
    _check_output(args.output)

    import dspex
    from dspex.data import read_rows
    from dspex.signature import Signature

    signature = Signature.of(signature_form)
    rows = read_rows(args.data, signature)
    begin = perf_counter()
    program = dspex.fit(
        signature,
        rows,
        seed=args.seed,
        threads=args.threads,
        progress=sys.stderr.isatty() and not args.no_progress,
        **options,
    )
    seconds = perf_counter() - begin
    program.save(args.output)
    size = args.output.stat().st_size
    if args.json:
        facts = {"n": len(rows), "seconds": seconds, "file": str(args.output), "file_bytes": size}
        output.print_json(facts | {"program": program.info()})
        return
    print(f"fitted  {len(rows):,} rows in {seconds:.2f} s: {describe(program.signature)}")
    print(f"saved   {args.output} ({output.size(size)})")


def describe(signature: Any) -> str:
    """The signature on one line, with the number of classes instead of their names."""
    outputs = []
    for name, field in signature.outputs.items():
        count = f" ({len(field.classes)} classes)" if field.classes else f" ({field.kind})"
        outputs.append(name + count)
    return f"{', '.join(signature.inputs)} -> {', '.join(outputs)}"


def read_signature(text: str) -> Any:
    """A signature as it is given on the command line: text, JSON, or ``@FILE`` with either in it."""
    if text.startswith("@"):
        try:
            text = Path(text[1:]).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise SignatureError(f"the signature file {text[1:]} cannot be read: {error}") from None
    text = text.strip()
    if not text.startswith("{"):
        return text
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise SignatureError(f"the signature is not valid JSON: {error}") from None


def _options(pairs: list[str]) -> dict[str, Any]:
    """``--set`` pairs; a value is JSON where it can be read as such, else text."""
    options: dict[str, Any] = {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        if not equals or not name:
            raise ConfigError(f"--set {pair!r} is not an option and a value", hint="Write --set OPTION=VALUE")
        if name in _OWN_OPTIONS:
            raise ConfigError(f"{name!r} is not for --set", field=name, hint=f"Use {_OWN_OPTIONS[name]}")
        if name in _PYTHON_ONLY:
            raise ConfigError(f"{name!r} is not for --set", field=name, hint="Use dspex.fit in Python")
        if name in options:
            raise ConfigError(f"--set {name} is given twice", field=name)
        try:
            options[name] = json.loads(text)
        except ValueError:
            options[name] = text
    return options


def _check_output(path: Path) -> None:
    """Finds out before the work, not after it, that the result could not be saved."""
    if path.is_dir():
        raise ConfigError(f"{path} is a directory", hint="Give -o the name of a file")
    if not path.absolute().parent.is_dir():
        raise ConfigError(f"there is no directory {path.parent}", hint="Make it first")

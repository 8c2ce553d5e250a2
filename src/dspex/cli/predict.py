"""``dspex predict``: answers for texts given as arguments, or for a stream of lines."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from dspex.cli import output
from dspex.data import json_row
from dspex.errors import InputError

if TYPE_CHECKING:
    from dspex.program import Program
    from dspex.result import Result
    from dspex.signature import Signature

HELP = "answer for texts, or for each line of standard input"
DESCRIPTION = (
    "Prints one line for each TEXT: the answer, its confidence and the text, separated by tabs. Without TEXT "
    "it answers each line of standard input as it comes: a line is one text, or a JSON object with all "
    "inputs; the first line decides which, unless --lines does. Blank lines are skipped."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", metavar="FILE", help="a saved program")
    parser.add_argument(
        "text", metavar="TEXT", nargs="*", help="a value for the one input not given by --field"
    )
    parser.add_argument(
        "--field",
        metavar="NAME=VALUE",
        action="append",
        default=[],
        help="the value of an input (repeatable)",
    )
    parser.add_argument(
        "--probabilities", action="store_true", help="with --json: the probability of every class"
    )
    parser.add_argument("--lines", choices=["text", "json"], help="what the lines of standard input are")


def run(args: argparse.Namespace) -> None:
    import dspex

    program = dspex.load(args.file)
    fixed = _fixed_inputs(args.field, program.signature)
    for inputs in _all_inputs(args, program, fixed):
        result = program.predict(inputs)
        if args.json:
            output.print_json(_facts(result, inputs, args.probabilities))
        else:
            print(_line(result, inputs), flush=True)


def _all_inputs(
    args: argparse.Namespace, program: Program, fixed: Mapping[str, Any]
) -> Iterator[dict[str, Any]]:
    signature = program.signature
    if args.text:
        name = _open_input(signature, fixed)
        for text in args.text:
            yield {**fixed, name: _value(signature, name, text)}
    elif fixed and len(fixed) == len(signature.inputs):
        yield dict(fixed)
    else:
        yield from _stream(signature, fixed, args.lines)


def _stream(signature: Signature, fixed: Mapping[str, Any], kind: str | None) -> Iterator[dict[str, Any]]:
    wanted = [name for name in signature.inputs if name not in fixed]
    row = 0
    for number, line in enumerate(sys.stdin.buffer, start=1):
        if not line.strip():
            continue
        where = f"standard input line {number}"
        kind = kind or ("json" if _holds(line, wanted) else "text")
        if kind == "json":
            values = json_row(line, where, row)
            missing = next((name for name in wanted if name not in values), None)
            if missing is not None:
                raise InputError(f"{where}: {missing!r} is missing", field=missing, row=row)
            yield {**fixed, **{name: values[name] for name in wanted}}
        else:
            name = _open_input(signature, fixed)
            yield {**fixed, name: _value(signature, name, _decoded(line, where, row))}
        row += 1


def _holds(line: bytes, names: list[str]) -> bool:
    """Whether the line is a JSON object with these keys."""
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return False
    return isinstance(value, dict) and all(name in value for name in names)


def _decoded(line: bytes, where: str, row: int) -> str:
    try:
        return line.decode("utf-8-sig" if row == 0 else "utf-8").rstrip("\r\n")
    except UnicodeDecodeError as error:
        raise InputError(f"{where}: byte {error.start + 1} is not UTF-8", row=row) from None


def _open_input(signature: Signature, fixed: Mapping[str, Any]) -> str:
    """The one input that a bare text is for."""
    names = [name for name in signature.inputs if name not in fixed]
    if len(names) != 1:
        what = f"the inputs {', '.join(names)}" if names else "no input, as --field gives them all"
        raise InputError(
            f"a text is left for {what}",
            hint="Give all inputs but one with --field NAME=VALUE, or lines of JSON on standard input",
        )
    return names[0]


def _fixed_inputs(pairs: list[str], signature: Signature) -> dict[str, Any]:
    from dspex.errors import nearest

    fixed: dict[str, Any] = {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        if not equals:
            raise InputError(f"--field {pair!r} has no value", hint="Write --field NAME=VALUE")
        if name not in signature.inputs:
            raise InputError(f"there is no input {name!r}", field=name, hint=nearest(name, signature.inputs))
        fixed[name] = _value(signature, name, text)
    return fixed


def _value(signature: Signature, name: str, text: str) -> Any:
    from dspex._cells import cell_reader

    try:
        return cell_reader(signature.inputs[name])(text)
    except ValueError as error:
        raise InputError(str(error), field=name) from None


def _facts(result: Result, inputs: Mapping[str, Any], with_probabilities: bool) -> dict[str, Any]:
    facts: dict[str, Any] = {"outputs": result.to_dict(), "confidence": result.confidence}
    if with_probabilities:
        facts["probabilities"] = {name: _shares(result, name) for name in facts["outputs"]}
    return facts | {"route": str(result.route), "inputs": inputs}


def _shares(result: Result, name: str) -> dict[Any, float] | None:
    try:
        return result.probabilities(name)
    except KeyError:  # a number has none
        return None


def _line(result: Result, inputs: Mapping[str, Any]) -> str:
    values = dict(result)
    single = len(values) == 1
    parts = [_text(value) if single else f"{name}={_text(value)}" for name, value in values.items()]
    if result.confidence is not None:
        parts.append(f"{result.confidence:.3f}")
    shown = [_text(value) for value in inputs.values()]
    return "\t".join([*parts, *shown])


def _text(value: Any) -> str:
    """A value on one line without tabs; what is no text as JSON."""
    return " ".join(value.split()) if isinstance(value, str) else output.to_json(value).strip('"')

"""The command ``dspex``: reads its arguments, runs one command, turns failures into one line and a code."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from typing import Any, NoReturn, Protocol

from dspex.cli import bench, config, demo, evaluate, fit, info, learn, moves, predict, report, status, traces
from dspex.errors import DspexError

__all__ = ["build_parser", "main"]


class _Command(Protocol):
    """A file of this folder, or an object like one."""

    HELP: str
    DESCRIPTION: str

    def add_arguments(self, parser: argparse.ArgumentParser, /) -> None: ...

    def run(self, args: argparse.Namespace, /) -> None: ...


_COMMANDS: dict[str, _Command] = {
    "fit": fit, "eval": evaluate, "predict": predict, "info": info, "bench": bench, "config": config,
    "demo": demo, "learn": learn, "status": status, "promote": moves.promote, "demote": moves.demote,
    "rollback": moves.rollback, "hold": moves.hold, "release": moves.release, "report": report,
    "traces": traces,
}  # fmt: skip
_FAILED = 2
_INTERRUPTED = 130  # 128 + SIGINT, as a shell reports it
_PIPE_CLOSED = 141  # 128 + SIGPIPE


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Returns:
        0 when it worked, 2 for wrong usage or an error of dspex (said in one line on standard error),
        130 after Ctrl-C, 141 when the reader of the output went away.
    """
    for stream in (sys.stdout, sys.stderr):
        _print_anything(stream)
    try:
        args = _parse(argv)
        args.run(args)
        sys.stdout.flush()
    except (DspexError, _UsageError) as error:
        return _fail(str(error))
    except KeyboardInterrupt:
        return _INTERRUPTED
    except BrokenPipeError:
        # The interpreter flushes once more on its way out; let that go nowhere.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return _PIPE_CLOSED
    except OSError as error:
        return _fail(str(error))
    return 0


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    args, rest = build_parser().parse_known_args(argv)
    if rest and "text" in args and not any(part.startswith("-") for part in rest):
        # argparse closes a list of positional arguments at the first option that follows it.
        args.text += rest
    elif rest:
        raise _UsageError(f"unrecognized arguments: {' '.join(rest)}. See: dspex {args.command} --help")
    return args


def build_parser() -> argparse.ArgumentParser:
    """The parser of the whole command line."""
    parser = _Parser(
        prog="dspex",
        description="Fit, measure and run programs that answer typed questions natively, in microseconds.",
        epilog="'dspex COMMAND --help' explains a command; 'dspex demo' shows what it is all about.",
    )
    parser.add_argument("--version", action=_Version, nargs=0, help="print the version and exit")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for name, module in _COMMANDS.items():
        command = commands.add_parser(name, help=module.HELP, description=module.DESCRIPTION)
        module.add_arguments(command)
        command.add_argument("--json", action="store_true", help="print JSON instead of text")
        command.set_defaults(run=module.run, command=name)
    return parser


class _UsageError(Exception):
    """Arguments that cannot be understood."""


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line, where argparse prints the whole usage."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options, allow_abbrev=False)

    def error(self, message: str) -> NoReturn:
        raise _UsageError(f"{message}. See: {self.prog} --help")


class _Version(argparse.Action):
    """Prints the version; argparse's own action would import dspex for it every time."""

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        from dspex import __version__

        print(f"dspex {__version__}")
        parser.exit()


def _print_anything(stream: Any) -> None:
    """Let a text that the terminal's encoding lacks be escaped, where it would be an error."""
    if hasattr(stream, "reconfigure"):
        stream.reconfigure(errors="backslashreplace")


def _fail(message: str) -> int:
    print("dspex:", " ".join(message.split()), file=sys.stderr)
    return _FAILED

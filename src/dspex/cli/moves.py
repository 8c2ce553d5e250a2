"""``dspex promote``, ``demote``, ``rollback``, ``hold`` and ``release``: moving a home by hand."""

from __future__ import annotations

import argparse
import getpass
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from dspex.cli import output

if TYPE_CHECKING:
    from dspex.distill.store import State, Store

__all__ = ["Move", "demote", "hold", "promote", "release", "rollback"]

STAGES = ("teacher", "shadow", "canary", "live")
_SHOWN = ("stage", "version", "previous", "held")


class Move:
    """One such command."""

    def __init__(self, name: str, help: str, description: str, *, to: str | None = None) -> None:
        self._name = name
        self._to = to
        self.HELP = help
        self.DESCRIPTION = (
            f"{description} A service that runs notices within about a second. Who did it and why goes into "
            "the audit log."
        )

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("home", metavar="HOME", help="the directory of a distilled program")
        parser.add_argument("--reason", required=True, type=_reason, help="why, for the audit log")
        if self._to is not None:
            parser.add_argument("--to", metavar="STAGE", choices=STAGES, help=self._to)

    def run(self, args: argparse.Namespace) -> None:
        from dspex.distill import lifecycle
        from dspex.distill.store import Store

        move: Callable[..., State] = getattr(lifecycle, self._name)
        options = {"to": args.to} if self._to is not None and args.to is not None else {}
        with Store.open(args.home, create=False) as store:
            before = store.state()
            after = move(store, user(), args.reason, **options)
            _tell(store, before, after, as_json=args.json)


def user() -> str:
    """Who is at the keyboard, as the audit log names people."""
    try:
        name = getpass.getuser()
    except (KeyError, OSError):  # a container may have numbers without names
        name = str(os.getuid())
    return f"user:{name}"


def _reason(text: str) -> str:
    if not text.strip():
        raise argparse.ArgumentTypeError("it is empty")
    return text.strip()


def _tell(store: Store, before: State, after: State, *, as_json: bool) -> None:
    if as_json:
        output.print_json({"before": _facts(before), "after": _facts(after), "revision": after.revision})
        return
    for name in _SHOWN:
        was, now = getattr(before, name), getattr(after, name)
        if was != now or name in ("stage", "version"):
            print(f"{name:<9} {_said(was)}" + (f" -> {_said(now)}" if was != now else ""))


def _facts(state: State) -> dict[str, Any]:
    return {name: getattr(state, name) for name in _SHOWN}


def _said(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "none" if value is None else str(value)


promote = Move(
    "promote", "move a distilled program on by a stage",
    "Moves the version in use on: shadow to canary, canary to live. Without one, the newest certified "
    "version is put in use. Takes the program off hold.",
    to="straight to this stage",
)  # fmt: skip
demote = Move(
    "demote", "move a distilled program back to the teacher",
    "Moves the version in use back to shadow, and from there to teacher, and holds it there.",
    to="straight back to this stage",
)  # fmt: skip
rollback = Move(
    "rollback", "go back to the version before", "Puts the version before this one in use again."
)  # fmt: skip
hold = Move(
    "hold", "keep a distilled program from moving on by itself",
    "Keeps the program where it is, until 'dspex release' or 'dspex promote'. A breach of the guarantee "
    "still moves it back.",
)  # fmt: skip
release = Move(
    "release", "let a distilled program move on by itself again", "Takes back what 'dspex hold' did."
)  # fmt: skip

"""How commands print: one JSON object, or plain text that fits 80 columns."""

from __future__ import annotations

import json
import os
import sys
import textwrap
from collections.abc import Iterable, Sequence
from enum import Enum
from typing import Any

__all__ = [
    "bold",
    "heading",
    "pair",
    "percent",
    "plain",
    "print_json",
    "print_table",
    "shorten",
    "size",
    "to_json",
]

WIDTH = 80


def to_json(value: Any) -> str:
    """One line of JSON, in ASCII so that any terminal and pipe can carry it."""
    return json.dumps(value, default=_no_json, allow_nan=False)


def print_json(value: Any) -> None:
    print(to_json(value), flush=True)


def _no_json(value: Any) -> Any:
    made = plain(value)
    if made is value:
        raise TypeError(f"{type(value).__name__} has no JSON form")
    return made


def plain(value: Any) -> Any:
    """An Enum's member or a NumPy value as plain data; anything else unchanged."""
    if isinstance(value, Enum):
        return value.value
    return value.tolist() if hasattr(value, "tolist") else value


def bold(text: str) -> str:
    """The text in bold on a terminal, unless NO_COLOR is set."""
    plain = not sys.stdout.isatty() or os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb"
    return text if plain else f"\x1b[1m{text}\x1b[0m"


def heading(text: str) -> None:
    print(f"\n{bold(text)}")


def pair(label: str, text: str, width: int) -> None:
    """A label and what it says, on as many lines of 80 columns as it takes."""
    print(
        textwrap.fill(
            text, WIDTH, initial_indent=label.ljust(width) + " ", subsequent_indent=" " * (width + 1),
            break_on_hyphens=False,
        )
    )  # fmt: skip


def percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def size(count: int) -> str:
    """Bytes for people, in units of 1,024."""
    value = float(count)
    for unit in ("B", "KiB", "MiB"):
        if value < 1024:
            return f"{value:.0f} B" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} GiB"


def shorten(text: str, width: int) -> str:
    """The text on one line of at most ``width`` characters."""
    line = " ".join(text.split())
    return line if len(line) <= width else line[: max(0, width - 3)].rstrip() + "..."


def print_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Columns padded to their widest cell; the first is text, the others are numbers, set to the right."""
    table = [list(header), *(list(row) for row in rows)]
    widths = [max(len(row[at]) for row in table) for at in range(len(header))]
    for row in table:
        first = row[0].ljust(widths[0])
        rest = (cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))
        print("  ".join([first, *rest]).rstrip())

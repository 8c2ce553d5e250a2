"""HTML of text that strangers wrote: everything is escaped, and nothing can change how the rest is read."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape

from dspex.distill.report.words import visible

__all__ = ["Cell", "attributes", "foreign", "name", "shorten", "table", "text"]

_JOINT = re.compile(r"([_./-])(?=\w)")
LONGEST = 400


def text(value: object) -> str:
    """Text for between tags or inside a quoted attribute; what cannot be seen is spelled out as U+XXXX."""
    return escape(visible(str(value)), quote=True)


def foreign(value: object, longest: int = LONGEST) -> str:
    """A text from a trace: shortened, escaped, and kept to itself where it runs from right to left."""
    return f"<bdi>{text(shorten(str(value), longest))}</bdi>"


def name(value: object, longest: int = 100) -> str:
    """The name of a class: as `foreign`, and it may be broken behind the signs that join its words."""
    return _JOINT.sub(r"\1<wbr>", foreign(value, longest).removesuffix("</bdi>")) + "</bdi>"


def shorten(value: str, longest: int) -> str:
    """The text, or its beginning and how long it is."""
    if len(value) <= longest:
        return value
    return f"{value[:longest].rstrip()}… ({len(value):,} characters)"


def attributes(**named: object) -> str:
    """``a="1" b="2"`` with a blank before each; None is left out, ``class_`` is ``class``, ``_`` is ``-``."""
    return "".join(
        f' {name.rstrip("_").replace("_", "-")}="{text(value)}"'
        for name, value in named.items()
        if value is not None
    )


@dataclass(frozen=True, slots=True)
class Cell:
    """A cell of a table: finished HTML, what it sorts by, and its class."""

    html: str
    value: float | None = None
    class_: str | None = None


def table(
    caption: str,
    header: Sequence[str],
    rows: Iterable[Sequence[Cell | str]],
    *,
    label: str,
    left: Sequence[int] = (),
    sortable: bool = False,
    tall: bool = False,
    now: int | None = None,
) -> str:
    """A table in a box of its own that scrolls, by keyboard too, where it is wider than the page.

    Args:
        caption, header, rows: HTML, already escaped. The first cell of a row is its head.
        label: the box's name for screen readers, as text.
        left: columns of words, besides the first.
        sortable: page.js lets its columns be sorted.
        tall: many rows; the box scrolls downwards as well.
        now: the row that is marked, counted from 0.
    """
    sides = ["left" if at in left else None for at in range(len(header))]
    heads = "".join(
        f"<th{attributes(scope='col', class_=side)}>{name}</th>"
        for name, side in zip(header, sides, strict=True)
    )
    body = []
    for number, row in enumerate(rows):
        cells = []
        for at, given in enumerate(row):
            cell = given if isinstance(given, Cell) else Cell(given)
            tag = "th" if at == 0 else "td"
            named = attributes(
                scope="row" if at == 0 else None,
                class_=cell.class_ or sides[at],
                data_value=None if cell.value is None else f"{cell.value:.6g}",
            )
            cells.append(f"<{tag}{named}>{cell.html}</{tag}>")
        body.append(f"<tr{attributes(class_='now' if number == now else None)}>{''.join(cells)}</tr>")
    box = attributes(class_="scroll tall" if tall else "scroll", role="region", tabindex=0, aria_label=label)
    sort = " data-sortable" if sortable else ""
    return (
        f"<div{box}><table{sort}><caption><span>{caption}</span></caption><thead><tr>{heads}</tr></thead>"
        f"<tbody>\n{chr(10).join(body)}\n</tbody></table></div>"
    )

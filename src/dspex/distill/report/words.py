"""Figures and stages in words, for the page and for the command line."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

__all__ = [
    "STAGES",
    "cost",
    "count",
    "duration",
    "moment",
    "number",
    "percent",
    "promise",
    "proof",
    "score",
    "stage",
    "visible",
]

# Controls, separators of lines, marks and overrides of direction, byte-order marks, lone surrogates, tags.
# Joiners (U+200C, U+200D) stay: scripts and emoji need them.
_INVISIBLE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"
    "\ud800-\udfff\U000e0000-\U000e007f]"
)
#: In the order in which a program moves on.
STAGES = {
    "teacher": "the teacher answers every call; no version is in use",
    "shadow": "the teacher answers every call; the native answer is only compared with it",
    "canary": "a share of the calls that the gate lets through is answered natively",
    "live": "every call that the gate lets through is answered natively",
}


def visible(value: str) -> str:
    """The text with what cannot be seen, or changes how the rest is read, spelled out as [U+XXXX]."""
    return _INVISIBLE.sub(lambda found: f"[U+{ord(found[0]):04X}]", value.replace("\r\n", "\n"))


def stage(name: str) -> str:
    """What happens to a call in this stage."""
    return STAGES.get(name, "")


def percent(share: float | None, digits: int = 1) -> str:
    """A share of 1 as per cent; a dash for none."""
    if share is None or math.isnan(share):
        return "–"
    shown = f"{100 * share:.{digits}f}"
    if float(shown) in (0.0, 100.0) and share not in (0.0, 1.0):  # a rare thing is not never
        shown = f"{100 * share:.{digits + 2}f}"
    return f"{shown.rstrip('0').rstrip('.') if '.' in shown else shown} %"


def count(value: int | float | None) -> str:
    return "–" if value is None else f"{value:,.0f}"


def number(value: float | None) -> str:
    return "–" if value is None else f"{value:.4g}"


def score(value: float | None) -> str:
    return "–" if value is None else f"{value:.4f}"


def cost(usd: float | None) -> str:
    if usd is None:
        return "–"
    sign = "-" if usd < 0 else ""
    return f"{sign}${abs(usd):.2g}" if 0 < abs(usd) < 0.01 else f"{sign}${abs(usd):,.2f}"


def duration(seconds: float | None) -> str:
    """Seconds in the two units that fit them best."""
    if seconds is None:
        return "–"
    if seconds < 0:
        return f"-{duration(-seconds)}"
    if seconds < 1:
        return f"{seconds * 1000:.3g} ms"
    if seconds < 60:
        return f"{seconds:.3g} s"
    for size, name, part_size, part in ((86400, "d", 3600, "h"), (3600, "h", 60, "min"), (60, "min", 1, "s")):
        if seconds >= size:
            whole, rest = divmod(int(seconds), size)
            return f"{whole:,} {name} {rest // part_size} {part}"
    raise AssertionError(seconds)


def moment(at: float | None, seconds: bool = False) -> str:
    """Seconds since the epoch as a date and time in UTC."""
    if at is None:
        return "–"
    try:
        return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M" + (":%S" if seconds else ""))
    except (ValueError, OverflowError, OSError):
        return number(at)


def promise(guarantee: Mapping[str, Any]) -> str:
    """The guarantee in one plain sentence."""
    if not guarantee["covers"]:
        return "Nothing is guaranteed yet, so the teacher answers every call."
    where = " within the answers of each group," if guarantee["thresholds"] is not None else ""
    claim = (
        f"at least {percent(guarantee['agreement'])} get the answer that the teacher would have given"
        if guarantee["test"] == "binomial"
        else f"the mean cost of a different answer is at most {number(1 - guarantee['agreement'])}"
    )
    return (
        f"Of the calls that version {guarantee['version']} answers itself,{where} {claim}; "
        f"this fails with a probability of at most {percent(guarantee['delta'])}."
    )


def proof(guarantee: Mapping[str, Any]) -> str:
    """On which rows the guarantee stands, or what is missing."""
    if not guarantee["covers"]:
        return _sentence(guarantee["reason"] or "")
    differed = guarantee["errors"]
    return (
        f"Certified on {count(guarantee['rows'])} rows: the gate let {count(guarantee['accepted'])} of them "
        f"through ({percent(guarantee['coverage'])}), and {count(differed)} of these "
        f"{'was' if differed == 1 else 'were'} answered otherwise than by the teacher."
    )


def _sentence(reason: str) -> str:
    reason = reason.strip()
    if not reason:
        return ""
    return reason[0].upper() + reason[1:] + ("" if reason.endswith((".", "!", "?")) else ".")

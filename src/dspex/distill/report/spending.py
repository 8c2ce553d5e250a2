"""What was answered by whom, hour by hour, and what that saved."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dspex.distill.store import Store, Usage

__all__ = ["usage"]

_PRICED = 1000  # newest answers that say what one costs
_BARS = 60
_HOUR = 3600
_WIDTHS = (1, 2, 3, 6, 12, 24, 48, 168, 336, 720, 2160, 8760)  # hours
_NAMES = ("native", "teacher", "before", "shadow", "deferred", "audited", "failed")
#: Stage -> why the teacher was asked there.
_WHY = {"teacher": "before", "shadow": "shadow", "canary": "deferred", "live": "deferred"}


def usage(store: Store) -> dict[str, Any]:
    """Counts of calls, and what native answers saved, in all and over time.

    "calls" are "native" ones and those that went to the "teacher": "before" there was a version, in "shadow",
    and "deferred" in canary and live; "failed" ones of these got no answer. "audited" native answers were
    compared with the teacher's after the reply, which costs but is not waited for. One answer of the teacher
    costs "usd_per_call" and "seconds_per_call", the mean of the newest; None where no answer says.
    """
    usd, seconds = _price(store)
    hours = _by_hour(store.usage())
    totals = {name: sum(hour[name] for hour in hours.values()) for name in _NAMES}
    series = [
        {**point, "usd_saved": _saved(point, usd, audits=True), "seconds_saved": _saved(point, seconds)}
        for point in _buckets(hours)
    ]
    return {
        "calls": totals["native"] + totals["teacher"],
        **totals,
        "usd_spent": store.counts()["usd"],
        "usd_per_call": usd,
        "usd_saved": _saved(totals, usd, audits=True),
        "seconds_per_call": seconds,
        "seconds_saved": _saved(totals, seconds),
        "series": series,
    }


def _price(store: Store) -> tuple[float | None, float | None]:
    """US dollars and seconds of one answer of the teacher, of late."""
    sums = {"usd": [0.0, 0], "seconds": [0.0, 0]}
    for trace in store.traces(newest=_PRICED):
        for name, total in sums.items():
            amount = getattr(trace.answer, name)
            if amount is not None:
                total[0] += amount
                total[1] += trace.count  # the costs of equal rows have been added up
    usd, seconds = (total / count if count else None for total, count in sums.values())
    return usd, seconds


def _saved(counts: Mapping[str, float], price: float | None, audits: bool = False) -> float | None:
    if price is None:
        return None
    return (counts["native"] - (counts["audited"] if audits else 0)) * price


def _by_hour(rows: Iterable[Usage]) -> dict[int, dict[str, int]]:
    hours: dict[int, dict[str, int]] = {}
    for row in rows:
        hour = hours.setdefault(row.hour, dict.fromkeys(_NAMES, 0))
        asked = round(row.counts.get("asked", 0))
        hour["teacher"] += asked
        hour[_WHY[row.stage]] += asked
        for name in ("native", "audited", "failed"):
            hour[name] += round(row.counts.get(name, 0))
    return hours


def _buckets(hours: Mapping[int, Mapping[str, int]]) -> list[dict[str, Any]]:
    """The hours, as many in one bar as make at most 60 bars; hours without calls are there, too."""
    if not hours:
        return []
    first, last = min(hours), max(hours)
    span = (last - first) // _HOUR + 1
    width = next((each for each in _WIDTHS if span <= each * _BARS), -(-span // _BARS)) * _HOUR
    bars: list[dict[str, Any]] = [
        {"at": at, "until": at + width, **dict.fromkeys(_NAMES, 0)} for at in range(first, last + 1, width)
    ]
    for hour, counts in hours.items():
        bar = bars[(hour - first) // width]
        for name, value in counts.items():
            bar[name] += value
    return bars

"""The axis of time."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime

from dspex.distill.report.charts import Axis

__all__ = ["time_axis"]

_MARKS = 2
_DAY = 86_400.0


def time_axis(begin: float, end: float) -> Axis:
    """From begin to end, in seconds since the epoch, with a few marks in UTC."""
    if end <= begin:
        begin, end = begin - 60, begin + 60
    span = end - begin
    marks = [begin + span * at / _MARKS for at in range(_MARKS + 1)]
    return Axis(_label(begin, end), begin, end, _writer(span), marks)


def _label(begin: float, end: float) -> str:
    first, last = (_at(moment).strftime("%Y-%m-%d") for moment in (begin, end))
    return f"UTC, {first}" if first == last else f"UTC, {first} to {last}"


def _writer(span: float) -> Callable[[float], str]:
    if span < 180:
        return lambda at: _at(at).strftime("%H:%M:%S")
    if span < _DAY:
        return lambda at: _at(at).strftime("%H:%M")
    if span < 4 * _DAY:
        return lambda at: _at(at).strftime("%d %b %Hh")
    return lambda at: _at(at).strftime("%d %b")


def _at(moment: float) -> datetime:
    return datetime.fromtimestamp(min(max(moment, 0.0), 253402300799.0), UTC)

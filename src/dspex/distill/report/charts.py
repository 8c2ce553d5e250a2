"""Charts as inline SVG: one drawing for all widths, named and described for who cannot see it.

The style sheet sets larger letters where the page is narrow, so margins leave room for these.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from dspex.distill.report.html import attributes, text

__all__ = ["Axis", "Bars", "Line", "bar_chart", "line_chart", "share_bar", "thin", "ticks"]

WIDTH, HEIGHT = 480, 280
LEFT, RIGHT, TOP, BOTTOM = 74, 14, 12, 56
_MOST_POINTS = 160

Point = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Axis:
    """One direction of a chart: what it shows, from where to where, and how its marks are written.

    The label of an upright axis stands behind the chart's title.
    """

    label: str
    low: float
    high: float
    write: Callable[[float], str]
    ticks: Sequence[float]


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a chart."""

    name: str
    points: Sequence[Point]
    colour: str
    dashed: bool = False
    steps: bool = False


@dataclass(frozen=True, slots=True)
class Bars:
    """One layer of stacked bars: a height for each bar."""

    name: str
    heights: Sequence[float]
    colour: str


def ticks(low: float, high: float, most: int = 5) -> list[float]:
    """At most ``most + 1`` round numbers from low to high."""
    if not high > low:
        return [low]
    raw = (high - low) / most
    size = 10.0 ** math.floor(math.log10(raw))
    step = next(size * by for by in (1, 2, 2.5, 5, 10) if size * by >= raw * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [round(at * step, 12) for at in range(first, math.floor(high / step + 1e-9) + 1)]


def thin(points: Sequence[Point], most: int = _MOST_POINTS) -> list[Point]:
    """At most about ``most`` of the points, evenly taken, with the last."""
    if len(points) <= most:
        return list(points)
    step = -(-len(points) // most)
    kept = list(points[::step])
    return kept if kept[-1] == points[-1] else [*kept, points[-1]]


def line_chart(
    key: str,
    title: str,
    description: str,
    lines: Sequence[Line],
    x: Axis,
    y: Axis,
    *,
    band: tuple[Sequence[Point], Sequence[Point], str] | None = None,
    rule: tuple[float, str] | None = None,
    mark: tuple[float, float, str] | None = None,
) -> str:
    """Lines over two axes.

    Args:
        key: unique on the page.
        title, description: what is shown, and what is to be seen in it.
        band: upper and lower edge of a shaded band, and its colour.
        rule: a level and what it means.
        mark: one point that counts, and what it is.
    """
    inside: list[str] = []
    if band:
        upper, lower, colour = band
        edge = [*thin(upper), *reversed(thin(lower))]
        inside.append(f'<path class="f-{colour}-soft" d="{_path(edge, x, y)}Z"/>')
    if rule:
        level, meaning = rule
        at = _down(level, y)
        line = attributes(class_="rule", x1=LEFT, x2=WIDTH - RIGHT, y1=at, y2=at)
        inside.append(f"<line{line}><title>{text(meaning)}</title></line>")
    for each in lines:
        look = f"line s-{each.colour}" + (" dash" if each.dashed else "")
        path = attributes(class_=look, d=_path(thin(each.points), x, y, each.steps))
        inside.append(f"<path{path}><title>{text(each.name)}</title></path>")
    inside = [_clipped(inside)]
    if mark:
        across, up, meaning = mark
        circle = attributes(class_="mark f-native", cx=_across(across, x), cy=_down(up, y), r=7)
        inside.append(f"<circle{circle}><title>{text(meaning)}</title></circle>")
    legend = [_line_key(each.name, f"s-{each.colour}", each.dashed) for each in lines]
    if rule:
        legend.append(_line_key(rule[1], "s-ink", dashed=True))
    if mark:
        legend.append(_key(mark[2], '<circle class="f-native" cx="12" cy="5" r="5"/>'))
    return _figure(key, title, y.label, description, [_grid(x, y), *inside, _frame(x, y)], legend)


def bar_chart(
    key: str, title: str, description: str, layers: Sequence[Bars], names: Sequence[str], x: Axis, y: Axis
) -> str:
    """Stacked bars, one for each name, side by side; x counts the bars from 0 to their number."""
    count = len(names)
    room = (WIDTH - LEFT - RIGHT) / max(count, 1)
    inside = []
    for at, name in enumerate(names):
        said = ", ".join(f"{layer.name}: {layer.heights[at]:,.0f}" for layer in layers)
        low, drawn = 0.0, []
        for layer in layers:
            high = low + layer.heights[at]
            if high > low:
                top, bottom = _down(high, y), _down(low, y)
                box = attributes(
                    class_=f"f-{layer.colour}",
                    x=round(LEFT + room * at + room * 0.1, 1),
                    width=round(room * 0.8, 1),
                    y=top,
                    height=round(max(bottom - top - 0.6, 0.4), 1),
                )
                drawn.append(f"<rect{box}/>")
            low = high
        inside.append(f"<g><title>{text(f'{name}: {said}')}</title>{''.join(drawn)}</g>")
    legend = [
        _key(layer.name, f'<rect class="f-{layer.colour}" x="6" y="0" width="12" height="10"/>')
        for layer in layers
    ]
    return _figure(key, title, y.label, description, [_grid(x, y), *inside, _frame(x, y)], legend)


def share_bar(share: float) -> str:
    """A share of 1 as a small bar, to the nearest twentieth, beside its figure."""
    return f'<i class="bar w{round(20 * min(max(share, 0.0), 1.0))}"></i>'


# The parts of a chart


def _figure(key: str, title: str, unit: str, description: str, inside: list[str], legend: list[str]) -> str:
    named = attributes(
        class_="chart", viewBox=f"0 0 {WIDTH} {HEIGHT}", role="img", aria_labelledby=f"{key}-t {key}-d"
    )
    unit = f' <span class="unit">{text(unit)}</span>' if unit else ""
    keys = f'<ul class="legend">{"".join(legend)}</ul>' if legend else ""
    return (
        f"<figure><figcaption>{text(title)}{unit}</figcaption><svg{named}>"
        f'<title id="{key}-t">{text(title)}</title><desc id="{key}-d">{text(description)}</desc>'
        f"{''.join(inside)}</svg>{keys}</figure>"
    )


def _clipped(inside: list[str]) -> str:
    """What lies within the axes; a picture in a picture ends at its edges."""
    wide, high = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM
    named = attributes(
        x=LEFT, y=TOP - 2, width=wide, height=high + 3, viewBox=f"{LEFT} {TOP - 2} {wide} {high + 3}"
    )
    return f"<svg{named}>{''.join(inside)}</svg>"


def _line_key(name: str, style: str, dashed: bool) -> str:
    look = f"line {style}" + (" dash" if dashed else "")
    return _key(name, f'<path class="{look}" d="M0 5H24"/>')


def _key(name: str, drawing: str) -> str:
    return f'<li><svg viewBox="0 0 24 10" aria-hidden="true">{drawing}</svg>{text(name)}</li>'


def _grid(x: Axis, y: Axis) -> str:
    lines = [
        f"<line{attributes(class_='grid', x1=LEFT, x2=WIDTH - RIGHT, y1=_down(at, y), y2=_down(at, y))}/>"
        for at in y.ticks
    ]
    return "".join(lines)


def _frame(x: Axis, y: Axis) -> str:
    """The axes with their marks and names, above everything else."""
    bottom = HEIGHT - BOTTOM
    parts = [f"<line{attributes(class_='base', x1=LEFT, x2=WIDTH - RIGHT, y1=bottom, y2=bottom)}/>"]
    for at in y.ticks:
        place = attributes(x=LEFT - 8, y=round(_down(at, y) + 4, 1), text_anchor="end")
        parts.append(f"<text{place}>{text(y.write(at))}</text>")
    last = len(x.ticks) - 1
    for number, at in enumerate(x.ticks):
        across = _across(at, x)
        anchor = "middle"
        if last > 0 and number == last and across > WIDTH - RIGHT - 40:
            anchor = "end"
        elif last > 0 and number == 0 and across < LEFT + 4:
            anchor = "start"
        place = attributes(x=min(across, WIDTH - 2), y=bottom + 20, text_anchor=anchor)
        parts.append(f"<text{place}>{text(x.write(at))}</text>")
    centre = (LEFT + WIDTH - RIGHT) / 2
    parts.append(
        f"<text{attributes(class_='name', x=centre, y=HEIGHT - 8, text_anchor='middle')}>"
        f"{text(x.label)}</text>"
    )
    return "".join(parts)


def _path(points: Sequence[Point], x: Axis, y: Axis, steps: bool = False) -> str:
    parts = []
    for at, (across, up) in enumerate(points):
        down = _down(up, y)
        if at and steps:
            parts.append(f"H{_across(across, x):g}V{down:g}")
        else:
            parts.append(f"{'L' if at else 'M'}{_across(across, x):g} {down:g}")
    return "".join(parts)


def _across(value: float, x: Axis) -> float:
    return round(LEFT + (WIDTH - LEFT - RIGHT) * _share(value, x), 1)


def _down(value: float, y: Axis) -> float:
    return round(HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * _share(value, y), 1)


def _share(value: float, axis: Axis) -> float:
    """Where a value lies on the axis, from 0 to 1; what is far beyond an end is drawn less far out."""
    if not axis.high > axis.low:
        return 0.5
    return min(max((value - axis.low) / (axis.high - axis.low), -9.0), 10.0)

"""Axes, lines and figures of the report."""

from __future__ import annotations

import re

import pytest

from dspex.distill.report import words
from dspex.distill.report.charts import Axis, Bars, Line, bar_chart, line_chart, share_bar, thin, ticks
from dspex.distill.report.times import time_axis

Y = Axis("", 0, 10, str, [0, 5, 10])


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0, 1, [0, 0.2, 0.4, 0.6, 0.8, 1]),
        (0.93, 1, [0.94, 0.96, 0.98, 1]),
        (0, 7, [0, 2, 4, 6]),
        (-3, 12_000, [0, 2500, 5000, 7500, 10_000]),
        (5, 5, [5]),
    ],
)
def test_ticks_are_few_and_round(low, high, expected):
    assert ticks(low, high) == pytest.approx(expected)


@pytest.mark.parametrize("count", [1, 159, 160, 161, 10_000])
def test_long_lines_are_thinned_and_end_where_they_did(count):
    points = [(float(at), 0.0) for at in range(count)]
    kept = thin(points)
    assert len(kept) <= 161
    assert (kept[0], kept[-1]) == (points[0], points[-1])


def paths(svg):
    return re.findall(r'<path class="line[^"]*" d="([^"]*)">', svg)


def test_a_line_lies_where_its_points_are():
    svg = line_chart("k", "t", "d", [Line("a", [(0, 0), (10, 10)], "native")], Y, Y)
    assert paths(svg) == ["M74 224L466 12"]


def test_steps_go_across_and_then_up():
    svg = line_chart("k", "t", "d", [Line("a", [(0, 0), (10, 10)], "native", steps=True)], Y, Y)
    assert paths(svg) == ["M74 224H466V12"]


def test_an_axis_of_one_value_and_values_far_out():
    flat = Axis("", 3, 3, str, [3])
    assert "M270 118" in line_chart("k", "t", "d", [Line("a", [(3, 3)], "native")], flat, flat)
    svg = line_chart("k", "t", "d", [Line("a", [(0, -1e300), (1, 1e300)], "native")], Y, Y)
    assert all(abs(float(number)) < 10_000 for number in re.findall(r"[\d.]+", paths(svg)[0]))


def test_names_in_a_chart_are_escaped():
    svg = line_chart(
        "k", "<t>", '"d"', [Line("<a>", [(0, 0)], "native")], Y, Y, rule=(5, "<r>"), mark=(1, 1, "<m>")
    )
    assert not re.search(r"<[tarm]>", svg)
    assert "&lt;m&gt;" in svg


def test_bars_are_stacked_and_say_their_numbers():
    layers = [Bars("a", [1, 0], "native"), Bars("b", [2, 3], "teacher")]
    svg = bar_chart(
        "k", "t", "d", layers, ["first", "second"], Axis("", 0, 2, str, []), Axis("", 0, 3, str, [])
    )
    assert svg.count("<rect") == 3 + 2  # and two in the legend
    assert "first: a: 1, b: 2" in svg


@pytest.mark.parametrize(("share", "size"), [(0, 0), (0.5, 10), (0.994, 20), (1, 20), (2, 20), (-1, 0)])
def test_small_bars_stay_within_their_box(share, size):
    assert share_bar(share) == f'<i class="bar w{size}"></i>'


@pytest.mark.parametrize("span", [0, 60, 3600, 90_000, 86_400 * 400])
def test_the_axis_of_time_has_a_few_marks(span):
    axis = time_axis(1_795_640_000, 1_795_640_000 + span)
    assert len(axis.ticks) == 3
    assert axis.low < axis.high
    assert all(0 < len(axis.write(at)) <= 10 for at in axis.ticks)
    assert axis.label.startswith("UTC, 2026-11-25")


@pytest.mark.parametrize(
    ("made", "expected"),
    [
        (words.percent(0.95), "95 %"),
        (words.percent(0.0), "0 %"),
        (words.percent(1.0), "100 %"),
        (words.percent(0.9997), "99.97 %"),  # not all of them
        (words.percent(0.0002), "0.02 %"),
        (words.percent(None), "–"),
        (words.cost(0.0004), "$0.0004"),
        (words.cost(1234.5), "$1,234.50"),
        (words.cost(-0.5), "-$0.50"),
        (words.cost(None), "–"),
        (words.duration(0.0123), "12.3 ms"),
        (words.duration(59), "59 s"),
        (words.duration(61), "1 min 1 s"),
        (words.duration(90_000), "1 d 1 h"),
        (words.duration(-61), "-1 min 1 s"),
        (words.moment(0), "1970-01-01 00:00"),
        (words.moment(1e300), "1e+300"),
        (words.moment(None), "–"),
    ],
)
def test_figures_in_words(made, expected):
    assert made == expected

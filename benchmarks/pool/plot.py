"""Throughput and latency by threads, batches by rows, and throughput by capacity, in one picture.

The colours are of middle lightness and there is no background: it is read on white and on black.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.sections import Section
from benchmarks.timing import spread

OURS, SECOND, PEER, INK = "#e0525f", "#d98e2b", "#4a90c4", "#7d8794"
TITLES = (
    "No-op tasks in windows of 1,000",
    "No-op tasks one by one, by threads",
    "No-op tasks, by the capacity of the queue",
)


def draw(sections: Sequence[Section], target: Path) -> None:
    """Writes an SVG; without matplotlib it says so and writes nothing."""
    try:
        import matplotlib
    except ImportError:
        print("no plot: matplotlib is not installed")
        return
    matplotlib.use("Agg")
    colours = ("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color")
    settings: Any = {"svg.hashsalt": "dspex", "font.size": 9} | dict.fromkeys(colours, INK)
    matplotlib.rcParams.update(settings)
    import matplotlib.pyplot as plt

    by_title = {section.title: section for section in sections}
    if missing := [title for title in TITLES if title not in by_title]:
        print(f"no plot: not measured: {', '.join(missing)}")
        return
    figure, axes = plt.subplots(2, 2, figsize=(9.2, 6.6))
    _throughput(axes[0][0], by_title[TITLES[0]])
    _latency(axes[0][1], by_title[TITLES[1]])
    crossovers = [section for section in sections if section.title.startswith("From how few rows")]
    _crossover(axes[1][0], [each for each in crossovers if not each.title.endswith("rarely")])
    _capacity(axes[1][1], by_title[TITLES[2]])
    for axis in axes.flat:
        axis.patch.set_alpha(0)
        axis.grid(color=INK, alpha=0.25, linewidth=0.6)
        axis.spines[["top", "right"]].set_visible(False)
        axis.legend(frameon=False, fontsize=8, labelcolor=INK)
    figure.tight_layout()
    figure.savefig(target, transparent=True, metadata={"Date": None})
    plt.close(figure)


def _line(
    axis: Any, xs: Sequence[float], series: Sequence[Sequence[float]], label: str, **style: Any
) -> None:
    """Medians as a line, ranges as a band."""
    found = [spread(values) for values in series]
    axis.plot(xs, [each[0] for each in found], marker="o", markersize=4, label=label, **style)
    axis.fill_between(
        xs,
        [each[1] for each in found],
        [each[2] for each in found],
        color=style["color"],
        alpha=0.18,
        linewidth=0,
    )


def _throughput(axis: Any, section: Section) -> None:
    for kind, workers, colour, how in (
        ("pool", 2, OURS, "-"),
        ("pool", 1, SECOND, "-"),
        ("executor", 1, PEER, "-"),
    ):
        names = [n for n in section.cases if n.startswith(f"{kind}, ") and n.endswith(f", {workers} workers")]
        series = [section.cases[name]["tasks/s"] for name in names]
        many = "s" if workers > 1 else ""
        label = f"{'ThreadPoolExecutor' if kind == 'executor' else 'pool'}, {workers} worker{many}"
        _line(
            axis,
            [int(n.split(", ")[1].split()[0]) for n in names],
            series,
            label,
            color=colour,
            linestyle=how,
        )
    _title(axis, "No-op tasks in windows of 1,000", "producer threads", "tasks/s (log)")
    axis.set_yscale("log")
    _plain_ticks(axis, section, ", ", 1)


def _latency(axis: Any, section: Section) -> None:
    for kind, colour, label in (("pool", OURS, "pool"), ("executor", PEER, "ThreadPoolExecutor")):
        names = [name for name in section.cases if name.startswith(kind)]
        xs = [int(name.split(", ")[1].split()[0]) for name in names]
        for figure, how in (("p50 µs", "-"), ("p99 µs", ":")):
            series = [section.cases[name][figure] for name in names]
            _line(axis, xs, series, f"{label}, {figure.split()[0]}", color=colour, linestyle=how)
    _title(axis, "No-op, one by one: until the result", "producer threads", "µs (log)")
    axis.set_yscale("log")
    _plain_ticks(axis, section, ", ", 1)


def _crossover(axis: Any, sections: Sequence[Section]) -> None:
    for section, colour in zip(sections, (OURS, SECOND, PEER), strict=False):
        names = [name for name in section.cases if name.startswith("batch")]
        xs = [int(name.split(", ")[1].split()[0]) for name in names]
        _line(axis, xs, [section.ratios(name) for name in names], section.title.split(": ")[1], color=colour)
    axis.axhline(1, color=INK, linewidth=1, linestyle="--")
    axis.set_xscale("log", base=2)
    axis.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    _title(axis, "batch beside a loop of calls, 2 cores", "rows (log)", "times faster")


def _capacity(axis: Any, section: Section) -> None:
    xs = [int(name.split()[0]) for name in section.cases]
    _line(axis, xs, [series["tasks/s"] for series in section.cases.values()], "pool, 2 workers", color=OURS)
    axis.set_xscale("log", base=2)
    axis.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    axis.yaxis.set_major_formatter(lambda value, _: f"{value / 1e6:g} M")
    axis.set_ylim(bottom=0)
    _title(axis, "No-op tasks, 4 producers", "places in the queue (log)", "tasks/s")


def _plain_ticks(axis: Any, section: Section, separator: str, at: int) -> None:
    counts = sorted({int(name.split(separator)[at].split()[0]) for name in section.cases})
    axis.set_xscale("log", base=2)
    axis.set_xticks(counts, [str(count) for count in counts])
    axis.yaxis.set_major_formatter(lambda value, _: f"{value:,.10g}")


def _title(axis: Any, title: str, x: str, y: str) -> None:
    axis.set_title(title, loc="left", fontweight="bold", fontsize=10)
    axis.set_xlabel(x)
    axis.set_ylabel(y)

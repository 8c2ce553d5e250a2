"""Accuracy against latency, one panel for each data set, as SVG and PNG."""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import Any

from benchmarks.scores import HEADLINE
from benchmarks.timing import spread

Figures = dict[str, Any]
OURS, PEERS, INK = "#d1495b", "#5c677d", "#22262b"
SHORT = {
    "dspex": "dspex",
    "fasttext_tuned": "fastText",
    "fasttext_lean": "fastText, lean",
    "sklearn_union_svc": "union + SVC",
    "sklearn_union_lr": "union + LR",
    "sklearn_union_ridge": "union + ridge",
    "nbsvm": "NB-SVM",
    "numpy_by_hand": "LR by hand",
    "onnx_words": "ONNX, words",
}
AXIS = {"accuracy": "accuracy", "micro_f1": "micro-F1", "mae": "mean absolute error (upside down)"}


def accuracy_against_latency(results: Figures, out: Path) -> None:
    """Writes `plot.svg` and `plot.png`; without matplotlib it says so and writes neither."""
    try:
        import matplotlib
    except ImportError:
        print("no plot: matplotlib is not installed")
        return
    matplotlib.use("Agg")
    matplotlib.rcParams.update({"svg.hashsalt": "dspex", "font.size": 9, "text.color": INK})
    import matplotlib.pyplot as plt

    sets = results["sets"]
    columns = min(3, len(sets))
    rows = -(-len(sets) // columns)
    figure, axes = plt.subplots(rows, columns, figsize=(4.3 * columns, 3.3 * rows), squeeze=False)
    for axis in axes.flat[len(sets) :]:
        axis.remove()
    latencies = [spread(own["p50"])[0] for found in sets.values() for own in found["peers"].values()]
    for axis, (name, found) in zip(axes.flat, sets.items(), strict=False):
        axis.set_xscale("log")
        axis.set_xlim(min(latencies) / 2, max(latencies) * 2)
        axis.xaxis.set_major_formatter(lambda value, _: f"{value:,.10g}")
        _panel(axis, name, found)
    figure.tight_layout()
    for suffix in ("svg", "png"):
        figure.savefig(out / f"plot.{suffix}", dpi=150, metadata={"Date": None} if suffix == "svg" else None)
    plt.close(figure)


def _panel(axis: Any, name: str, found: Figures) -> None:
    measure = HEADLINE[found["task"]]
    points = [
        (spread(own["p50"])[0], own[measure], peer) for peer, own in found["peers"].items() if measure in own
    ]
    for latency, value, peer in points:
        ours = peer == "dspex"
        axis.scatter(latency, value, s=70 if ours else 36, color=OURS if ours else PEERS, zorder=3)
    axis.margins(y=0.16)
    if measure == "mae":
        axis.invert_yaxis()
    _label(axis, points)
    axis.set_title(name, loc="left", fontweight="bold", fontsize=10)
    axis.set_xlabel("one call, p50, µs (log)")
    axis.set_ylabel(AXIS[measure])
    axis.grid(color="#e3e6ea", linewidth=0.7)
    axis.spines[["top", "right"]].set_visible(False)


def _label(axis: Any, points: list[tuple[float, float, str]]) -> None:
    """Names next to the points, on the first free place: no name on another, nor on a point."""
    from matplotlib.transforms import Bbox

    axis.figure.canvas.draw()
    low, high = axis.get_xlim()
    spots = [axis.transData.transform((latency, value)) for latency, value, _ in points]
    taken = [Bbox.from_bounds(x - 4, y - 4, 8, 8) for x, y in spots]
    for latency, value, peer in sorted(points, key=lambda point: point[2] != "dspex"):
        sides = [("left", 6), ("right", -6)]
        if latency > (low * high) ** 0.5:
            sides.reverse()
        for lift, (side, offset) in product((0, 9, -9, 18, -18, 27, -27), sides):
            text = axis.annotate(
                SHORT.get(peer, peer),
                (latency, value),
                xytext=(offset, lift),
                textcoords="offset points",
                ha=side,
                va="center",
                fontsize=8,
                color=OURS if peer == "dspex" else PEERS,
                fontweight="bold" if peer == "dspex" else "normal",
            )
            box = text.get_window_extent()
            inside = axis.bbox.x0 < box.x0 and box.x1 < axis.bbox.x1
            if inside and not any(box.overlaps(other) for other in taken):
                taken.append(box)
                break
            text.remove()

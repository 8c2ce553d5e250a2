"""Time and memory of a fit against the number of rows.

    python -m benchmarks.scale [--rows 10000 30000 ...] [--out DIR]

Rows like AG News are made as in `synth`; every size is fitted in a process of its own. Prints a table with
the time, the peak resident size (the rows included) and how both grow; writes `scale.json`, `.svg`, `.png`.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

from benchmarks import datasets, fresh
from benchmarks.synth import Sampler

ROWS = (10_000, 30_000, 100_000, 300_000, 1_000_000)
HELD_OUT = 2_000
Point = dict[str, float]


def measure(rows: int, seed: int) -> Point:
    """Fit on this many made-up rows, here and now."""
    import dspex

    source = datasets.load("ag_news_small")
    sampler = Sampler(source.train, seed)
    columns = sampler.columns(rows + HELD_OUT)
    train = {name: column[:rows] for name, column in columns.items()}
    before = fresh.resident_bytes()
    fresh.forget_peak()
    begin, cpu = time.perf_counter(), time.process_time()
    program: Any = dspex.fit("text -> label", train, seed=seed)
    spent, cpu = time.perf_counter() - begin, time.process_time() - cpu
    peak = fresh.peak_bytes()
    held_out = [{"text": text} for text in columns["text"][rows:]]
    said = [result["label"] for result in program.batch(held_out)]
    right = sum(a == b for a, b in zip(said, columns["label"][rows:], strict=True))
    return {
        "rows": rows,
        "words": len({word for text in train["text"] for word in text.split()}),
        "fit_s": spent,
        "cpu_s": cpu,
        "peak_mib": peak / fresh.MIB,
        "fit_mib": (peak - before) / fresh.MIB,
        "accuracy": right / HELD_OUT,
    }


def measure_in_fresh_process(rows: int, seed: int) -> Point:
    command = [sys.executable, "-m", "benchmarks.scale", "--child", str(rows), "--seed", str(seed)]
    root = Path(__file__).parents[1]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"fitting {rows} rows failed: {done.stderr.strip()[-400:]}")
    point: Point = json.loads(done.stdout.splitlines()[-1])
    return point


def markdown(points: list[Point]) -> str:
    """One line for each size. Growth: the exponent of the time in the rows; 1 is linear."""
    lines = [
        "| rows | distinct words | fit s | CPU s | peak MiB | of which fit | growth | accuracy, unseen |",
        "|" + "---:|" * 8,
    ]
    growths = ["", *(f"{_growth(a, b):.2f}" for a, b in pairwise(points))]
    for point, growth in zip(points, growths, strict=True):
        lines.append(
            f"| {point['rows']:,.0f} | {point['words']:,.0f} | {point['fit_s']:.2f} | {point['cpu_s']:.2f} "
            f"| {point['peak_mib']:,.0f} | {point['fit_mib']:,.0f} | {growth} | {point['accuracy']:.4f} |"
        )
    return "\n".join(lines)


def _growth(a: Point, b: Point) -> float:
    return math.log(b["fit_s"] / a["fit_s"]) / math.log(b["rows"] / a["rows"])


def plot(points: list[Point], out: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(8.6, 3.4))
    rows = [point["rows"] for point in points]
    first = points[0]
    panels = ((left, "fit_s", "fit, s"), (right, "peak_mib", "peak resident size, MiB"))
    for axis, key, title in panels:
        axis.plot(rows, [point[key] for point in points], "o-", color="#d1495b", label="dspex.fit")
        axis.set_xscale("log")
        axis.set_xlabel("rows")
        axis.set_title(title, loc="left", fontsize=10)
        axis.grid(color="#e3e6ea", linewidth=0.7)
        axis.spines[["top", "right"]].set_visible(False)
    linear = [first["fit_s"] * n / first["rows"] for n in rows]
    left.plot(rows, linear, "--", color="#5c677d", label="linear from the first point")
    left.set_yscale("log")
    left.legend(frameon=False, fontsize=8)
    right.axhline(2048, color="#5c677d", linestyle="--")
    right.set_ylim(bottom=0)
    figure.tight_layout()
    for suffix in ("svg", "png"):
        figure.savefig(out / f"scale.{suffix}", dpi=150)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, nargs="*", default=list(ROWS))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("benchmark-results"))
    parser.add_argument("--child", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        print(json.dumps(measure(options.child, options.seed)))
        return
    options.out.mkdir(parents=True, exist_ok=True)
    points = []
    for rows in sorted(options.rows):
        points.append(measure_in_fresh_process(rows, options.seed))
        print(f"{rows:,} rows: {points[-1]['fit_s']:.2f} s", file=sys.stderr, flush=True)
    (options.out / "scale.json").write_text(json.dumps(points, indent=1) + "\n")
    plot(points, options.out)
    print(markdown(points))


if __name__ == "__main__":
    main()

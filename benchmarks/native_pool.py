"""The worker pool in C++ alone: what it costs beside bare threads and beside other queues.

    python -m benchmarks.native_pool [--rounds 7] [--scale 1.0] [--include FOLDER] [--out FILE] [handoff ...]

Compiles benchmarks/native/pool.cpp and the pool with -O2, runs it, and prints JSON. Every round gives each
peer one block, in an order that moves on; figures are the best round with the spread over all, ratios are
taken within a round. Peers that are not there are left out: moodycamel::ConcurrentQueue is a package of most
distributions (libconcurrentqueue-dev), rigtorp::MPMCQueue is one header; --include names a folder to look for
them in, as in --include FOLDER for FOLDER/rigtorp/MPMCQueue.h.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import tempfile
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

ROOT = Path(__file__).parents[1]
PARTS = ("handoff", "queues", "throughput", "overload")
Row = dict[str, Any]
Figures = dict[int, float]
"""One figure per round."""
Groups = dict[tuple[Any, ...], Figures]


def compile_to(target: Path, includes: Iterable[str]) -> None:
    compiler = shutil.which(os.environ.get("CXX", "c++")) or shutil.which("g++") or shutil.which("clang++")
    if compiler is None:
        raise SystemExit("no C++ compiler")
    native = ROOT / "src" / "_native"
    sources = [ROOT / "benchmarks" / "native" / "pool.cpp", *sorted((native / "pool").glob("*.cpp"))]
    folders = [f"-I{native}", *(f"-isystem{include}" for include in includes)]
    flags = ["-std=c++20", "-O2", "-DNDEBUG", "-Wall", "-Wextra", "-pthread"]
    subprocess.run([compiler, *flags, *folders, *map(str, sources), "-o", str(target)], check=True)


def measure(parts: Sequence[str], rounds: int, scale: float, includes: Iterable[str] = ()) -> list[Row]:
    """One row for each peer and round."""
    with tempfile.TemporaryDirectory() as folder:
        program = Path(folder) / "pool"
        compile_to(program, includes)
        command = [str(program), *parts, f"--rounds={rounds}", f"--scale={scale}"]
        done = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True)
    return [json.loads(line) for line in done.stdout.splitlines()]


def spread(values: Iterable[float]) -> dict[str, float]:
    ordered = sorted(values)
    return {"min": ordered[0], "median": median(ordered), "max": ordered[-1]}


def ratio(of: Figures, to: Figures) -> dict[str, float]:
    return spread(of[turn] / to[turn] for turn in of)


def grouped(rows: Iterable[Row], bench: str, keys: Sequence[str], figure: str) -> Groups:
    found: Groups = defaultdict(dict)
    for row in rows:
        if row["bench"] == bench:
            found[tuple(row[key] for key in keys)][int(row["round"])] = row[figure]
    return found


def hand_offs(rows: list[Row]) -> Row:
    """Each way of waiting: the pool, the better of the bare pairs of threads, and the ratio of both."""
    found: Row = {}
    for figure in ("p50_ns", "mean_ns"):
        figures = grouped(rows, "handoff", ["mode", "peer"], figure)
        for mode in dict.fromkeys(mode for mode, _ in figures):
            pool = figures[mode, "pool"]
            others = [figures[key] for key in figures if key[0] == mode and key[1] != "pool"]
            bare = min(others, key=lambda figures: min(figures.values()))
            found.setdefault(mode, {})[figure] = {
                "pool": spread(pool.values()),
                "bare": spread(bare.values()),
                "ratio": ratio(pool, bare),
                "ratio_of_best": min(pool.values()) / min(bare.values()),
            }
    return found


def by_shape(rows: list[Row], bench: str) -> list[Row]:
    """Each number of producers, of consumers, and capacity: nanoseconds of an element by peer."""
    figures = grouped(rows, bench, ["producers", "consumers", "capacity", "peer"], "ns")
    found = []
    for shape in dict.fromkeys(key[:3] for key in figures):
        peers = {key[3]: figures[key] for key in figures if key[:3] == shape}
        row: Row = dict(zip(("producers", "consumers", "capacity"), map(int, shape), strict=True))
        row["ns"] = {peer: spread(values.values()) for peer, values in peers.items()}
        if ours := peers.pop("ours", None):  # throughput of ours over theirs: above 1 we are faster
            row["ratio"] = {peer: ratio(theirs, ours) for peer, theirs in peers.items()}
            row["ratio_of_best"] = {
                peer: min(theirs.values()) / min(ours.values()) for peer, theirs in peers.items()
            }
        found.append(row)
    return found


def overloads(rows: list[Row]) -> list[Row]:
    """Each capacity and load: goodput beside the peak of the same round, and how long tasks waited."""
    figures = grouped(rows, "overload", ["capacity", "load"], "per_s")
    quantiles = ("wait_p50_us", "wait_p99_us")
    waits = {name: grouped(rows, "overload", ["capacity", "load"], name) for name in quantiles}
    found = []
    for capacity, load in figures:
        row: Row = {"capacity": int(capacity), "load": load or "peak"}
        row["per_s"] = spread(figures[capacity, load].values())
        row["of_peak"] = ratio(figures[capacity, load], figures[capacity, 0.0])
        row |= {name: spread(values[capacity, load].values()) for name, values in waits.items()}
        found.append(row)
    return found


def run(parts: Sequence[str], rounds: int = 7, scale: float = 1.0, includes: Iterable[str] = ()) -> Row:
    """All figures of these parts."""
    rows = measure(parts, rounds, scale, includes)
    found: Row = {"cores": os.cpu_count(), "rounds": rounds}
    if "handoff" in parts:
        found["handoff"] = hand_offs(rows)
    for part in ("queues", "throughput"):
        if part in parts:
            found[part] = by_shape(rows, part)
    if "overload" in parts:
        found["overload"] = overloads(rows)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("parts", nargs="*", metavar="|".join(PARTS))
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--scale", type=float, default=1.0, help="of the length of a block")
    parser.add_argument("--include", action="append", default=[], help="where other queues' headers are")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    if unknown := set(options.parts) - set(PARTS):
        parser.error(f"no such part: {', '.join(sorted(unknown))}")
    text = json.dumps(run(options.parts or PARTS, options.rounds, options.scale, options.include), indent=1)
    if options.out is not None:
        options.out.write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    main()

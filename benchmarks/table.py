"""The table and the plot of a run. `python -m benchmarks.table DIR` makes them again from `results.json`."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks import plot
from benchmarks.scores import HEADLINE
from benchmarks.timing import ratio, spread

Figures = dict[str, Any]
COLUMNS = (
    "peer", "right", "macro-F1", "ECE", "cover 95 / 98 / 99 %", "p50 µs", "p99 µs", "rows/s", "model MiB",
    "fit MiB", "fit s", "import ms", "slower than dspex", "dspex rows/s",
)  # fmt: skip
RIGHT = {"accuracy": "accuracy", "micro_f1": "micro-F1", "mae": "mean absolute error, less is better"}


def write(results: Figures, out: Path) -> None:
    (out / "results.json").write_text(json.dumps(results, indent=1, default=float) + "\n")
    (out / "table.md").write_text(markdown(results))
    plot.accuracy_against_latency(results, out)


def markdown(results: Figures) -> str:
    """One table: a line for each data set, then one for each peer on it."""
    lines = ["| " + " | ".join(COLUMNS) + " |", "|" + "---|" + "---:|" * (len(COLUMNS) - 1)]
    for name, found in results["sets"].items():
        title = f"**{name}** ({RIGHT[HEADLINE[found['task']]]})"
        lines.append(f"| {title} |" + " |" * (len(COLUMNS) - 1))
        lines += [_line(peer, found, results["imports"]) for peer in found["peers"]]
    return "\n".join([*lines, "", *_notes(results)]) + "\n"


def _line(peer: str, found: Figures, imports: Figures) -> str:
    own, ours = found["peers"][peer], found["peers"].get("dspex")
    coverage = [_figure(own.get(f"coverage_{level}"), 3) for level in (95, 98, 99)]
    cells = [
        peer,
        _figure(own.get(HEADLINE[found["task"]]), 4),
        _figure(own.get("macro_f1"), 4),
        _figure(own.get("ece"), 3),
        " / ".join(coverage) if "coverage_95" in own else "",
        _spread(own["p50"]),
        _spread(own["p99"]),
        f"{spread(own['rows_per_s'])[0]:,.0f}",
        _figure(own["model_bytes"] / 2**20 if own.get("model_bytes") else None, 2),
        _figure(own.get("fit_mib"), 0),
        _figure(own.get("fit_s"), 2),
        _figure(imports.get(peer, {}).get("import_ms"), 0),
        _times(ratio(own["p50"], ours["p50"])) if ours and peer != "dspex" else "",
        _times(ratio(ours["rows_per_s"], own["rows_per_s"])) if ours and peer != "dspex" else "",
    ]
    return "| " + " | ".join(cells) + " |"


def _notes(results: Figures) -> list[str]:
    machine = results["machine"]
    notes = [
        "Fit on `train`, measured on `dev`; settings found on `train`. ECE: 15 equal-mass bins. "
        "Latency: one call, mapping in, answer out, over distinct texts, on one core, in turn with dspex; "
        "medians over the rounds, the range in brackets. The last two columns: how many times longer a call "
        "takes than dspex's (p50), and how many times more rows per second dspex does, within a round.",
        f"{machine['processor']}, {machine['cores']} cores, Python {machine['python']}.",
    ]
    skipped = {
        (peer, reason, name)
        for name, found in results["sets"].items()
        for peer, reason in found["skipped"].items()
        if not reason.startswith("does not do")
    }
    notes += [f"Skipped on {name}: {peer} ({reason})." for peer, reason, name in sorted(skipped)]
    return [line for note in notes for line in (note, "")]


def _figure(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:,.{digits}f}"


def _short(value: float) -> str:
    return f"{value:.2f}" if value < 10 else f"{value:,.0f}"


def _spread(values: Sequence[float]) -> str:
    middle, low, high = spread(values)
    return f"{_short(middle)} ({_short(low)}-{_short(high)})"


def _times(found: tuple[float, float, float]) -> str:
    middle, low, high = (_short(value) for value in found)
    return f"{middle}x ({low}-{high})"


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    write(json.loads((folder / "results.json").read_text()), folder)

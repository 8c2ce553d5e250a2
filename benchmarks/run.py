"""Fit dspex and its peers on the same rows, and print one table and one plot.

    python -m benchmarks.run [--sets ...] [--peers ...] [--out DIR]

Every peer fits on `train` with settings found on `train` (see `benchmarks.tune`) and is measured on `dev`.
Latency and throughput are measured in turn, in this process, on one core; the memory of a fit and the time
of an import in processes of their own. Writes `results.json`, `table.md`, `plot.svg` and `plot.png`.
"""

from __future__ import annotations

import os

for _variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "TOKENIZERS_PARALLELISM"):
    os.environ.setdefault(_variable, "1")

import argparse  # noqa: E402  (the threads are limited before NumPy starts its own)
import json  # noqa: E402
import platform  # noqa: E402
import sys  # noqa: E402
import time  # noqa: E402
import warnings  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any  # noqa: E402

from benchmarks import datasets, fresh, keep, table, timing, tune  # noqa: E402
from benchmarks.datasets import DataSet  # noqa: E402
from benchmarks.peers import NAMES, peer_class, reason_to_skip  # noqa: E402
from benchmarks.peers.base import Peer  # noqa: E402
from benchmarks.scores import score  # noqa: E402

Figures = dict[str, Any]


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def fit_peer(
    name: str, data: DataSet, fitted: dict[str, Peer], options: argparse.Namespace
) -> tuple[Peer, Figures]:
    """A fitted peer and its figures other than timing."""
    cls = peer_class(name)
    peer = cls(data.task, data.classes, tune.settings_for(data.name, name))
    kept = keep.recall(options.keep, peer, data)
    if kept is not None:
        return kept
    figures: Figures = {"settings": peer.settings, "version": peer.version()}
    base = fitted.get(cls.same_model_as or "")
    if base is not None:
        peer.adopt(base)
    else:
        begin = time.perf_counter()
        peer.fit(data.train)
        figures["fit_s"] = time.perf_counter() - begin
        peer.calibrate(data.train)
    if cls.has_accuracy:
        figures |= score(peer, data)
    figures["model_bytes"] = peer.model_bytes()
    if options.fresh and base is None and cls.has_accuracy:
        measured = fresh.fit_in_fresh_process(name, data.name)
        figures |= measured | {"fit_s": min(measured["fit_s"], figures["fit_s"])}
    keep.remember(options.keep, peer, data, figures)
    return peer, figures


def run_set(data: DataSet, options: argparse.Namespace) -> Figures:
    """Figures per peer, and why the others were skipped."""
    fitted: dict[str, Peer] = {}
    figures: dict[str, Figures] = {}
    skipped: dict[str, str] = {}
    for name in options.peers:
        reason = reason_to_skip(name, data)
        if reason is None:
            say(f"{data.name}: {name}")
            try:
                fitted[name], figures[name] = fit_peer(name, data, fitted, options)
            except Exception as error:  # one broken peer must not lose the figures of the others
                if name == "dspex":
                    raise
                reason = f"failed: {type(error).__name__}: {error}"
        if reason is not None:
            skipped[name] = reason
            say(f"{data.name}: {name} skipped: {reason}")
    say(f"{data.name}: timing in turn")
    for name, measured in timing.time_in_turn(fitted, data.dev_texts, options.rounds).items():
        figures[name] |= vars(measured)
    return {"task": data.task, "peers": figures, "skipped": skipped}


def machine() -> Figures:
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "clock_ns": timing.clock_ns(),
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sets", nargs="*", help="names of folders under DSPEX_DATA (all)")
    parser.add_argument("--peers", nargs="*", default=list(NAMES), help=f"of {', '.join(NAMES)} (all)")
    parser.add_argument(
        "--out", type=Path, default=Path("benchmark-results"), help="folder for what it writes"
    )
    parser.add_argument("--rounds", type=int, default=timing.ROUNDS, help="rounds of timing (%(default)s)")
    parser.add_argument(
        "--keep", type=Path, help="keep slow peers, fitted, in this folder and take them from it"
    )
    parser.add_argument("--no-fresh", dest="fresh", action="store_false", help="skip memory and import times")
    return parser.parse_args()


def main() -> None:
    options = parse()
    warnings.filterwarnings("ignore", module="sklearn|scipy|fasttext|skl2onnx")
    results: Figures = {"machine": machine(), "sets": {}, "imports": {}}
    options.out.mkdir(parents=True, exist_ok=True)
    for name in options.sets or datasets.available():
        results["sets"][name] = run_set(datasets.load(name), options)
        (options.out / "results.json").write_text(json.dumps(results, indent=1, default=float) + "\n")
    ran = {peer for found in results["sets"].values() for peer in found["peers"]}
    if options.fresh:
        results["imports"] = {peer: fresh.import_in_fresh_process(peer) for peer in NAMES if peer in ran}
    table.write(results, options.out)
    print((options.out / "table.md").read_text())


if __name__ == "__main__":
    main()

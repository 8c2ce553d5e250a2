"""The pool of worker processes: what a call costs, how calls scale, how fast a worker is there.

    python -m benchmarks.processes [--rounds 5] [--calls 3000] [--out FILE]

The handlers do nothing, or sleep: what is measured is the way there and back. Figures are medians over
rounds, with the least and the most; they print as JSON.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from dspex.processes import ProcessPool

HANDLER = "benchmarks.process_handler:make"
PAYLOAD = {"id": "program", "inputs": {"text": "My card was charged twice for one ride"}}
SLEEP = 0.05  # seconds, as a quick language model


def spread(values: list[float]) -> dict[str, float]:
    ordered = sorted(values)
    return {"min": ordered[0], "median": statistics.median(ordered), "max": ordered[-1]}


def quantiles(work: Callable[[], Any], count: int) -> tuple[float, float]:
    """Median and 99th percentile of a call, in µs."""
    times = []
    for _ in range(count):
        start = time.perf_counter()
        work()
        times.append((time.perf_counter() - start) * 1e6)
    times.sort()
    return times[count // 2], times[count * 99 // 100]


def aquantiles(pool: ProcessPool, count: int) -> tuple[float, float]:
    async def main() -> list[float]:
        times = []
        for _ in range(count):
            start = time.perf_counter()
            await pool.acall("echo", PAYLOAD)
            times.append((time.perf_counter() - start) * 1e6)
        return times

    times = sorted(asyncio.run(main()))
    return times[count // 2], times[count * 99 // 100]


def calls_per_second(workers: int, op: str, payload: Any, threads: int, each: int) -> float:
    with ProcessPool(HANDLER, {"size": workers}) as pool:

        def work() -> None:
            for _ in range(each):
                pool.call(op, payload)

        crew = [threading.Thread(target=work) for _ in range(threads)]
        start = time.perf_counter()
        for thread in crew:
            thread.start()
        for thread in crew:
            thread.join()
        return threads * each / (time.perf_counter() - start)


def seconds_to_start(size: int) -> float:
    start = time.perf_counter()
    with ProcessPool(HANDLER, {"size": size}):
        return time.perf_counter() - start


def measure(rounds: int, calls: int) -> dict[str, Any]:
    figures: dict[str, list[float]] = {}

    def note(**values: float) -> None:
        for name, value in values.items():
            figures.setdefault(name, []).append(value)

    for _ in range(rounds):
        with ProcessPool(HANDLER, {"size": 1}, on_ask=lambda op, payload: payload) as pool:
            p50, p99 = quantiles(lambda: pool.call("echo", PAYLOAD), calls)
            note(call_p50_us=p50, call_p99_us=p99)
            p50, p99 = quantiles(lambda: pool.call("ask", PAYLOAD), calls)
            note(call_with_question_p50_us=p50)
            p50, p99 = aquantiles(pool, calls)
            note(acall_p50_us=p50, acall_p99_us=p99)
        one = calls_per_second(1, "sleep", SLEEP, 8, 4)
        four = calls_per_second(4, "sleep", SLEEP, 8, 16)
        note(one_worker_of_50_ms_per_s=one, four_workers_of_50_ms_per_s=four, four_to_one=four / one)
        note(calls_per_s_2_workers=calls_per_second(2, "echo", PAYLOAD, 4, calls // 2))
        note(start_1_s=seconds_to_start(1), start_4_s=seconds_to_start(4))
    return {name: spread(values) for name, values in figures.items()}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--calls", type=int, default=3000)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    text = json.dumps(measure(options.rounds, options.calls), indent=2)
    if options.out is not None:
        options.out.write_text(text + "\n")
    sys.stdout.write(text + "\n")


if __name__ == "__main__":
    main()

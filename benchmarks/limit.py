"""How far a call is from what no such model can do without.

    python -m benchmarks.limit [--sets banking77 ...]

The floor is a call that takes the same mapping and makes the same result object, passes once over the text's
bytes, and reads one cache line for each feature of the text in the order of the features. Both are timed in
turn, text by text, in one process; the median over texts and rounds is printed with their ratio.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import dspex
from benchmarks.datasets import load

_ROUNDS = 9
_TEXTS = 1000


def _median_ns(calls: list[Callable[[], object]]) -> float:
    clock = time.perf_counter_ns
    spent = []
    for call in calls:
        begin = clock()
        call()
        spent.append(clock() - begin)
    return statistics.median(spent)


def _nothing() -> None:
    return None


def measure(name: str) -> tuple[float, float, float]:
    """(p50 of a call, p50 of the floor, median ratio), in nanoseconds, over dev texts."""
    data = load(name)
    program = dspex.fit("text -> label", data.train)
    inputs = [{"text": text} for text in data.dev_texts[:_TEXTS]]
    plans = [program._rows_of(row["text"], 0) for row in inputs]
    real = [lambda row=row: program.predict(row) for row in inputs]
    floor = [
        lambda row=row, plan=plan: program._floor(row, "text", plan)
        for row, plan in zip(inputs, plans, strict=True)
    ]
    idle: list[Callable[[], object]] = [_nothing] * len(inputs)
    rounds = []
    for _ in range(_ROUNDS):
        empty = _median_ns(idle)
        rounds.append((_median_ns(real) - empty, _median_ns(floor) - empty))
    ratio = statistics.median(a / b for a, b in rounds)
    return statistics.median(a for a, _ in rounds), statistics.median(b for _, b in rounds), ratio


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sets", nargs="+", default=["banking77", "clinc150", "ag_news_small", "sst2"])
    args = parser.parse_args()
    print("| data | call p50 ns | floor p50 ns | ratio |\n|---|---|---|---|")
    for name in args.sets:
        call, floor, ratio = measure(name)
        print(f"| {name} | {call:.0f} | {floor:.0f} | {ratio:.2f} |", flush=True)


if __name__ == "__main__":
    main()

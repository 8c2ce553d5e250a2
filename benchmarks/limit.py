"""How far a call is from what no such model can do without.

    python -m benchmarks.limit [--sets banking77 ...]

The floor is a call that takes the same mapping and makes the same result object, passes once over the text's
bytes, and reads one cache line for each feature of the text in the order of the features. There are two: one
line for each feature of the model (words, pairs, and every character n-gram), which is what a model must read
that keeps its features apart; and one line for each row that is read in fact, the n-grams being folded into
their words' rows. All are timed in turn in one process; medians over texts and rounds.
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


def measure(name: str) -> list[float]:
    """p50 in nanoseconds of a call, of the floor of all features, and of the floor of the rows."""
    data = load(name)
    program = dspex.fit("text -> label", data.train)
    inputs = [{"text": text} for text in data.dev_texts[:_TEXTS]]
    calls: list[list[Callable[[], object]]] = [
        [_nothing] * len(inputs),
        [_call(program, row) for row in inputs],
    ]
    for unfold in (True, False):
        plans = [program._rows_of(row["text"], 0, unfold) for row in inputs]
        calls.append([_floor(program, row, plan) for row, plan in zip(inputs, plans, strict=True)])
    rounds = []
    for _ in range(_ROUNDS):
        empty, *rest = (_median_ns(each) for each in calls)
        rounds.append([ns - empty for ns in rest])
    return [statistics.median(column) for column in zip(*rounds, strict=True)]


def _call(program: dspex.Program, row: dict[str, str]) -> Callable[[], object]:
    return lambda: program.predict(row)


def _floor(program: dspex.Program, row: dict[str, str], plan: bytes) -> Callable[[], object]:
    return lambda: program._floor(row, "text", plan)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sets", nargs="+", default=["banking77", "clinc150", "ag_news_small", "sst2"])
    args = parser.parse_args()
    print("| data | call ns | floor: all features | ratio | floor: rows read | ratio |")
    print("|---|---|---|---|---|---|")
    for name in args.sets:
        call, features, rows = measure(name)
        print(
            f"| {name} | {call:.0f} | {features:.0f} | {call / features:.2f}"
            f" | {rows:.0f} | {call / rows:.2f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()

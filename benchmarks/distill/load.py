"""An open-loop load on a native program, in a process of its own.

    python -m benchmarks.distill.load KIND PATH SET RATE

Reads a number of seconds a line, calls at that rate for so long, and prints p50 and p99 in microseconds: of
the time from when a call was due until it was answered, however late it began, and of the call itself.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

import dspex
from benchmarks.distill.tasks import load

Call = Callable[[Mapping[str, Any]], Any]


def caller(kind: str, path: str) -> Call:
    """`Program.predict` of a model file, or `LiveProgram.predict` of a home."""
    if kind == "program":
        predict: Call = dspex.load(path).predict
        return predict
    from benchmarks.distill.served import live

    answered: Call = live(path).predict
    return answered


def measured(call: Call, rows: Sequence[Mapping[str, Any]], rate: float, seconds: float) -> dict[str, float]:
    """Calls that are due at even distances; one that is due while the one before it runs begins late."""
    count, step, clock, sleep = int(rate * seconds), 1 / rate, time.perf_counter, time.sleep
    waited, taken, end = np.empty(count), np.empty(count), 0.0
    first = clock() + 0.01
    for number in range(count):
        due = first + number * step
        begin = clock()
        if begin < due:
            sleep(due - begin)
            begin = clock()
        call(rows[number % len(rows)])
        end = clock()
        waited[number], taken[number] = end - due, end - begin
    figures = {"calls/s": count / (end - first)}
    for name, values in (("due to answered", waited), ("call", taken)):
        for share in (50, 99):
            figures[f"{name}, p{share} µs"] = float(np.percentile(values, share)) * 1e6
    return figures


def main(kind: str, path: str, name: str, rate: str) -> None:
    call = caller(kind, path)
    rows = [{"text": text} for text in load(name).dev_texts]
    for row in rows:
        call(row)
    print("ready", flush=True)
    for line in sys.stdin:
        print(json.dumps(measured(call, rows, float(rate), float(line))), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])

"""``dspex bench``: how long one call takes, and how many rows a second a batch makes."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from time import perf_counter_ns
from typing import TYPE_CHECKING, Any

from dspex.cli import output

if TYPE_CHECKING:
    from dspex.program import Program

HELP = "measure the speed of a program on a data file"
DESCRIPTION = (
    "Times single calls (mapping in, result out) one by one over the distinct rows of DATA, and one batch of "
    "all rows. The cost of reading the clock is measured and taken off each call."
)
_CALLS = 20_000  # enough that 1 % of them is a steady figure
_ENOUGH_NS = 3_000_000_000  # a program that is slow is timed for this long, over each row at least once
_BATCH_ROWS = 50_000
_BATCH_RUNS = 3


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", metavar="FILE", help="a saved program")
    parser.add_argument("data", metavar="DATA", help="rows: .jsonl, .csv, .tsv or .parquet")
    parser.add_argument(
        "--calls", type=_positive, default=_CALLS, help="single calls to time (default %(default)s)"
    )


def run(args: argparse.Namespace) -> None:
    import dspex
    from dspex.data import read_rows

    program = dspex.load(args.file)
    rows = read_rows(args.data, program.signature, outputs=False)
    figures = measure(program, rows, calls=args.calls)
    if args.json:
        output.print_json(figures)
    else:
        print_figures(figures)


def measure(program: Program, rows: Sequence[Mapping[str, Any]], calls: int = _CALLS) -> dict[str, Any]:
    """Latency and throughput of a program over rows of inputs.

    Returns:
        ``p50_us`` and ``p99_us`` of about ``calls`` single calls, in full rounds over the ``distinct`` rows
        after one round of warm-up; ``clock_us``, which has been taken off each; ``rows_per_s`` of the fastest
        of three batches; ``n`` rows.
    """
    distinct = _distinct(rows)
    clock = _clock_cost()
    times = _time_calls(program, distinct, calls)
    return {
        "n": len(rows),
        "distinct": len(distinct),
        "calls": len(times),
        "p50_us": max(0, _quantile(times, 0.50) - clock) / 1000,
        "p99_us": max(0, _quantile(times, 0.99) - clock) / 1000,
        "clock_us": clock / 1000,
        "rows_per_s": _rows_per_second(program, rows),
    }


def print_figures(figures: Mapping[str, Any]) -> None:
    print(f"one call    p50 {figures['p50_us']:.2f} us, p99 {figures['p99_us']:.2f} us")
    print(f"            {figures['calls']:,} calls over {figures['distinct']:,} distinct rows")
    print(f"batch       {figures['rows_per_s']:,.0f} rows/s")


def _time_calls(program: Program, rows: Sequence[Mapping[str, Any]], calls: int) -> list[int]:
    """Nanoseconds of each call, sorted, with the clock's own cost in them."""
    call = program.predict
    for row in rows:
        call(row)
    times: list[int] = []
    end = perf_counter_ns() + _ENOUGH_NS
    while not times or (len(times) < calls and perf_counter_ns() < end):
        for row in rows:
            begin = perf_counter_ns()
            call(row)
            times.append(perf_counter_ns() - begin)
    return sorted(times)


def _clock_cost() -> int:
    """Nanoseconds, typically, between two readings of the clock with nothing between them."""
    times: list[int] = []
    for _ in range(10_000):
        begin = perf_counter_ns()
        times.append(perf_counter_ns() - begin)
    return _quantile(sorted(times), 0.5)


def _rows_per_second(program: Program, rows: Sequence[Mapping[str, Any]]) -> float:
    batch = list(rows) * -(-_BATCH_ROWS // len(rows))
    best = None
    for _ in range(_BATCH_RUNS):
        begin = perf_counter_ns()
        program.batch(batch)
        taken = perf_counter_ns() - begin
        best = taken if best is None else min(best, taken)
    return len(batch) / (max(best or 1, 1) / 1e9)


def _quantile(ordered: Sequence[int], share: float) -> int:
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def _distinct(rows: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The rows without repetitions; a value may be a list or an array, so rows are compared as text."""
    return list({repr(row): row for row in rows}.values())


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise ValueError
    return value

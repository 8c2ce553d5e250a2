"""The watch over a live guarantee: how often it cries wolf, and how soon it sees one.

    python -m benchmarks.distill.monitor [--quick] [--only false delays ...] [--streams N]

Needs no data. `false`: streams at the bound and below, for which an alarm is false. `delays`: audited answers
from a real change to the alarm, beside the best test there can be and the betting process without restarts.
`drift_false` and `drift_delays`: the same of the drift watch, beside G-tests of windows.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from benchmarks.distill.monitor_drift import drift_delays, drift_false
from benchmarks.distill.streams import Plain, Ratio, Watches
from benchmarks.distill.tables import Table, cell
from dspex.guarantee.binomial import upper_bound

LENGTHS = (500, 2000, 5000, 20_000)
GOOD_CALLS = (0, 500, 5000)
SHIFTS = ((0.02, 0.07), (0.04, 0.09))
AGREEMENT, DELTA = 0.95, 0.05
CHUNK = 5000
LONGEST = 20_000
"""Answers after a change that an alarm is waited for."""


class Test(Protocol):
    evidence: Any

    def update(self, wrong: NDArray[np.bool_]) -> None: ...


def alarms(
    tests: list[Test],
    draw: Callable[[int], NDArray[np.bool_]],
    length: int,
    level: float,
    enough: float = 2.0,
) -> NDArray[np.int64]:
    """The answer at which each test first reached 1 / level, [tests, streams]; 0: not in `length` answers.

    Ends early when of each test's streams a share of `enough` has alarmed; `draw` gives answer n (from 1).
    """
    found: NDArray[np.int64] | None = None
    for n in range(1, length + 1):
        wrong = draw(n)
        found = np.zeros((len(tests), len(wrong)), np.int64) if found is None else found
        for test, at in zip(tests, found, strict=True):
            test.update(wrong)
            at[(at == 0) & (test.evidence * level >= 1.0)] = n
        if n % 50 == 0 and ((found > 0).mean(1) >= enough).all():
            break
    assert found is not None
    return found


def constant(rate: float, streams: int, seed: int) -> Callable[[int], NDArray[np.bool_]]:
    rng = np.random.default_rng(seed)
    return lambda n: rng.random(streams) < rate


def clustered(rate: float, streams: int, seed: int) -> Callable[[int], NDArray[np.bool_]]:
    """Not independent: `rate` for 30 answers after each wrong one, a fifth of it otherwise."""
    rng = np.random.default_rng(seed)
    left = np.full(streams, 30)

    def draw(n: int) -> NDArray[np.bool_]:
        wrong = rng.random(streams) < np.where(left > 0, rate, rate / 5)
        np.subtract(left, 1, out=left)
        left[wrong] = 30
        return wrong

    return draw


def false_alarms(
    agreement: float,
    delta: float,
    draws: Callable[[float, int, int], Any],
    rate: float,
    streams: int,
    length: int,
) -> NDArray[np.int64]:
    """The answer of each stream's alarm, [streams]; 0: none."""
    parts = []
    for at in range(0, streams, CHUNK):
        size = min(CHUNK, streams - at)
        parts.append(alarms([Watches(agreement, size)], draws(rate, size, at + 1), length, delta)[0])
    return np.concatenate(parts)


def false(streams: int, longest: int) -> Iterator[Table]:
    lengths = [length for length in LENGTHS if length <= longest]
    table = Table(
        "False alarms of the watch",
        ("agreement, delta, streams", *(f"within {n:,}" for n in lengths), "at most (97.5 %)", "delta"),
        note=f"Share of {streams:,} streams. At most: upper Clopper-Pearson bound for the longest.",
    )
    for agreement, delta, kind, share in (
        (0.95, 0.05, constant, 1.0),
        (0.95, 0.05, clustered, 1.0),
        (0.95, 0.05, constant, 0.8),
        (0.95, 0.2, constant, 1.0),
        (0.98, 0.05, constant, 1.0),
        (0.90, 0.05, constant, 1.0),
    ):
        rate = share * (1 - agreement)
        at = false_alarms(agreement, delta, kind, rate, streams, longest)
        counts = [int(((at > 0) & (at <= length)).sum()) for length in lengths]
        table.add(
            f"{agreement:g}, {delta:g}, {kind.__name__} {rate:.3g}",
            *(count / streams for count in counts),
            float(upper_bound(counts[-1], streams, 0.025)),
            delta,
        )
    yield table


def delay(before: float, after: float, good: int, streams: int, seed: int = 0) -> dict[str, float]:
    """Median answers from the change to the alarm of each test, over the streams without one before it."""
    bound = 1 - AGREEMENT
    rng = np.random.default_rng(seed)
    tests: list[Test] = [Watches(AGREEMENT, streams), Plain(AGREEMENT, streams)]
    first = alarms(tests, lambda n: rng.random(streams) < before, good, DELTA) if good else None
    quiet = np.ones((2, streams), bool) if first is None else first == 0
    tests += [Ratio(bound, after, streams), Ratio(before, after, streams)]
    at = alarms(tests, lambda n: rng.random(streams) < after, LONGEST, DELTA, enough=0.55)
    names = ("watch", "plain", "optimal", "oracle")
    kept = [*quiet, quiet[0], quiet[0]]
    found = {
        name: float(np.median(np.where(a > 0, a, np.inf)[k]))
        for name, a, k in zip(names, at, kept, strict=True)
    }
    return found | {"early": float(1 - quiet[0].mean())}


def delays(streams: int, longest: int) -> Iterator[Table]:
    table = Table(
        "Audited answers from a change to the alarm, median",
        (
            "wrong before, after, good answers",
            "watch",
            "optimal",
            "without restarts",
            "knows the rate before",
        ),
        note=f"Agreement {AGREEMENT:g}, delta {DELTA:g}, {streams:,} streams. Optimal: the likelihood-ratio "
        "test of the bound against the rate after, begun at the change. Knows the rate before: that of the "
        f"rate before against that after; it alarms at rates within the bound, too. inf: not in {LONGEST:,}.",
    )
    for before, after in SHIFTS:
        for good in GOOD_CALLS:
            if good <= longest:
                found = delay(before, after, good, streams)
                figures = [found[name] for name in ("watch", "optimal", "plain", "oracle")]
                table.add(f"{before:.0%}, {after:.0%}, {good:,}", *(f"{figure:,.0f}" for figure in figures))
    yield table


PARTS: dict[str, Callable[[int, int], Iterator[Table]]] = {
    "false": false,
    "delays": lambda streams, longest: delays(min(streams, 4000), longest),
    "drift_false": lambda streams, longest: drift_false(min(streams, 2000), longest),
    "drift_delays": lambda streams, longest: drift_delays(min(streams, 150), longest),
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="few and short streams, for a look")
    parser.add_argument("--only", nargs="+", choices=list(PARTS), default=list(PARTS), help="parts (all)")
    parser.add_argument(
        "--streams", type=int, default=10_000, help="for false alarms (10,000; of drift: 2,000)"
    )
    options = parser.parse_args()
    streams, longest = (200, 2000) if options.quick else (options.streams, 20_000)
    for part in options.only:
        begin = time.perf_counter()
        for table in PARTS[part](streams, longest):
            head = ["| " + " | ".join(table.columns) + " |", "|---|" + "---:|" * (len(table.columns) - 1)]
            lines = ["| " + " | ".join(map(cell, line)) + " |" for line in table.lines]
            print("\n".join([f"## {table.title}", "", table.note, "", *head, *lines, ""]))
            print(f"{time.perf_counter() - begin:.0f} s\n", flush=True)


if __name__ == "__main__":
    main()

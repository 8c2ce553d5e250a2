"""The drift watch beside G-tests of windows and beside the best test there can be."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from unittest import mock

import numpy as np
from numpy.typing import NDArray
from scipy.stats import beta, chi2

from benchmarks.distill.streams import DriftWatches
from benchmarks.distill.tables import Table
from dspex.guarantee import reference
from dspex.guarantee.binomial import upper_bound
from dspex.guarantee.reference import DriftReference

Floats = NDArray[np.float64]
DELTA = 0.05
ROWS = 2000
"""Of a reference."""
CLASSES = 10
LENGTHS = (1000, 5000, 20_000)
WINDOWS = (250, 1000)
LONGEST = 10_000
SHARES = np.array([0.05] + [0.95 / (CLASSES - 1)] * (CLASSES - 1))
SCORES, UNKNOWN = beta(8, 1), beta(0.5, 5)
NEW_SCORES, NEW_UNKNOWN = beta(2, 2), beta(4, 4)

SHIFTS = {
    "5 % of the calls are of a new kind": {"new": 0.05},
    "10 % of the calls are of a new kind": {"new": 0.10},
    "a class goes from 5 to 10 %": {"grown": 0.05},
    "10 points go from 4 classes to 4 others": {"turned": 0.10},
}


def shares(grown: float = 0.0, turned: float = 0.0) -> Floats:
    """The classes' shares after a shift."""
    found = SHARES.copy()
    found[0] += grown
    found[1:] -= grown / (CLASSES - 1)
    found[1:5] -= turned / 4
    found[5:9] += turned / 4
    return found


def calls(rng: np.random.Generator, size: int, new: float = 0.0, **turn: float) -> tuple[Any, Any, Any]:
    """Score, class and share of unknown words of so many calls."""
    strange = rng.random(size) < new
    classes = np.searchsorted(np.cumsum(shares(**turn))[:-1], rng.random(size), side="right")
    scores = np.where(strange, rng.beta(2, 2, size), rng.beta(8, 1, size))
    return scores, classes, np.where(strange, rng.beta(4, 4, size), rng.beta(0.5, 5, size))


def references(rng: np.random.Generator, streams: int) -> list[tuple[Any, Any, Any]]:
    return [calls(rng, ROWS) for _ in range(streams)]


def watches(rows: list[tuple[Any, Any, Any]]) -> DriftWatches:
    """With scipy's beta quantiles for the same bounds: 10,000 references are too many for the library's."""
    made = [DriftReference.of(s, [str(c) for c in cs], u) for s, cs, u in rows]
    with mock.patch.object(
        reference, "_upper", lambda k, n, delta: beta.ppf(1 - delta, np.add(k, 1), n - np.array(k))
    ):
        return DriftWatches(made, DELTA)


def drift_false(streams: int, longest: int) -> Iterator[Table]:
    lengths = [length for length in LENGTHS if length <= longest]
    table = Table(
        "False alarms of the drift watch",
        ("streams", *(f"within {n:,}" for n in lengths), "at most (97.5 %)", "delta"),
        note=f"Share of {streams:,} streams of calls such as the {ROWS:,} rows of their own reference.",
    )
    rng = np.random.default_rng(0)
    at = np.zeros(streams, np.int64)
    for begin in range(0, streams, 500):
        part = at[begin : begin + 500]
        test = watches(references(rng, len(part)))
        for n in range(1, longest + 1):
            test.update(*calls(rng, len(part)))
            part[(part == 0) & (test.evidence * DELTA >= 1.0)] = n
    counts = [int(((at > 0) & (at <= length)).sum()) for length in lengths]
    bound = float(upper_bound(counts[-1], streams, 0.025))
    table.add(f"{CLASSES} classes", *(count / streams for count in counts), bound, DELTA)
    yield table


def drift_delays(streams: int, longest: int) -> Iterator[Table]:
    table = Table(
        "Calls from a drift to the alarm, median",
        ("drift, good calls before", "watch", "optimal", *(f"G-tests of {w}" for w in WINDOWS)),
        note=f"Delta {DELTA:g}, {streams:,} streams, each with its own reference of {ROWS:,} rows. Optimal: "
        "the likelihood-ratio test that knows both distributions and the time. "
        "G-tests: of every so many calls against the reference, delta spent over windows and kinds. "
        f"inf: not in {LONGEST:,}.",
    )
    for name, shift in SHIFTS.items():
        for good in (0, 500, 5000):
            if good <= longest:
                table.add(f"{name}, {good:,}", *drift_delay(shift, good, streams))
    yield table


def drift_delay(shift: dict[str, float], good: int, streams: int) -> list[str]:
    rng = np.random.default_rng(1)
    rows = references(rng, streams)
    test = watches(rows)
    early = np.zeros(streams, bool)
    kept = []
    for _ in range(good):
        call = calls(rng, streams)
        test.update(*call)
        early |= test.evidence * DELTA >= 1.0
        kept.append(call)
    at = np.zeros(streams)
    n = 0
    while n < LONGEST and ((at > 0).mean() < 0.55 or n % max(WINDOWS)):
        n += 1
        call = calls(rng, streams, **shift)
        test.update(*call)
        at[(at == 0) & (test.evidence * DELTA >= 1.0)] = n
        kept.append(call)
    seen = [np.array([call[i] for call in kept]) for i in range(3)]  # [calls, streams]
    watched = np.median(np.where(at > 0, at, np.inf)[~early])
    best = optimal([column[good:] for column in seen], **shift)
    return [f"{v:,.0f}" for v in (watched, best, *(g_tests(rows, seen, good, w) for w in WINDOWS))]


def optimal(seen: list[Any], new: float = 0.0, **turn: float) -> float:
    scores, classes, unknown = seen
    strange = NEW_SCORES.pdf(scores) / SCORES.pdf(scores)
    strange *= NEW_UNKNOWN.pdf(unknown) / UNKNOWN.pdf(unknown)
    ratio = np.log(1 - new + new * strange) + np.log((shares(**turn) / SHARES)[classes])
    return first(np.cumsum(ratio, 0) >= np.log(1 / DELTA))


def first(hit: NDArray[np.bool_], step: int = 1) -> float:
    """Median over streams of when it first is so, [times, streams]."""
    return float(np.median(np.where(hit.any(0), (hit.argmax(0) + 1) * step, np.inf)))


def g_tests(rows: list[tuple[Any, Any, Any]], seen: list[Any], good: int, window: int) -> float:
    """Tables of ten bins each: deciles of the reference, or classes."""
    begun = good // window * window
    hit = []
    for k in range(1, len(seen[0]) // window + 1):
        level = DELTA * 6 / np.pi**2 / k**2 / len(seen)
        part = [column[(k - 1) * window : k * window] for column in seen]
        alarm = np.zeros(len(rows), bool)
        for stream, row in enumerate(rows):
            for i, (own, live) in enumerate(zip(row, part, strict=True)):
                alarm[stream] |= g_test(own, live[:, stream], discrete=i == 1) <= level
        hit.append(alarm)
    late = np.array(hit)[begun // window :]
    return first(late, window) - (good - begun)


def g_test(own: Any, live: Any, discrete: bool) -> float:
    edges = np.arange(1, CLASSES) - 0.5 if discrete else np.quantile(own, np.arange(0.1, 0.95, 0.1))
    table = np.array([np.bincount(np.searchsorted(edges, x), minlength=CLASSES) for x in (own, live)], float)
    expected = table.sum(1, keepdims=True) * table.sum(0) / table.sum()
    terms = np.where(
        table > 0, table * np.log(np.where(table > 0, table, 1) / np.maximum(expected, 1e-300)), 0
    )
    return float(chi2.sf(2 * terms.sum(), (table.sum(0) > 0).sum() - 1))

"""Latency and throughput, measured in turn.

Every round gives each peer one block, and the order of the peers moves on by one with each round, so
that a slow spell of the machine meets all of them. Ratios are taken within a round.
"""

from __future__ import annotations

import gc
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from statistics import median
from time import perf_counter, perf_counter_ns
from typing import Any

import numpy as np

from benchmarks.peers.base import Peer

ROUNDS = 7
BLOCK_S = 0.2
"""Each peer's share of a round, at least: once for lists, once for single calls."""


@dataclass
class Timing:
    """One figure per round. Times in microseconds per call, throughput in rows per second."""

    p50: list[float] = field(default_factory=list)
    p99: list[float] = field(default_factory=list)
    rows_per_s: list[float] = field(default_factory=list)


def spread(values: Sequence[float]) -> tuple[float, float, float]:
    """Median, smallest and largest."""
    return median(values), min(values), max(values)


def ratio(of: Sequence[float], to: Sequence[float]) -> tuple[float, float, float]:
    """Spread of the ratios of two peers within the same rounds."""
    return spread([a / b for a, b in zip(of, to, strict=True)])


def clock_ns() -> float:
    """What reading the clock twice around nothing costs: taken off every single call."""
    clock = perf_counter_ns
    gaps = []
    for _ in range(20_000):
        begin = clock()
        gaps.append(clock() - begin)
    return float(median(gaps))


def time_calls(call: Callable[[Mapping[str, Any]], Any], rows: Sequence[Mapping[str, Any]]) -> Any:
    """Nanoseconds of one call per row, the cost of the clock not yet taken off."""
    clock = perf_counter_ns
    found = [0] * len(rows)
    for i, row in enumerate(rows):
        begin = clock()
        call(row)
        found[i] = clock() - begin
    return np.array(found, dtype=np.float64)


def time_for(
    call: Callable[[Mapping[str, Any]], Any], rows: Sequence[Mapping[str, Any]], seconds: float
) -> Any:
    """`time_calls`, over all rows again and again for at least so long."""
    found: list[Any] = []
    begin = perf_counter()
    while not found or perf_counter() - begin < seconds:
        found.append(time_calls(call, rows))
    return np.concatenate(found)


def time_in_turn(peers: Mapping[str, Peer], texts: Sequence[str], rounds: int = ROUNDS) -> dict[str, Timing]:
    """Single calls and whole lists for every peer, on one core, over distinct texts."""
    timings = {name: Timing() for name in peers}
    names = list(peers)
    distinct = list(dict.fromkeys(texts))
    with one_core(), quiet():
        samples = {name: distinct[: peer.timed_texts] for name, peer in peers.items()}
        for name, peer in peers.items():  # first calls fill caches and allocate
            peer.predict_many(samples[name][:20])
            time_calls(peer.caller(), [{"text": text} for text in samples[name][:50]])
        for number in range(rounds):
            turn = names[number % len(names) :] + names[: number % len(names)]
            for name in turn:
                _one_block(peers[name], samples[name], timings[name])
    return timings


def _one_block(peer: Peer, texts: Sequence[str], timing: Timing) -> None:
    rows = [{"text": text} for text in texts]
    # Whole lists first: they leave the caches as a busy service would, not as the peer before left them.
    begin, done = perf_counter(), 0
    while (passed := perf_counter() - begin) < BLOCK_S:
        peer.predict_many(texts)
        done += len(texts)
    timing.rows_per_s.append(done / passed)
    calls = (time_for(peer.caller(), rows, BLOCK_S) - clock_ns()) / 1000
    timing.p50.append(float(np.percentile(calls, 50)))
    timing.p99.append(float(np.percentile(calls, 99)))


@contextmanager
def quiet() -> Iterator[None]:
    """No garbage collection inside, as `timeit` does it."""
    enabled = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


@contextmanager
def one_core() -> Iterator[None]:
    """This thread on one core, and one thread for every library that asks."""
    from threadpoolctl import threadpool_limits

    with threadpool_limits(1):
        if not hasattr(os, "sched_setaffinity"):
            yield
            return
        cores = os.sched_getaffinity(0)
        # The last core: the first ones take most of a machine's interrupts.
        os.sched_setaffinity(0, {max(cores)})
        try:
            yield
        finally:
            os.sched_setaffinity(0, cores)

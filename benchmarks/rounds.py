"""Blocks of work in turn, and what they need: threads that begin together, percentiles, a quiet machine.

As in `benchmarks.timing`, every round gives each case one block and begins with another case; ratios are
taken within a round. Unlike there, nothing is tied to one core: what uses several is measured here.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import random
import resource
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

from benchmarks import timing

Figures = dict[str, float]
Block = Callable[[], Figures]
Call = Callable[[Mapping[str, Any]], Any]
Series = dict[str, list[float]]
"""Figure -> one value a round."""

OTHERS = "others"
"""In every series: cores that other processes, and the hypervisor, kept busy during the block."""


@dataclass
class Plan:
    """How much is measured, and how long one waits for a quiet machine."""

    rounds: int = 7
    block_s: float = 0.25
    quick: bool = False
    patience_s: float = 0.0
    quiet_below: float = 0.1
    waited_s: float = field(default=0.0, init=False)

    def in_turn(self, blocks: Mapping[str, Block], rounds: int | None = None) -> dict[str, Series]:
        """Every case's figures, one value a round."""
        names = list(blocks)
        found: dict[str, Series] = {name: {} for name in names}
        with timing.quiet():
            for number in range(self.rounds if rounds is None else rounds):
                for name in names[number % len(names) :] + names[: number % len(names)]:
                    for figure, value in self._in_quiet(blocks[name]).items():
                        found[name].setdefault(figure, []).append(value)
        return found

    def calls_in_turn(
        self, calls: Mapping[str, Call], rows: Sequence[Mapping[str, Any]], rounds: int | None = None
    ) -> dict[str, Series]:
        """Latencies over the rows, a block of calls for each case in turn."""

        def block(call: Call) -> Figures:
            return latencies(timing.time_for(call, rows, self.block_s))

        blocks: dict[str, Block] = {name: partial(block, call) for name, call in calls.items()}
        for each in blocks.values():  # caches fill
            each()
        return self.in_turn(blocks, rounds)

    def call_by_call(
        self, calls: Mapping[str, Call], rows: Sequence[Mapping[str, Any]], rounds: int | None = None
    ) -> dict[str, Series]:
        """Latencies of cases that take turns with every call, in an order drawn anew for each: whatever the
        machine does, it does it to all. For what differs by per cent; what takes a microsecond would be
        measured with the caches that the case before it left.
        """
        found: dict[str, Series] = {name: {} for name in calls}
        drawn = random.Random(0)
        with timing.quiet():
            _take_turns(calls, rows, self.block_s, drawn)  # caches fill
            for _ in range(self.rounds if rounds is None else rounds):
                load = Load()
                taken = _take_turns(calls, rows, len(calls) * self.block_s, drawn)
                others = load.others()
                for name, nanoseconds in taken.items():
                    for figure, value in (latencies(nanoseconds) | {OTHERS: others}).items():
                        found[name].setdefault(figure, []).append(value)
        return found

    def once(self, blocks: Mapping[str, Block]) -> dict[str, Series]:
        """One round of long blocks: nothing is repeated, and garbage is collected as it always is."""
        found: dict[str, Series] = {}
        for name, block in blocks.items():
            load = Load()
            figures = block()
            found[name] = {figure: [value] for figure, value in (figures | {OTHERS: load.others()}).items()}
        return found

    def _in_quiet(self, block: Block) -> Figures:
        """One block's figures. With patience left it waits for others, and repeats what they disturbed."""
        while True:
            self._await_quiet()
            load = Load()
            begin = perf_counter()
            figures = block()
            others, passed = load.others(), perf_counter() - begin
            # The kernel counts in steps of 10 ms, for each core.
            if others < self.quiet_below + 0.02 / passed or self.waited_s >= self.patience_s:
                return figures | {OTHERS: others}
            self.waited_s += passed

    def _await_quiet(self) -> None:
        while self.waited_s < self.patience_s:
            load = Load()
            time.sleep(0.15)
            if load.others() < self.quiet_below + 0.1:
                return
            self.waited_s += 0.15


def _take_turns(
    calls: Mapping[str, Call], rows: Sequence[Mapping[str, Any]], seconds: float, drawn: random.Random
) -> dict[str, list[int]]:
    """Nanoseconds of single calls, for about so long."""
    clock, order = time.perf_counter_ns, list(calls.items())
    found: dict[str, list[int]] = {name: [] for name in calls}
    end = perf_counter() + seconds
    for row in itertools.cycle(rows):
        drawn.shuffle(order)
        for name, call in order:
            begin = clock()
            call(row)
            found[name].append(clock() - begin)
        if perf_counter() > end:
            return found
    return found


class Load:
    """Cores kept busy by others since it was made (Linux; 0 elsewhere). Exact to some per cent over 0.2 s."""

    def __init__(self) -> None:
        self._began = self._now()

    def others(self) -> float:
        now = self._now()
        elapsed, busy, own = (b - a for a, b in zip(self._began, now, strict=True))
        return max(0.0, (busy - own) / elapsed) if elapsed > 0 else 0.0

    @staticmethod
    def _now() -> tuple[float, float, float]:
        ended = resource.getrusage(resource.RUSAGE_CHILDREN)
        own = time.process_time() + ended.ru_utime + ended.ru_stime + _of_children()
        try:
            fields = Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]
        except OSError:
            return perf_counter(), own, own
        user, nice, system, _, _, irq, softirq, steal = (int(word) for word in fields)
        return perf_counter(), (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK"), own


def _of_children() -> float:
    """Seconds of a core that the child processes which are there have used (Linux; 0 elsewhere)."""
    ticks = 0
    for listed in Path("/proc/self/task").glob("*/children"):
        with contextlib.suppress(OSError):  # the thread, or the process, has just ended
            for pid in listed.read_text().split():
                fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
                ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def side_by_side(count: int, work: Callable[[float], Any], seconds: float) -> tuple[list[Any], float]:
    """Runs `work(end)` in so many threads that begin together; what each returned, and the seconds
    that passed until the last had ended. `end` is the time, by `perf_counter`, at which they should end.
    """
    returned: list[Any] = [None] * count
    gate = threading.Barrier(count + 1)
    begin = 0.0

    def run(number: int) -> None:
        gate.wait()
        returned[number] = work(begin + seconds)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    begin = perf_counter() + 1e-3  # all are past the gate by then
    gate.wait()
    for thread in threads:
        thread.join()
    return returned, perf_counter() - begin


def latencies(nanoseconds: Any) -> Figures:
    """p50 and p99 in microseconds, the cost of reading the clock taken off."""
    micro = (np.asarray(nanoseconds, dtype=np.float64) - CLOCK_NS) / 1000
    return {"p50 µs": float(np.percentile(micro, 50)), "p99 µs": float(np.percentile(micro, 99))}


def time_calls(call: Callable[[], Any], seconds: float) -> Any:
    """Nanoseconds of one call after the other, for about so long."""
    clock = time.perf_counter_ns
    end, found = perf_counter() + seconds, []
    while perf_counter() < end:
        for _ in range(64):
            begin = clock()
            call()
            found.append(clock() - begin)
    return found


def repeated(work: Callable[[], int], seconds: float) -> float:
    """How many a second `work` does, which says how many it did at once."""
    begin, done = perf_counter(), 0
    while (passed := perf_counter() - begin) < seconds:
        done += work()
    return done / passed


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


CLOCK_NS = timing.clock_ns()

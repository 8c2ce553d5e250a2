"""Many tasks, with errors, deadlines, cancellations, deaths at random: counters say what futures say.

By default 100,000 tasks; DSPEX_STRESS=100 makes it ten million.
"""

from __future__ import annotations

import random
from collections import Counter
from typing import Any

import pytest

from dspex import Pool
from dspex.errors import CallTimeoutError, InternalError, PoolSaturated, ResourceError
from dspex.pool import Future
from test_pool_tools import in_threads, scaled, settled, simple, texts, until

THREADS = 4
WAVE = 2500  # futures that are held at a time, by each thread


def way_of(future: Future) -> str:
    if future.cancelled():
        return "cancelled"
    error = future.exception(30)
    if error is None:
        return "done"
    kinds: dict[type, str] = {CallTimeoutError: "expired", InternalError: "failed", ResourceError: "failed"}
    return kinds[type(error)]


@pytest.mark.parametrize("policy", ["block", "reject", "caller_runs"])
def test_every_task_is_accounted_for(policy: Any) -> None:
    rows = texts(50)
    waves = max(1, scaled(100_000) // (3 * THREADS * WAVE))
    told: list[Future] = []
    said: list[Counter[str]] = [Counter() for _ in range(THREADS)]
    with Pool(size=2, capacity=512, policy=policy) as pool:

        def work(number: int) -> None:
            rng, mine = random.Random(number), said[number]
            session = pool.session(str(number))
            for _ in range(waves):
                futures: list[Future] = []
                for _ in range(WAVE):
                    kind, strand = rng.random(), session._strand if rng.random() < 0.2 else None
                    late = {"timeout": rng.choice((0, 1e-5, 1e-3))} if kind < 0.1 else {}
                    try:
                        if kind < 0.3:
                            fault = "error" if kind > 0.2 else "death" if kind > 0.1999 else "none"
                            if policy == "caller_runs" and fault == "death":
                                fault = "none"
                            futures.append(pool._probe(fault=fault, strand=strand, **late))  # type: ignore[arg-type]
                        elif strand is not None:
                            futures.append(session.submit(simple(), rng.choice(rows)))
                        else:
                            futures.append(pool.submit(simple(), rng.choice(rows)))
                    except PoolSaturated:
                        mine["rejected"] += 1
                    if futures and rng.random() < 0.1:
                        futures[rng.randrange(max(0, len(futures) - 50), len(futures))].cancel()
                    if futures and rng.random() < 0.01:
                        futures[-1].add_done_callback(told.append)
                        mine["asked"] += 1
                mine.update(map(way_of, futures))
                mine["submitted"] += WAVE

        in_threads(work, THREADS)
        stats = settled(pool)
    total = sum(said, Counter())
    counted = stats.total
    until(lambda: len(told) == total["asked"])
    assert total["submitted"] == stats.accepted + stats.caller_runs + stats.rejected
    assert total["rejected"] == stats.rejected
    assert (
        counted.ended == stats.accepted == counted.done + counted.failed + counted.cancelled + counted.expired
    )
    assert counted.cancelled == total["cancelled"]
    assert counted.expired == total["expired"]
    if policy == "caller_runs":  # the callers' own are in no worker's books
        assert counted.done + counted.failed + stats.caller_runs == total["done"] + total["failed"]
    else:
        assert (counted.done, counted.failed) == (total["done"], total["failed"])
    assert (
        sum(total[way] for way in ("done", "failed", "cancelled", "expired"))
        == stats.accepted + stats.caller_runs
    )
    assert stats.wait.count == stats.service.count <= counted.done + counted.failed
    for way in ("done", "failed", "cancelled"):
        assert total[way] > 0

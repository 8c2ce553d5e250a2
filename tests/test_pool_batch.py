"""Batches: equal to a loop of predict, whatever the inputs, the size and the pool; and good neighbours.

DSPEX_STRESS=20 multiplies the counts by 20.
"""

from __future__ import annotations

import itertools
import random
import threading
import time
from collections import OrderedDict, UserDict, deque
from collections.abc import Callable
from types import MappingProxyType
from typing import Any

import pytest

from dspex import Pool, Program
from dspex.errors import ConfigError, InputError
from fit_tools import TOPICS, quick
from test_pool_tools import (
    TASKS,
    growth,
    hold,
    in_threads,
    let_go,
    linux,
    mixed_rows,
    of_all_kinds,
    scaled,
    settled,
    simple,
    still,
    texts,
    thread_ids,
)

N = 5000
Make = Callable[[random.Random, str], dict[str, Any]]


def _one_text(rng: random.Random, topic: str) -> dict[str, Any]:
    return {"text": f"{rng.choice(TOPICS[topic])} {rng.randrange(1000)} {'x' * rng.choice((1, 5, 50))}"}


def _texts(count: int) -> Make:
    def make(rng: random.Random, topic: str) -> dict[str, Any]:
        return {f"t{i}": f"{rng.choice(TOPICS[topic])} {i} {rng.randrange(99)}" for i in range(count)}

    return make


def _numbers(rng: random.Random, topic: str) -> dict[str, Any]:
    at = list(TOPICS).index(topic)
    return {"a": at + rng.random(), "b": rng.randrange(at, at + 3), "c": rng.random() < at / 3}


def _vector(width: int) -> Make:
    def make(rng: random.Random, topic: str) -> dict[str, Any]:
        at = float(list(TOPICS).index(topic))
        return {"place": [rng.gauss(at, 1) for _ in range(width)]}

    return make


def _foreign_texts(rng: random.Random, topic: str) -> dict[str, Any]:
    return {
        "text": f"{rng.choice(['é', '退款', '👍', ''])} {rng.choice(TOPICS[topic])} {rng.choice('aßж界😀')}"
    }


KINDS: dict[str, tuple[str, Make]] = {
    "a text": ("text", _one_text),
    "texts of all widths": ("text", _foreign_texts),
    "two texts": ("t0, t1", _texts(2)),
    "twenty texts": (", ".join(f"t{i}" for i in range(20)), _texts(20)),
    "numbers and bools": ("a: float, b: int, c: bool", _numbers),
    "a vector": ("place: list[float]", _vector(3)),
    "a wide vector": ("place: list[float]", _vector(300)),
}


def case(kind: str) -> tuple[Program, list[dict[str, Any]]]:
    inputs, make = KINDS[kind]
    rng, topics = random.Random(7), list(TOPICS)
    examples = [make(rng, topics[i % 3]) | {"label": topics[i % 3]} for i in range(60)]
    signature = f"{inputs} -> label: Literal['refund', 'card_lost', 'limit']"
    return quick(signature, examples), [make(rng, rng.choice(topics)) for _ in range(N)]


SIZES = [*range(70), 100, 127, 128, 129, 500, 1023, 1024, 1025, 2000, 4095, 4096, 4097, 4999, 5000]


@pytest.mark.parametrize("kind", KINDS)
def test_a_batch_is_a_loop_of_predict(kind: str) -> None:
    program, rows = case(kind)
    truth = [program.predict(row) for row in rows]
    sure = [result.confidence for result in truth]
    assert len({result.label for result in truth}) == 3
    with Pool(size=3) as pool:
        for size in SIZES if kind == "a text" else SIZES[::7]:
            results = program.batch(rows[:size], pool=pool)
            assert results == truth[:size]
            assert [result.confidence for result in results] == sure[:size]
            assert program.batch(rows[:size], pool=pool, on_error="collect") == truth[:size]


def test_outputs_of_every_kind() -> None:
    rows = mixed_rows(3000)
    truth = [of_all_kinds().predict(row) for row in rows]
    for size in (1, 2, 5):
        with Pool(size=size) as pool:
            results = pool.batch(of_all_kinds(), rows)
            assert results == truth
            assert [dict(result) for result in results] == [dict(result) for result in truth]
    assert of_all_kinds().batch(rows) == truth


@pytest.mark.parametrize("size", [30, 3000])
def test_rows_come_in_any_sequence_and_as_any_mapping(size: int) -> None:
    rows = texts(size)
    truth = [simple().predict(row) for row in rows]
    with Pool(size=2) as pool:
        ways: list[Callable[[], Any]] = [
            lambda: tuple(rows),
            lambda: iter(rows),
            lambda: (row for row in rows),
            lambda: deque(rows),
            lambda: dict.fromkeys(range(size), None) and [MappingProxyType(row) for row in rows],
            lambda: [UserDict(row) for row in rows],
            lambda: map(OrderedDict, rows),
            lambda: dict(enumerate(rows)).values(),
        ]
        for way in ways:
            for program_or_pool in (
                simple().batch,
                lambda given, **more: pool.batch(simple(), given, **more),
            ):
                assert program_or_pool(way()) == truth
                assert program_or_pool(way(), on_error="collect") == truth


def test_rows_of_many_lengths_are_shared_out_fairly() -> None:
    """Among short texts, some that take as long as thousands of them."""
    rng = random.Random(1)
    rows = [{"text": "refund " * rng.choice((1, 1, 1, 1, 3, 30, 3000))} for _ in range(700)]
    with Pool(size=3) as pool:
        assert simple().batch(rows, pool=pool) == [simple().predict(row) for row in rows]


@pytest.mark.parametrize("rows", [{"text": "refund"}, "refund", b"refund", 3, None])
def test_what_is_no_list_of_rows_is_refused(rows: Any) -> None:
    with Pool(size=1) as pool:
        for batch in (simple().batch, lambda rows: pool.batch(simple(), rows)):
            with pytest.raises(InputError):
                batch(rows)


def test_arguments_of_a_batch_are_checked() -> None:
    with Pool(size=1) as pool:
        for on_error in ("ignore", None, True, ""):
            with pytest.raises(ConfigError) as caught:
                pool.batch(simple(), texts(2), on_error=on_error)  # type: ignore[arg-type]
            assert caught.value.field == "on_error"
    for no_pool in (3, "pool", object()):
        with pytest.raises(ConfigError) as caught:
            simple().batch(texts(2), pool=no_pool)  # type: ignore[arg-type]
        assert caught.value.field == "pool"


# --- progress


def test_progress_grows_and_ends_at_one() -> None:
    rows = texts(1000) * 400
    took = 0.0
    with Pool(size=2) as pool:
        while took < 0.3:  # a fast machine answers the first of these before a report is due
            shares: list[float] = []
            begin = time.monotonic()
            simple().batch(rows, pool=pool, progress=shares.append)
            took = time.monotonic() - begin
            rows = rows * 2
    assert shares == sorted(set(shares))
    assert shares[0] > 0
    assert shares[-1] == 1.0
    assert 2 <= len(shares) <= took / 0.1 + 2


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_progress_may_end_the_batch(error: type[BaseException]) -> None:
    rows = texts(1000) * 400

    def enough(share: float) -> None:
        raise error

    with Pool(size=2) as pool:
        with pytest.raises(error):
            simple().batch(rows, pool=pool, progress=enough)
        assert simple().batch(rows[:1000], pool=pool) == [simple().predict(row) for row in rows[:1000]]
        assert pool.close()


# --- beside others


def test_batches_of_many_threads_on_one_pool() -> None:
    rows = mixed_rows(2000)
    truth = [of_all_kinds().predict(row) for row in rows]
    rng = random.Random(3)
    spans = [[sorted(rng.sample(range(2001), 2)) for _ in range(scaled(15))] for _ in range(8)]
    with Pool(size=2) as pool:

        def work(number: int) -> None:
            for first, end in spans[number]:
                assert of_all_kinds().batch(rows[first:end], pool=pool) == truth[first:end]

        in_threads(work)
        stats = settled(pool)
        assert stats.total.failed == stats.deaths == 0


def test_a_batch_while_all_workers_are_busy_is_done_by_its_caller() -> None:
    rows = texts(4000)
    with Pool(size=2, capacity=3, policy="reject") as pool:
        held = hold(pool)
        for _ in range(20):  # helpers that never came do not fill the queue either
            assert simple().batch(rows, pool=pool) == [simple().predict(row) for row in rows]
        assert still(held)
        assert pool.queued <= pool.size
        let_go(held)


def test_a_batch_on_a_full_pool_is_done_by_its_caller() -> None:
    rows = texts(4000)
    with Pool(size=2, capacity=2, policy="reject") as pool:
        held = hold(pool)
        full = [pool._probe(), pool._probe()]
        assert simple().batch(rows, pool=pool) == [simple().predict(row) for row in rows]
        assert still(held)
        assert pool.stats().rejected == 0  # nobody was turned away
        let_go(held)
        assert [probe.result() for probe in full]


def test_a_batch_while_workers_die_and_sizes_change() -> None:
    rows = texts(3000)
    truth = [simple().predict(row) for row in rows]
    stop = threading.Event()
    with Pool(size=3) as pool:

        def disturb() -> None:
            for turn in itertools.count():
                if stop.is_set():
                    return
                pool._probe(fault=("death", "error", "none")[turn % 3]).exception()
                pool.resize(1 + turn % 4)

        thread = threading.Thread(target=disturb)
        thread.start()
        try:
            for _ in range(scaled(150)):
                assert simple().batch(rows, pool=pool) == truth
        finally:
            stop.set()
            thread.join()
        assert settled(pool).deaths > 0


def test_a_call_is_not_held_up_by_batches() -> None:
    """More batches than workers: every worker helps, and still runs what others ask for in between."""
    rows, took = texts(1000) * 200, 0.0
    with Pool(size=2) as pool:
        while took < 0.5:  # on a fast machine, a moment would be a good part of it
            batches = [
                threading.Thread(target=simple().batch, args=(rows,), kwargs={"pool": pool}) for _ in range(3)
            ]
            begin, waits = time.monotonic(), []
            for thread in batches:
                thread.start()
            while any(thread.is_alive() for thread in batches):
                waits.append(-time.monotonic())
                pool._probe().result()
                waits[-1] += time.monotonic()
            took = time.monotonic() - begin
            for thread in batches:
                thread.join()
            rows = rows * 2
        assert len(waits) > 10
        assert max(waits) < took / 3


def test_other_python_threads_run_beside_a_batch() -> None:
    rows = texts(1000) * 200

    def longest_wait() -> tuple[float, float]:
        """As a share of the batch's seconds, and those."""
        ticks: list[float] = []
        stop = threading.Event()

        def tick() -> None:
            while not stop.is_set():
                ticks.append(time.perf_counter())
                time.sleep(0.001)

        thread = threading.Thread(target=tick)
        thread.start()
        begin = time.perf_counter()
        simple().batch(rows, pool=pool)
        end = time.perf_counter()
        stop.set()
        thread.join()
        during = [begin, *(t for t in ticks if begin <= t <= end), end]
        return max(b - a for a, b in itertools.pairwise(during)) / (end - begin), end - begin

    with Pool(size=2) as pool:
        while longest_wait()[1] < 0.1:  # on a fast machine, a moment would be a good part of it
            rows = rows * 2
        assert min(longest_wait() for _ in range(3))[0] < 0.4


def on_cpu(threads: set[int]) -> int:
    """Nanoseconds that these threads have computed."""
    return sum(int((TASKS / str(thread) / "schedstat").read_text().split()[0]) for thread in threads)


@linux
def test_workers_share_a_batch_with_its_caller() -> None:
    """They do a good part of the work, when the machine is not busy otherwise."""
    rows = [{"text": "refund " * 3000} for _ in range(200)]

    def share() -> float:
        before, own = on_cpu(workers), time.thread_time_ns()
        simple().batch(rows, pool=pool)
        helped = on_cpu(workers) - before
        return helped / (helped + time.thread_time_ns() - own)

    others = thread_ids()
    with Pool(size=2) as pool:
        workers = thread_ids() - others
        assert max(share() for _ in range(8)) > 0.25


@linux
def test_batches_leave_nothing_behind() -> None:
    rows, bad = mixed_rows(2000), texts(2000)

    def work(pool: Pool) -> None:
        for turn in range(scaled(30)):
            pool.batch(of_all_kinds(), rows[turn:])
            pool.batch(of_all_kinds(), bad[:200], on_error="collect")
            with pytest.raises(InputError):
                pool.batch(of_all_kinds(), rows + bad)

    with Pool(size=2) as pool:
        assert growth(lambda: work(pool)) < 2 << 20

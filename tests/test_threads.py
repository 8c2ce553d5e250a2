"""Many threads share a program while others fit, swap, save and load; nothing is mixed up."""

from __future__ import annotations

import asyncio
import itertools
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import dspex
from dspex import Program
from fit_tools import LABEL, MIXED, inputs_of, mixed, quick, topical

THREADS = 8


@pytest.fixture(autouse=True)
def _quick_switches() -> Iterator[None]:
    """Threads change over in the middle of everything, not only every five milliseconds."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(before)


def in_threads(work: Callable[[int], None], meanwhile: Callable[[], None] = lambda: None) -> None:
    """Runs work(0..7) at once, `meanwhile` beside them; the first error is raised."""
    errors: list[BaseException] = []

    def guarded(number: int) -> None:
        try:
            work(number)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=guarded, args=(i,)) for i in range(THREADS)]
    for thread in threads:
        thread.start()
    try:
        meanwhile()
    finally:
        for thread in threads:
            thread.join(60)
    if errors:
        raise errors[0]
    assert not any(thread.is_alive() for thread in threads)


def test_eight_threads_call_one_program_and_each_gets_its_own_answer() -> None:
    program, rows = quick(MIXED, mixed(60)), mixed(40, seed=3)
    inputs = [inputs_of(program, row) for row in rows]
    truth = [(program.predict(each).to_dict(), program.predict(each).confidence) for each in inputs]

    def work(number: int) -> None:
        for turn in range(400):
            at = (turn * (number + 1) + number) % len(inputs)
            result = program.predict(inputs[at])
            assert (result.to_dict(), result.confidence) == truth[at]

    in_threads(work)


def test_another_thread_fits_and_swaps_the_program() -> None:
    """Every answer is that of the old program or of the new one, whole, and the new one arrives."""
    text = {"text": "refund my money back"}
    rows = topical(60)
    turned = {"refund": "limit", "limit": "card_lost", "card_lost": "refund"}
    versions = [
        dspex.fit(LABEL, rows, threads=1, id="a"),
        dspex.fit(LABEL, [r | {"label": turned[r["label"]]} for r in rows], threads=1, id="b"),
    ]
    answers = {(p(**text).label, p(**text).confidence) for p in versions}
    assert len(answers) == 2
    served, stop = [versions[0]], threading.Event()
    seen: list[set[Any]] = [set() for _ in range(THREADS)]

    def work(number: int) -> None:
        while not stop.is_set():
            result = served[0].predict(text)
            seen[number].add((result.label, result.confidence))

    def swap() -> None:
        try:
            for turn in range(12):
                labels = rows if turn % 2 else [r | {"label": turned[r["label"]]} for r in rows]
                served[0] = dspex.fit(LABEL, labels, threads=2)  # the old one may go away now
            served[0] = served[0].partial_fit(rows[:3])
        finally:
            stop.set()

    before = [p._arrays for p in versions]
    in_threads(work, swap)
    found = set().union(*seen)
    assert answers <= found
    assert len(found) <= 3  # the two, and what partial_fit made of one of them
    assert [p._arrays for p in versions] == before


def test_fits_in_several_threads_at_once_do_not_touch_each_other() -> None:
    rows = [topical(45, seed=i) for i in range(THREADS)]
    truth = [quick(LABEL, each)._arrays["rows"].tobytes() for each in rows]
    in_threads(
        lambda i: _assert_equal(dspex.fit(LABEL, rows[i], threads=2)._arrays["rows"].tobytes(), truth[i])
    )


def _assert_equal(ours: Any, theirs: Any) -> None:
    assert ours == theirs


def test_texts_long_enough_to_be_scored_beside_each_other() -> None:
    """Texts from 16,384 characters on are scored without the interpreter's lock. The mapping may change."""
    program = quick()
    long = {i: f"{'refund' if i % 2 else 'card was stolen'} " * (3000 + 100 * i) for i in range(THREADS)}
    truth = {i: program._logits({"text": text}) for i, text in long.items()}

    def work(number: int) -> None:
        for _ in range(15):
            inputs = {"text": "".join([long[number]])}  # its only reference is in the mapping
            done = threading.Event()

            def clear(inputs: dict[str, Any] = inputs, done: threading.Event = done) -> None:
                while not done.is_set():
                    inputs["text"] = None  # type: ignore[assignment]

            thread = threading.Thread(target=clear)
            own = dict(inputs)
            assert program._logits(own) == truth[number]
            thread.start()
            try:
                program.predict(inputs)
            except dspex.DspexError:
                pass
            finally:
                done.set()
                thread.join()

    in_threads(work)


def longest_wait(call: Callable[[], Any]) -> float:
    """The longest that another thread waits while a call runs, as a share of the call's time."""
    ticks: list[float] = []
    stop = threading.Event()

    def tick() -> None:
        while not stop.is_set():
            ticks.append(time.perf_counter())
            time.sleep(0.002)

    thread = threading.Thread(target=tick)
    thread.start()
    begin = time.perf_counter()
    call()
    end = time.perf_counter()
    stop.set()
    thread.join()
    during = [begin, *(t for t in ticks if begin <= t <= end), end]
    return max(b - a for a, b in itertools.pairwise(during)) / (end - begin)


def test_a_long_text_lets_other_threads_run() -> None:
    program, long = quick(), "unknownword " * 400_000
    # A busy machine can hold a thread up; the interpreter's lock would do so every time.
    assert min(longest_wait(lambda: program(text=long)) for _ in range(3)) < 0.5


def test_saving_and_loading_beside_calls(tmp_path: Path) -> None:
    programs = [quick(), quick(LABEL, topical(45, seed=8))]
    path = tmp_path / "x.dspex"
    programs[0].save(path)
    text = {"text": "withdraw more"}
    answers = [p._logits(text) for p in programs]

    def work(number: int) -> None:
        for turn in range(25):
            if number == 0:
                programs[turn % 2].save(path)
            else:
                assert dspex.load(path)._logits(text) in answers

    in_threads(work)


def test_results_are_read_by_many_threads() -> None:
    program: Program = quick(MIXED, mixed(45))
    row = inputs_of(program, mixed(1)[0])
    truth = program.predict(row).to_dict()

    for _ in range(50):
        result = program.predict(row)
        in_threads(lambda number, r=result: _assert_equal(dict(r) if number % 2 else r.to_dict(), truth))


def test_many_tasks_of_one_event_loop() -> None:
    program = quick()
    texts = [row["text"] for row in topical(200)]
    truth = [program(text=text).label for text in texts]

    async def all_at_once() -> list[Any]:
        return [r.label for r in await asyncio.gather(*(program.acall(text=text) for text in texts))]

    assert asyncio.run(all_at_once()) == truth

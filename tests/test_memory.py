"""What a call costs in memory, that nothing stays behind, and that time is linear in the length of a text."""

from __future__ import annotations

import gc
import os
import shutil
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import dspex
from dspex.errors import InputError
from fit_tools import LABEL, MIXED, inputs_of, mixed, quick, topical

# DSPEX_LONG=1 runs the million calls, and the ten megabytes, in full.
LONG = bool(os.environ.get("DSPEX_LONG"))
CALLS = 1_000_000 if LONG else 200_000
STATM = Path("/proc/self/statm")

ROWS = mixed(60)
PROGRAM = quick(MIXED, ROWS)
SIMPLE = quick()
MANY = quick(
    "text -> label: str", [{"text": f"word{i % 40} x{i}", "label": f"c{i % 40}"} for i in range(120)]
)
INPUTS = [inputs_of(PROGRAM, row) for row in ROWS]
TEXTS = [{"text": row["text"]} for row in topical(60, seed=6)]
linux = pytest.mark.skipif(not STATM.exists(), reason="reads /proc/self/statm")


def resident() -> int:
    return int(STATM.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def growth(work: Callable[[], Any], warm: Callable[[], Any]) -> int:
    """Bytes that the process grows by."""
    warm()
    gc.collect()
    before = resident()
    work()
    gc.collect()
    return resident() - before


def calls(count: int) -> None:
    for turn in range(count // 4):
        SIMPLE.predict(TEXTS[turn % 60])
        PROGRAM(**INPUTS[turn % 60])
        MANY.predict(TEXTS[turn % 60]).probabilities("label")
        dict(PROGRAM.predict(INPUTS[turn % 60]))


@linux
def test_calls_leave_nothing_behind() -> None:
    assert growth(lambda: calls(CALLS), lambda: calls(CALLS // 10)) < 1 << 20


def refusals(count: int) -> None:
    bad: list[dict[str, Any]] = [{}, {"text": 3}, {"text": "a", "b": 1}, {"text": ""}]
    for turn in range(count):
        with pytest.raises(InputError):
            SIMPLE.predict(bad[turn % 4])
        with pytest.raises(InputError):
            PROGRAM.predict(INPUTS[0] | {"place": [1.0, "x", 2.0]})


@linux
def test_refused_calls_leave_nothing_behind() -> None:
    assert growth(lambda: refusals(4000), lambda: refusals(1000)) < 1 << 20


def around(count: int, path: Path) -> None:
    for turn in range(count):
        program = quick(LABEL, topical(45), seed=turn)
        program.save(path)
        loaded = dspex.load(path)
        loaded.explain(text="refund my unknownword")
        loaded.batch(TEXTS)
        loaded.partial_fit(topical(6))
        with pytest.raises(InputError):
            quick(LABEL, [{"text": "a", "label": "x"}])


@linux
def test_fitting_saving_loading_and_explaining_leave_nothing_behind(tmp_path: Path) -> None:
    path = tmp_path / "x.dspex"
    dspex.default_pool()  # a batch would start it
    descriptors, threads = len(os.listdir("/proc/self/fd")), len(os.listdir("/proc/self/task"))
    assert growth(lambda: around(40, path), lambda: around(20, path)) < 4 << 20
    assert len(os.listdir("/proc/self/fd")) <= descriptors
    assert len(os.listdir("/proc/self/task")) <= threads  # an earlier test's may end meanwhile


# -------------------------------------------------------------------------------------------- allocations


def blocks_of(call: Callable[[], Any], count: int) -> tuple[float, float]:
    """(blocks that stay while a result is held, blocks that stay after it), each a call."""
    call()
    held: list[Any] = [None] * count
    gc.disable()
    try:
        before = sys.getallocatedblocks()
        for i in range(count):
            held[i] = call()
        during = sys.getallocatedblocks() - before
        held.clear()
        after = sys.getallocatedblocks() - before
    finally:
        gc.enable()
    return during / count, after / count


@pytest.mark.parametrize(
    ("program", "inputs"),
    [(SIMPLE, TEXTS[0]), (PROGRAM, INPUTS[0]), (MANY, TEXTS[0])],
    ids=["text", "mixed", "int8"],
)
def test_a_call_allocates_its_result_and_nothing_else(program: Any, inputs: dict[str, Any]) -> None:
    during, after = blocks_of(lambda: program.predict(inputs), 2000)
    assert during <= 2.05  # the result and its numbers
    assert abs(after) < 0.1
    tracemalloc.start()
    try:
        program.predict(inputs)
        result = program.predict(inputs)
        held = tracemalloc.get_traced_memory()[0]
        tracemalloc.reset_peak()
        again = program.predict(inputs)
        current, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    size = current - held
    assert peak - held <= size + 64  # nothing besides, not even for a moment
    assert (
        size
        <= sys.getsizeof(result) + 4 * (len(program._arrays["bias"]) + len(program.signature.outputs)) + 64
    )
    assert again == result


def test_the_first_value_that_is_asked_for_builds_nothing() -> None:
    results = [SIMPLE.predict(TEXTS[0]) for _ in range(500)]
    before = sys.getallocatedblocks()
    for result in results:
        assert result.label is not None
        result["label"]
    assert sys.getallocatedblocks() - before < 20


COUNTER = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stddef.h>
static long count;
long malloc_count(void) { return count; }
void *malloc(size_t n) {
  static void *(*real)(size_t);
  if (!real) real = (void *(*)(size_t))dlsym(RTLD_NEXT, "malloc");
  ++count;
  return real(n);
}
void *realloc(void *p, size_t n) {
  static void *(*real)(void *, size_t);
  if (!real) real = (void *(*)(void *, size_t))dlsym(RTLD_NEXT, "realloc");
  ++count;
  return real(p, n);
}
"""
COUNTED = """
import ctypes, fit_tools as f
count = ctypes.CDLL(None).malloc_count
count.restype = ctypes.c_long
text, mixed = f.quick(), f.quick(f.MIXED, f.mixed(30))
rows = [{"text": f"word{i % 40} x{i}", "label": f"c{i % 40}"} for i in range(80)]
many = f.quick("text -> label: str", rows)
cases = [(text, {"text": row["text"]}) for row in f.topical(20, seed=9)]
cases += [(mixed, f.inputs_of(mixed, row)) for row in f.mixed(20)]
texts = ["word3 x7", "unknownwords that nobody knows", "界 ünïcode 👍", "long " * 5000]
cases += [(many, {"text": text}) for text in texts]
def run():
    for program, inputs in cases:
        program.predict(inputs).confidence
for _ in range(20):
    run()
before = count()
for _ in range(500):
    run()
print(count() - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="LD_PRELOAD")
def test_the_compiled_core_never_asks_the_system_for_memory(tmp_path: Path) -> None:
    """Every malloc of the process is counted, C++'s too; Python's small blocks come from its own pools."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("no C compiler")
    source, library = tmp_path / "counter.c", tmp_path / "counter.so"
    source.write_text(COUNTER)
    subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", library, source, "-ldl"], check=True)
    env = {**os.environ, "LD_PRELOAD": str(library), "PYTHONPATH": str(Path(__file__).parent)}
    env.pop("PYTHONMALLOC", None)
    done = subprocess.run(
        [sys.executable, "-c", COUNTED], env=env, capture_output=True, text=True, check=True
    )
    assert int(done.stdout) <= 20  # of 22,000 calls


# --------------------------------------------------------------------------------- linear in the length

SHAPES: dict[str, Callable[[int], str]] = {
    "words": lambda n: "I have lost my card and need help " * (n // 34),
    "no blanks": lambda n: "x" * n,
    "different letters without blanks": lambda n: "abcdefghijklmnopqrstuvwxyz0123456789" * (n // 36),
    "apostrophes": lambda n: "'" * n,
    "letters and apostrophes": lambda n: "a'" * (n // 2),
    "one symbol": lambda n: "!" * n,
    "two symbols": lambda n: "!?" * (n // 2),
    "blanks": lambda n: "a" + " " * n,
    "accents": lambda n: "é" * n,
    "dropped marks": lambda n: "a" + "\u0301" * n,
    "kept marks": lambda n: "\u0e31" * n,
    "ideographs": lambda n: "我丢了银行卡" * (n // 6),
    "hangul": lambda n: "카드를" * (n // 3),
    "emoji": lambda n: "👩\u200d💻" * (n // 3),
    "the longest folding": lambda n: "\ufdfa" * (n // 18),
    "lone surrogates": lambda n: "\ud800" * n,
    "zeros": lambda n: "a" + "\0" * n,
}
SIZE = 1_000_000 if LONG else 100_000


@pytest.mark.parametrize("shape", SHAPES)
def test_time_is_linear_in_the_length(shape: str) -> None:
    short, long = SHAPES[shape](SIZE), SHAPES[shape](10 * SIZE)

    def seconds(text: str) -> float:
        best = float("inf")
        for _ in range(3):
            begin = time.perf_counter()
            SIMPLE.predict({"text": text})
            best = min(best, time.perf_counter() - begin)
        return best

    assert seconds(long) < 25 * seconds(short) + 0.002  # of 10 times the length
    assert seconds(long) < 3e-6 * len(long)


@linux
def test_a_text_of_ten_megabytes_takes_no_memory() -> None:
    text = "unknownwords and lost cards " * (10_000_000 // 28)
    assert growth(lambda: SIMPLE.predict({"text": text}), lambda: SIMPLE.predict(TEXTS[0])) < 1 << 20

"""How a fit runs: the same bits every time, early stops, progress, interruption."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import dspex
from dspex import Program
from fit_tools import LABEL, MIXED, mixed, quick, topical

# Passes over and over the same rows until it is stopped.
ENDLESS: dict[str, Any] = {"max_epochs": 100_000, "tolerance": 1e-9}


def noise(count: int) -> list[dict[str, Any]]:
    rng = random.Random(0)
    return [
        {"text": " ".join(f"w{rng.randrange(999)}" for _ in range(12)), "label": str(rng.randrange(5))}
        for _ in range(count)
    ]


def assert_same_bits(ours: Program, theirs: Program) -> None:
    assert list(ours._arrays) == list(theirs._arrays)
    for name, array in ours._arrays.items():
        np.testing.assert_array_equal(array, theirs._arrays[name], err_msg=name)
    assert ours._meta == theirs._meta


def native_threads() -> int:
    return len(os.listdir("/proc/self/task"))


linux = pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="counts threads in /proc")


# ------------------------------------------------------------------------------------------------ the seed


@pytest.mark.parametrize(
    ("spec", "rows"), [(LABEL, topical(90)), (MIXED, mixed(60))], ids=["one output", "five"]
)
def test_the_same_fit_is_the_same_model_whatever_the_threads(spec: str, rows: list[dict[str, Any]]) -> None:
    first = dspex.fit(spec, rows, threads=1)
    for threads in (1, 2, 3, 7, None):
        assert_same_bits(dspex.fit(spec, rows, threads=threads), first)


def test_another_seed_is_another_model_of_the_same_features() -> None:
    rows = noise(60)
    first, second = (quick("text -> label", rows, seed=seed) for seed in (0, 1))
    np.testing.assert_array_equal(first._arrays["hashes"], second._arrays["hashes"])
    assert not np.array_equal(first._arrays["rows"], second._arrays["rows"])
    assert_same_bits(
        quick("text -> label", rows, seed=2**63 - 1), quick("text -> label", rows, seed=2**63 - 1)
    )


def test_the_model_does_not_depend_on_the_process() -> None:
    """Nor on the seed of Python's hashes, nor on the order in which memory is given out."""
    code = (
        "import hashlib, fit_tools; p = fit_tools.quick(fit_tools.MIXED, fit_tools.mixed(40));"
        "state = b''.join(a.tobytes() for a in p._arrays.values()) + repr(p._meta).encode();"
        "print(hashlib.sha256(state).hexdigest())"
    )
    prints = set()
    for hash_seed in ("1", "2"):
        env = {**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": str(Path(__file__).parent)}
        prints.add(
            subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, check=True).stdout
        )
    assert len(prints) == 1


# ------------------------------------------------------------------------------------------ early stopping


def epochs(program: Program) -> list[int]:
    return [n for head in program.info()["calibration"]["models"] for n in head["epochs"]]


def test_max_epochs_and_tolerance_have_an_effect() -> None:
    rows = noise(80)
    assert epochs(quick("text -> label", rows, max_epochs=2)) == [2, 2]
    loose, tight = (epochs(quick("text -> label", rows, tolerance=t, max_epochs=500)) for t in (0.3, 1e-4))
    assert all(1 <= a < b for a, b in zip(loose, tight, strict=True))
    assert max(tight) < 500  # it stopped by itself


# ------------------------------------------------------------------------------------------------ progress


def test_progress_goes_up_to_one() -> None:
    shares: list[float] = []
    quick("text -> label", noise(1500), progress=shares.append, tolerance=1e-4)
    assert len(shares) >= 3
    assert shares == sorted(shares)
    assert shares[-1] == 1.0
    assert all(0 <= share < 1 for share in shares[:-1])


def test_a_progress_bar_is_shown_and_taken_away(capsys: pytest.CaptureFixture[str], monkeypatch: Any) -> None:
    monkeypatch.setattr("dspex.learning.progress._SHOW_AFTER", 0.0)
    quick(progress=True)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "fitting [##############################] 100%" in captured.err
    assert captured.err.rsplit("\r", 2)[1].strip() == ""
    quick()
    assert capsys.readouterr().err == ""


class Stop(Exception):
    pass


@linux
@pytest.mark.parametrize("threads", [1, 3])
def test_an_error_in_progress_stops_the_fit_and_leaves_nothing(threads: int) -> None:
    before = native_threads()
    calls: list[float] = []

    def stop(share: float) -> None:
        calls.append(time.monotonic())
        raise Stop(share)

    with pytest.raises(Stop):
        dspex.fit("text -> label", noise(1500), threads=threads, progress=stop, **ENDLESS)
    assert len(calls) == 1
    assert time.monotonic() - calls[0] < 2
    assert native_threads() == before
    assert quick()(text="refund").label == "refund"  # and the next fit is none the worse


def test_an_error_at_the_very_end_is_an_error_too() -> None:
    def stop(share: float) -> None:
        if share == 1.0:
            raise Stop

    with pytest.raises(Stop):
        quick(progress=stop)


# -------------------------------------------------------------------------------------------------- Ctrl-C

INTERRUPTED = """
import sys, fit_tools, dspex
from test_fit_run import noise, native_threads, ENDLESS
rows, before = noise(int(sys.argv[1])), native_threads()
told = []
def tell(share):
    if not told:
        told.append(True)
        print("running", native_threads() - before, flush=True)
progress = tell
try:
    if sys.argv[2] == "at once":
        tell(0)
        progress = None
    dspex.fit("text -> label", rows, threads=3, progress=progress, **ENDLESS)
except KeyboardInterrupt:
    print("interrupted", native_threads() - before, flush=True)
    fit_tools.quick()
    print("fitted again", flush=True)
    raise
"""


@linux
@pytest.mark.parametrize("when", ["while training", "at once"])
def test_ctrl_c_stops_the_fit_and_leaves_nothing(when: str) -> None:
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}
    process = subprocess.Popen(
        [sys.executable, "-c", INTERRUPTED, "1500" if when == "while training" else "9000", when],
        env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        running = process.stdout.readline().split()
        assert running[0] == "running"
        assert (int(running[1]) > 0) == (when == "while training")
        begin = time.monotonic()
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
        assert time.monotonic() - begin < 5
    finally:
        process.kill()
    assert out.splitlines() == ["interrupted 0", "fitted again"]
    assert process.returncode in (-signal.SIGINT, 130)
    assert "KeyboardInterrupt" in err


CROWDED = """
import resource, fit_tools, dspex.learning.fit, dspex._fit
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 6_000_000, used + 6_000_000))  # no room for another stack
try:
    fit_tools.quick(fit_tools.LABEL, fit_tools.topical(30))
except Exception as error:
    print(type(error).__name__, error)
else:
    print("fitted")
"""


@linux
@pytest.mark.skipif(
    "asan" in os.environ.get("LD_PRELOAD", ""), reason="the sanitizer needs its address space"
)
def test_no_thread_to_be_had_is_an_error_and_no_hang() -> None:
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}
    done = subprocess.run(
        [sys.executable, "-c", CROWDED], env=env, capture_output=True, text=True, timeout=5, check=True
    )
    assert done.stdout


def test_a_fit_in_a_thread_that_is_not_the_main_one() -> None:
    found: list[Program] = []
    thread = threading.Thread(target=lambda: found.append(quick()))
    thread.start()
    thread.join()
    assert_same_bits(found[0], quick())

"""What a live program adds to a native call. The figures are in the docs; this is a guard against a slip."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from dspex.distill.live import LiveProgram
from live_tools import Planted, add_version, home, settings

CALLS, RUNS = 1000, 80
#: Seconds that a call may cost more, on a machine that does `yardstick` in so many.
MOST, OF = 0.6e-6, 0.17e-6


def spent(call: Callable[[], object]) -> float:
    """CPU seconds of a call, on this thread."""
    begun = time.thread_time()
    for _ in range(CALLS):
        call()
    return (time.thread_time() - begun) / CALLS


def yardstick() -> None:
    """Python's own work, by which to tell a slow machine."""
    found = {}
    for name in ("a", "b", "c", "d"):
        found[name] = len(name)


def test_a_native_call_costs_little_more_than_the_program(tmp_path: Path) -> None:
    with home(tmp_path) as store:
        add_version(store)
        with LiveProgram(store, Planted(), settings(audit_share=0.02), seed=1) as live:
            live.promote("test", "live")
            plan, inputs = live._keeper.plan, {"text": "the tall apple is here now and old"}
            assert plan.fast is not None
            fast = plan.fast
            alone, served, own = [], [], []
            for _ in range(RUNS):  # in turn; the least of each is undisturbed
                alone.append(spent(lambda: fast(inputs)))
                served.append(spent(lambda: live.predict(inputs)))
                own.append(spent(yardstick))
            assert min(served) - min(alone) < MOST * max(1.0, min(own) / OF)
            assert live.status()["process"]["native"] == CALLS * RUNS

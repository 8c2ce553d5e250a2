"""Worker processes that are killed at random, under load."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import time
from collections.abc import Iterator
from typing import Any

from benchmarks.rounds import Figures, Plan
from benchmarks.routes.load import SPEC, Load, told
from benchmarks.routes.programs import ENGINES, config, lm
from benchmarks.sections import Section, Target
from dspex.adapters.dspy_pool import DspyPoolAdapter

KILLS, QUICK_KILLS = 200, 20
WORKERS = 4
PAUSE_S = 0.4
TIMEOUT_S = 30.0
FULL_S, PATIENCE_S = 2.0, 60.0
FULL, HUNG, OTHER = "full size after s", "hung", "failed, not communication"


def sections(plan: Plan) -> Iterator[Section]:
    kills = QUICK_KILLS if plan.quick else KILLS
    errors: list[str] = []

    def run() -> Figures:
        settings = config(lm(f"{ENGINES}:squares"), dspy_pool={"size": WORKERS})
        with DspyPoolAdapter(settings) as adapter:
            adapter.create_program(SPEC)
            with Load(adapter, timeout=TIMEOUT_S) as load:
                full_after = kill(adapter.pool, kills)
            errors.append(told(load.failed))
            found = load.figures()
        del found["instead"]
        other = sum(count for (category, _), count in load.failed.items() if category != "communication")
        hung = found.pop("lost") + (load.latest_s > 0)
        return {"kills": float(kills), **found, OTHER: float(other), HUNG: float(hung), FULL: full_after}

    name = f"{WORKERS} workers"
    cases = plan.once({name: run})
    (series,) = cases.values()
    section = Section(
        f"{kills} kills of worker processes",
        cases,
        peer=name,
        compared="calls/s",
        note=f"`kill -9` of a random one every {PAUSE_S:g} s on average, while 8 threads and 8 tasks call "
        f"with a deadline of {TIMEOUT_S:g} s; the load goes on until the pool is at its full size. Errors: "
        f"{errors[0]}.",
    )
    amiss = sum(series[what][0] for what in (HUNG, "twice", "wrong", "miscounted"))
    section.targets = [
        Target.at_most(f"calls hung, twice, wrong or miscounted, {kills} kills", [amiss], 0),
        Target.at_most(f"failed calls that do not say communication, {kills} kills", series[OTHER], 0),
        Target.at_most("full size after the last kill", series[FULL], FULL_S, " s"),
    ]
    yield section


def kill(pool: Any, kills: int) -> float:
    """Kills so many workers, and returns the seconds from the last one until the pool is whole again."""
    drawn = random.Random(7)
    killed, done = 0, 0
    while done < kills:
        time.sleep(2 * PAUSE_S * drawn.random())
        pids = [pid for pid in pool.pids() if pid != killed]
        if not pids:
            continue
        with contextlib.suppress(ProcessLookupError):
            os.kill(killed := drawn.choice(pids), signal.SIGKILL)
            done += 1
    last = time.perf_counter()
    while time.perf_counter() < last + PATIENCE_S:
        pids = pool.pids()
        if len(pids) == WORKERS and killed not in pids:
            break
        time.sleep(0.005)
    return time.perf_counter() - last

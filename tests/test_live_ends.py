"""How live programs end: closed, dropped, or with the process; and what a restart still knows."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import threading
import time
import weakref
from pathlib import Path
from typing import Any

import pytest

from dspex.distill import jobs
from dspex.distill.live import LiveProgram
from dspex.distill.settings import DistillSettings
from dspex.errors import DspexError, InternalError
from live_tools import Planted, add_version, home, rows, settings


def threads() -> list[threading.Thread]:
    return [each for each in threading.enumerate() if each.name == "dspex-distill"]


def test_one_that_is_dropped_ends_by_itself(tmp_path: Path) -> None:
    teacher = Planted()
    with home(tmp_path) as store:
        add_version(store)
        before = set(threads())
        live = LiveProgram(store, teacher, settings(audit_share=0.99), seed=1)
        live.promote("test", "live")
        mine = [each for each in threads() if each not in before]
        teacher.gate.clear()
        for inputs in rows(5, hard=0.0):
            live.predict(inputs)
        seen = weakref.ref(live)
        del live
        gc.collect()
        assert seen() is None
        assert mine[0].is_alive()  # it has audits to do
        teacher.gate.set()
        mine[0].join(20)
        assert not mine[0].is_alive()
        assert len(list(store.audits(1))) == 5
        usage = [each.counts for each in store.usage() if each.stage == "live"]
        assert sum(each["compared"] for each in usage) == 5


def test_one_that_is_dropped_ends_its_learning(tmp_path: Path) -> None:
    with home(tmp_path) as store:
        live = LiveProgram(store, Planted(), settings(), seed=1)
        (live.learn(),)
        job: Any = live._tutor._job
        del live
        gc.collect()
        until = time.monotonic() + 20
        while job._process.poll() is None and time.monotonic() < until:
            time.sleep(0.02)
        assert job._process.poll() is not None


def test_a_program_that_was_closed_is_dropped_quietly(tmp_path: Path) -> None:
    with home(tmp_path) as store:
        live = LiveProgram(store, Planted(), settings(), seed=1)
        live.close()
        dropped = weakref.ref(live)
        del live
        gc.collect()
        assert dropped() is None


def test_at_the_end_of_the_process_waiting_audits_are_done(tmp_path: Path) -> None:
    code = (
        "import sys, pathlib; sys.path.insert(0, sys.argv[2])\n"
        "from live_tools import *\n"
        "store = home(pathlib.Path(sys.argv[1])); add_version(store)\n"
        "teacher = Planted(); teacher.delay = 0.05\n"
        "live = LiveProgram(store, teacher, settings(audit_share=0.99), seed=1)\n"
        "live.promote('test', 'live')\n"
        "for inputs in rows(8, hard=0.0): live.predict(inputs)\n"
    )
    tests = str(Path(__file__).parent)
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code, str(tmp_path), tests],
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    with home(tmp_path) as store:
        assert len(list(store.audits(1))) == 8


def test_a_job_can_be_closed_while_somebody_waits_for_it(tmp_path: Path) -> None:
    for _ in range(3 * int(os.environ.get("DSPEX_STRESS", "1"))):
        with home(tmp_path) as store:
            job = jobs.start(store, DistillSettings())
            found: list[object] = []

            def wait(job: jobs.Job = job, found: list[object] = found) -> None:
                try:
                    found.append(job.wait())
                except BaseException as error:
                    found.append(error)

            waiting = [threading.Thread(target=wait) for _ in range(2)]
            for each in waiting:
                each.start()
            job.close()
            for each in waiting:
                each.join(20)
            assert [type(each) for each in found] == [InternalError, InternalError]
            with pytest.raises(DspexError, match="code -9"):
                job.wait()  # as often as one likes


def test_what_is_saved_is_known_after_a_restart_without_traces(tmp_path: Path) -> None:
    with home(tmp_path) as store:
        store.add_counts(
            {"asked": 11, "failed": 1, "usd": 0.02, "seconds": 5.0}, version=None, stage="teacher"
        )
        add_version(store)
        with LiveProgram(store, Planted(), settings(audit_share=0.01), seed=1) as live:
            live.promote("test", "live")
            for inputs in rows(60, hard=0.0):
                live.predict(inputs)
            assert not live._engine._teacher.asked  # type: ignore[union-attr]
            usage = live.status()["usage"]
            assert usage["usd_saved"] == pytest.approx(0.002 * usage["native"])
            assert usage["seconds_saved"] == pytest.approx(0.5 * usage["native"])

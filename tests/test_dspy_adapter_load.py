"""Under load with an LM that fails and hangs: every call ends in time, none is lost or answered twice."""

from __future__ import annotations

import asyncio
import itertools
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from dspex.adapters.dspy import DspyAdapter
from dspex.errors import CallTimeoutError, DspexError
from dspex.testing.lm_server import Cut, Faults, Hang, LMServer, Request, Status
from dspy_adapter_tools import STRESS, wait_until

SECONDS = min(60.0, 4.0 * STRESS)
DEADLINE = 1.0
SLACK = 1.0  # seconds that a call may be late: two cores, 16 threads and 50 tasks
THREADS, TASKS = 16, 50


class Tally:
    """What became of every call, by its number."""

    def __init__(self) -> None:
        self.numbers = itertools.count()
        self.begun = 0
        self.outcomes: Counter[str] = Counter()
        self.longest = 0.0
        self.wrong: list[str] = []
        self._lock = threading.Lock()

    def begin(self) -> str:
        with self._lock:
            self.begun += 1
        return f"number {next(self.numbers)}"

    def end(self, started: float, outcome: str, wrong: str | None = None) -> None:
        took = time.monotonic() - started
        with self._lock:
            self.outcomes[outcome] += 1
            self.longest = max(self.longest, took)
            if wrong is not None:
                self.wrong.append(wrong)

    def answered(self, started: float, text: str, result: Any) -> None:
        self.end(started, "answered", None if result.label == text else f"{text}: {result.label}")

    def failed(self, started: float, error: BaseException) -> None:
        known = isinstance(error, DspexError) and error.retryable and error.program == "echo"
        self.end(started, getattr(error, "category", "?"), None if known else repr(error))


def test_every_call_ends_inside_its_deadline() -> None:
    tally = Tally()
    answers: Counter[str] = Counter()

    def echo(request: Request) -> dict[str, str]:
        text = request.fields["text"]
        answers[text] += 1
        return {"label": text}

    shares = {Status(500): 0.15, Status(503, 0.05): 0.05, Status(429, 0.02): 0.05, Cut(): 0.05, Hang(): 0.02}
    with LMServer(echo, delay=0.002, faults=Faults(shares, seed=1)) as server:
        settings = server.lm_config(
            retry={"attempts": 3, "backoff": 0.05}, breaker={"failure_rate": 0.9, "cooldown": 0.2}
        )
        adapter = DspyAdapter({"lms": {"shaky": settings}, "dspy": {"timeout": DEADLINE}})
        adapter.create_program({"id": "echo", "signature": "text -> label"})
        end = time.monotonic() + SECONDS

        def in_thread() -> None:
            while time.monotonic() < end:
                text, started = tally.begin(), time.monotonic()
                try:
                    tally.answered(started, text, adapter.execute_program("echo", {"text": text}))
                except Exception as error:
                    tally.failed(started, error)

        async def as_task() -> None:
            while time.monotonic() < end:
                text, started = tally.begin(), time.monotonic()
                try:
                    tally.answered(started, text, await adapter.aexecute_program("echo", {"text": text}))
                except Exception as error:
                    tally.failed(started, error)

        async def as_tasks() -> None:
            await asyncio.gather(*(as_task() for _ in range(TASKS)))

        with ThreadPoolExecutor(THREADS + 1) as threads:
            running = [threads.submit(in_thread) for _ in range(THREADS)]
            running.append(threads.submit(lambda: asyncio.run(as_tasks())))
            for each in running:
                each.result()
        stats = adapter.get_stats()
        guard = stats["lms"]["shaky"]
        server.wait_idle()
        requests = server.count
        wait_until(lambda: not [t for t in threading.enumerate() if t.name == "dspex-dspy-apart"])
        adapter.close()
    print(f"{tally.begun} calls in {SECONDS:g} s, {dict(tally.outcomes)}, longest {tally.longest:.2f} s")
    assert tally.wrong == []
    assert sum(tally.outcomes.values()) == tally.begun == stats["calls"]
    assert tally.longest < DEADLINE + SLACK
    assert sum(stats["errors"].values()) == tally.begun - tally.outcomes["answered"]
    # Each answer went to its call: one request was answered for every call that was.
    assert tally.outcomes["answered"] == guard["succeeded"]
    assert guard["succeeded"] + guard["failed"] + guard["cancelled"] >= requests * 0.99
    assert tally.outcomes["answered"] > tally.begun * 0.5
    assert all(count <= 3 for count in answers.values())


def test_a_short_outage(lm_server: LMServer) -> None:
    """The LM goes and comes back; so do the answers, and meanwhile calls fail at once."""
    lm_server.answers = {"label": "x"}
    settings = lm_server.lm_config(
        retry={"attempts": 1}, breaker={"min_calls": 5, "window": 1.0, "cooldown": 0.2}
    )
    adapter = DspyAdapter({"lms": {"shaky": settings}, "dspy": {"timeout": DEADLINE}})
    pid = adapter.create_program({"signature": "text -> label"})
    outcomes: Counter[str] = Counter()
    stop = threading.Event()

    def calls() -> None:
        while not stop.is_set():
            try:
                adapter.execute_program(pid, {"text": "x"})
                outcomes["answered"] += 1
            except CallTimeoutError:
                outcomes["timeout"] += 1
            except DspexError:
                outcomes["failed"] += 1
            time.sleep(0.005)

    with ThreadPoolExecutor(4) as threads:
        running = [threads.submit(calls) for _ in range(4)]
        time.sleep(0.3)
        lm_server.answers = Status(503)
        wait_until(lambda: adapter.get_stats()["lms"]["shaky"]["circuit"] == "open")
        asked = lm_server.count
        time.sleep(0.5)
        assert lm_server.count - asked <= 8  # those under way, and probes
        lm_server.answers = {"label": "x"}
        wait_until(lambda: adapter.get_stats()["lms"]["shaky"]["circuit"] == "closed")
        before = outcomes["answered"]
        wait_until(lambda: outcomes["answered"] > before + 20)
        stop.set()
        for each in running:
            each.result()
    assert outcomes["timeout"] == 0
    assert outcomes["failed"] > 50

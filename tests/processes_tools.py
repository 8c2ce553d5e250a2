"""What the tests of worker processes share, also with the scripts that they run: no pytest. Holds no tests.

DSPEX_STRESS=20 multiplies the counts of the long tests by 20.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from dspex.processes import ProcessPool
from dspex.protection.deadline import Deadline

STRESS = float(os.environ.get("DSPEX_STRESS", "1"))
HANDLER = "toy_handlers:make"


def __getattr__(name: str) -> Any:
    """The mark `linux`, made when it is asked for: scripts do without pytest, which takes long to import."""
    if name != "linux":
        raise AttributeError(name)
    import pytest

    return pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="looks into /proc")


def scaled(count: int) -> int:
    return max(1, round(count * STRESS))


def pool(handler: str = HANDLER, **options: Any) -> ProcessPool:
    """A pool of toys; settings of the pool and keywords of the constructor together."""
    keywords = {
        name: options.pop(name)
        for name in ("handler_settings", "setup", "on_ask", "on_tell", "label")
        if name in options
    }
    return ProcessPool(handler, {"size": 1, "start_timeout": 20.0, **options}, **keywords)


def after(seconds: float) -> Deadline:
    return Deadline.after(seconds)


def until(condition: Callable[[], Any], seconds: float = 20.0) -> None:
    """Waits for what nothing announces."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise AssertionError("it did not come about")
        time.sleep(0.001)


def in_threads(work: Callable[[int], Any], count: int = 8, seconds: float = 120.0) -> list[Any]:
    """Runs work(0..count-1) at once and returns what they returned; the first error is raised."""
    errors: list[BaseException] = []
    results: list[Any] = [None] * count

    def guarded(number: int) -> None:
        try:
            results[number] = work(number)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=guarded, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    end = time.monotonic() + seconds
    for thread in threads:
        thread.join(max(0.0, end - time.monotonic()))
    assert not any(thread.is_alive() for thread in threads), "a thread hangs"
    if errors:
        raise errors[0]
    return results


def in_background(work: Callable[[], Any]) -> Outcome:
    """Runs it in a thread and returns what will hold its outcome."""
    return Outcome(work)


class Outcome:
    """What became of work in a thread."""

    def __init__(self, work: Callable[[], Any]) -> None:
        self._work = work
        self._value: Any = None
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._value = self._work()
        except BaseException as error:
            self._error = error

    @property
    def done(self) -> bool:
        return not self._thread.is_alive()

    def result(self, seconds: float = 20.0) -> Any:
        self._thread.join(seconds)
        assert self.done, "it hangs"
        if self._error is not None:
            raise self._error
        return self._value


def is_alive(pid: int) -> bool:
    """Whether a process runs; a zombie does not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def children() -> set[int]:
    """The processes that this one has started and not yet waited for, zombies too."""
    found = set()
    for task in Path("/proc/self/task").iterdir():
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # the thread has ended meanwhile
            found |= {int(pid) for pid in (task / "children").read_text().split()}
    return found


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def run_script(
    code: str, *arguments: str, timeout: float = 30.0, stdin: str = ""
) -> subprocess.CompletedProcess[str]:
    """A process of its own, with the tests' tools at hand; it must end by itself, in time."""
    path = os.pathsep.join([str(Path(__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])])
    env = os.environ | {"PYTHONPATH": path, "PYTHONFAULTHANDLER": "1"}
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.run(command, env=env, input=stdin, capture_output=True, text=True, timeout=timeout)


def clean_run(code: str, *arguments: str, timeout: float = 30.0) -> str:
    """As run_script: what it printed, after a clean end."""
    done = run_script(code, *arguments, timeout=timeout)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout

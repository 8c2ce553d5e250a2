"""Learning in a process of its own, so that calls are not slowed."""

from __future__ import annotations

import json
import subprocess
import tempfile
import threading
import time
from contextlib import ExitStack, suppress
from typing import IO

from dspex.distill.learner import Lesson
from dspex.distill.settings import DistillSettings
from dspex.distill.store import Store
from dspex.errors import CallTimeoutError, DspexError, InternalError, ResourceError
from dspex.processes.command import python_command
from dspex.processes.failures import from_data

__all__ = ["Job", "start"]


class Job:
    """One lesson under way."""

    def __init__(
        self, process: subprocess.Popen[bytes], output: IO[bytes], errors: IO[bytes], timeout: float
    ) -> None:
        self._process = process
        self._output = output
        self._errors = errors
        self._until = time.monotonic() + timeout
        self._timeout = timeout
        self._late = False
        self._reading = threading.Lock()
        self._found: Lesson | DspexError | None = None

    def poll(self) -> int | None:
        """The exit code of the process; None while it learns. One that takes too long is ended."""
        if self._process.poll() is None and time.monotonic() >= self._until:
            self._late = True
            self.kill()
        return self._process.poll()

    def wait(self) -> Lesson:
        """What came of it, once it is over.

        Raises:
            DspexError: learning failed; as `learn` raises.
            CallTimeoutError: it took too long and has been ended.
            InternalError: the process was killed or broke.
        """
        while self.poll() is None:
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(max(0.0, self._until - time.monotonic()))
        with self._reading:  # two threads may wait
            if self._found is None:
                self._found = self._outcome()
        if isinstance(self._found, DspexError):
            raise self._found
        return self._found

    def _outcome(self) -> Lesson | DspexError:
        with self._output, self._errors:
            lines, complaints = (_lines(file) for file in (self._output, self._errors))
        if self._late:
            return CallTimeoutError(
                f"learning took more than {self._timeout:g} s and was ended",
                hint="Raise learning.timeout, or learn from fewer rows (learning.max_rows)",
            )
        try:
            said = json.loads(lines[-1])
        except (IndexError, ValueError):
            last = f": {complaints[-1]}" if complaints else ""
            what = f"the learning process ended with code {self._process.returncode}{last}"
            return InternalError(what, retryable=True)
        return from_data(said["error"]) if "error" in said else Lesson(**said)

    def kill(self) -> None:
        """Ends it; the home stays as it was before, or is as it is after."""
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()

    def close(self) -> None:
        """Ends it, and lets go of what it said."""
        self.kill()
        with self._reading:  # somebody may wait, and is told what came of it
            if self._found is None:
                self._found = self._outcome()


def start(store: Store, settings: DistillSettings) -> Job:
    """Starts `learn` for a home in a process of its own, with the niceness and threads of the settings.

    It can import what this process can, such as functions of the settings that stand beside the script.

    Raises:
        ResourceError: the system has no process, descriptors or temporary files left. Retryable.
    """
    with ExitStack() as undo:
        try:
            output, errors = (undo.enter_context(tempfile.TemporaryFile()) for _ in range(2))
            process = subprocess.Popen(
                python_command("dspex.distill.job", str(store.home)),
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=errors,
            )
        except OSError as cause:
            raise ResourceError(f"no learning process can be started: {cause}", retryable=True) from cause
        undo.pop_all()  # the job closes them when it has read them
    assert process.stdin is not None
    with suppress(BrokenPipeError), process.stdin as stdin:  # one that has ended already says so itself
        stdin.write(json.dumps(settings.model_dump(mode="json")).encode())
    return Job(process, output, errors, settings.learning.timeout)


def _lines(file: IO[bytes]) -> list[str]:
    file.seek(0)
    return file.read().decode("utf-8", "replace").strip().splitlines()

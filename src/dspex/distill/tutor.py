"""Has new versions learned beside the service: when there are enough new rows, and after a breach."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

from dspex.distill.hooks import log
from dspex.distill.lifecycle import rows_stored
from dspex.distill.settings import DistillSettings
from dspex.distill.store import Event, State, Store
from dspex.errors import DspexError, ProgramError, ResourceError

__all__ = ["Tutor", "rows_wanted"]

STARTED, FAILED = "learning started", "learning failed"
_ENDS = {"version made", "version refused", "learning waits", FAILED}
_LOOK_BACK = 1000  # events


def rows_wanted(first: int, growth: float, tried: int, breach: int | None) -> int:
    """At how many rows the next version is due. Rows are counted as `rows_stored` does.

    Args:
        first, growth: as `LearningSettings`.
        tried: rows at the last try; 0: there was none.
        breach: rows when the version in service breached; None: it has not. From then on only the rows since
            count: those before it say what was.
    """
    base = 0 if breach is None else breach
    if tried <= base:
        return base + first
    return base + max(first, int(growth * (tried - base)))


class Tutor:
    """At most one learning process at a time, which ends with the service."""

    def __init__(self, store: Store, settings: DistillSettings, clock: Callable[[], float]) -> None:
        self._store, self._settings, self._clock = store, settings, clock
        self._lock, self._collecting = threading.Lock(), threading.Lock()
        self._job: Any = None
        self._last: dict[str, Any] | None = None
        self._closed = False
        self._tried = _tried(store)

    def saw(self, event: Event) -> None:
        """Takes note of tries, of other processes too."""
        if event.kind == STARTED:
            self._tried = int(event.after.get("rows", 0))

    def rows_left(self, state: State) -> int:
        """Rows until the next version is due."""
        breach: Mapping[str, Any] | None = state.watch.get("breach")
        settings = self._settings.learning
        wanted = rows_wanted(
            settings.first_rows, settings.growth, self._tried, None if breach is None else int(breach["rows"])
        )
        return max(0, wanted - rows_stored(self._store))

    def tick(self, state: State) -> None:
        """Looks after the process that learns, and starts one that is due."""
        self._collect()
        free = self._job is None and not self._closed  # the last tick comes after the end
        if free and self._settings.learning.automatic and self.rows_left(state) == 0:
            why = (
                "the version in service breached"
                if state.watch.get("breach")
                else "enough new rows have come"
            )
            self.start("rule", why)

    def start(self, by: str, why: str) -> bool:
        """Starts learning; False where it is under way already.

        Raises:
            ProgramError: the program is closed.
            DspexError: the process cannot be started.
        """
        from dspex.distill import jobs  # heavy, and most processes never learn

        with self._lock:
            if self._closed:
                raise ProgramError("the live program is closed")
            if self._job is not None and self._job.poll() is None:
                return False
            rows = rows_stored(self._store)
            self._store.record(Event(self._clock(), STARTED, by, why, {}, {"rows": rows}))
            self._tried = rows
            try:
                self._job = jobs.start(self._store, self._settings)
            except DspexError as error:
                self._failed(error)
                raise
            return True

    def wait(self) -> None:
        """Until no process learns."""
        self._collect(block=True)

    def close(self) -> None:
        """Ends a process that learns: it has stored its version whole, or nothing."""
        with self._lock:
            self._closed = True
            job, self._job = self._job, None
        if job is not None:
            job.kill()
            with suppress(DspexError):
                job.wait()  # reads to the end, and lets go of its files

    def reborn(self) -> None:
        """In a forked child: the process that learns is the parent's."""
        self._lock, self._collecting = threading.Lock(), threading.Lock()
        self._job = None

    def report(self, state: State) -> dict[str, Any]:
        """For the status, as JSON-able data."""
        job = self._job
        return {
            "running": job is not None and job.poll() is None,
            "last": self._last,
            "rows_until_next": self.rows_left(state) if self._settings.learning.automatic else None,
        }

    def _collect(self, block: bool = False) -> None:
        """Takes in what came of a process that is done; with `block` waits for it."""
        if not self._collecting.acquire(block):
            return  # somebody waits for it
        try:
            job = self._job
            if job is None or (not block and job.poll() is None):
                return
            try:
                self._last = job.wait().to_dict()
            except DspexError as error:
                self._failed(error)
            with self._lock:
                if self._job is job:
                    self._job = None
        finally:
            self._collecting.release()

    def _failed(self, error: DspexError) -> None:
        if self._closed:
            return  # it was ended on purpose
        log.warning("learning failed: %s", error)
        self._last = {"outcome": "failed", "reason": str(error)}
        self._store.record(Event(self._clock(), FAILED, "learner", error.message, {}, error.to_dict()))


def _tried(store: Store) -> int:
    """Rows at the last try; 0: there was none.

    A try that ended with the service, and of which nothing came, was none: it is made again. But only once,
    because it may be what the service died of.
    """
    ended, cut = False, None
    for event in reversed(store.events(limit=_LOOK_BACK)):
        ended |= event.kind in _ENDS
        if event.kind != STARTED:
            continue
        rows = int(event.after.get("rows", 0))
        if ended or _is_learned(store):
            return rows
        if cut is not None:
            return cut
        cut = rows
    return 0


def _is_learned(store: Store) -> bool:
    """Whether some process learns now."""
    try:
        with store.learning():
            return False
    except ResourceError:
        return True

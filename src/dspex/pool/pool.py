"""The pool's face: what it is told, what it does, how it ends."""

from __future__ import annotations

import asyncio
import atexit
import collections
import contextlib
import math
import os
import threading
import weakref
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self

from dspex._pool import PoolCore, StrandCore, _let_orphans_go
from dspex.errors import ConfigError, DspexError, InputError
from dspex.pool.future import Future
from dspex.pool.loops import reader_of
from dspex.pool.session import Session, SessionStore
from dspex.pool.settings import PoolSettings, check_seconds
from dspex.pool.stats import Durations, PoolStats, WorkerStats

if TYPE_CHECKING:
    from dspex._core import Predictor, Result

__all__ = ["Pool", "close_default_pool", "default_pool"]


class Pool(PoolCore):
    """Native threads behind lock-free queues, for work larger than a call, or that must not hold the caller.

    Workers are there when the constructor returns; they never hold the GIL. Safe to use from many threads. A
    child of `fork` cannot use its parent's pool: it is told so.

    Args:
        settings: see `PoolSettings`; or give its fields as keywords.

    Raises:
        ConfigError: a setting that does not exist or is out of range.
        ResourceError: threads or memory cannot be had.
    """

    def __init__(self, settings: PoolSettings | None = None, **keywords: Any) -> None:
        if settings is not None and keywords:
            raise ConfigError("give settings or keywords, not both", field=next(iter(keywords)))
        if settings is not None and not isinstance(settings, PoolSettings):
            raise ConfigError(
                f"settings are a {type(settings).__name__}",
                field="settings",
                hint="Give PoolSettings, or its fields as keywords",
            )
        self.settings = PoolSettings.of(keywords) if settings is None else settings
        self._sessions = SessionStore(self.settings.session_ttl)
        self._admin = threading.RLock()  # a signal's handler may close it while it is closed
        self._closed = False
        own = self.settings
        self._open(
            size=own.workers,
            max_size=own.most_workers,
            capacity=own.capacity,
            spin_ns=round(own.spin * 1e9),
            idle_ns=round(own.idle_timeout * 1e9),
            window_ns=round(own.window * 1e9),
            max_batch=own.max_batch,
            pin=own.pin,
            policy=own.policy,
            future_type=Future,
        )
        _pools.add(self)

    # --- work

    def call(self, program: Predictor, inputs: Mapping[str, Any], *, timeout: float | None = None) -> Result:
        """`submit`, and its result."""
        result: Result = self.submit(program, inputs, timeout=timeout).result()
        return result

    def batch(
        self,
        program: Predictor,
        rows: Iterable[Mapping[str, Any]],
        *,
        on_error: Literal["raise", "collect"] = "raise",
        progress: Callable[[float], object] | None = None,
    ) -> list[Any]:
        """Answers many rows, in order, on the workers and the calling thread; a few on the latter alone.

        Args:
            program: a native program.
            rows: mappings of inputs.
            on_error: "raise" the error of the first row that cannot be answered, and drop the rest; or
                "collect": put each error in its row's place.
            progress: called with the share that is done, in [0, 1], while the batch takes longer than 0.1 s.

        Returns:
            One Result a row; under "collect" an InputError for each row that cannot be answered.

        Raises:
            InputError: with the row; or `rows` is one row.
            ResourceError: the pool is closed, or belongs to another process.
        """
        return program.batch(rows, on_error=on_error, progress=progress, pool=self)

    async def acall(
        self,
        program: Predictor,
        inputs: Mapping[str, Any],
        *,
        timeout: float | None = None,
        strand: StrandCore | None = None,
    ) -> Result:
        """Answers one call on the pool without holding up the event loop.

        Calls that end together reach the loop with one wake-up. Cancelling the task cancels a call that has
        not begun. When the pool is full this waits for room, or raises under "reject".

        Raises:
            As `submit`, and as `Future.result`.
        """
        loop = asyncio.get_running_loop()
        reader = reader_of(loop)
        waiter = loop.create_future()
        handle = self._prepare(program, inputs, timeout, reader.box, waiter)
        if reader.lines or not self._try(handle, strand):
            reader.stand_in_line(self, strand, handle)
        alarm = None if timeout is None else loop.call_later(max(timeout, 0), handle._expire)
        try:
            result: Result = await waiter
        except (asyncio.CancelledError, GeneratorExit):  # the latter when the loop is closed under it
            handle.cancel()
            raise
        finally:
            if alarm is not None:
                alarm.cancel()
        return result

    async def amap(
        self,
        program: Predictor,
        rows: AsyncIterable[Mapping[str, Any]] | Iterable[Mapping[str, Any]],
        *,
        concurrency: int = 64,
        timeout: float | None = None,
    ) -> AsyncIterator[Result]:
        """Answers a stream of rows, in order, with so many of them under way at once.

        Rows are taken from the stream only as results are taken from this: a slow consumer slows the source.
        Leaving the loop early cancels what has not begun.

        Raises:
            ConfigError: `concurrency` is not a positive number.
            As `acall`, at the row's turn.
        """
        if isinstance(concurrency, bool) or not isinstance(concurrency, int) or concurrency < 1:
            raise ConfigError(f"concurrency is {concurrency!r}", field="concurrency", hint="Give 1 or more")
        under_way: collections.deque[asyncio.Task[Result]] = collections.deque()
        coming: asyncio.Future[Any] | None = None
        more = True
        async with contextlib.aclosing(_Source(rows)) as source:
            try:
                while more or under_way:
                    # Results that are there are not held back while the source is slow.
                    while under_way and (not more or len(under_way) >= concurrency or under_way[0].done()):
                        yield await under_way.popleft()
                    if not more:
                        break
                    if coming is None:
                        coming = source.next()
                    if not coming.done():
                        await asyncio.wait(
                            {coming, *list(under_way)[:1]}, return_when=asyncio.FIRST_COMPLETED
                        )
                    if coming.done():
                        row, coming = coming.result(), None
                        if row is _Source.END:
                            more = False
                        else:
                            call = self.acall(program, row, timeout=timeout)
                            under_way.append(asyncio.ensure_future(call))
            finally:
                tasks = [*under_way, *([] if coming is None else [coming])]
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)

    def session(self, session_id: str, *, ttl: float | None = None) -> Session:
        """The session of that id, made on first use: its calls stay in order, on one worker.

        Args:
            session_id: any string.
            ttl: seconds after its last call that it is kept; by default `session_ttl`.

        Raises:
            InputError: the id is not a string, or is empty.
            ConfigError: the ttl is not a number of seconds.
            ResourceError: the pool is closed.
        """
        self._require_open()
        return self._sessions.get(session_id, ttl, self)

    def sweep_sessions(self) -> int:
        """Forgets stale sessions now; how many they were. Using sessions does so now and then."""
        return self._sessions.sweep()

    # --- its life

    def resize(self, size: int, max_size: int | None = None) -> None:
        """Changes the number of workers. Those too many end after the task they are at; their sessions move.

        Raises:
            ConfigError: a size that is out of range.
            ResourceError: the pool is closed, or threads cannot be had.
        """
        checked = PoolSettings(size=size, max_size=size if max_size is None else max_size)
        self._require_open()
        self._resize(checked.workers, checked.most_workers)

    def drain(self, timeout: float | None = None) -> bool:
        """Refuses new work from here on, and waits for what was accepted to end.

        Returns:
            Whether all of it has ended within `timeout` seconds.
        """
        seconds = math.inf if timeout is None else timeout
        check_seconds("timeout", seconds, math.inf)
        if self._is_stale:
            raise self._not_open()
        self._refuse()
        return self._drain(seconds)

    def close(self, timeout: float | None = None) -> bool:
        """Drains for at most `timeout` seconds (None: until all has ended), cancels what has not begun, and
        ends the workers. Closing twice is harmless.

        Returns:
            Whether everything that was accepted had ended by itself; True when it was closed already.
        """
        if self._is_stale:  # its threads, and whoever holds its lock, are the parent's
            return True
        drained = self.drain(timeout)
        with self._admin:
            if not self._closed:
                self._sessions.close()
                self._stop()
                self._closed = True
        _let_orphans_go()
        return drained

    @property
    def closed(self) -> bool:
        """Whether it takes no more work."""
        return not self._is_open

    def stats(self) -> PoolStats:
        """Counters and durations since the pool was made. Takes no lock that a task takes."""
        raw = self._stats()
        rate = raw["ns_per_tick"]
        same = ("workers", "parked", "queued", "accepted", "rejected", "caller_runs")
        came_and_went = ("started", "retired", "deaths")
        return PoolStats(
            size=self.size,
            max_size=self.max_size,
            capacity=self.settings.capacity,
            total=WorkerStats.of(raw, rate),
            by_worker=tuple(WorkerStats.of(each, rate) for each in raw["by_worker"]),
            wait=Durations(tuple(raw["wait"]), rate),
            service=Durations(tuple(raw["service"]), rate),
            sessions=self._sessions.stats(),
            **{name: raw[name] for name in (*same, *came_and_went)},
        )

    def _require_open(self) -> None:
        if not self._is_open:
            raise self._not_open()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close(None if error is None else 0)

    def __repr__(self) -> str:
        if self.closed:
            return "<dspex.Pool closed>"
        return f"<dspex.Pool of {self.workers} workers, {self.queued} tasks waiting>"


class _Source:
    """The rows of a stream, or of a plain iterable, one at a time."""

    END: Any = object()

    def __init__(self, rows: Any) -> None:
        self._stream: Any = aiter(rows) if hasattr(rows, "__aiter__") else None
        self._rows = iter(()) if self._stream is not None else iter(checked_rows(rows, listed=False))

    def next(self) -> asyncio.Future[Any]:
        """The next row, or END."""
        if self._stream is not None:
            return asyncio.ensure_future(anext(self._stream, self.END))
        future = asyncio.get_running_loop().create_future()
        future.set_result(next(self._rows, self.END))
        return future

    async def aclose(self) -> None:
        """Closes a stream that can be closed: who made it gets to its `finally`."""
        if hasattr(self._stream, "aclose"):
            await self._stream.aclose()


def checked_rows(rows: Any, *, listed: bool = True, program: str | None = None) -> Any:
    """The rows of a batch, as a list or tuple when `listed`.

    Raises:
        InputError: it is one row, or a string, or nothing that can be iterated.
    """
    if isinstance(rows, (list, tuple)):
        return rows
    if isinstance(rows, (Mapping, str, bytes)) or not isinstance(rows, Iterable):
        raise InputError(f"rows are a {type(rows).__name__}", program=program, hint="Give a list of mappings")
    return list(rows) if listed else rows


def check_on_error(on_error: str) -> bool:
    """Whether errors are collected.

    Raises:
        ConfigError: neither "raise" nor "collect".
    """
    if on_error not in ("raise", "collect"):
        raise ConfigError(f"on_error is {on_error!r}", field="on_error", hint='Give "raise" or "collect"')
    return on_error == "collect"


# --- the pool that batches use unless told otherwise

_pools: weakref.WeakSet[Pool] = weakref.WeakSet()
_default: Pool | None = None
_lock = threading.Lock()


def default_pool() -> Pool:
    """The process's own pool, made on first use with default settings; a forked child makes its own."""
    global _default
    pool = _default
    if pool is not None and not pool.closed:
        return pool
    with _lock:
        if _default is None or _default.closed:
            _default = Pool()
        return _default


def close_default_pool() -> None:
    """Ends the default pool's threads; the next use makes it anew."""
    global _default
    with _lock:
        pool, _default = _default, None
    if pool is not None:
        pool.close()


def _after_fork() -> None:
    global _default, _lock
    _default, _lock = None, threading.Lock()


def _at_exit() -> None:
    """What has not begun is dropped; threads that compute end with the task they are at."""
    for pool in list(_pools):
        try:
            pool.close(0)
        except DspexError:
            continue


os.register_at_fork(after_in_child=_after_fork)
atexit.register(_at_exit)

"""Connections to one SQLite file: one that writes, under a lock, and a few that read.

Every change is one transaction of the write-ahead log. With ``synchronous=NORMAL`` a transaction that was
committed survives any end of the process; one just before a power failure may be lost whole, never in part.
"""

from __future__ import annotations

import os
import sqlite3
import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from dspex.distill.store.failures import DAMAGED, FAILURES, failure
from dspex.errors import ModelFileError, ProgramError

__all__ = ["Database", "unforked"]

BUSY_SECONDS = 10.0
_IDLE_READERS = 4
_CHECKPOINT_PAGES = 4000  # of 4 KiB: the writer who moves them into the file waits for the disk


class Database:
    """A store's file.

    Thread-safe. After a fork both processes go on: nobody is within a statement when it happens, and the
    child closes what it inherited and opens its own.

    Args:
        path: of the file, which exists.
        durable: False for a file that nobody will open again.
        read_only: SQLite's options to open it so; None: it is written, too.
    """

    def __init__(self, path: Path, *, durable: bool = True, read_only: str | None = None) -> None:
        self.path = path
        self._uri = f"{path.absolute().as_uri()}?{read_only or 'mode=rw'}"
        self._read_only = read_only is not None
        self._durable = durable
        self._writes = threading.RLock()
        self._readers = (
            threading.Condition()
        )  # its lock may be taken again: a collection may close it in a fork
        self._idle: list[sqlite3.Connection] = []
        self._reading = 0
        self._writer: sqlite3.Connection | None = None
        self._closed = False
        with _FORKING:
            _LIVE.add(self)

    @contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """One transaction: committed when the block ends, taken back when it raises.

        Raises:
            ResourceError, ModelFileError: see `dspex.distill.store.failures`.
            ProgramError: the store was opened to read only, or is closed.
        """
        if self._read_only:
            raise ProgramError(f"{self.path} was opened to read only", hint="Open it to write, too")
        with self._writes:
            try:
                connection = self._writing_connection()
                connection.execute("BEGIN IMMEDIATE")
                try:
                    yield connection
                    connection.execute("COMMIT")
                except BaseException:
                    with suppress(*FAILURES):
                        if connection.in_transaction:
                            connection.execute("ROLLBACK")
                    raise
            except FAILURES as error:
                raise failure(error, self.path) from error

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """A connection of one's own for short reads; each statement sees all that is committed."""
        try:
            connection = self._take_reader()
            try:
                yield connection
            finally:
                self._give_reader(connection)
        except FAILURES as error:
            raise failure(error, self.path) from error

    def data_version(self) -> int:
        """Changes when another connection than this object's writer, so another process, has written."""
        with self._writes:
            try:
                row = self._writing_connection().execute("PRAGMA data_version").fetchone()
            except FAILURES as error:
                raise failure(error, self.path) from error
        return int(row[0])

    def check(self) -> None:
        """Read all of the file.

        Raises:
            ModelFileError: something in it is damaged.
        """
        with self.reading() as connection:
            found = connection.execute("PRAGMA integrity_check(1)").fetchone()[0]
        if found != "ok":
            raise ModelFileError(f"{self.path} is damaged: {' '.join(str(found).split())}", hint=DAMAGED)

    def close(self) -> None:
        """Waits for what is under way. May be called twice."""
        with self._writes, self._readers:
            self._closed = True
            self._readers.wait_for(lambda: not self._reading)
            self._close_connections()

    # --- connections ------------------------------------------------------------------------------------

    def _connect(self) -> sqlite3.Connection:
        if self._closed:
            raise ProgramError("the store is closed", hint="Open it again")
        connection = sqlite3.connect(
            self._uri, uri=True, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False,
            cached_statements=256,
        )  # fmt: skip
        try:
            connection.execute(f"PRAGMA synchronous = {'NORMAL' if self._durable else 'OFF'}")
            connection.execute("PRAGMA foreign_keys = ON")
            connection.execute("PRAGMA secure_delete = ON")  # what is dropped is gone, and not only free
            connection.execute(f"PRAGMA wal_autocheckpoint = {_CHECKPOINT_PAGES}")
        except BaseException:
            connection.close()
            raise
        return connection

    def _writing_connection(self) -> sqlite3.Connection:
        if self._writer is None:
            self._writer = self._connect()
        return self._writer

    def _take_reader(self) -> sqlite3.Connection:
        with self._readers:
            connection = self._idle.pop() if self._idle else self._connect()
            self._reading += 1
        return connection

    def _give_reader(self, connection: sqlite3.Connection) -> None:
        with self._readers:
            self._reading -= 1
            if len(self._idle) < _IDLE_READERS:
                self._idle.append(connection)
            else:
                connection.close()
            self._readers.notify_all()

    def _close_connections(self) -> None:
        for connection in self._idle:
            connection.close()
        self._idle.clear()
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    # --- fork -------------------------------------------------------------------------------------------
    # SQLite keeps its file locks for each process in memory. A child that merely opened new connections would
    # take the locks it finds there for its own, which they are not. So all connections are quiet while the
    # process forks, and the child closes them; the parent's locks keep that from touching the file.

    def _before_fork(self) -> None:
        self._writes.acquire()
        self._readers.acquire()
        self._readers.wait_for(lambda: not self._reading)

    def _after_fork(self) -> None:
        self._readers.release()
        self._writes.release()

    def _in_child(self) -> None:
        self._close_connections()
        self._after_fork()


_LIVE: weakref.WeakSet[Database] = weakref.WeakSet()
# From before a fork to after it: one thread at a time, and nobody opens a store, as SQLite would be in the
# midst of it. A thread may take it again.
_FORKING = threading.RLock()
unforked = _FORKING
_quiet: list[Database] = []


def _before_fork() -> None:
    _FORKING.acquire()
    _quiet.extend(_LIVE)
    for database in _quiet:
        database._before_fork()


def _after_fork(in_child: bool) -> None:
    while _quiet:
        database = _quiet.pop()
        database._in_child() if in_child else database._after_fork()
    _FORKING.release()


os.register_at_fork(
    before=_before_fork,
    after_in_parent=lambda: _after_fork(False),
    after_in_child=lambda: _after_fork(True),
)

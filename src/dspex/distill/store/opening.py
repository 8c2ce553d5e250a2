"""Opens the file of a store: makes it, or checks that it is whole before anything is written to it."""

from __future__ import annotations

import fcntl
import json
import os
import sqlite3
import struct
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

from dspex.distill.store.database import Database, unforked
from dspex.distill.store.failures import DAMAGED, failure
from dspex.distill.store.schema import APPLICATION_ID, SCHEMA, SCHEMA_VERSION
from dspex.errors import ConfigError, ModelFileError, ResourceError, SignatureError
from dspex.signature import Signature

__all__ = ["exclusively", "opened"]

FILE = "store.sqlite3"
_HEADER = 100  # bytes; https://www.sqlite.org/fileformat.html
_SMALL_TABLES = ("meta", "state", "versions")


def opened(
    home: Path,
    wanted: Signature | None,
    *,
    create: bool,
    read_only: bool,
    durable: bool,
    clock: Callable[[], float],
) -> tuple[Database, Signature]:
    """A home's file, which is made where it may be, and the signature that it was made with.

    Args:
        wanted: the signature that it has to have; None: any.
        durable: as of `Database`.

    Raises:
        SignatureError, ModelFileError, ConfigError: as `Store.open`.
    """
    file = home / FILE
    if not file.exists():
        if read_only or not create:
            raise ModelFileError(f"there is no store in {home}", hint="Check the path of the home")
        make_home(home, wanted, clock())
    check(file)
    database = Database(file, durable=durable, read_only=read_only_options(file) if read_only else None)
    try:
        with database.reading() as connection:
            check_tables(connection, file)
            stored = stored_signature(connection, file)
        if wanted is not None:
            check_same(stored, wanted, home)
    except BaseException:
        database.close()
        raise
    return database, stored


def make_store(home: Path, signature: Signature, now: float) -> None:
    """Make the store's file, whole or not at all; another process may have been first.

    Raises:
        ResourceError, ModelFileError: see `failure`.
    """
    path, fresh = home / FILE, home / f"{FILE}.new"
    with exclusively(home / "lock"):
        if path.exists():
            return
        for leftover in (fresh, home / f"{FILE}.new-journal"):
            leftover.unlink(missing_ok=True)
        try:
            with closing(sqlite3.connect(fresh, isolation_level=None)) as connection:
                _fill(connection, signature, now)
        except sqlite3.Error as error:
            raise failure(error, fresh) from error
        with suppress(FileNotFoundError):
            for side in ("-wal", "-shm"):  # of a file of this name that somebody removed
                (home / (FILE + side)).unlink()
        _sync(fresh)
        os.rename(fresh, path)
        _sync(home)


def _fill(connection: sqlite3.Connection, signature: Signature, now: float) -> None:
    connection.execute("PRAGMA auto_vacuum = INCREMENTAL")  # has to be the first that is written
    connection.execute("PRAGMA synchronous = OFF")  # the whole file is synced before it gets its name
    connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
    connection.execute("PRAGMA journal_mode = WAL")
    connection.executescript(f"BEGIN; {SCHEMA} COMMIT;")
    stored = json.dumps(signature.to_dict())
    connection.execute("INSERT INTO meta VALUES ('signature', ?)", (stored,))
    connection.execute("INSERT INTO meta VALUES ('created', ?)", (repr(now),))
    connection.execute("INSERT INTO state VALUES (1, 'teacher', NULL, NULL, 0, ?, '', 0, '{}')", (now,))


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def exclusively(path: Path, *, wait: bool = True, busy: str = "it is in use") -> Iterator[None]:
    """Holds a lock file's lock, which ends with the process whatever happens to it.

    It is this process's alone: children that it forks meanwhile neither hold it nor release it.

    Raises:
        ResourceError: not waiting, and somebody else holds it. Retryable.
    """
    owner = os.getpid()
    with unforked:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        _locks.add(descriptor)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            raise ResourceError(busy, hint="Try again when it is done", retryable=True) from None
        yield
    finally:
        if os.getpid() == owner:
            with unforked:
                _locks.discard(descriptor)
                with suppress(OSError):
                    fcntl.flock(descriptor, fcntl.LOCK_UN)  # not only by closing: a child may have a copy
                os.close(descriptor)


# All copies of a descriptor hold its lock. A child's would keep it from others after this process has died,
# so a child closes them as it begins, which releases nothing here.
_locks: set[int] = set()


def _in_child() -> None:
    for descriptor in _locks:
        os.close(descriptor)
    _locks.clear()


os.register_at_fork(after_in_child=_in_child)


def check(path: Path) -> None:
    """Refuses a file that is no store, is of a newer version, or is visibly damaged; writes nothing.

    Raises:
        ModelFileError: with what to do.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            head = file.read(_HEADER)
    except OSError as error:
        raise ModelFileError(
            f"{path} cannot be read: {error.strerror}", hint="Check the path and the permissions"
        ) from None
    if len(head) < _HEADER:
        raise ModelFileError(f"{path} is damaged: it is cut off after {size} bytes", hint=DAMAGED)
    if not head.startswith(b"SQLite format 3\0"):
        raise ModelFileError(
            f"{path} is damaged, or no store: its first bytes are not a store's", hint=DAMAGED
        )
    application, version = struct.unpack(">I", head[68:72])[0], struct.unpack(">I", head[60:64])[0]
    if application != APPLICATION_ID:
        hint = "Give the home an empty directory of its own"
        raise ModelFileError(f"{path} is an SQLite file of another application", hint=hint)
    if version > SCHEMA_VERSION:
        raise ModelFileError(
            f"{path} was written by a newer version of dspex (its schema is {version}, this one reads "
            f"{SCHEMA_VERSION})", hint="Install that version; nothing was changed",
        )  # fmt: skip
    if version < 1:
        raise ModelFileError(f"{path} is damaged: it has no schema version", hint=DAMAGED)
    _check_size(path, size, head)


def _check_size(path: Path, size: int, head: bytes) -> None:
    wal = path.with_name(path.name + "-wal")
    if wal.exists() and wal.stat().st_size:
        return  # pages beyond the end may stand in the log
    page = struct.unpack(">H", head[16:18])[0]
    wanted = (65536 if page == 1 else page) * struct.unpack(">I", head[28:32])[0]
    if size < wanted:
        what = f"{path} is damaged: it is cut off after {size:,} of {wanted:,} bytes"
        raise ModelFileError(what, hint=DAMAGED)


def check_tables(connection: sqlite3.Connection, path: Path) -> None:
    """Reads through the small tables, on which everything hangs; `Store.check` reads all.

    Raises:
        ModelFileError: one is damaged or missing.
    """
    for table in _SMALL_TABLES:
        found = connection.execute(f"PRAGMA quick_check('{table}')").fetchone()
        if found[0] != "ok":
            raise ModelFileError(f"{path} is damaged: {found[0]}", hint=DAMAGED)
    if connection.execute("SELECT count(*) FROM state").fetchone()[0] != 1:
        raise ModelFileError(f"{path} is damaged: it has no state", hint=DAMAGED)


def stored_signature(connection: sqlite3.Connection, path: Path) -> Signature:
    """The signature that the store was made with; of an Enum, its values.

    Raises:
        ModelFileError: there is none, or it cannot be read.
    """
    row = connection.execute("SELECT value FROM meta WHERE key = 'signature'").fetchone()
    try:
        return Signature.from_dict(json.loads(row[0]))
    except Exception as error:
        raise ModelFileError(f"{path} is damaged: its signature cannot be read", hint=DAMAGED) from error


def read_only_options(path: Path) -> str:
    """How SQLite opens the file for reading alone, also where its directory cannot be written."""
    wal = path.with_name(path.name + "-wal")
    settled = not (wal.exists() and wal.stat().st_size)
    if settled and not os.access(path.parent, os.W_OK):
        return "mode=ro&immutable=1"
    return "mode=ro"


def make_home(home: Path, signature: Signature | None, now: float) -> None:
    """Make a home's directory with its store.

    Raises:
        ConfigError: `home` is a file.
        SignatureError: none was given.
        ModelFileError: it cannot be made.
    """
    if home.exists() and not home.is_dir():
        raise ConfigError(f"{home} is not a directory", hint="A home is a directory of its own")
    if signature is None:
        raise SignatureError(f"there is no store in {home}", hint="Give a signature to make one")
    try:
        home.mkdir(parents=True, exist_ok=True)
        make_store(home, signature, now)
    except OSError as error:
        raise ModelFileError(
            f"no store can be made in {home}: {error.strerror}", hint="Check the path and the permissions"
        ) from None


def check_same(stored: Signature, given: Signature, home: Path) -> None:
    """Refuses another signature than the store's.

    Raises:
        SignatureError: with the field in which they differ.
    """
    one, other = stored.to_dict(), given.to_dict()
    if all(one[part] == other[part] for part in ("instructions", "inputs", "outputs")):
        return
    fields = {**stored.fields}
    name = next(
        (n for n, f in given.fields.items() if n not in fields or fields[n].to_dict() != f.to_dict()), None
    )
    name = name or next((n for n in fields if n not in given.fields), None)
    what = "their instructions differ" if name is None else f"they differ in {name!r}"
    raise SignatureError(
        f"{home} keeps traces of another signature, {stored.to_string()!r}: {what}", field=name,
        hint="Use another home, or the signature that it was made with",
    )  # fmt: skip

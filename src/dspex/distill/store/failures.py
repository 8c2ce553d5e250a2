"""What SQLite reports, as errors of ours that say what to do."""

from __future__ import annotations

import sqlite3
from pathlib import Path

from dspex.errors import DspexError, InternalError, ModelFileError, ResourceError

__all__ = ["DAMAGED", "FAILURES", "failure"]

DAMAGED = (
    "Nothing was changed. Stop what uses it, keep a copy of the whole directory, and restore a backup; what "
    "can still be read, the sqlite3 tool's .recover command writes out"
)
_BUSY = {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_PROTOCOL}
_DAMAGE = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_FORMAT}

_DAMAGE_WORDS = ("decode to UTF-8", "no such table", "no such column")


#: What SQLite raises; the second when its own message quotes a damaged text.
FAILURES = (sqlite3.Error, UnicodeDecodeError)


def failure(error: Exception, path: Path) -> DspexError:
    """The error to raise for one of SQLite's.

    ModelFileError: the file is damaged, or may not be opened or written. ResourceError: the disk is full,
    reading or writing failed, or (retryable) another process kept the file locked.
    """
    code = (getattr(error, "sqlite_errorcode", None) or 0) & 0xFF
    if code in _BUSY:
        return ResourceError(f"{path} is locked by another process", hint="Try again", retryable=True)
    if (
        code in _DAMAGE
        or isinstance(error, UnicodeDecodeError)
        or any(words in str(error) for words in _DAMAGE_WORDS)
    ):
        return ModelFileError(f"{path} is damaged: {error}", hint=DAMAGED)
    if code == sqlite3.SQLITE_CANTOPEN:
        return ModelFileError(f"{path} cannot be opened", hint="Check the path and the permissions")
    if code == sqlite3.SQLITE_READONLY:
        hint = "Check the permissions of the file and of its directory, or open it read-only"
        return ModelFileError(f"{path} cannot be written", hint=hint)
    if code in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR):
        hint = "Make room on the disk, or raise the limit on the size of files; what was stored is kept"
        return ResourceError(f"{path}: {error}", hint=hint, retryable=True)
    return InternalError(f"{path}: {error}")

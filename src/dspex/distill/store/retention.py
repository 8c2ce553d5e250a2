"""Drops old traces and audits, a few in each transaction, so that nobody waits long."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import suppress

from dspex.distill.settings import StoreSettings
from dspex.distill.store.database import Database
from dspex.errors import ResourceError

__all__ = ["Retention"]

_EVERY = 64  # added rows
_STEP = 128  # rows that one transaction drops at most
_BATCH = 1024  # the same, when it was asked for
_PAGES = 500  # given back in one transaction


class Retention:
    """Drops what is beyond the settings; see `Store` for what is promised."""

    def __init__(self, database: Database, settings: StoreSettings, clock: Callable[[], float]) -> None:
        self._database, self._settings, self._clock = database, settings, clock
        self._since = 0

    def added(self, rows: int) -> None:
        """Now and then drops some, after so many rows were added."""
        self._since += rows
        if self._since >= _EVERY:
            self._since = 0
            with suppress(ResourceError):  # what was added is stored; the next step makes up for it
                self._drop(max(_STEP, 2 * rows))

    def drop_all(self) -> int:
        """Drops all there is to drop, and lets the file shrink; how many rows."""
        total = 0
        while True:
            dropped = self._drop(_BATCH)
            total += dropped
            if dropped < _BATCH:
                _give_back(self._database)
                return total

    def _drop(self, limit: int) -> int:
        return _drop_some(self._database, self._settings, self._clock(), limit)


def _drop_some(database: Database, settings: StoreSettings, now: float, limit: int) -> int:
    """Drop at most `limit` traces, and as many audits, beyond `max_age`, or the oldest beyond `max_rows`.

    Returns:
        how many rows were dropped; less than `limit` when there are no more.
    """
    if settings.max_age is None and settings.max_rows is None:
        return 0
    with database.writing() as connection:
        dropped = 0
        if settings.max_age is not None:
            dropped = _drop_before(connection, now - settings.max_age, limit)
        if settings.max_rows is not None and dropped < limit:
            rows = connection.execute("SELECT coalesce(sum(rows), 0) FROM totals").fetchone()[0]
            over = min(rows - settings.max_rows, limit - dropped)
            if over > 0:
                dropped += _drop_oldest(connection, over)
        dropped += _drop_audits(connection, settings, now, limit)
    return dropped


def _give_back(database: Database) -> None:
    """Let the file shrink by the pages that are free."""
    free = None
    while free != 0:
        with database.writing() as connection:
            connection.execute(f"PRAGMA incremental_vacuum({_PAGES})").fetchall()
            left = int(connection.execute("PRAGMA freelist_count").fetchone()[0])
        if left == free:
            return
        free = left


def _drop_before(connection: sqlite3.Connection, at: float, limit: int) -> int:
    return connection.execute(
        "DELETE FROM traces WHERE id IN (SELECT id FROM traces WHERE at < ? ORDER BY at LIMIT ?)", (at, limit)
    ).rowcount


def _drop_oldest(connection: sqlite3.Connection, limit: int) -> int:
    """Those that certify the version in use, or the one before it, go when there are no others."""
    in_use = connection.execute("SELECT version, previous FROM state").fetchone()
    dropped = connection.execute(
        "DELETE FROM traces WHERE id IN (SELECT id FROM traces "
        "WHERE used_by IS NULL OR (used_by IS NOT ? AND used_by IS NOT ?) ORDER BY at, id LIMIT ?)",
        (*in_use, limit),
    ).rowcount
    if dropped < limit:
        dropped += connection.execute(
            "DELETE FROM traces WHERE id IN (SELECT id FROM traces ORDER BY at, id LIMIT ?)",
            (limit - dropped,),
        ).rowcount
    return dropped


def _drop_audits(connection: sqlite3.Connection, settings: StoreSettings, now: float, limit: int) -> int:
    """Their numbers have no gaps and rise with time, so the oldest are the first."""
    age, rows = settings.max_age, settings.max_rows
    return connection.execute(
        "DELETE FROM audits WHERE id IN (SELECT id FROM audits ORDER BY id LIMIT :limit) AND "
        "(at < :before OR id <= (SELECT max(id) FROM audits) - :rows)",
        {"limit": limit, "before": None if age is None else now - age, "rows": rows},
    ).rowcount

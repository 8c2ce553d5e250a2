"""What a home keeps of how it was made: its guarantee, and the outputs that are learned."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping, Sequence
from typing import Any

from dspex.distill.store.codec import plain_json, stored_json
from dspex.distill.store.database import Database
from dspex.distill.store.ledger import insert_event
from dspex.distill.store.records import Event

__all__ = ["Kept"]

_GUARANTEE = "guarantee"


class Kept:
    """Rows of the table `meta`; see `Store` for what each method promises."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def read(self) -> dict[str, Any] | None:
        """{"settings": ..., "outputs": [...]}; None: nothing has been kept."""
        with self._database.reading() as connection:
            return _read(connection)

    def write(self, settings: Mapping[str, Any], outputs: Sequence[str], by: str, at: float) -> bool:
        """Keeps it, with an event where it is new; whether it was."""
        new = {"settings": dict(settings), "outputs": list(outputs)}
        text = plain_json(new)
        if self.read() == stored_json(text):
            return False
        with self._database.writing() as connection:
            before = _read(connection)
            if before == stored_json(text):
                return False
            connection.execute(
                "INSERT INTO meta VALUES (?, ?) ON CONFLICT (key) DO UPDATE SET value = excluded.value",
                (_GUARANTEE, text),
            )
            insert_event(connection, Event(at, "guarantee kept", by, _said(new), before or {}, new))
        return True


def _read(connection: sqlite3.Connection) -> dict[str, Any] | None:
    row = connection.execute("SELECT value FROM meta WHERE key = ?", (_GUARANTEE,)).fetchone()
    return None if row is None else stored_json(row[0])


def _said(new: Mapping[str, Any]) -> str:
    settings = new["settings"]
    wanted = ", ".join(f"{name} {settings[name]}" for name in ("agreement", "delta") if name in settings)
    return f"{wanted}, of {' and '.join(new['outputs'])}"

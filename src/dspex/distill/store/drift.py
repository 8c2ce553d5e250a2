"""What a home keeps of the drift watches of its versions, and who of its processes looks."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from dspex.distill.store.codec import plain_json, stored_json
from dspex.distill.store.database import Database
from dspex.distill.store.ledger import insert_event
from dspex.distill.store.opening import exclusively
from dspex.distill.store.records import Event

__all__ = ["DriftRecords"]


class DriftRecords:
    """Rows of the table `meta`, one for each version."""

    def __init__(self, database: Database, home: Path) -> None:
        self._database = database
        self._home = home

    def seat(self) -> AbstractContextManager[None]:
        """To be held by who looks at the calls: one process at a time, until it leaves or ends.

        Raises:
            ResourceError: another one holds it. Retryable.
        """
        return exclusively(self._home / "drift.lock", wait=False, busy="another process watches for drift")

    def read(self, version: int) -> Any:
        """What was written last of a version; None: nothing.

        Raises:
            ModelFileError: it cannot be read.
        """
        with self._database.reading() as connection:
            row = connection.execute("SELECT value FROM meta WHERE key = ?", (_key(version),)).fetchone()
        return None if row is None else stored_json(row[0])

    def write(self, version: int, data: Mapping[str, Any], event: Event | None = None) -> None:
        """Writes all that is known of a version's drift, as JSON-able data, and in one step an event."""
        with self._database.writing() as connection:
            connection.execute(
                "INSERT INTO meta VALUES (?, ?) ON CONFLICT (key) DO UPDATE SET value = excluded.value",
                (_key(version), plain_json(data)),
            )
            if event is not None:
                insert_event(connection, event)


def _key(version: int) -> str:
    return f"drift of version {version}"

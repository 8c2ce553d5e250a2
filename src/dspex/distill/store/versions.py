"""Versions: their rows, and their model files."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from dspex.distill.store.codec import plain_json, stored_json
from dspex.distill.store.database import Database
from dspex.distill.store.ledger import insert_event
from dspex.distill.store.opening import exclusively
from dspex.distill.store.records import Event, VersionRecord, VersionStatus
from dspex.errors import DspexError, InputError, ModelFileError, ProgramError, ResourceError, nearest

__all__ = ["FOLDER", "Versions"]

FOLDER = "versions"
_STATUSES: tuple[VersionStatus, ...] = ("ready", "refused", "retired")
_COLUMNS = tuple(field.name for field in fields(VersionRecord))


class Versions:
    """Keeps versions; see `Store` for what each method promises."""

    def __init__(self, database: Database, home: Path) -> None:
        self._database = database
        self._home = home
        self.folder = home / FOLDER

    @contextmanager
    def learning(self, *, wait: bool) -> Iterator[None]:
        with exclusively(self._home / "learning.lock", wait=wait, busy="a version is being learned already"):
            yield

    def clean(self) -> list[Path]:
        """Remove model files that no row names, unless a version is being learned now."""
        removed = []
        try:
            with self.learning(wait=False):
                known = {record.file for record in self.all()}
                for path in self.folder.glob("*.dspex*"):
                    if path.name not in known:
                        with suppress(FileNotFoundError):
                            path.unlink()
                            removed.append(path)
        except ResourceError:
            pass  # what lies there may be about to be named
        return removed

    def next_number(self) -> int:
        with self._database.reading() as connection:
            row = connection.execute("SELECT coalesce(max(number), 0) + 1 FROM versions").fetchone()
        return int(row[0])

    def path(self, number: int) -> Path:
        return self.folder / f"{number:06}.dspex"

    def add(self, record: VersionRecord, used_rows: Sequence[int], event: Event) -> None:
        if record.status not in _STATUSES:
            raise InputError(f"unknown status {record.status!r}", hint=nearest(record.status, _STATUSES))
        if record.status == "ready" and not (self.folder / record.file).is_file():
            raise ModelFileError(
                f"version {record.number} has no model file {self.folder / record.file}",
                hint="Save the program there before the version is added",
            )
        with self._database.writing() as connection:
            _insert(connection, record)
            _mark_used(connection, record.number, used_rows)
            insert_event(connection, event)

    def all(self) -> list[VersionRecord]:
        with self._database.reading() as connection:
            rows = connection.execute(f"SELECT {', '.join(_COLUMNS)} FROM versions ORDER BY number")
            return [_record(row) for row in rows.fetchall()]

    def one(self, number: int) -> VersionRecord:
        with self._database.reading() as connection:
            row = connection.execute(
                f"SELECT {', '.join(_COLUMNS)} FROM versions WHERE number = ?", (number,)
            ).fetchone()
        if row is None:
            raise self._unknown(number)
        return _record(row)

    def file_of(self, number: int) -> Path:
        record = self.one(number)
        path = self.folder / record.file
        if not path.is_file():
            raise ModelFileError(
                f"the model file of version {number} is missing: {path}",
                hint="Restore it from a backup, roll back to another version, or learn again",
            )
        return path

    def _unknown(self, number: int) -> DspexError:
        with self._database.reading() as connection:
            known = [row[0] for row in connection.execute("SELECT number FROM versions ORDER BY number")]
        hint = f"Known: {', '.join(map(str, known[-10:]))}" if known else "None has been learned yet"
        return ProgramError(f"there is no version {number}", hint=hint)


def _insert(connection: sqlite3.Connection, record: VersionRecord) -> None:
    values = asdict(record)
    for name in ("certificate", "figures"):
        values[name] = plain_json(values[name])
    marks = ", ".join(f":{name}" for name in _COLUMNS)
    try:
        connection.execute(f"INSERT INTO versions ({', '.join(_COLUMNS)}) VALUES ({marks})", values)
    except sqlite3.IntegrityError:
        raise ResourceError(
            f"there is a version {record.number} already", retryable=True,
            hint="Another process was faster: take the next number, within Store.learning()",
        ) from None  # fmt: skip


def _record(row: Sequence[Any]) -> VersionRecord:
    values = dict(zip(_COLUMNS, row, strict=True))
    for name in ("certificate", "figures"):
        values[name] = stored_json(values[name])
    return VersionRecord(**values)


def _mark_used(connection: sqlite3.Connection, number: int, used_rows: Sequence[int]) -> None:
    """Each row certifies once. One that was dropped meanwhile has certified, too."""
    for row in used_rows:
        done = connection.execute(
            "UPDATE traces SET used_by = ? WHERE id = ? AND role = 1 AND used_by IS NULL", (number, row)
        ).rowcount
        if done:
            continue
        found = connection.execute("SELECT role, used_by FROM traces WHERE id = ?", (row,)).fetchone()
        if found is not None:
            why = "is a row to fit on" if found[0] == 0 else f"has certified version {found[1]}"
            raise InputError(
                f"trace {row} cannot certify version {number}: it {why}",
                hint="Certify on Store.traces(role='calibrate', fresh=True)",
            )

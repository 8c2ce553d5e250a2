"""State, events, audits and usage."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from dspex.distill.store.codec import Codec, plain_json, stored_json
from dspex.distill.store.database import Database
from dspex.distill.store.records import Audit, Event, Stage, State, Usage
from dspex.errors import InputError, ModelFileError, ResourceError, nearest

__all__ = ["Ledger", "insert_event"]

_STAGES: tuple[Stage, ...] = ("teacher", "shadow", "canary", "live")
_STATE = "stage, version, previous, revision, since, reason, held, watch"
_PAGE = 1000


class Ledger:
    """Keeps what happened; see `Store` for what each method promises."""

    def __init__(self, database: Database, codec: Codec) -> None:
        self._database = database
        self._codec = codec

    # --- state and events -------------------------------------------------------------------------------

    def state(self) -> State:
        with self._database.reading() as connection:
            return self._state(connection)

    def _state(self, connection: sqlite3.Connection) -> State:
        row = connection.execute(f"SELECT {_STATE} FROM state").fetchone()
        if row is None:
            raise ModelFileError(f"{self._database.path} is damaged: it has no state")
        stage, version, previous, revision, since, reason, held, watch = row
        return State(stage, version, previous, revision, since, reason, bool(held), stored_json(watch))

    def move(self, expected_revision: int, new: State, event: Event) -> State:
        _check_stage(new.stage)
        if (new.version is None) != (new.stage == "teacher"):
            raise InputError(f"the stage {new.stage!r} goes {_with(new.stage)} a version in use")
        new = replace(new, revision=expected_revision + 1)
        watch = plain_json(new.watch)
        with self._database.writing() as connection:
            found = self._state(connection)
            if found.revision != expected_revision:
                raise ResourceError(
                    f"the state has moved meanwhile: it is {found.stage!r} at revision {found.revision}, not "
                    f"{expected_revision}", hint="Look at the new state and decide again", retryable=True,
                )  # fmt: skip
            _check_versions(connection, new)
            connection.execute(
                f"UPDATE state SET ({_STATE}) = (?, ?, ?, ?, ?, ?, ?, ?)",
                (new.stage, new.version, new.previous, new.revision, new.since, new.reason, new.held, watch),
            )
            insert_event(connection, event)
        return new

    def record(self, event: Event) -> int:
        with self._database.writing() as connection:
            return insert_event(connection, event)

    def events(self, limit: int | None, since: int) -> list[Event]:
        with self._database.reading() as connection:
            rows = connection.execute(
                "SELECT id, at, kind, by, reason, before, after FROM events WHERE id > ? "
                "ORDER BY id DESC LIMIT ?",
                (since, -1 if limit is None else limit),
            ).fetchall()
        return [
            Event(at, kind, by, reason, stored_json(before), stored_json(after), number)
            for number, at, kind, by, reason, before, after in reversed(rows)
        ]

    # --- audits -----------------------------------------------------------------------------------------

    def add_audits(
        self, audits: Sequence[Audit], watch_state: Mapping[str, Any] | None, revision: int | None
    ) -> bool:
        rows = [
            (
                audit.at, audit.version, audit.stage, audit.score, audit.wrong, audit.trace,
                self._codec.pack_outputs(audit.native), self._codec.pack_outputs(audit.teacher),
            )
            for audit in audits
        ]  # fmt: skip
        watch = None if watch_state is None else plain_json(watch_state)
        with self._database.writing() as connection:
            connection.executemany(
                "INSERT INTO audits (at, version, stage, score, wrong, trace, native, teacher) "
                "VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                rows,
            )
            if watch is None:
                return False
            changed = connection.execute(
                "UPDATE state SET watch = :watch WHERE (:version IS NULL OR version = :version) "
                "AND (:revision IS NULL OR revision = :revision)",
                {
                    "watch": watch,
                    "version": audits[-1].version if audits else None,
                    "revision": revision,
                },
            ).rowcount
        return bool(changed)

    def audits(
        self, version: int | None, stage: Stage | None, wrong: bool | None, newest: int | None, since: int
    ) -> Iterator[Audit]:
        where, values = "", []
        for name, value in (("version", version), ("stage", stage), ("wrong", wrong)):
            if value is not None:
                where += f" AND {name} = ?"
                values.append(value)
        if newest is not None:
            with self._database.reading() as connection:
                row = connection.execute(
                    f"SELECT id FROM audits WHERE id > 0 {where} ORDER BY id DESC LIMIT 1 OFFSET ?",
                    (*values, newest),
                ).fetchone()
            since = max(since, row[0] if row else 0)
        while True:
            with self._database.reading() as connection:
                rows = connection.execute(
                    "SELECT id, at, version, stage, score, native, teacher, wrong, trace FROM audits "
                    f"WHERE id > ? {where} ORDER BY id LIMIT {_PAGE}",
                    (since, *values),
                ).fetchall()
            yield from map(self._audit, rows)
            if len(rows) < _PAGE:
                return
            since = rows[-1][0]

    def _audit(self, row: Sequence[Any]) -> Audit:
        number, at, version, stage, score, native, teacher, wrong, trace = row
        return Audit(
            at, version, stage, score, self._codec.unpack_outputs(native),
            self._codec.unpack_outputs(teacher), bool(wrong), trace, number,
        )  # fmt: skip

    # --- usage ------------------------------------------------------------------------------------------

    def add_counts(self, counts: Mapping[str, float], version: int | None, stage: Stage, at: float) -> None:
        _check_stage(stage)
        hour = int(at // 3600) * 3600
        rows = [(hour, version or 0, stage, name, float(value)) for name, value in counts.items() if value]
        if not rows:
            return
        with self._database.writing() as connection:
            connection.executemany(
                "INSERT INTO usage VALUES (?, ?, ?, ?, ?) "
                "ON CONFLICT DO UPDATE SET value = value + excluded.value",
                rows,
            )

    def usage(self, since: float) -> list[Usage]:
        with self._database.reading() as connection:
            rows = connection.execute(
                "SELECT hour, version, stage, name, value FROM usage WHERE hour > ? "
                "ORDER BY hour, version, stage, name",
                (since - 3600,),
            ).fetchall()
        grouped: dict[tuple[int, int, Stage], dict[str, float]] = {}
        for hour, version, stage, name, value in rows:
            grouped.setdefault((hour, version, stage), {})[name] = value
        return [
            Usage(hour, version or None, stage, counts) for (hour, version, stage), counts in grouped.items()
        ]


def insert_event(connection: sqlite3.Connection, event: Event) -> int:
    """Write an event within a transaction; returns its number."""
    cursor = connection.execute(
        "INSERT INTO events (at, kind, by, reason, before, after) VALUES (?, ?, ?, ?, ?, ?)",
        (event.at, event.kind, event.by, event.reason, plain_json(event.before), plain_json(event.after)),
    )
    return int(cursor.lastrowid or 0)


def _check_stage(stage: str) -> None:
    if stage not in _STAGES:
        raise InputError(f"there is no stage {stage!r}", hint=nearest(stage, _STAGES))


def _with(stage: Stage) -> str:
    return "without" if stage == "teacher" else "with"


def _check_versions(connection: sqlite3.Connection, new: State) -> None:
    for number in (new.version, new.previous):
        if number is None:
            continue
        row = connection.execute("SELECT status FROM versions WHERE number = ?", (number,)).fetchone()
        if row is None or (number == new.version and row[0] != "ready"):
            what = f"there is no version {number}" if row is None else f"version {number} is {row[0]}"
            raise InputError(what, hint="Move to a version whose status is 'ready'")

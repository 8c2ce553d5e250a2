"""The table of traces."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from dspex.distill.settings import StoreSettings
from dspex.distill.store.codec import Codec, fingerprint, plain_json
from dspex.distill.store.database import Database
from dspex.distill.trace import Answer, Role, Trace
from dspex.errors import InputError, ModelFileError

__all__ = ["Redact", "Traces"]

#: From inputs to what is kept of them; None: keep nothing of this call.
Redact = Callable[[dict[str, Any]], dict[str, Any] | None]

_ROLES: tuple[Role, ...] = ("fit", "calibrate")
_PAGE = 1000  # rows of one read
_COLUMNS = "id, role, source, at, count, used_by, usd, tokens, seconds, inputs, answer, extra"
_INSERT = (
    "INSERT INTO traces (fingerprint, role, source, at, count, usd, tokens, seconds, inputs, answer, extra) "
    "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
)


class _Row(NamedTuple):
    """A trace as it is stored."""

    fingerprint: bytes
    role: int
    source: str
    at: float
    times: int
    usd: float | None
    tokens: int | None
    seconds: float | None
    inputs: bytes
    answer: bytes
    extra: bytes | None


class Traces:
    """Adds, reads and counts traces; see `Store` for what each method promises."""

    def __init__(
        self,
        database: Database,
        codec: Codec,
        settings: StoreSettings,
        redact: Redact | None,
        clock: Callable[[], float],
    ) -> None:
        self._database = database
        self._codec = codec
        self._settings = settings
        self._redact = redact
        self._clock = clock

    @property
    def redacts(self) -> bool:
        return self._redact is not None

    def redacted(self, inputs: Mapping[str, Any]) -> Mapping[str, Any] | None:
        return inputs if self._redact is None else self._redact(dict(inputs))

    def add(self, traces: Iterable[Trace], *, known_upto: int = 0) -> list[int | None]:
        rows = [(self._row(trace), trace.at) for trace in traces]
        if not rows:
            return []
        with self._database.writing() as connection:
            return [self._put(connection, row, at, known_upto) for row, at in rows]

    def _row(self, trace: Trace) -> _Row | None:
        _check(trace)
        inputs = self.redacted(trace.inputs)
        if inputs is None:
            return None
        packed, answer = self._codec.pack_inputs(inputs), trace.answer
        return _Row(
            fingerprint(packed), _ROLES.index(_role(trace)), trace.source, trace.at or self._clock(),
            trace.count, answer.usd, answer.tokens, answer.seconds, packed,
            self._codec.pack_answer(answer), plain_json(trace.extra).encode() if trace.extra else None,
        )  # fmt: skip

    def _put(
        self, connection: sqlite3.Connection, row: _Row | None, at: float, known_upto: int
    ) -> int | None:
        if row is None:
            connection.execute(
                "INSERT INTO meta VALUES ('redacted', '1') "
                "ON CONFLICT (key) DO UPDATE SET value = CAST(value AS INTEGER) + 1"
            )
            return None
        if known_upto and (known := _same_call(connection, row, at, known_upto)) is not None:
            return known
        if self._settings.deduplicate and row.role == 0:
            equal = connection.execute(
                "SELECT id FROM traces WHERE fingerprint = ? AND role = 0 AND inputs = ? AND answer = ? "
                "AND source = ? ORDER BY id DESC LIMIT 1",
                (row.fingerprint, row.inputs, row.answer, row.source),
            ).fetchone()
            if equal is not None:
                _merge(connection, int(equal[0]), row)
                return int(equal[0])
        return connection.execute(_INSERT, row).lastrowid

    def read(self, role: Role | None, fresh: bool | None, newest: int | None, since: int) -> Iterator[Trace]:
        where, values = _conditions(role, fresh)
        left = newest
        if newest is not None:
            since = max(since, self._before_newest(where, values, newest))
        while left is None or left > 0:  # more may be added meanwhile
            page = _PAGE if left is None else min(left, _PAGE)
            with self._database.reading() as connection:
                rows = connection.execute(
                    f"SELECT {_COLUMNS} FROM traces WHERE id > ? {where} ORDER BY id LIMIT {page}",
                    (since, *values),
                ).fetchall()
            for row in rows:
                yield self._trace(row)
            if len(rows) < page:
                return
            left = None if left is None else left - page
            since = rows[-1][0]

    def _before_newest(self, where: str, values: list[Any], newest: int) -> int:
        with self._database.reading() as connection:
            row = connection.execute(
                f"SELECT id FROM traces WHERE id > 0 {where} ORDER BY id DESC LIMIT 1 OFFSET ?",
                (*values, newest),
            ).fetchone()
        return 0 if row is None else int(row[0])

    def _trace(self, row: tuple[Any, ...]) -> Trace:
        number, role, source, at, count, used_by, usd, tokens, seconds, inputs, answer, extra = row
        try:
            return Trace(
                self._codec.unpack_inputs(inputs),
                self._codec.unpack_answer(answer, usd, tokens, seconds),
                _ROLES[role], source, at, count, number, used_by,
                {} if extra is None else json.loads(extra),
            )  # fmt: skip
        except (ValueError, LookupError, TypeError, AttributeError, ModelFileError) as error:
            raise ModelFileError(
                f"{self._database.path}: trace {number} cannot be read: {error}",
                hint="The store is damaged, or was opened with another class of the same name",
            ) from error

    def answer(self, inputs: Mapping[str, Any]) -> Answer | None:
        kept = self.redacted(inputs)
        if kept is None:
            return None
        packed = self._codec.pack_inputs(kept)
        with self._database.reading() as connection:
            row = connection.execute(
                "SELECT answer, usd, tokens, seconds FROM traces WHERE fingerprint = ? AND inputs = ? "
                "ORDER BY id DESC LIMIT 1",
                (fingerprint(packed), packed),
            ).fetchone()
        return None if row is None else self._codec.unpack_answer(*row)

    def counts(self) -> dict[str, Any]:
        with self._database.reading() as connection:
            rows = connection.execute(
                "SELECT source, rows, calibrate, fresh, answers, usd, tokens, pruned FROM totals"
            ).fetchall()
            redacted = connection.execute("SELECT value FROM meta WHERE key = 'redacted'").fetchone()
            last = connection.execute("SELECT seq FROM sqlite_sequence WHERE name = 'traces'").fetchone()
        sums = [sum(row[at] for row in rows) for at in range(1, 8)]
        return {
            "rows": sums[0], "fit": sums[0] - sums[1], "calibrate": sums[1], "fresh": sums[2],
            "answers": sums[3], "usd": sums[4], "tokens": sums[5], "pruned": sums[6],
            "redacted": int(redacted[0]) if redacted else 0, "last": last[0] if last else 0,
            "by_source": {row[0]: row[1] for row in sorted(rows) if row[1]},
        }  # fmt: skip


def _check(trace: Trace) -> None:
    if trace.role not in _ROLES:
        raise InputError(f"the role {trace.role!r} is not one of {', '.join(_ROLES)}")
    if trace.count < 1:
        raise InputError(f"a trace stands for {trace.count} rows", hint="Give a count of 1 or more")
    if trace.count > 1 and trace.role == "calibrate":
        raise InputError("a row that certifies stands for one call", hint="Add it as often as it was asked")


def _role(trace: Trace) -> Role:
    # What has certified a version of another store has been learned from there: it cannot certify again.
    return "fit" if trace.used_by is not None else trace.role


def _same_call(connection: sqlite3.Connection, row: _Row, at: float, known_upto: int) -> int | None:
    """The row that holds this very call: equal inputs and answer at the same time, where a time was given.

    Of rows to fit on, equal ones are one row with the latest of their times.
    """
    found = connection.execute(
        "SELECT id FROM traces WHERE fingerprint = ? AND id <= ? AND inputs = ? AND answer = ? "
        "AND source = ? AND (? = 0 OR at = ? OR (role = 0 AND at > ?)) LIMIT 1",
        (row.fingerprint, known_upto, row.inputs, row.answer, row.source, at, at, at),
    ).fetchone()
    return None if found is None else int(found[0])


def _merge(connection: sqlite3.Connection, number: int, row: _Row) -> None:
    connection.execute(
        "UPDATE traces SET count = count + ?, at = max(at, ?), "
        "usd = CASE WHEN ? IS NULL THEN usd ELSE coalesce(usd, 0) + ? END, "
        "tokens = CASE WHEN ? IS NULL THEN tokens ELSE coalesce(tokens, 0) + ? END, "
        "seconds = CASE WHEN ? IS NULL THEN seconds ELSE coalesce(seconds, 0) + ? END WHERE id = ?",
        (row.times, row.at, row.usd, row.usd, row.tokens, row.tokens, row.seconds, row.seconds, number),
    )


def _conditions(role: Role | None, fresh: bool | None) -> tuple[str, list[Any]]:
    where, values = "", []
    if role is not None:
        if role not in _ROLES:
            raise InputError(f"the role {role!r} is not one of {', '.join(_ROLES)}")
        where, values = " AND role = ?" if role == "fit" else " AND role = 1", [0] if role == "fit" else []
    if fresh is not None:
        where += f" AND used_by IS {'' if fresh else 'NOT '}NULL"
    return where, values

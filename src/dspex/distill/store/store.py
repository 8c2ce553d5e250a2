"""The embedded store of a home: everything that outlives the process."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import Any, Self

from dspex.distill.settings import StoreSettings
from dspex.distill.store import opening
from dspex.distill.store.codec import Codec, without_learned
from dspex.distill.store.database import Database, unforked
from dspex.distill.store.drift import DriftRecords
from dspex.distill.store.export import export
from dspex.distill.store.kept import Kept
from dspex.distill.store.ledger import Ledger
from dspex.distill.store.records import Audit, Event, Stage, State, Usage, VersionRecord
from dspex.distill.store.retention import Retention
from dspex.distill.store.temporary import kept, removal
from dspex.distill.store.traces import Redact, Traces
from dspex.distill.store.versions import Versions
from dspex.distill.trace import Answer, Role, Trace
from dspex.errors import InputError, nearest
from dspex.signature import Signature

__all__ = ["Store"]


class Store:
    """Traces, versions, state, events and audits of one home.

    `Store.open` opens one. Every method that writes is one transaction: it is durable when the method
    returns, and a process that is killed leaves the state before or after it. Threads may share a store;
    other processes may read and write the same home at the same time.

    Attributes:
        home: the directory.
        signature: what traces fit; outputs of type str or list[str] are open, whatever classes were learned.
        settings: retention and de-duplication.
        read_only: whether every writing method is refused.
        drift: what is known of drift of the inputs, and whose part it is to look.
    """

    def __init__(
        self,
        home: Path,
        database: Database,
        signature: Signature,
        settings: StoreSettings,
        redact: Redact | None,
        clock: Callable[[], float],
        *,
        read_only: bool,
        temporary: bool,
    ) -> None:
        self.home = home
        self.signature = signature
        self.settings = settings
        self.read_only = read_only
        self._clock = clock
        self._database = database
        codec = Codec(signature)
        self._traces = Traces(database, codec, settings, redact, clock)
        self._versions = Versions(database, home)
        self._ledger = Ledger(database, codec)
        self._kept = Kept(database)
        self.drift = DriftRecords(database, home)
        self._retention = Retention(database, settings, clock)
        # Nobody else can come back to a temporary home: it also goes when its store does, at the latest with
        # the process.
        self._remove = removal(self, database, home) if temporary else None

    @classmethod
    def open(
        cls,
        home: str | os.PathLike[str] | None,
        signature: Any = None,
        settings: StoreSettings | Mapping[str, Any] | None = None,
        *,
        create: bool = True,
        redact: Redact | None = None,
        read_only: bool = False,
        clock: Callable[[], float] = time.time,
    ) -> Store:
        """Open a home, or make one.

        Args:
            home: a directory; None for a temporary one that goes with the store: when it is closed or
                dropped, or the process ends.
            signature: of the program, in any form that `Signature.of` reads; needed to make a home, and
                compared with that of one that is there. Without it, values of an Enum are plain.
            settings: retention and de-duplication.
            create: whether a home that is not there is made.
            redact: takes a call's inputs and returns what is to be kept of them, or None to keep nothing;
                runs before anything is written. The same inputs have to give the same result.
            read_only: only read; beside SQLite's own "-shm" and "-wal", nothing in the home is touched.
            clock: seconds since the epoch.

        Raises:
            SignatureError: none was given, or the home belongs to another one.
            ModelFileError: the store is damaged, of a newer version, foreign, missing, or cannot be opened.
            ConfigError: `home` is a file, or the settings do not fit.
        """
        settings = StoreSettings.of(settings, at="store")
        wanted = None if signature is None else without_learned(Signature.of(signature))
        path = Path(tempfile.mkdtemp(prefix="dspex-store-") if home is None else home).absolute()
        with ExitStack() as undo:
            if home is None:
                undo.callback(shutil.rmtree, path, ignore_errors=True)
            with unforked:
                database, stored = opening.opened(
                    path, wanted, create=create, read_only=read_only, durable=home is not None, clock=clock
                )
                undo.callback(database.close)
                store = cls(
                    path, database, wanted or stored, settings, redact, clock,
                    read_only=read_only, temporary=home is None,
                )  # fmt: skip
                if not read_only:
                    store._versions.folder.mkdir(exist_ok=True)
                    store._versions.clean()
            undo.pop_all()
        return store

    def close(self) -> None:
        """Close the file; a temporary home is removed. May be called twice."""
        self._database.close()
        if self._remove is not None:
            self._remove()

    def keep(self) -> Path:
        """Keep a temporary home beyond the store; returns where the home is."""
        if self._remove is not None:
            kept(self._remove, self.home)
            self._remove = None
        return self.home

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # --- traces -----------------------------------------------------------------------------------------

    def add(self, traces: Iterable[Trace], *, known_upto: int = 0) -> list[int | None]:
        """Store traces in one transaction.

        With ``deduplicate``, a row to fit on that equals one of the same source in the store is counted
        there: costs add up.
        A trace without a time gets the present one; one that has certified (`used_by`) becomes a row to fit
        on.

        Args:
            known_upto: for imports: a call that is among the rows up to this number already (equal source,
                inputs and answer, and equal time if it has one) is not stored again. `counts()["last"]` is
                the number of the newest.

        Returns:
            the number of each trace's row; None where `redact` dropped it.

        Raises:
            InputError: values that do not fit the signature; nothing is stored then.
            ResourceError: the disk is full, or another process kept the file locked.
            ModelFileError: the store is damaged.
            ProgramError: it was opened to read only, or is closed.
        """
        numbers = self._traces.add(traces, known_upto=known_upto)
        self._retention.added(len(numbers))
        return numbers

    def traces(
        self,
        role: Role | None = None,
        fresh: bool | None = None,
        newest: int | None = None,
        since: int = 0,
    ) -> Iterator[Trace]:
        """Traces in the order in which they were stored, read a thousand at a time.

        Args:
            role: of this role only.
            fresh: True: that have not certified a version; False: that have.
            newest: the newest that many of these.
            since: with a higher number than this.

        Raises:
            ModelFileError: a row cannot be read.
        """
        return self._traces.read(role, fresh, newest, since)

    def counts(self) -> dict[str, Any]:
        """Rows, and what they cost, without reading them.

        "rows", of them "fit" and "calibrate", of those "fresh"; "answers": with repeated ones; "usd" and
        "tokens": of all answers ever stored; "pruned" and "redacted": rows that were dropped; "last": the
        number of the newest row, which is how many were ever stored; "by_source".
        """
        return self._traces.counts()

    @property
    def redacts(self) -> bool:
        """Whether inputs are redacted before they are kept."""
        return self._traces.redacts

    def redacted(self, inputs: Mapping[str, Any]) -> Mapping[str, Any] | None:
        """What is kept of a call's inputs: all, without `redact`; None: nothing."""
        return self._traces.redacted(inputs)

    def has_answer(self, inputs: Mapping[str, Any]) -> Answer | None:
        """The newest answer to equal inputs (after `redact`), or None: so that nobody pays twice."""
        return self._traces.answer(inputs)

    def prune(self) -> int:
        """Drop all traces and audits beyond `max_age` and `max_rows`; returns how many.

        In small transactions; the file shrinks, and what was in it is overwritten. `add` drops some as it
        goes. Of `max_rows`, traces that certify the version in use, or the one before it, go last.
        """
        return self._retention.drop_all()

    def export(self, path: str | os.PathLike[str], format: str = "jsonl") -> int:
        """Write all traces as JSONL, which `read_jsonl` reads as the same traces; returns how many.

        Raises:
            ConfigError: no such format.
            ResourceError: the file cannot be written; one that was there is as it was.
        """
        return export(self.traces(), self.signature, path, format)

    def check(self) -> None:
        """Read the whole store.

        Raises:
            ModelFileError: it is damaged somewhere, or the model file of a version is missing.
        """
        self._database.check()
        for record in self.versions():
            if record.status == "ready":
                self.version_file(record.number)

    # --- what is guaranteed -----------------------------------------------------------------------------

    def guarantee(self) -> dict[str, Any] | None:
        """The settings of the guarantee that the home keeps, see `keep_guarantee`; None: none were kept."""
        kept = self._kept.read()
        return None if kept is None else dict(kept["settings"])

    def learned_outputs(self) -> tuple[str, ...] | None:
        """The outputs that are learned, see `keep_guarantee`; None: it was not said."""
        kept = self._kept.read()
        return None if kept is None else tuple(kept["outputs"])

    def keep_guarantee(
        self, settings: Mapping[str, Any], outputs: Sequence[str], *, by: str = "user"
    ) -> bool:
        """Keep what is to be guaranteed, for whoever serves or learns here and does not say it himself.

        One transaction, with an event "guarantee kept" where it differs from what was kept before.

        Args:
            settings: `GuaranteeSettings.model_dump(mode="json")`.
            outputs: that are learned; others are left to the teacher.

        Returns:
            whether it differs.

        Raises:
            InputError: there is no such output; settings that are not plain JSON.
        """
        for name in outputs:
            if name not in self.signature.outputs:
                hint = nearest(name, self.signature.outputs)
                raise InputError(f"there is no output {name!r}", field=name, hint=hint)
        return self._kept.write(settings, outputs, by, self._clock())

    # --- versions ---------------------------------------------------------------------------------------

    def learning(self, *, wait: bool = False) -> AbstractContextManager[None]:
        """To be held from `next_version` to `add_version`: only one process learns at a time.

        Model files that no version names are removed when a store is opened while nobody holds it.

        Raises:
            ResourceError: somebody learns already, and not `wait`. Retryable.
        """
        return self._versions.learning(wait=wait)

    def next_version(self) -> int:
        """The number after the newest version's."""
        return self._versions.next_number()

    def version_path(self, number: int) -> Path:
        """Where the model file of this number goes; its name is the record's `file`."""
        return self._versions.path(number)

    def add_version(self, record: VersionRecord, used_rows: Sequence[int], *, by: str = "learner") -> None:
        """In one transaction: the version, its certifying rows marked as used, and an event.

        Args:
            record: its model file lies there already, unless it is "refused".
            used_rows: numbers of the traces that it was certified on.

        Raises:
            InputError: a row that has certified before, or is one to fit on; nothing is stored then.
            ResourceError: there is a version of this number. Retryable.
            ModelFileError: there is no such model file.
        """
        kind = "version refused" if record.status == "refused" else "version made"
        after = {"version": record.number, "status": record.status, "parent": record.parent}
        reason = str(record.certificate.get("reason", ""))
        self._versions.add(record, used_rows, Event(record.created, kind, by, reason, {}, after))

    def versions(self) -> list[VersionRecord]:
        """All of them, oldest first."""
        return self._versions.all()

    def version(self, number: int) -> VersionRecord:
        """One version.

        Raises:
            ProgramError: there is none of this number.
        """
        return self._versions.one(number)

    def version_file(self, number: int) -> Path:
        """The model file of a version that is there.

        Raises:
            ProgramError: there is none of this number.
            ModelFileError: its file is missing. (One that is damaged is found by `dspex.load`.)
        """
        return self._versions.file_of(number)

    # --- state and events -------------------------------------------------------------------------------

    def state(self) -> State:
        """Where the lifecycle stands."""
        return self._ledger.state()

    def move(self, expected_revision: int, new: State, event: Event) -> State:
        """Replace the state and log why, in one transaction.

        Args:
            expected_revision: of the state that the decision was made on.
            new: its `revision` is set.

        Raises:
            ResourceError: another thread or process has moved since. Retryable, after another look.
            InputError: the state names a version that is not there or not ready.
        """
        return self._ledger.move(expected_revision, new, event)

    def events(self, limit: int | None = None, since: int = 0) -> list[Event]:
        """The newest `limit` events with a number above `since`, oldest first."""
        return self._ledger.events(limit, since)

    def record(self, event: Event) -> int:
        """Log an event that moves nothing; returns its number."""
        return self._ledger.record(event)

    # --- audits and usage -------------------------------------------------------------------------------

    def add_audits(
        self,
        audits: Sequence[Audit],
        watch_state: Mapping[str, Any] | None = None,
        *,
        revision: int | None = None,
    ) -> bool:
        """Store comparisons, and the state of the monitor that has seen them, in one transaction.

        Args:
            watch_state: goes into `State.watch`, whose revision stays; not when the state has meanwhile moved
                to another version than the last audit's, or to another revision than `revision`.

        Returns:
            whether the monitor's state was stored.
        """
        return self._ledger.add_audits(audits, watch_state, revision)

    def audits(
        self,
        version: int | None = None,
        stage: Stage | None = None,
        wrong: bool | None = None,
        newest: int | None = None,
        since: int = 0,
    ) -> Iterator[Audit]:
        """Audits in order: of a version, of a stage, right or wrong ones, the newest, above a number."""
        return self._ledger.audits(version, stage, wrong, newest, since)

    def add_counts(
        self, counts: Mapping[str, float], *, version: int | None, stage: Stage, at: float | None = None
    ) -> None:
        """Add to the counters of the hour: "native", "deferred", "audited", "usd", "seconds", ..."""
        self._ledger.add_counts(counts, version, stage, self._clock() if at is None else at)

    def usage(self, since: float = 0.0) -> list[Usage]:
        """The counters of each hour, version and stage, of hours that end after `since`."""
        return self._ledger.usage(since)

    def data_version(self) -> int:
        """Changes when another store, so another process, has written to the home; some microseconds."""
        return self._database.data_version()

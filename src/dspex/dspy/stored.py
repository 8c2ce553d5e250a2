"""What a home has of given calls, so that none is taken for two."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any

from dspex.distill.store.codec import Codec
from dspex.distill.trace import REJECTED, Answer, Role, Trace
from dspex.dspy.rows import Row
from dspex.dspy.soft import key
from dspex.errors import DspexError

__all__ = ["LABELS", "TRAINSET", "Stored", "leave"]

#: Sources of rows that are no traces.
TRAINSET, LABELS = "trainset", "labels"

_Kind = tuple[str, Role, Any]  # source, role, what was said


class Stored:
    """The calls of a store that have the inputs of some rows, read in one pass.

    Args:
        rows: calls with other inputs are passed over.
    """

    def __init__(self, store: Any, rows: Iterable[Row]) -> None:
        self._store = store
        self._codec = Codec(store.signature)
        self._numbers: dict[bytes, Counter[_Kind]] = {self._key(row): Counter() for row in rows}
        self._taken: Counter[tuple[bytes, _Kind]] = Counter()
        self._times: set[tuple[bytes, str, Any, float]] = set()
        self._latest: dict[tuple[bytes, str, Any], float] = {}
        self._older: Counter[tuple[bytes, str, Any]] = Counter()  # calls that a row stands for but its latest
        self._answers: dict[bytes, Answer] = {}
        if store.counts()["rows"]:
            for trace in store.traces():
                self._count(self._codec.pack_inputs(trace.inputs), trace)

    def add(self, rows: Iterable[Row]) -> None:
        """Counts traces that have been stored since."""
        for row in rows:
            assert row.trace is not None
            self._count(self._key(row), row.trace)

    def begin(self) -> None:
        """From here on, every call may be taken again."""
        self._taken.clear()

    def answer(self, row: Row) -> Answer | None:
        """The newest answer to equal inputs among the calls that are learned from; None: there is none."""
        return self._answers.get(self._key(row))

    def said(self, outputs: Any) -> Any:
        """Equal for answers that say the same in what is learned."""
        return key({name: outputs[name] for name in self._store.signature.outputs if name in outputs})

    def has(self, row: Row) -> bool:
        """Whether the very call of a trace with a time is there; to be asked once for each.

        Of rows to fit on, equal ones are one row with the latest of their times: as many older ones are there
        as it stands for beside.
        """
        trace = row.trace
        assert trace is not None
        call = (self._key(row), trace.source, self.said(trace.answer.outputs))
        if (*call, trace.at) in self._times:
            return True
        if trace.at >= self._latest.get(call, 0.0) or self._older[call] < trace.count:
            return False
        self._older[call] -= trace.count
        return True

    def take(
        self, row: Row, is_wanted: Callable[[str], bool], *, role: Role | None = None, said: Any = None,
        count: int = 1,
    ) -> int:  # fmt: skip
        """Takes calls with equal inputs out of those that are there; returns how many, at most `count`.

        Args:
            is_wanted: of which sources.
            role, said: as of `Stored.said`; None: any.
        """
        place, found = self._key(row), 0
        for kind, number in self._numbers.get(place, Counter()).items():
            fits = is_wanted(kind[0]) and role in (None, kind[1]) and said in (None, kind[2])
            here = min(count - found, number - self._taken[place, kind]) if fits else 0
            if here > 0:
                self._taken[place, kind] += here
                found += here
        return found

    def _key(self, row: Row) -> bytes:
        kept = self._store.redacted(row.inputs)
        return b"" if kept is None else self._codec.pack_inputs(kept)

    def _count(self, place: bytes, trace: Trace) -> None:
        numbers = self._numbers.get(place)
        if not place or numbers is None:
            return
        said = self.said(trace.answer.outputs)
        numbers[trace.source, trace.role, said] += trace.count
        call = (place, trace.source, said)
        self._times.add((*call, trace.at))
        if trace.role == "fit":
            self._latest[call] = max(trace.at, self._latest.get(call, 0.0))
            self._older[call] += trace.count - 1
        if trace.role == "fit" or trace.used_by is not None:
            self._answers[place] = trace.answer


def leave(store: Any, error: BaseException, *, has_home: bool) -> None:
    """Closes the store of a run that failed.

    Answers that were paid for are kept also without a home: the error then says where.
    """
    with suppress(DspexError):  # it may be the store that fails
        sources = store.counts()["by_source"]
        if not has_home and (sources.get(TRAINSET) or sources.get(REJECTED)):
            told = f"With home={os.fspath(store.keep())!r} nothing that was answered is asked again"
            if isinstance(error, DspexError):
                error.hint = told if error.hint is None else f"{error.hint}. {told}"
            else:
                error.add_note(told)
    store.close()

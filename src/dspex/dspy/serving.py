"""The live side of a `Distilled`: shared by copies in this process, left behind by states and pickles."""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING, Any

from dspex.distill.guarded import Guarded
from dspex.distill.lifecycle import moved_back
from dspex.distill.live import LiveProgram
from dspex.distill.rules import rank
from dspex.distill.settings import DistillSettings
from dspex.distill.store import State, Store, VersionRecord
from dspex.distill.store.codec import without_learned
from dspex.distill.task import with_outputs
from dspex.dspy.teachers import ModuleTeacher
from dspex.errors import DspexError, ProgramError, SignatureError
from dspex.signature import Signature

if TYPE_CHECKING:
    from dspex.dspy.distilled import Distilled

__all__ = ["Serving"]


class Serving:
    """Holds a `LiveProgram` with its store and teacher, and what it leaves behind when it is closed.

    Args:
        last, record: the version that was in service and its record; None: none was.
        withheld: why that does not answer; None: it does.

    Attributes:
        live: None: nobody watches.
    """

    def __init__(
        self,
        last: Guarded | None = None,
        record: VersionRecord | None = None,
        withheld: str | None = None,
    ) -> None:
        self.live: LiveProgram | None = None
        self._last, self._record, self._withheld = last, record, withheld
        self._store: Store | None = None
        self._teacher: ModuleTeacher | None = None
        self._lock = threading.RLock()  # a store is not closed while it is read

    def serve(self, store: Store, teacher: ModuleTeacher, settings: DistillSettings) -> None:
        """Begins to serve from a store, which it then owns."""
        live = LiveProgram(store, teacher, settings)
        teacher.remember()
        with self._lock:
            self._store, self._teacher, self.live = store, teacher, live
            self._last = self._record = self._withheld = None

    def open(self, home: str | os.PathLike[str], distilled: Distilled, settings: Any) -> None:
        """See `Distilled.open`."""
        self.close()
        checked = DistillSettings.of(settings)
        signature = distilled._native.signature
        store = Store.open(home, settings=checked.store, create=False)
        try:
            if signature is None:
                signature = distilled._native.signature = store.signature
            if any(name not in signature.fields for name in store.signature.fields):
                raise ProgramError(
                    "the home is of another task", hint=f"It is of {store.signature.to_string()}"
                )
            _require_same(signature, store.signature)
            report = distilled._native.report
            samples = 1 if report is None else report.samples
            teacher = ModuleTeacher(distilled.teacher, signature, tuple(store.signature.outputs), samples)
            self.serve(store, teacher, checked)
        except BaseException:
            store.close()
            raise

    def remember(self) -> None:
        """For questions from threads that DSPy knows nothing of."""
        teacher = self._teacher  # once: another thread may close it
        if teacher is not None:
            teacher.remember()

    @property
    def guarded(self) -> Guarded | None:
        """The version in service, or that was when it was closed; None: there is none."""
        live = self.live
        return self._last if live is None else live.guarded

    @property
    def record(self) -> VersionRecord | None:
        """The home's record of that."""
        with self._lock:
            return self._record if self.live is None else _record_of(self.live)

    @property
    def withheld(self) -> str | None:
        """Why no native answer is a reply, by the home's state now, or when it was closed; None: some are."""
        with self._lock:
            return self._withheld if self.live is None else _withheld(self.live)

    def close(self) -> None:
        """Ends it; again has no effect."""
        with self._lock:
            live, store = self.live, self._store
            if live is None or store is None:
                return
            try:
                self._last, self._record, self._withheld = self._left()
            except DspexError as error:
                self._withheld = f"the home cannot be read: {error}"
            self.live = self._store = self._teacher = None
        try:
            live.close()
            self._withheld = self._withheld or _withheld(live)  # audits that waited may have moved it back
        finally:
            store.close()

    def _left(self) -> tuple[Guarded | None, VersionRecord | None, str | None]:
        """What stays of it without its threads and databases."""
        with self._lock:
            return self.guarded, self.record, self.withheld

    def __deepcopy__(self, memo: dict[int, Any]) -> Serving:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return Serving, self._left()  # threads and databases do not travel


def _record_of(live: LiveProgram) -> VersionRecord | None:
    version = live.version
    return None if version is None else live.store.version(version)


def _withheld(live: LiveProgram) -> str | None:
    try:
        state = live.store.state()
        if rank(state.stage) <= rank("shadow"):
            return moved_back(live.store) or _by_stage(state)
    except DspexError as error:
        return f"the home cannot be read: {error}"
    if live.version is None:
        return f"version {state.version} guarantees less than is asked for"
    return None


def _by_stage(state: State) -> str:
    if state.version is None:
        return "no version is in service"
    return f"version {state.version} is in shadow, where the teacher answers every call"


def _require_same(signature: Signature, stored: Signature) -> None:
    """Refuses a home whose fields are of other types or classes; learned classes are open in a store."""
    given = without_learned(with_outputs(signature, stored.outputs))
    for name, field in stored.fields.items():
        if given.fields[name].to_dict() != field.to_dict():
            raise SignatureError(
                f"the home is of another task: {name!r} is another field there", field=name,
                hint=f"It is of {stored.to_string()}",
            )  # fmt: skip

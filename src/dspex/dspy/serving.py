"""The live side of a `Distilled`: shared by copies in this process, left behind by states and pickles."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from dspex.distill.guarded import Guarded
from dspex.distill.lifecycle import moved_back
from dspex.distill.live import LiveProgram
from dspex.distill.settings import DistillSettings
from dspex.distill.store import Store
from dspex.distill.store.codec import without_learned
from dspex.distill.task import with_outputs
from dspex.dspy.outlook import DistillReport
from dspex.dspy.teachers import ModuleTeacher
from dspex.errors import ProgramError, SignatureError
from dspex.signature import Signature

if TYPE_CHECKING:
    from dspex.dspy.distilled import Distilled

__all__ = ["Serving"]


class Serving:
    """Holds a `LiveProgram` with its store and teacher.

    Attributes:
        live: None: nobody watches.
        last, report: what was in service when it was closed; None: it was not, or nothing was.
        moved_back: why that does not answer any more; None: it does.
    """

    def __init__(
        self,
        last: Guarded | None = None,
        report: DistillReport | None = None,
        moved_back: str | None = None,
    ) -> None:
        self.live: LiveProgram | None = None
        self.last, self.report, self.moved_back = last, report, moved_back
        self._store: Store | None = None
        self._teacher: ModuleTeacher | None = None

    def serve(self, store: Store, teacher: ModuleTeacher, settings: DistillSettings) -> None:
        """Begins to serve from a store, which it then owns."""
        self.live = LiveProgram(store, teacher, settings)
        self.last = self.report = self.moved_back = None
        self._store, self._teacher = store, teacher
        self.remember()

    def open(self, home: str | os.PathLike[str], distilled: Distilled, settings: Any) -> None:
        """See `Distilled.open`."""
        self.close(None)
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
            report = distilled._native.report_in_service
            samples = 1 if report is None else report.samples
            teacher = ModuleTeacher(distilled.teacher, signature, tuple(store.signature.outputs), samples)
            self.serve(store, teacher, checked)
        except BaseException:
            store.close()
            raise

    def remember(self) -> None:
        """For questions from threads that DSPy knows nothing of."""
        if self._teacher is not None:
            self._teacher.remember()

    def close(self, report: DistillReport | None) -> None:
        """Ends it; again has no effect.

        Args:
            report: of what is in service.
        """
        live, store = self.live, self._store
        if live is not None and store is not None:
            self.last, self.report, self.moved_back = live.guarded, report, moved_back(store)
        self.live = self._store = self._teacher = None
        if live is not None:
            live.close()
        if store is not None:
            store.close()

    def __deepcopy__(self, memo: dict[int, Any]) -> Serving:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return Serving, (self.last, self.report, self.moved_back)  # threads and databases do not travel


def _require_same(signature: Signature, stored: Signature) -> None:
    """Refuses a home whose fields are of other types or classes; learned classes are open in a store."""
    given = without_learned(with_outputs(signature, stored.outputs))
    for name, field in stored.fields.items():
        if given.fields[name].to_dict() != field.to_dict():
            raise SignatureError(
                f"the home is of another task: {name!r} is another field there", field=name,
                hint=f"It is of {stored.to_string()}",
            )  # fmt: skip

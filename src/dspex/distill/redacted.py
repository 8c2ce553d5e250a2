"""Native answers over a store that redacts: from the inputs as they are kept, as they were certified."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from dspex.checks import check_inputs
from dspex.distill.store import Store
from dspex.errors import InputError
from dspex.program import Program
from dspex.result import Result

__all__ = ["Redacted", "Withheld", "of_redacted"]


class Withheld(InputError):
    """What is kept of a call's inputs gives no native answer: the teacher's task."""


class Redacted:
    """Answers from redacted inputs, as `Program` does from whole ones."""

    def __init__(self, store: Store, program: Program) -> None:
        self._store, self._program = store, program
        self._signature = store.signature

    def predict(self, inputs: Mapping[str, Any]) -> Result:
        """As `Program.predict`.

        Raises:
            Withheld: nothing is kept of the inputs, or nothing that can be answered.
            InputError: the inputs do not fit the signature.
        """
        kept = self._kept(inputs)
        try:
            return self._program.predict(kept)
        except InputError as error:
            raise Withheld(f"of the redacted inputs: {error.message}") from error

    def batch(self, rows: Iterable[Mapping[str, Any]], *, on_error: str) -> list[Any]:
        """As `Program.batch`, which goes over the rows that can be answered."""
        kept = [self._tried(row) for row in rows]
        able = [row for row in kept if not isinstance(row, InputError)]
        answers = iter(self._program.batch(able, on_error=on_error))
        return [row if isinstance(row, InputError) else next(answers) for row in kept]

    def _kept(self, inputs: Mapping[str, Any]) -> Mapping[str, Any]:
        kept = self._store.redacted(check_inputs(self._signature, inputs))
        if kept is None:
            raise Withheld("nothing is kept of these inputs")
        return kept

    def _tried(self, inputs: Mapping[str, Any]) -> Mapping[str, Any] | InputError:
        try:
            return self._kept(inputs)
        except InputError as error:
            return error


def of_redacted(store: Store, function: Callable[..., Any] | None) -> Callable[..., Any] | None:
    """A function of a call's inputs, and more, as one of the redacted inputs; None for None."""
    if function is None or not store.redacts:
        return function

    def redacting(inputs: Mapping[str, Any], *more: Any) -> Any:
        return function(store.redacted(inputs), *more)

    return redacting

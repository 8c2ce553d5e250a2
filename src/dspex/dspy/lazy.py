"""A native prediction that asks its teacher for the outputs that were not learned, when they are read."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping
from typing import Any, Self

import dspy

__all__ = ["Later", "LazyPrediction"]


class Later:
    """A question to the teacher that is put once, if at all, with the LM and adapter of the call.

    Args:
        module: the teacher.
        inputs: as the caller gave them.
        missing: outputs that are asked for when the prediction is listed.
        aside: what is no output, so in no listing, and asked for by its name: a chain of thought's reasoning.
    """

    __slots__ = ("_changes", "_found", "_lock", "aside", "inputs", "missing", "module")

    def __init__(
        self, module: Any, inputs: Mapping[str, Any], missing: Iterable[str], aside: Iterable[str] = ()
    ) -> None:
        self.module = module
        self.aside = tuple(aside)
        self.inputs = inputs
        self.missing = tuple(missing)
        self._changes = {"lm": dspy.settings.lm, "adapter": dspy.settings.adapter}
        self._lock = threading.Lock()
        self._found: Any = None

    def answer(self) -> Any:
        """The teacher's prediction."""
        with self._lock:
            if self._found is None:
                with dspy.context(**self._changes):
                    self._found = self.module(**self.inputs)
            return self._found

    async def aanswer(self) -> Any:
        if self._found is None:
            with dspy.context(**self._changes):
                self._found = await self.module.acall(**self.inputs)
        return self._found

    def __deepcopy__(self, memo: dict[int, Any]) -> Later:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return _nothing, ()  # a prediction that travels leaves its teacher behind


def _nothing() -> None:
    return None


class LazyPrediction(dspy.Prediction):  # type: ignore[misc]  # DSPy has no types
    """A dspy.Prediction with the learned outputs.

    Reading another output, by name or in `items`, `values` and `toDict`, asks the teacher, once. `keys` and
    `in` know it without asking. A chain of thought's reasoning is asked for by its name only.
    """

    @classmethod
    def of(cls, outputs: Mapping[str, Any], later: Later) -> Self:
        made: Self = cls.from_completions([dict(outputs)])
        made._later = later
        return made

    @property
    def _missing(self) -> list[str]:
        later: Later | None = self.__dict__.get("_later")
        return [] if later is None else [name for name in later.missing if name not in self._store]

    async def acomplete(self) -> Self:
        """Asks the teacher now, for what was not learned, without holding up the event loop."""
        if self._missing:
            await self.__dict__["_later"].aanswer()
            self._complete()
        return self

    def _complete(self) -> None:
        if self._missing:
            self._take(self.__dict__["_later"].answer())

    def _take(self, said: Any) -> None:
        for name in said.keys():  # noqa: SIM118  # iterating over an Example gives also what DSPy keeps for itself
            if name not in self._store:
                self._store[name] = said[name]

    def _read(self, key: str) -> None:
        later: Later | None = self.__dict__.get("_later")
        if later is not None and key not in self._store and (key in later.missing or key in later.aside):
            self._take(later.answer())

    def __getattr__(self, key: str) -> Any:
        if not key.startswith("_"):
            self._read(key)
        return super().__getattr__(key)

    def __getitem__(self, key: str) -> Any:
        self._read(key)
        return super().__getitem__(key)

    def get(self, key: str, default: Any = None) -> Any:
        self._read(key)
        return super().get(key, default)

    def __contains__(self, key: object) -> bool:
        return key in self._store or key in self._missing

    def keys(self, include_dspy: bool = False) -> list[str]:
        return [*super().keys(include_dspy), *self._missing]

    def values(self, include_dspy: bool = False) -> list[Any]:
        self._complete()
        return list(super().values(include_dspy))

    def items(self, include_dspy: bool = False) -> list[tuple[str, Any]]:
        self._complete()
        return list(super().items(include_dspy))

    def toDict(self) -> dict[str, Any]:  # DSPy's name
        self._complete()
        return dict(super().toDict())

    def __iter__(self) -> Any:
        self._complete()
        return super().__iter__()

    def __len__(self) -> int:
        return len(self.keys())

    def __repr__(self) -> str:
        names = ", ".join(self._missing)
        return str(super().__repr__()) + (f" (not asked for yet: {names})" if names else "")

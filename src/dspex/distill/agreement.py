"""Whether a native answer says what the teacher says."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any

from dspex.errors import ConfigError, nearest
from dspex.signature import Signature

__all__ = ["A_FUNCTION", "Agreement", "Cost", "Slice", "imported"]

#: The name of the slice that a call belongs to, from its inputs.
Slice = Callable[[Mapping[str, Any]], str]

#: What a native answer costs beside the teacher's, in [0, 1]: cost(inputs, native outputs, teacher's).
Cost = Callable[[Mapping[str, Any], Mapping[str, Any], Mapping[str, Any]], float]

#: Stands in a home for a function that no "module:function" names.
A_FUNCTION = "(a function)"


class Agreement:
    """Compares the outputs of a signature, one by one.

    Args:
        signature: its enumerable outputs agree when they are equal, lists of labels as sets; numbers when
            they differ by no more than their tolerance.
        tolerance: numeric output -> the difference that still agrees, >= 0. An int without one has to be
            equal; a float needs one.

    Raises:
        ConfigError: a float without tolerance, or a tolerance for what is no number.
    """

    def __init__(self, signature: Signature, tolerance: Mapping[str, float] | None = None) -> None:
        given = dict(tolerance or {})
        numbers = {name for name, field in signature.outputs.items() if field.kind in ("int", "float")}
        for name, value in given.items():
            if name not in numbers:
                raise ConfigError(
                    f"{name!r} is no numeric output", field=f"tolerance.{name}", hint=nearest(name, numbers)
                )
            if isinstance(value, bool) or not isinstance(value, int | float) or not value >= 0:
                raise ConfigError(f"a tolerance is a number from 0, not {value!r}", field=f"tolerance.{name}")
        for name, field in signature.outputs.items():
            if field.kind == "float" and name not in given:
                raise ConfigError(
                    f"the output {name!r} is a float, and no two are equal",
                    field=f"tolerance.{name}",
                    hint="Say by how much an answer may differ and still agree",
                )
        self.tolerance = {name: float(given.get(name, 0.0)) for name in sorted(numbers)}
        self._kinds = {name: field.kind for name, field in signature.outputs.items()}

    def wrong(self, native: Mapping[str, Any], teacher: Mapping[str, Any]) -> list[str]:
        """The outputs that disagree; empty where the answers say the same."""
        return [name for name in self._kinds if not self._agrees(name, native[name], teacher[name])]

    def _agrees(self, name: str, native: Any, teacher: Any) -> bool:
        if name in self.tolerance:
            return bool(abs(native - teacher) <= self.tolerance[name])
        if self._kinds[name] == "multilabel":
            return set(native) == set(teacher)
        return type(native) is type(teacher) and bool(native == teacher)  # 1 is not True


def imported(what: str | None, setting: str) -> Callable[..., Any] | None:
    """The function that a setting names as "module:function"; None for None.

    Raises:
        ConfigError: there is none.
    """
    if what is None:
        return None
    if what == A_FUNCTION:
        raise ConfigError(
            "the home's guarantee has a function that cannot be imported by a name",
            field=setting, hint='Give it as "package.module:function"',
        )  # fmt: skip
    module, _, name = what.partition(":")
    try:
        found = import_module(module)
        for part in name.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(
            f"{what!r} cannot be imported: {error}", field=setting, hint='Write "package.module:function"'
        ) from error
    if not callable(found):
        raise ConfigError(f"{what!r} is no function", field=setting)
    return found

"""Reading what was kept of a test and what it is given: strictly, for a wrong state is a wrong guarantee."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from dspex.errors import ConfigError, InputError

__all__ = ["inside", "numbers_of", "outcome_of", "share_of", "state_of", "whole_of"]

_HINT = "It was damaged or made by another version: begin anew"


def inside(name: str, value: Any) -> float:
    """``value`` as a float; a ConfigError unless it is a number strictly between 0 and 1."""
    if isinstance(value, bool) or not isinstance(value, int | float | np.number) or not 0 < value < 1:
        raise ConfigError(f"{name} must be strictly between 0 and 1, not {value!r}", field=name)
    return float(value)


def share_of(name: str, value: Any) -> float:
    """``value`` as a float; an InputError unless it is a number from 0 to 1."""
    if isinstance(value, bool) or not isinstance(value, int | float | np.number) or not 0 <= value <= 1:
        raise InputError(f"{name} must be from 0 to 1, not {value!r}", field=name)
    return float(value)


def outcome_of(value: Any) -> bool:
    """``value`` as a bool; an InputError for anything but a bool."""
    if not isinstance(value, bool | np.bool_):
        raise InputError(f"an outcome is True or False, not {value!r}")
    return bool(value)


def state_of(state: Any, form: str) -> Mapping[str, Any]:
    """``state`` when it is a mapping of the named format."""
    found = state.get("format") if isinstance(state, Mapping) else type(state).__name__
    if found != form:
        raise InputError(f"the state must be of format {form!r}, not {found!r}", hint=_HINT)
    return dict(state)


def numbers_of(state: Mapping[str, Any], *names: str, size: int | None = None) -> list[float]:
    """The named finite numbers, none below 0; with ``size``, of one list of that many of them."""
    found: Any = [state.get(name) for name in names]
    if size is not None:
        (found,) = found
        if not isinstance(found, list | tuple) or len(found) != size:
            raise InputError(f"the state's {names[0]!r} must be {size} numbers", field=names[0], hint=_HINT)
    for value in found:
        usable = isinstance(value, int | float) and not isinstance(value, bool)
        if not usable or not math.isfinite(value) or value < 0:
            where = ", ".join(names)
            raise InputError(f"the state's {where} must be finite and not below 0, not {value!r}", hint=_HINT)
    return [float(value) for value in found]


def whole_of(state: Mapping[str, Any], *names: str) -> list[int]:
    """The named whole numbers, none below 0."""
    found: list[Any] = [state.get(name) for name in names]
    for name, value in zip(names, found, strict=True):
        if not isinstance(value, int) or isinstance(value, bool) or value < 0:
            raise InputError(f"the state's {name!r} must be a whole number, not {value!r}", hint=_HINT)
    return [int(value) for value in found]

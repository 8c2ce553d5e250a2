"""Saved DSPy programs: states, which are data, and whole programs, which are pickles."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import dspy
from dspy.predict.predict import UNSAFE_LM_STATE_KEYS

from dspex.errors import ConfigError

__all__ = ["load_state", "loaded_program", "predictors"]


def predictors(module: Any) -> list[Any]:
    """Every predictor in the module, also those in parts that an optimizer has frozen."""
    return [each for _, each in module.named_sub_modules(dspy.Predict)]


def loaded_program(path: str, allow_pickle: bool) -> Any:
    """The program that was saved to this directory with `save_program=True`.

    Raises:
        ConfigError: it cannot be loaded, or pickles are not allowed.
    """
    _require_pickle("a program that was saved whole", allow_pickle)
    try:
        return dspy.load(path, allow_pickle=True)
    except Exception as error:
        raise ConfigError(
            f"{path!r} cannot be loaded: {type(error).__name__}: {error}", field="state"
        ) from error


def load_state(module: Any, path: str, *, allow_pickle: bool, addresses: bool) -> None:
    """Loads DSPy's own state into a module.

    Args:
        addresses: whether the state's LMs may have addresses, which DSPy leaves out when it loads them.

    Raises:
        ConfigError: there is no such file, or its state is none of such a module.
    """
    if not Path(path).is_file():
        raise ConfigError(
            f"there is no saved program at {path!r}",
            field="state",
            hint="Give a .json state, or the directory of a program that was saved whole",
        )
    if Path(path).suffix == ".json":
        _check_state(module, path, addresses)
    else:
        _require_pickle(f"a state that is no .json, {path!r},", allow_pickle)
    try:
        module.load(path, allow_pickle=allow_pickle)
    except Exception as error:
        raise _misfit(path, f"{type(error).__name__}: {error}") from error


def _require_pickle(what: str, allowed: bool) -> None:
    if not allowed:
        raise ConfigError(
            f"{what} is a pickle, which runs code when it is read",
            field="state",
            hint="If you trust the file, set dspy_pool.allow_pickle; or save its state as .json",
        )


def _check_state(module: Any, path: str, addresses: bool) -> None:
    """What DSPy does not look at: it would take over a part of a state that does not fit."""
    try:
        state = json.loads(Path(path).read_bytes())
        parts: dict[str, Any] = {name: part for name, part in state.items() if name != "metadata"}
        if isinstance(module, dspy.Predict):  # its state is not under a name
            parts = {"self": parts}
    except (ValueError, AttributeError) as error:
        raise _misfit(path, f"it is no JSON object: {error}") from error
    own = dict(module.named_parameters())
    if parts.keys() != own.keys():
        raise _misfit(path, f"it is of {', '.join(parts) or 'nothing'}, not of {', '.join(own)}")
    for name, part in parts.items():
        if not isinstance(part, Mapping) or not isinstance(own[name], dspy.Predict):
            continue
        saved, fields = part.get("signature", {}).get("fields", ()), own[name].signature.fields
        if len(saved) != len(fields):
            raise _misfit(path, f"{name} has {len(fields)} fields, and {len(saved)} there")
        lm = part.get("lm") or {}
        unsafe = [key for key in sorted(UNSAFE_LM_STATE_KEYS) if lm.get(key) is not None]
        if unsafe and not addresses:
            # Without it the LM would ask the provider's public address.
            raise ConfigError(
                f"the state in {path!r} has an LM with {unsafe[0]!r}, which DSPy does not load",
                field="state",
                hint="Name the program's LM in the spec: then those of the state are left out",
            )


def _misfit(path: str, why: str) -> ConfigError:
    return ConfigError(
        f"the state in {path!r} does not fit the program: {why}",
        field="state",
        hint="It has to be saved by a program of the same modules",
    )

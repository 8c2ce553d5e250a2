"""Whether native answers are wanted: by a module itself, or for a block of code."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import dspy
from dspy.dsp.utils.settings import thread_local_overrides

from dspex.errors import ConfigError, nearest

__all__ = ["MODES", "checked_mode", "mode_now", "native_mode", "wants_samples"]

#: auto: natively where the native side is sure, else by the LM; off: by the LM; only: natively or an error.
MODES = ("auto", "off", "only")
_KEY = "dspex_native_mode"  # in dspy.settings, so that it reaches the threads that DSPy starts


def checked_mode(mode: Any) -> str:
    """One of `MODES`.

    Raises:
        ConfigError: it is none.
    """
    if mode not in MODES:
        raise ConfigError(f"unknown mode {mode!r}", field="native_mode", hint=nearest(str(mode), MODES))
    return str(mode)


def mode_now(own: str) -> str:
    """The mode that holds here: that of the block of code, or else the module's own."""
    mode: str = thread_local_overrides.get().get(_KEY) or own
    return mode


@contextmanager
def native_mode(mode: str) -> Iterator[None]:
    """For a block of code, whatever the predictors' own mode; DSPy's threads included.

    Args:
        mode: one of `MODES`.

    Raises:
        ConfigError: an unknown mode.
    """
    with dspy.context(**{_KEY: checked_mode(mode)}):
        yield


def wants_samples(settings: Any) -> bool:
    """Whether a configuration asks the LM for samples: several completions, or a rollout of its own."""
    if not settings:
        return False
    count = settings.get("n") or settings.get("num_generations") or 1
    return settings.get("rollout_id") is not None or count > 1

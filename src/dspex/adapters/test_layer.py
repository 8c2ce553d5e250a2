"""Test layers: with DSPEX_TEST_MODE, a client's programs run on a stand-in rather than on what they name.

So a test suite runs the code of production, and its programs as they are declared, without fitting anything
or asking any language model. It is for tests alone: nothing else ever puts a stand-in in a program's place.
"""

from __future__ import annotations

import functools
import os
import warnings
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from dspex.adapters.base import Adapter, check_test_layer
from dspex.errors import ConfigError
from dspex.spec import ProgramSpec

__all__ = ["TEST_MODE", "spec_for", "stand_in", "without_options"]

#: The environment variable; its values are `TEST_LAYERS`, "full" when it is not set.
TEST_MODE = "DSPEX_TEST_MODE"

_REPLACED = frozenset({"auto", "hybrid", "native", "native_pool", "dspy", "dspy_pool"})
_OPTIONS = frozenset({"backend", "lm", "on_error", "session", "timeout"})


def stand_in(name: str) -> str | None:
    """The name of the adapter that is used in the place of another, or None when it is used itself.

    Raises:
        ConfigError: DSPEX_TEST_MODE is no test layer.
    """
    mode = os.environ.get(TEST_MODE) or "full"
    try:
        check_test_layer(mode)
    except ConfigError as error:
        raise ConfigError(f"{TEST_MODE}: {error.message}", field=TEST_MODE, hint=error.hint) from None
    if mode == "full" or name not in _REPLACED:
        return None
    _warn(mode)
    return mode  # the layers are named after their adapters


@functools.cache  # once for each
def _warn(mode: str) -> None:
    warnings.warn(
        f"{TEST_MODE} is {mode!r}: programs run on the {mode} adapter, whose answers are made up",
        RuntimeWarning,
        stacklevel=2,
    )


def spec_for(spec: ProgramSpec, adapter: Adapter) -> ProgramSpec:
    """The spec without what a stand-in cannot know: how to fit, and kinds that are not its own."""
    kind = spec.kind if spec.kind in adapter.kinds else None
    return replace(spec, options={}, kind=kind, routing={})


def without_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """A method that takes (program id, inputs, options), without the options that only real adapters have."""

    @functools.wraps(function)
    def called(program_id: str, inputs: Any, options: Any = None) -> Any:
        if isinstance(options, Mapping):
            options = {name: value for name, value in options.items() if name not in _OPTIONS} or None
        return function(program_id, inputs, options)

    return called

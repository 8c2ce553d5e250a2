"""`dspy.LM`s from settings."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from typing import Any

import dspy
from pydantic import SecretStr

from dspex.config import LMSettings
from dspex.dspy.imports import imported
from dspex.errors import ConfigError

__all__ = ["digest", "made_lm"]


def made_lm(settings: LMSettings, at: str = "lm") -> Any:
    """The `dspy.LM` of these settings, not yet protected. Nothing is sent.

    Args:
        at: where the settings stand in the configuration, for errors.

    Raises:
        ConfigError: DSPy refuses them, an engine cannot be imported, or an environment variable is not set.
    """
    # DSPy would fetch a price list from outside at the first call.
    os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "true")
    options = dict(settings.options)
    engines = {key: _engine(options.pop(key), f"{at}.options.{key}") for key in _ENGINES if key in options}
    keywords: dict[str, Any] = {
        "model_type": settings.model_type,
        "temperature": settings.temperature,
        "max_tokens": settings.max_tokens,
        "cache": settings.cache,
        **engines,
        **options,
    }
    if isinstance(engines.get("engine", "auto"), str):  # an engine of one's own has its own connection
        keywords |= _connection(settings, at)
    try:
        return dspy.LM(settings.model, **keywords)
    except Exception as error:
        raise ConfigError(f"DSPy refuses the LM {settings.model!r}: {error}", field=at) from error


_ENGINES = ("engine", "async_engine")


def _connection(settings: LMSettings, at: str) -> dict[str, Any]:
    given = {"api_key": settings.key(at), "api_base": settings.api_base, "timeout": settings.timeout}
    return {name: value for name, value in given.items() if value is not None}


def _engine(value: Any, at: str) -> Any:
    """An engine of one's own; an import path names it, or a function or class that makes it."""
    if not isinstance(value, str) or ":" not in value:
        return value
    found = imported(value, at)
    if hasattr(found, "complete") and not isinstance(found, type):
        return found
    try:
        return found()
    except Exception as error:
        raise ConfigError(f"{value!r} makes no engine: {type(error).__name__}: {error}", field=at) from error


def digest(settings: LMSettings) -> str:
    """Equal for equal settings, also in other processes; engines given as objects are equal to themselves."""
    data = json.dumps(settings.model_dump(), sort_keys=True, default=_plain)
    return hashlib.blake2b(data.encode(), digest_size=6).hexdigest()


def _plain(value: Any) -> Any:
    if isinstance(value, SecretStr):
        return value.get_secret_value()
    if isinstance(value, Mapping):
        return dict(value)
    return f"{type(value).__qualname__} {id(value)}"

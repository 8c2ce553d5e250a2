"""The configuration: one typed model from Python, `dspex.toml` and the environment."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dspex._lazy import lazy

if TYPE_CHECKING:
    from dspex.config.backends import (
        AnswerCacheSettings,
        DspySettings,
        ProcessPoolSettings,
        RoutingSettings,
        RuleSettings,
        When,
    )
    from dspex.config.base import Settings
    from dspex.config.lm import BreakerSettings, BudgetSettings, LimitSettings, LMSettings, RetrySettings
    from dspex.config.loading import Loaded, load, read
    from dspex.config.model import Config
    from dspex.config.places import is_configured

__all__ = [
    "AnswerCacheSettings",
    "BreakerSettings",
    "BudgetSettings",
    "Config",
    "DspySettings",
    "LMSettings",
    "LimitSettings",
    "Loaded",
    "ProcessPoolSettings",
    "RetrySettings",
    "RoutingSettings",
    "RuleSettings",
    "Settings",
    "When",
    "is_configured",
    "load",
    "read",
]

_HOMES = {
    "backends": (
        "AnswerCacheSettings", "DspySettings", "ProcessPoolSettings", "RoutingSettings", "RuleSettings",
        "When",
    ),
    "base": ("Settings",),
    "lm": ("BreakerSettings", "BudgetSettings", "LMSettings", "LimitSettings", "RetrySettings"),
    "loading": ("Loaded", "load", "read"),
    "model": ("Config",),
    "places": ("is_configured",),
}  # fmt: skip


if not TYPE_CHECKING:  # type checkers take the imports above, and so see a misspelt name
    # Pydantic takes a tenth of a second, and who has configured nothing asks only `is_configured`.
    __getattr__ = lazy(__name__, _HOMES, globals())

"""The configuration: one typed model from Python, `dspex.toml` and the environment."""

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
from dspex.config.model import Config

__all__ = [
    "AnswerCacheSettings",
    "BreakerSettings",
    "BudgetSettings",
    "Config",
    "DspySettings",
    "LMSettings",
    "LimitSettings",
    "ProcessPoolSettings",
    "RetrySettings",
    "RoutingSettings",
    "RuleSettings",
    "Settings",
    "When",
]

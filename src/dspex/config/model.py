"""The whole configuration, as one typed model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import Field

from dspex.config.backends import DspySettings, ProcessPoolSettings, RoutingSettings
from dspex.config.base import Settings
from dspex.config.lm import LMSettings

__all__ = ["Config"]


class Config(Settings):
    """Everything that can be set: language models, backends, pools and routing. Read-only."""

    lm: str | None = None
    """The name, in `lms`, of the default LM; by default the only one there is."""
    lms: Mapping[str, LMSettings] = Field(default_factory=dict)
    dspy: DspySettings = DspySettings()
    dspy_pool: ProcessPoolSettings = ProcessPoolSettings()
    native_pool: Mapping[str, Any] = Field(default_factory=dict)
    """Settings of the native worker pool, see `PoolSettings`."""
    routing: RoutingSettings = RoutingSettings()

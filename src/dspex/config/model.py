"""The whole configuration, as one typed model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

from pydantic import Field, field_validator, model_validator

from dspex.config.backends import DspySettings, ProcessPoolSettings, RoutingSettings
from dspex.config.base import Frozen, Settings, Table
from dspex.config.lm import LMSettings, Text
from dspex.config.problems import Misfit
from dspex.errors import ConfigError, nearest

__all__ = ["Config"]


class Config(Settings):
    """Everything that can be set: language models, backends, pools and routing. Read-only."""

    lm: Text | None = None
    """The name, in `lms`, of the default LM; by default the only one there is."""
    lms: Table[LMSettings] = Field(default_factory=Frozen)
    """Language models, by names of one's own."""
    dspy: DspySettings = DspySettings()
    dspy_pool: ProcessPoolSettings = ProcessPoolSettings()
    native_pool: Table[Any] = Field(default_factory=Frozen)
    """Settings of the native worker pool, see `PoolSettings`."""
    routing: RoutingSettings = RoutingSettings()

    @property
    def default_lm(self) -> str | None:
        """`lm` with its default filled in; None: no LM, or several of which none is named."""
        return self.lm if self.lm is not None or len(self.lms) != 1 else next(iter(self.lms))

    @field_validator("lm", mode="before")
    @classmethod
    def _name(cls, lm: Any) -> Any:
        if isinstance(lm, Mapping):
            hint = "These stand in `lms`, under a name"
            raise Misfit("'lm' is the name of an LM, not its settings", hint=hint)
        return lm

    @field_validator("native_pool")
    @classmethod
    def _pool(cls, settings: Frozen[Any]) -> Frozen[Any]:
        if settings:
            from dspex.pool.settings import PoolSettings

            try:
                PoolSettings.of(dict(settings))
            except ConfigError as error:
                raise Misfit(
                    error.message, *([error.field] if error.field else []), hint=error.hint
                ) from None
        return settings

    @model_validator(mode="after")
    def _names(self) -> Self:
        if self.lm is not None and self.lm not in self.lms:
            raise Misfit(f"no LM is named {self.lm!r}", "lm", hint=self._known())
        for name, settings in self.lms.items():
            if not name.strip():
                raise Misfit("the name of an LM is blank", "lms")
            for at, other in enumerate(settings.fallbacks):
                if other == name:
                    raise Misfit("an LM cannot stand in for itself", "lms", name, "fallbacks", at)
                if other not in self.lms:
                    raise Misfit(
                        f"no LM is named {other!r}", "lms", name, "fallbacks", at, hint=self._known(other)
                    )
        return self

    def _known(self, name: str | None = None) -> str:
        wanted = self.lm if name is None else name
        return nearest(str(wanted), self.lms) if self.lms else "No LM is configured: give it in `lms`"

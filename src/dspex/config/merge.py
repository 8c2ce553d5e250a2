"""Lays sources of settings over one another, by pydantic-settings; which is slow to import."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pydantic_settings import BaseSettings, InitSettingsSource, PydanticBaseSettingsSource, SettingsConfigDict

from dspex.config.sources import Source

__all__ = ["merged"]


class _Merged(BaseSettings):
    """Holds what the sources say, unchecked."""

    model_config = SettingsConfigDict(extra="allow", protected_namespaces=())

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        # Its own environment source leaves out what it does not know, and we want that to be an error.
        assert isinstance(init_settings, InitSettingsSource)
        sources: Sequence[Source] = init_settings.init_kwargs["sources"]
        return tuple(InitSettingsSource(settings_cls, source.values) for source in sources)


def merged(sources: Sequence[Source]) -> dict[str, Any]:
    """The settings of all sources, of which earlier ones count more. Tables are merged, lists are not."""
    made = _Merged(sources=sources)  # type: ignore[call-arg]
    return dict(made.model_extra or {})

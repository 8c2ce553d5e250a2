"""What every group of settings shares: frozen, strict about names, and errors that say what to write."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self, get_args

from pydantic import BaseModel, ConfigDict, ValidationError

from dspex.errors import ConfigError, nearest

__all__ = ["Settings", "config_error"]


class Settings(BaseModel):
    """A group of settings: read-only, and an unknown key is an error that names the nearest one."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    @classmethod
    def of(cls, values: Mapping[str, Any] | Self | None, *, at: str = "") -> Self:
        """From a mapping, itself, or None for the defaults.

        Args:
            at: where the values stand in the configuration, for errors: "dspy_pool", "lms.fast".

        Raises:
            ConfigError: an unknown key, or a value that does not fit; `field` is its dotted path.
        """
        if isinstance(values, cls):
            return values
        if values is not None and not isinstance(values, Mapping):
            raise ConfigError(f"settings are a mapping, not {type(values).__name__}", field=at or None)
        try:
            return cls.model_validate(dict(values or {}))
        except ValidationError as error:
            raise config_error(error, cls, at) from None


def config_error(error: ValidationError, model: type[BaseModel], at: str = "") -> ConfigError:
    """The first problem of a validation as a ConfigError. Values are not shown: they may be secret."""
    first = error.errors(include_url=False, include_input=False)[0]
    path = [str(part) for part in first["loc"]]
    field = ".".join([*([at] if at else []), *path]) or None
    if first["type"] == "extra_forbidden":
        known = _fields_at(model, first["loc"][:-1])
        return ConfigError(f"unknown setting {path[-1]!r}", field=field, hint=nearest(path[-1], known))
    cause = (first.get("ctx") or {}).get("error")
    if isinstance(cause, ConfigError):
        return ConfigError(cause.message, field=field, hint=cause.hint)
    return ConfigError(first["msg"].removeprefix("Value error, "), field=field)


def _fields_at(model: Any, path: tuple[int | str, ...]) -> list[str]:
    """The names that a setting may have at a place in a nested model."""
    for part in path:
        field = model.model_fields.get(part) if _is_model(model) else None
        annotation = field.annotation if field is not None else model
        model = next((found for found in _models_in(annotation)), model)
    return sorted(model.model_fields) if _is_model(model) else []


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if _is_model(annotation):
        return [annotation]
    return [found for argument in get_args(annotation) for found in _models_in(argument)]


def _is_model(value: Any) -> bool:
    return isinstance(value, type) and issubclass(value, BaseModel)

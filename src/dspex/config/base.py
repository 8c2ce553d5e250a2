"""What every group of settings shares: read-only, strict about names, and errors that say what to write."""

from __future__ import annotations

from collections.abc import Mapping
from types import NoneType, UnionType
from typing import (
    TYPE_CHECKING,
    Annotated,
    Any,
    ClassVar,
    Literal,
    NoReturn,
    Self,
    TypeVar,
    Union,
    get_args,
    get_origin,
)

from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationError, model_validator

from dspex.config.problems import Path, dotted, problem
from dspex.errors import ConfigError

__all__ = ["OFF", "Frozen", "Settings", "Table", "config_error", "members", "names_at", "shape", "step"]

V = TypeVar("V")

#: Switches off a setting that may be None, where None cannot be written: in TOML and in the environment.
OFF = "none"


class Frozen(dict[str, V]):
    """A mapping that does not change; it can be copied, pickled and turned into JSON as a dict can."""

    def _refuse(self, *_: Any, **__: Any) -> NoReturn:
        raise TypeError("settings are read-only: make new ones")

    __setitem__ = __delitem__ = clear = pop = popitem = setdefault = update = __ior__ = _refuse

    def __reduce__(self) -> tuple[Any, ...]:
        return Frozen, (dict(self),)


#: A read-only mapping with names for keys.
Table = Annotated[Mapping[str, V], AfterValidator(Frozen)]


class Settings(BaseModel):
    """A group of settings: read-only, and an unknown key is an error that names the nearest one.

    "none" is None for a setting that may be None and takes no other text.
    """

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        use_attribute_docstrings=True,
        hide_input_in_errors=True,
        protected_namespaces=(),  # `model_type` is a setting
    )

    _can_be_off: ClassVar[frozenset[str]] = frozenset()

    if not TYPE_CHECKING:  # type checkers take the fields

        def __init__(self, **values: Any) -> None:
            try:
                super().__init__(**values)
            except ValidationError as error:
                raise config_error(error, type(self)) from None

        # Said to pydantic: nested groups need not be made through it, which would lose their paths.
        __init__.__pydantic_base_init__ = True

    @classmethod
    def __pydantic_init_subclass__(cls, **_: Any) -> None:
        cls._can_be_off = frozenset(
            name
            for name, field in cls.model_fields.items()
            if NoneType in members(field.annotation) and not _takes_text(field.annotation)
        )

    @model_validator(mode="before")
    @classmethod
    def _switched_off(cls, values: Any) -> Any:
        if not isinstance(values, Mapping):
            return values
        off = [name for name in cls._can_be_off & values.keys() if isinstance(values[name], str)]
        return {**values, **{name: None for name in off if values[name] == OFF}} if off else values

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
    """The first problem of a validation as a ConfigError."""
    found = problem(error, lambda path: names_at(model, path))
    path: Path = (*at.split("."), *found.path) if at else found.path
    return ConfigError(found.message, field=dotted(path) or None, hint=found.hint)


def names_at(model: Any, path: Path) -> list[str]:
    """The names that settings may have at a place in a nested model; empty where any may be."""
    for part in path:
        model = step(model, part)
    return sorted(_group(model).model_fields) if shape(model) == "group" else []


Shape = Literal["group", "table", "list", "any", "value"]


def shape(annotation: Any) -> Shape:
    """What values of a type are: a group of settings, a table with names of one's own, a list, a value."""
    for member in members(annotation):
        origin = get_origin(member) or member
        if member is Any:
            return "any"
        if isinstance(origin, type):
            if issubclass(origin, BaseModel):
                return "group"
            if issubclass(origin, Mapping):
                return "table"
            if origin is tuple:
                return "list"
    return "value"


def step(annotation: Any, part: str | int) -> Any:
    """The type of what has this name within values of a type; None where nothing can."""
    kind = shape(annotation)
    if kind == "group":
        field = _group(annotation).model_fields.get(str(part))
        return None if field is None else field.annotation
    if kind in ("table", "list"):
        inner = [get_args(member) for member in members(annotation) if get_args(member)]
        return inner[0][1 if kind == "table" else 0]
    return Any if kind == "any" else None


def _group(annotation: Any) -> type[BaseModel]:
    found: type[BaseModel] = next(
        m for m in members(annotation) if isinstance(m, type) and issubclass(m, BaseModel)
    )
    return found


def members(annotation: Any) -> tuple[Any, ...]:
    """The members of a union, and otherwise the type alone; without what Annotated says of them."""
    if get_origin(annotation) is Annotated:
        return members(get_args(annotation)[0])
    if get_origin(annotation) in (Union, UnionType):
        return tuple(member for each in get_args(annotation) for member in members(each))
    return (annotation,)


def _takes_text(annotation: Any) -> bool:
    return any(
        member is Any or (isinstance(member, type) and (member is str or hasattr(member, "get_secret_value")))
        for member in members(annotation)
    )

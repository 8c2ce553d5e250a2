"""What ``dspex config check`` finds out about a configuration, as JSON-able data."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from dspex.config import Config, LMSettings, Loaded, RoutingSettings, RuleSettings
from dspex.config import places as files
from dspex.config.sources import Environment, FromFile, Source
from dspex.pool import PoolSettings
from dspex.routing import Policy

__all__ = ["facts"]


def facts(loaded: Loaded) -> dict[str, Any]:
    """Everything that is set, with defaults filled in, in which order LMs and rules come, and what is odd.

    Raises:
        ConfigError: a rule that can never match, or two that contradict.
    """
    config = loaded.config
    policy = Policy.of(config.routing)
    pool = PoolSettings.of(dict(config.native_pool))
    process_pool = config.dspy_pool.model_dump(mode="json")
    return {
        "sources": [_source(source) for source in loaded.sources],
        "lm": config.default_lm,
        "lms": {name: _lm(settings) for name, settings in config.lms.items()},
        "dspy": config.dspy.model_dump(mode="json"),
        "native_pool": dataclasses.asdict(pool),
        "dspy_pool": {**process_pool, "max_size": config.dspy_pool.most_workers},
        "routing": _routing(config, policy),
        "changed": list(_changed(loaded)),
        "warnings": list(_warnings(config, loaded)),
    }


def _source(source: Source) -> dict[str, Any]:
    origin = sorted(source.variables.values()) if isinstance(source, Environment) else []
    if isinstance(source, FromFile):
        origin = [os.path.abspath(source.path)]
    return {"kind": source.kind, "from": origin}


def _lm(settings: LMSettings) -> dict[str, Any]:
    return {
        **settings.model_dump(mode="json"),
        "api_key": _key(settings),
        "options": sorted(settings.options),
    }


def _key(settings: LMSettings) -> str:
    variable = settings.key_variable
    if variable is not None:
        return f"from {variable}" + ("" if os.environ.get(variable) else ", which is not set")
    return "the provider's own variable" if settings.api_key is None else "given"


def _routing(config: Config, policy: Policy) -> dict[str, Any]:
    settings = config.routing
    return {
        **settings.model_dump(mode="json"),
        "rules": [
            {"number": rule.number, "name": rule.name, "when": _when(each), "use": rule.use}
            for rule, each in zip(policy.rules, settings.rules, strict=True)
        ],
        "first": policy.dspy if settings.prefer in ("dspy", "quality") else policy.native,
        "other": policy.dspy,
        "gate": _gate(settings, policy),
    }


def _when(rule: RuleSettings) -> str:
    when = rule.when
    words = [
        f"{label} {value}" if label == "operation" else f"{label} {value!r}"
        for label, value in when.model_dump().items()
        if value is not None and label != "signature"
    ]
    if when.signature in ("native", "not native"):
        words.append(f"a signature that is {when.signature}")
    elif when.signature is not None:
        words.append(f"a signature like {when.signature!r}")
    return "calls with " + " and ".join(words) if words else "every call"


def _gate(settings: RoutingSettings, policy: Policy) -> str:
    if settings.threshold is None:
        return "none: every native answer stands"
    asked = f"a native answer below {settings.threshold:g} confidence is asked of {policy.dspy}"
    return f"{asked}, where an LM is configured"


def _changed(loaded: Loaded) -> Iterator[dict[str, Any]]:
    """Settings that are not as by default; an LM's model and key are no such thing."""
    for path, value, default in _compared(loaded.config, ()):
        yield {
            "setting": ".".join(path),
            "value": value,
            "default": default,
            "from": loaded.origin(path) or "arguments",
        }


def _compared(settings: BaseModel, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any, Any]]:
    shown = settings.model_dump(mode="json")
    for name, field in type(settings).model_fields.items():
        value, place = getattr(settings, name), (*path, name)
        if isinstance(value, BaseModel):
            yield from _compared(value, place)
        elif place == ("lms",):
            for lm, inner in value.items():
                yield from _compared(inner, (*place, lm))
        elif place == ("native_pool",):
            yield from _pool_changes(value, place)
        elif name not in ("model", "api_key", "rules") and value != field.get_default(
            call_default_factory=True
        ):
            if name == "options":
                yield place, sorted(value), []
            else:
                yield place, shown[name], _jsonable(field.get_default())


def _pool_changes(
    given: Mapping[str, Any], path: tuple[str, ...]
) -> Iterator[tuple[tuple[str, ...], Any, Any]]:
    defaults = dataclasses.asdict(PoolSettings())
    for name, value in given.items():
        if value != defaults[name]:
            yield (*path, name), value, defaults[name]


def _jsonable(value: Any) -> Any:
    return value.model_dump(mode="json") if isinstance(value, BaseModel) else value


def _warnings(config: Config, loaded: Loaded) -> Iterator[str]:
    """What is allowed, and probably not meant."""
    if not config.lms:
        yield "No LM is configured: unless dspy.settings has one, every native answer stands"
    elif config.default_lm is None:
        yield "There are several LMs and no default: programs have to name theirs, or set `lm`"
    for name, settings in config.lms.items():
        variable = settings.key_variable
        if variable is not None and not os.environ.get(variable):
            yield f"The variable {variable} for the key of LM {name!r} is not set"
    unused = sorted(config.lms.keys() - _asked(config))
    if unused and config.default_lm is not None:
        yield f"Asked only by programs that name them: {', '.join(unused)}"
    if config.routing.hedge_after_ms is not None and not _uses_pool(config.routing):
        yield "routing.hedge_after_ms does nothing: no rule and no setting sends calls to a pool"
    read = [source.path.name for source in loaded.sources if isinstance(source, FromFile)]
    if read != [files.PROJECT] and files.has_table(Path(files.PROJECT)):
        yield f"The table [tool.dspex] of {files.PROJECT} is not read: another file comes before it"


def _asked(config: Config) -> set[str]:
    """The LMs that the default one leads to."""
    default = config.default_lm
    return set() if default is None else {default, *config.lms[default].fallbacks}


def _uses_pool(routing: RoutingSettings) -> bool:
    used = [routing.backend, *(rule.use for rule in routing.rules)]
    return routing.native_pool or routing.dspy_pool or any(name and name.endswith("_pool") for name in used)

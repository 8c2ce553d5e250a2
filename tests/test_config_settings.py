"""The settings themselves: defaults, checks, messages, what cannot be changed and what is not shown."""

from __future__ import annotations

import copy
import json
import pickle
import traceback
from collections.abc import Mapping
from typing import Any

import pytest

from dspex.config import (
    BreakerSettings,
    BudgetSettings,
    Config,
    DspySettings,
    LimitSettings,
    LMSettings,
    ProcessPoolSettings,
    RoutingSettings,
    Settings,
)
from dspex.config.base import Frozen
from dspex.errors import ConfigError

LM = {"model": "openai/x"}
FULL = {
    "lm": "fast",
    "lms": {"fast": {**LM, "fallbacks": ["slow"], "options": {"seed": 7}, "prices": [1, 2.5]}, "slow": LM},
    "native_pool": {"size": 2},
    "routing": {"rules": [{"use": "dspy", "when": {"tag": "hard"}}]},
}


def refused(values: Mapping[str, Any], model: type[Settings] = Config) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        model.of(values)
    return caught.value


def test_everything_has_a_default() -> None:
    config = Config.of(None)
    assert config == Config() == Config.of({})
    assert config.default_lm is None
    assert config.dspy_pool.most_workers == config.dspy_pool.size == 2
    assert config.routing.threshold == 0.9


def test_settings_stay_what_they_are() -> None:
    config = Config.of(FULL)
    assert Config.of(config) is config
    assert config.lms["fast"].prices == (1, 2.5)
    with pytest.raises(ValueError, match="frozen"):
        config.lm = "slow"  # type: ignore[misc]
    for table in (config.lms, config.native_pool, config.lms["fast"].options, Config().lms):
        assert isinstance(table, Frozen)
        for change in ("clear", "pop", "popitem", "update", "setdefault"):
            with pytest.raises(TypeError, match="read-only"):
                getattr(table, change)()
        with pytest.raises(TypeError, match="read-only"):
            table["x"] = 1
        with pytest.raises(TypeError, match="read-only"):
            del table["fast"]
        with pytest.raises(TypeError, match="read-only"):
            table |= {"x": 1}


def test_settings_do_not_share_the_callers_mapping() -> None:
    options = {"seed": 7}
    settings = LMSettings.of({**LM, "options": options})
    options["seed"] = 8
    assert settings.options == {"seed": 7}


def test_settings_can_be_copied_and_sent() -> None:
    config = Config.of({**FULL, "lms": {"fast": {**LM, "api_key": "s3cret"}}})
    for same in (pickle.loads(pickle.dumps(config)), copy.deepcopy(config), copy.copy(config)):
        assert same == config
        assert isinstance(same.lms, Frozen)
        assert same.lms["fast"].key() == "s3cret"
    assert Config.of(config.model_dump()) == config
    assert json.loads(json.dumps(Config.of(FULL).native_pool)) == {"size": 2}


@pytest.mark.parametrize(
    ("model", "values", "field", "message", "hint"),
    [
        (Config, {"lmss": {}}, "lmss", "unknown setting 'lmss'", "'lms'"),
        (Config, {"routing": {"treshold": 1}}, "routing.treshold", "unknown setting", "'threshold'"),
        (Config, {"lms": {"a": {"modle": "x"}}}, "lms.a.modle", "unknown setting", "'model'"),
        (Config, {"lms": {"retry": {**LM, "retri": 1}}}, "lms.retry.retri", "unknown", "'retry'"),
        (Config, {"dspy": {"budget": {"token": 1}}}, "dspy.budget.token", "unknown", "'tokens'"),
        (Config, {"routing": {"rules": [{"use": "dspy"}, {"ues": 1}]}}, "routing.rules.1.ues", "un", "'use'"),
        (
            Config, {"routing": {"rules": [{"use": "dspy", "when": {"knd": 1}}]}},
            "routing.rules.0.when.knd", "unknown setting", "'kind'",
        ),
        (Config, {"native_pool": {"sise": 2}}, "native_pool.sise", "no setting 'sise'", "'size'"),
        (Config, {"native_pool": {"size": 0}}, "native_pool.size", "size is 0", "Give 1 to"),
        (Config, {"lms": {"a": {}}}, "lms.a.model", "'model' is missing", None),
        (Config, {"lms": [1]}, "lms", "'lms' takes a table, not a list", None),
        (Config, {"lms": {1: LM}}, "lms.1", "a name is text, not 1", None),
        (Config, {"lms": {" ": LM}}, "lms", "is blank", None),
        (Config, {"routing": 5}, "routing", "takes a table of settings, not a number", None),
        (Config, {"lm": "fats", "lms": {"fast": LM}}, "lm", "no LM is named 'fats'", "'fast'"),
        (Config, {"lm": "fast"}, "lm", "no LM is named 'fast'", "give it in `lms`"),
        (Config, {"lms": {"a": {**LM, "fallbacks": ["a"]}}}, "lms.a.fallbacks.0", "for itself", None),
        (Config, {"lms": {"abc": {**LM, "fallbacks": ["abd"]}}}, "lms.abc.fallbacks.0", "'abd'", "'abc'"),
        (RoutingSettings, {"prefer": "sped"}, "prefer", "'prefer' cannot be 'sped'", "'speed'"),
        (RoutingSettings, {"prefer": 3}, "prefer", "cannot be 3", "Known: cost, dspy"),
        (RoutingSettings, {"backend": "dspi"}, "backend", "cannot be 'dspi'", "'dspy'"),
        (RoutingSettings, {"threshold": 1.5}, "threshold", "has to be at most 1, and is 1.5", None),
        (RoutingSettings, {"threshold": -1}, "threshold", "has to be at least 0, and is -1", None),
        (RoutingSettings, {"threshold": "0.5"}, "threshold", "takes a number, not text", None),
        (RoutingSettings, {"threshold": True}, "threshold", "takes a number, not true or false", None),
        (RoutingSettings, {"rules": "x"}, "rules", "takes a list, not text", None),
        (RoutingSettings, {"fallback": 1}, "fallback", "takes true or false, not a number", None),
        (DspySettings, {"timeout": 0}, "timeout", "has to be above 0, and is 0", None),
        (DspySettings, {"timeout": float("inf")}, "timeout", "at most 1e+09, and is inf", None),
        (DspySettings, {"timeout": float("nan")}, "timeout", "is nan", None),
        (DspySettings, {"concurrency": 2.5}, "concurrency", "takes a whole number, not 2.5", None),
        (DspySettings, {"concurrency": None}, "concurrency", "a whole number, not nothing", None),
        (BudgetSettings, {"usd": float("inf")}, "usd", "has to be a finite number", None),
        (BreakerSettings, {"failure_rate": 0}, "failure_rate", "above 0", None),
        (LimitSettings, {"burst": 3}, "burst", "requests_per_minute, which is not set", None),
        (ProcessPoolSettings, {"size": 3, "max_size": 2}, "max_size", "2 is below size 3", None),
        (ProcessPoolSettings, {"size": 5000}, "size", "at most 1024", None),
        (LMSettings, {"model": " "}, "model", "'model' is empty", None),
        (LMSettings, {**LM, "api_key": ""}, "api_key", "'api_key' is empty", "provider's own"),
        (LMSettings, {**LM, "api_key": "env: "}, "api_key", "'api_key' is empty", None),
        (LMSettings, {**LM, "api_base": "localhost:80"}, "api_base", "has to be a URL", "https://host/v1"),
        (LMSettings, {**LM, "api_base": "http://[x"}, "api_base", "has to be a URL", None),
        (LMSettings, {**LM, "options": {"api_key": "x"}}, "options.api_key", "setting of its own", "beside"),
        (LMSettings, {**LM, "options": {"num_retries": 3}}, "options.num_retries", "own retries", "attempts"),
        (LMSettings, {**LM, "fallbacks": ["a", "a"]}, "fallbacks.1", "twice", None),
        (LMSettings, {**LM, "prices": [1]}, "prices.1", "'prices.1' is missing", None),
        (LMSettings, {**LM, "prices": [1, -1]}, "prices.1", "at least 0", None),
        (LMSettings, {**LM, "retry": {"attempts": 0}}, "retry.attempts", "at least 1, and is 0", None),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_said(
    model: type[Settings], values: Mapping[str, Any], field: str, message: str, hint: str | None
) -> None:
    error = refused(values, model)
    assert error.field == field
    assert message in error.message
    if hint is not None:
        assert hint in str(error.hint)


def test_a_path_says_where_the_settings_stand() -> None:
    with pytest.raises(ConfigError) as caught:
        RoutingSettings.of({"treshold": 1}, at="programs.a.routing")
    assert caught.value.field == "programs.a.routing.treshold"
    with pytest.raises(ConfigError, match="a mapping, not int") as caught:
        RoutingSettings.of(3, at="routing")  # type: ignore[arg-type]
    assert caught.value.field == "routing"


def test_the_constructor_has_the_same_errors() -> None:
    with pytest.raises(ConfigError, match="Did you mean 'model'"):
        LMSettings(modle="x")  # type: ignore[call-arg]
    with pytest.raises(ConfigError, match="cannot be 'sped'") as caught:
        RoutingSettings(prefer="sped")  # type: ignore[arg-type]
    assert caught.value.field == "prefer"


def test_a_misspelt_name_is_said_before_what_is_missing() -> None:
    assert "'modle'" in refused({"modle": "x"}, LMSettings).message


def test_none_switches_off_what_can_be_off() -> None:
    config = Config.of({"routing": {"threshold": "none"}, "dspy": {"timeout": "none", "budget": "none"}})
    assert config.routing.threshold is None
    assert config.dspy.timeout is None
    assert config.dspy.budget is None
    assert "threshold" in config.routing.model_fields_set
    # Where it could be a name, it is one; and what cannot be off takes no "none".
    assert Config.of({"lm": "none", "lms": {"none": LM}}).lm == "none"
    assert refused({"dspy": {"concurrency": "none"}}).field == "dspy.concurrency"


def test_the_default_lm() -> None:
    assert Config.of({"lms": {"only": LM}}).default_lm == "only"
    assert Config.of({"lms": {"one": LM, "two": LM}}).default_lm is None
    assert Config.of({"lm": "two", "lms": {"one": LM, "two": LM}}).default_lm == "two"


def test_two_lms_can_stand_in_for_each_other() -> None:
    mutual = {"a": {**LM, "fallbacks": ["b"]}, "b": {**LM, "fallbacks": ["a"]}}
    assert Config.of({"lms": mutual}).lms["a"].fallbacks == ("b",)


# --- secrets ---

SECRETS = {
    **LM,
    "api_key": "s3cret",
    "api_base": "https://user:s3cret@host/v1",
    "options": {"extra_headers": {"Authorization": "s3cret"}},
}


def test_secrets_are_not_shown() -> None:
    settings = LMSettings.of(SECRETS)
    config = Config.of({"lms": {"a": settings}})
    for shown in (repr(settings), str(config), settings.model_dump_json(), config.model_dump_json()):
        assert "s3cret" not in shown
        assert "https://host/v1" in shown
        assert "extra_headers" in shown
    assert settings.key() == "s3cret"
    assert settings.api_base == SECRETS["api_base"]
    assert settings.options == SECRETS["options"]


@pytest.mark.parametrize(
    "wrong",
    [
        {"api_key": ["s3cret"]},
        {"api_key": {"s3cret": "s3cret"}},
        {"api_base": "s3cret"},
        {"options": "s3cret"},
        {"timeout": "s3cret"},
        {"model": ["s3cret"]},
        {"fallbacks": "s3cret"},
    ],
)
def test_errors_hold_no_secrets(wrong: dict[str, Any]) -> None:
    error = refused({"lms": {"a": {**SECRETS, **wrong}}})
    told = "".join(traceback.format_exception(error)) + repr(error.to_dict()) + repr(error.__context__)
    assert "s3cret" not in told


def test_a_key_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = LMSettings.of({**LM, "api_key": "env:SOME_KEY"})
    assert settings.key_variable == "SOME_KEY"
    monkeypatch.delenv("SOME_KEY", raising=False)
    with pytest.raises(ConfigError, match="'SOME_KEY' of an api_key is not set") as caught:
        settings.key("lms.fast")
    assert caught.value.field == "lms.fast.api_key"
    monkeypatch.setenv("SOME_KEY", "s3cret")
    assert settings.key() == "s3cret"
    assert LMSettings.of({**LM, "api_key": "plain"}).key_variable is None
    assert LMSettings.of(LM).key() is None

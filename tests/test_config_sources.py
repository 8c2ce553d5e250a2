"""Where settings come from: arguments, environment, a file; which of them counts; what they cannot say."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from dspex.config import Config, LMSettings, RoutingSettings, is_configured, load, read
from dspex.errors import ConfigError

TWO = """
[lms.fast]
model = "openai/file"
api_key = "s3cret"
options = {seed = 7, top_p = 0.5}

[routing]
threshold = 0.5
prefer = "dspy"
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(text: str, name: str = "dspex.toml") -> Path:
    path = Path(name)
    path.write_text(text, encoding="utf-8")
    return path


def refused(*args: Any, **overrides: Any) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        load(*args, **overrides)
    return caught.value


def test_nothing_is_needed() -> None:
    assert load() == Config()
    assert read().sources == ()
    assert not is_configured()


def test_arguments_before_environment_before_file(monkeypatch: pytest.MonkeyPatch) -> None:
    write(TWO)
    assert load().routing.threshold == 0.5
    monkeypatch.setenv("DSPEX_ROUTING__THRESHOLD", "0.6")
    assert load().routing.threshold == 0.6
    assert load(routing={"threshold": 0.7}).routing.threshold == 0.7
    assert load(routing={"threshold": 0.7}).routing.prefer == "dspy", "tables are merged"


def test_tables_are_merged_and_lists_are_not(monkeypatch: pytest.MonkeyPatch) -> None:
    write(TWO + "\n[[routing.rules]]\nuse = 'dspy'\n[[routing.rules]]\nuse = 'native'\nwhen.tag = 'x'")
    monkeypatch.setenv("DSPEX_LMS__SLOW__MODEL", "openai/slow")
    monkeypatch.setenv("DSPEX_ROUTING__RULES", '[{"use": "native_pool"}]')
    config = load(lms={"fast": {"model": "openai/arguments", "options": {"seed": 8}}})
    assert set(config.lms) == {"fast", "slow"}
    assert config.lms["fast"].model == "openai/arguments"
    assert config.lms["fast"].key() == "s3cret"
    assert config.lms["fast"].options == {"seed": 8, "top_p": 0.5}
    assert [rule.use for rule in config.routing.rules] == ["native_pool"]


def test_objects_in_arguments_stand_with_all_they_hold() -> None:
    write(TWO)
    assert load(routing=RoutingSettings(threshold=0.9)).routing.prefer is None
    assert load(lms={"fast": LMSettings(model="openai/object")}).lms["fast"].options == {}


def test_origins_are_known(monkeypatch: pytest.MonkeyPatch) -> None:
    write(TWO)
    monkeypatch.setenv("DSPEX_ROUTING__PREFER", "native")
    loaded = read(routing={"fallback": False})
    assert [source.kind for source in loaded.sources] == ["arguments", "environment", "file"]
    assert loaded.origin(("routing", "fallback")) == "the arguments"
    assert loaded.origin(("routing", "prefer")) == "DSPEX_ROUTING__PREFER"
    assert loaded.origin(("routing", "threshold")) == "dspex.toml"
    assert loaded.origin(("dspy", "timeout")) is None


# --- the file ---


def test_which_file_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    write("[tool.other]\nx = 1\n# dspex", "pyproject.toml")
    assert load() == Config()
    assert not is_configured()
    write("[tool.dspex.routing]\nthreshold = 0.1", "pyproject.toml")
    assert load().routing.threshold == 0.1
    assert is_configured()
    write("[routing]\nthreshold = 0.2")
    assert load().routing.threshold == 0.2
    write("[routing]\nthreshold = 0.3", "named.toml")
    monkeypatch.setenv("DSPEX_CONFIG", "named.toml")
    assert load().routing.threshold == 0.3
    assert load("dspex.toml").routing.threshold == 0.2
    assert load(Path("pyproject.toml")).routing.threshold == 0.1
    monkeypatch.setenv("DSPEX_CONFIG", "")
    assert load().routing.threshold == 0.2


@pytest.mark.parametrize("text", ["routing = {", "[routing]\nthreshold = 0.8\nx", "[a]\n[a]", "x = \x01"])
def test_what_is_no_toml_names_file_and_line(text: str) -> None:
    write(text)
    error = refused()
    assert error.message.startswith("dspex.toml is not TOML: ")
    assert f"line {len(text.splitlines())}" in error.message


def test_what_is_no_text_names_file_and_line(folder: Path) -> None:
    (folder / "dspex.toml").write_bytes(b"[routing]\n# \xff")
    assert refused().message == "dspex.toml is not UTF-8 (line 2)"


def test_a_named_file_has_to_be_there(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    for path in ("absent.toml", folder):
        error = refused(path)
        assert str(path) in error.message
        assert error.field == "path"
    monkeypatch.setenv("DSPEX_CONFIG", "absent.toml")
    assert refused().field == "DSPEX_CONFIG"
    assert is_configured_or_error() == "DSPEX_CONFIG"


def is_configured_or_error() -> Any:
    with pytest.raises(ConfigError) as caught:
        is_configured()
    return caught.value.field


def test_a_named_pyproject_has_to_have_the_table() -> None:
    path = write("[tool.other]", "pyproject.toml")
    assert "no table [tool.dspex]" in refused(path).message
    write("[tool]\ndspex = 3", "pyproject.toml")
    assert "no table [tool.dspex]" in refused(path).message


@pytest.mark.parametrize(
    ("text", "field", "message"),
    [
        ("[routing]\ntreshold = 1", "routing.treshold", "unknown setting 'treshold', in dspex.toml"),
        ("[rooting]", "rooting", "unknown setting 'rooting', in dspex.toml"),
        ("[lms.fast]\ntimeout = 3", "lms.fast.model", "'model' is missing, in dspex.toml"),
        ("lms = 3", "lms", "'lms' takes a table, not a number, in dspex.toml"),
        ("dspy.timeout = 2020-01-01", "dspy.timeout", "not a date, in dspex.toml"),
        ("[[routing.rules]]\nuse = 'x'", "routing.rules.0.use", "cannot be 'x', in dspex.toml"),
    ],
)
def test_a_fault_names_the_file(text: str, field: str, message: str) -> None:
    write(text)
    error = refused()
    assert error.field == field
    assert message in error.message


# --- the environment ---


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("ROUTING__THRESHOLD", "0.25", 0.25),
        ("ROUTING__THRESHOLD", "1", 1.0),
        ("ROUTING__THRESHOLD", "none", None),
        ("ROUTING__FALLBACK", "False", False),
        ("ROUTING__DSPY_POOL", "yes", True),
        ("ROUTING__PREFER", "cost", "cost"),
        ("DSPY__TIMEOUT", "1e1", 10.0),
        ("DSPY__BUDGET", "none", None),
        ("DSPY__BUDGET__TOKENS", "5", 5),
        ("DSPY__CACHE__SIZE", "5", 5),
        ("NATIVE_POOL__SIZE", "2", 2),
        ("NATIVE_POOL__PIN", "true", True),
        ("NATIVE_POOL__POLICY", "reject", "reject"),
        ("DSPY_POOL__SIZE", "7", 7),
    ],
)
def test_a_variable_is_read_as_its_setting(
    monkeypatch: pytest.MonkeyPatch, name: str, text: str, value: Any
) -> None:
    monkeypatch.setenv(f"DSPEX_{name}", text)
    found: Any = load()
    for part in name.lower().split("__"):
        found = found[part] if isinstance(found, dict) else getattr(found, part)
    assert found == value
    assert type(found) is type(value)
    assert is_configured()


def test_variables_of_an_lm(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, text in {
        "MODEL": "openai/x",
        "API_KEY": "s3cret",
        "FALLBACKS": '["slow"]',
        "PRICES": "[1, 2]",
        "OPTIONS__SEED": "7",
        "OPTIONS__USER": "someone",
        "OPTIONS__EXTRA_HEADERS": '{"a": "b"}',
        "RETRY": '{"attempts": 5}',
        "RETRY__BACKOFF": "2",
    }.items():
        monkeypatch.setenv(f"DSPEX_LMS__FAST__{name}", text)
    monkeypatch.setenv("DSPEX_LMS", '{"slow": {"model": "openai/y"}}')
    fast = load(lm="fast").lms["fast"]
    assert (fast.model, fast.key(), fast.fallbacks, fast.prices) == ("openai/x", "s3cret", ("slow",), (1, 2))
    assert fast.options == {"seed": 7, "user": "someone", "extra_headers": {"a": "b"}}
    assert (fast.retry.attempts, fast.retry.backoff) == (5, 2)


def test_a_name_is_as_another_source_writes_it(monkeypatch: pytest.MonkeyPatch) -> None:
    write('[lms."GPT-4o mini"]\nmodel = "openai/x"')
    monkeypatch.setenv("DSPEX_LMS__GPT_4O_MINI__API_KEY", "s3cret")
    assert load().lms["GPT-4o mini"].key() == "s3cret"
    assert load(lms={"Other": {"model": "x"}}).lms.keys() == {"GPT-4o mini", "Other"}
    assert "have the same name" in refused(lms={"gpt 4o mini": {"model": "x"}}).message


def test_an_empty_variable_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DSPEX_ROUTING__THRESHOLD", "")
    monkeypatch.setenv("DSPEX_NO_SUCH_THING", "")
    assert load() == Config()
    assert not is_configured()


@pytest.mark.parametrize("name", ["DSPEX_STRESS", "DSPEX_TEST_MODE", "DSPEX_DATA", "DSPEXY", "dspex_lm"])
def test_what_is_no_setting_is_left_alone(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(name, "1")
    assert load() == Config()
    assert not is_configured()


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("ROUTING__TRESHOLD", "1", "unknown setting: .*__TRESHOLD .*'DSPEX_ROUTING__THRESHOLD'"),
        ("ROOTING__THRESHOLD", "1", "unknown setting: .*__THRESHOLD.*'DSPEX_ROUTING'"),
        ("STRES", "1", "unknown setting: the variable DSPEX_STRES.*'DSPEX_STRESS'"),
        ("LMS__FAST__MODLE", "x", "DSPEX_LMS__FAST__MODLE.*'DSPEX_LMS__FAST__MODEL'"),
        ("LM__X", "1", "DSPEX_LM is one setting"),
        ("ROUTING__RULES__0__USE", "dspy", r"DSPEX_ROUTING__RULES='\[...\]'"),
        ("ROUTING__RULES", "dspy", "DSPEX_ROUTING__RULES is not JSON"),
        ("LMS__FAST__FALLBACKS", "a,b", "DSPEX_LMS__FAST__FALLBACKS is not JSON"),
        ("ROUTING__RULES", '[{"use": "x"}]', "'use' cannot be 'x', in DSPEX_ROUTING__RULES"),
        ("ROUTING__THRESHOLD", "high", "takes a number, not text, in DSPEX_ROUTING__THRESHOLD"),
        ("ROUTING__FALLBACK", "maybe", "takes true or false, not text, in DSPEX_ROUTING__FALLBACK"),
        ("DSPY__CONCURRENCY", "2.5", "takes a whole number, not text, in DSPEX_DSPY__CONCURRENCY"),
        ("DSPY__TIMEOUT", "nan", "is nan, in DSPEX_DSPY__TIMEOUT"),
        ("NATIVE_POOL__SIZ", "1", "no setting 'siz', in DSPEX_NATIVE_POOL__SIZ"),
        ("LMS__FAST__TIMEOUT", "3", "'model' is missing, in DSPEX_LMS__FAST__TIMEOUT"),
        ("LMS____MODEL", "x", "the name of an LM is blank"),
    ],
)  # fmt: skip
def test_a_fault_names_the_variable(
    monkeypatch: pytest.MonkeyPatch, name: str, text: str, message: str
) -> None:
    monkeypatch.setenv(f"DSPEX_{name}", text)
    with pytest.raises(ConfigError, match=message):
        load()


def test_variables_that_contradict(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DSPEX_DSPY__BUDGET", "none")
    monkeypatch.setenv("DSPEX_DSPY__BUDGET__TOKENS", "5")
    assert refused().message == "DSPEX_DSPY__BUDGET__TOKENS contradicts DSPEX_DSPY__BUDGET"
    monkeypatch.setenv("DSPEX_DSPY__BUDGET", '{"tokens": 4}')
    assert "are the same setting" in refused().message
    monkeypatch.setenv("DSPEX_DSPY__BUDGET", '{"usd": 4}')
    budget = load().dspy.budget
    assert budget is not None
    assert (budget.tokens, budget.usd) == (5, 4)


def test_secrets_in_variables_are_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, text in (
        ("API_KEY", "s3cret"),
        ("OPTIONS", "s3cret"),
        ("RETRY", '{"s3cret'),
        ("TIMEOUT", "s3cret"),
    ):
        with monkeypatch.context() as inner:
            inner.setenv("DSPEX_LMS__A__MODEL", "x")
            inner.setenv(f"DSPEX_LMS__A__{name}", text)
            try:
                shown = repr(load())
            except ConfigError as error:
                shown = str(error)
            assert "s3cret" not in shown


# --- the arguments ---


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"rooting": {}}, "unknown setting 'rooting', in the arguments"),
        ({"routing": {"threshold": 2}}, "has to be at most 1, and is 2, in the arguments"),
        ({"native_pool": {"size": "2"}}, "size is a whole number, not '2', in the arguments"),
    ],
)
def test_a_fault_names_the_arguments(overrides: dict[str, Any], message: str) -> None:
    assert message in refused(**overrides).message


def test_asking_whether_anything_is_configured_imports_nothing_heavy() -> None:
    code = (
        "import sys; from dspex.config import is_configured; is_configured();"
        "print({'pydantic', 'pydantic_settings', 'dspy', 'numpy'} & set(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.strip() == "set()"

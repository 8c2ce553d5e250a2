"""The client's configuration, LMs that reach every adapter, and the stand-ins of test layers."""

from __future__ import annotations

import subprocess
import sys
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from dspex.adapters import register, test_layer, unregister
from dspex.adapters.mock import MockAdapter
from dspex.adapters.registry import BUILTIN
from dspex.client import Client
from dspex.config import Config
from dspex.errors import ConfigError, InputError
from hybrid_tools import LM, ROW, SPEC, SURE, UNSURE, FakeDspy

OPEN = {"id": "open", "signature": "question -> answer"}


@pytest.fixture
def made() -> Iterator[dict[str, list[Any]]]:
    """Fakes in the place of the DSPy adapters; holds the (config, adapter) of those that are made."""
    found: dict[str, list[Any]] = {"dspy": [], "dspy_pool": []}

    def factory(name: str) -> Any:
        def make(config: Config | None = None) -> FakeDspy:
            found[name].append((config, adapter := FakeDspy(name=name)))
            return adapter

        return make

    for name in found:
        register(name, factory(name), replace=True)
    yield found
    for name in found:
        unregister(name)


# Configuration


def test_a_configuration_reaches_the_adapters_that_take_one(made: dict[str, list[Any]]) -> None:
    config = {**LM, "routing": {"threshold": 1.0}, "native_pool": {"size": 3}}
    for given in (config, Config.of(config)):
        with Client(config=given) as client:
            client.create_program(SPEC)
            assert client.execute_program("p", SURE).route == "dspy"
            pool: Any = client.adapter("native_pool")
            assert pool.pool.settings.size == 3
            client.create_program({**OPEN, "adapter": "dspy"})
    assert [list(config.lms) for config, _ in made["dspy"]] == [["test"]] * 2


def test_a_configuration_is_checked_at_once(tmp_path: Path) -> None:
    bad: list[tuple[Any, str]] = [
        ({"routng": {}}, "routng"),
        ({"routing": {"thresold": 1}}, "routing.thresold"),
        ({"routing": {"rules": [{"use": "dspy"}, {"use": "native"}]}}, "routing.rules.1"),
    ]
    for config, field in bad:
        with pytest.raises(ConfigError) as caught:
            Client(config=config)
        assert caught.value.field == field
    with pytest.raises(ConfigError):
        Client(config=tmp_path / "none.toml")


def test_a_configuration_in_a_file(tmp_path: Path, made: dict[str, list[Any]]) -> None:
    file = tmp_path / "mine.toml"
    file.write_text("[lms.test]\nmodel = 'test/none'\n[routing]\nthreshold = 1.0\n")
    for path in (file, str(file)):
        with Client(config=path) as client:
            client.create_program(SPEC)
            assert client.execute_program("p", SURE).route == "dspy"


def test_by_default_the_file_and_the_environment_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, made: dict[str, list[Any]]
) -> None:
    monkeypatch.chdir(tmp_path)
    with Client() as client:  # nothing there
        client.create_program(SPEC)
        assert client.execute_program("p", UNSURE).route == "native"
    monkeypatch.setenv("DSPEX_ROUTING__BACKEND", "native_pool")
    with Client() as client:
        client.create_program(SPEC)
        assert client.execute_program("p", UNSURE).route == "native_pool"
    (tmp_path / "dspex.toml").write_text("[lms.test]\nmodel = 'test/none'\n")
    monkeypatch.delenv("DSPEX_ROUTING__BACKEND")
    with Client() as client:
        client.create_program(SPEC)
        assert client.execute_program("p", UNSURE).route == "dspy"
    with Client(config={}) as client:  # it was given: nothing is read
        client.create_program(SPEC)
        assert client.execute_program("p", UNSURE).route == "native"


def test_who_configures_nothing_imports_no_configuration(tmp_path: Path) -> None:
    code = """
import sys, dspex
from dspex.testing import CASES
pid = dspex.create_program({"signature": CASES[0].signature, "examples": CASES[0].examples})
assert dspex.execute_program(pid, CASES[0].rows()[0]).route == "native"
heavy = {"dspy", "pydantic", "dspex.adapters.dspy"} & set(sys.modules)
assert not heavy, heavy
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


# One set of adapters


def test_the_hybrid_adapter_shares_the_clients_adapters(made: dict[str, list[Any]]) -> None:
    with Client(config=LM) as client:
        client.create_program(SPEC)
        client.create_program({**OPEN, "adapter": "dspy"})
        assert client.execute_program("p", UNSURE).route == "dspy"
        assert client.adapter("dspy").list_programs() == ["p", "open"]
        assert len(made["dspy"]) == 1
        client.delete_program("p")
        assert client.adapter("dspy").list_programs() == ["open"]


def test_adapters_of_ones_own_are_backends() -> None:
    mine = FakeDspy("card_lost")
    with Client({"dspy": mine}, config=LM) as client:
        client.create_program(SPEC)
        assert client.execute_program("p", UNSURE).label == "card_lost"
    assert mine.specs == {}  # nothing is left behind


# LMs


def test_an_lm_reaches_adapters_made_before_and_after(made: dict[str, list[Any]]) -> None:
    lm = {"model": "test/none"}
    own = FakeDspy(name="own")
    with Client({"own": own}) as client:
        client.create_program(SPEC)
        client.configure_lm(lm)
        assert client.execute_program("p", UNSURE).route == "dspy"
        client.create_program({**OPEN, "adapter": "dspy_pool"})
    assert own.lms == [lm]
    for name in ("dspy", "dspy_pool"):
        ((_, adapter),) = made[name]
        assert adapter.lms
        assert all(each == lm for each in adapter.lms)
    with Client() as client:
        client.configure_lm(lm)
        client.create_program(SPEC)
        assert client.execute_program("p", UNSURE).route == "dspy"
    with Client() as client:
        client.configure_lm(lm, adapter="dspy")  # that one alone
        client.create_program(SPEC)
        assert client.execute_program("p", UNSURE).route == "native"


def test_an_lm_reaches_each_adapter_once(made: dict[str, list[Any]]) -> None:
    first, second = {"model": "test/a"}, {"model": "test/b"}
    own = FakeDspy()
    with Client({"dspy": own}) as client:
        client.configure_lm(first)
        client.configure_lm(second, adapter="dspy")
        client.create_program(SPEC)
        assert client.execute_program("p", UNSURE).route == "dspy"
        assert own.lms == [first, second]  # the hybrid adapter does not set it back
        client.configure_lm(first)
        assert own.lms == [first, second, first]
    with Client() as client:
        client.create_program(SPEC)
        client.configure_lm(second, adapter="hybrid")  # and its backends, made later
        assert client.execute_program("p", UNSURE).route == "dspy"
        client.configure_lm(first, adapter="auto")
        client.configure_lm(second)
    assert made["dspy"][0][1].lms == [second, first, second]


def test_an_lm_that_is_refused_is_not_kept(made: dict[str, list[Any]]) -> None:
    with Client() as client:
        client.create_program(SPEC)
        with pytest.raises(ConfigError, match="temprature"):
            client.configure_lm({"model": "test/none", "temprature": 1})
        client.create_program({**OPEN, "adapter": "dspy"})
        assert client.execute_program("p", UNSURE).route == "native"
    own = FakeDspy()
    with Client({"own": own}) as client, pytest.raises(ConfigError, match="temprature"):
        client.configure_lm({"model": "test/none", "temprature": 1})
    assert own.lms == []


# Test layers

layers = [name for name in ("mock", "bridge_mock") if name in BUILTIN]


@pytest.fixture(params=layers)
def layer(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setenv(test_layer.TEST_MODE, request.param)
    test_layer._warn.cache_clear()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        yield request.param


@pytest.mark.parametrize("adapter", [None, "auto", "hybrid", "native", "native_pool", "dspy", "dspy_pool"])
def test_programs_run_on_the_stand_in(layer: str, adapter: str | None, made: dict[str, list[Any]]) -> None:
    with Client(config=LM) as client:
        client.create_program({**SPEC, "options": {"c": 3.0}, "routing": {"threshold": 1}}, adapter=adapter)
        assert client.get_program_info("p")["adapter"] == layer
        assert client.execute_program("p", ROW).route == layer
        options: Mapping[str, Any] = {"timeout": 3, "session": "s", "lm": "x", "backend": "dspy"}
        assert client.execute_program("p", ROW, options) == client.execute_program("p", ROW)
        assert client.execute_batch("p", [ROW], {"on_error": "raise"})[0].route == layer
        assert client.explain("p", ROW).route == layer
        with pytest.raises(ConfigError):
            client.execute_program("p", ROW, {"tmeout": 3})
        with pytest.raises(InputError):
            client.execute_program("p", {}, options)
        client.create_program({**OPEN, "kind": "chain_of_thought"}, adapter=adapter)
        assert set(client.execute_program("open", {"question": "why?"})) >= {"answer"}
        assert list(client.health_check()) == [layer]
    assert made == {"dspy": [], "dspy_pool": []}


def test_what_is_not_replaced(layer: str) -> None:
    mine = MockAdapter(answers=lambda inputs: "limit")
    register("theirs", lambda: MockAdapter(answers=lambda inputs: "refund"))
    try:
        with Client({"hybrid": mine}) as client:
            client.create_program({**SPEC, "id": "a"})  # "auto" is the client's own hybrid adapter
            client.create_program({**SPEC, "id": "b"}, adapter="mock")
            client.create_program({**SPEC, "id": "c"}, adapter="theirs")
            assert client.get_program_info("a")["adapter"] == "hybrid"
            assert [client.execute_program(each, ROW).label for each in "ac"] == ["limit", "refund"]
            assert client.execute_program("b", ROW).route == "mock"
    finally:
        unregister("theirs")
        mine.close()


def test_a_warning_says_so_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(test_layer.TEST_MODE, "mock")
    test_layer._warn.cache_clear()
    with Client() as client:
        with pytest.warns(RuntimeWarning, match="DSPEX_TEST_MODE is 'mock'"):
            client.create_program({**SPEC, "id": "a"})
        client.create_program({**SPEC, "id": "b"})  # a second one would be an error here


def test_no_such_layer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(test_layer.TEST_MODE, "mok")
    with Client() as client, pytest.raises(ConfigError, match="'mok'") as caught:
        client.create_program(SPEC)
    assert (caught.value.field, caught.value.hint) == ("DSPEX_TEST_MODE", "Did you mean 'mock'?")
    for full in ("full", ""):
        monkeypatch.setenv(test_layer.TEST_MODE, full)
        with Client() as client:
            client.create_program(SPEC)
            assert client.execute_program("p", ROW).route == "native"

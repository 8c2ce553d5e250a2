"""Adapters by name: built in, registered, and offered by other packages."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest

from dspex.adapters import Adapter
from dspex.adapters.hybrid import HybridAdapter
from dspex.adapters.mock import MockAdapter
from dspex.adapters.native import NativeAdapter
from dspex.adapters.registry import BUILTIN, ENTRY_POINT_GROUP, Registry
from dspex.errors import ConfigError

LABEL = "text -> label: Literal['a', 'b', 'c']"


def offer(tmp_path: Path, name: str, package: str, code: str, target: str = "Adapter") -> None:
    """Installs a package that offers an adapter."""
    (tmp_path / f"{package}.py").write_text(code)
    info = tmp_path / f"{package}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[{ENTRY_POINT_GROUP}]\n{name} = {package}:{target}\n")


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.syspath_prepend(str(tmp_path))
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        if name.startswith("other_"):
            del sys.modules[name]


GOOD_PACKAGE = (
    "from dspex.adapters.mock import MockAdapter\nclass Adapter(MockAdapter):\n    name = 'theirs'\n"
)


def test_builtin_adapters() -> None:
    registry = Registry(installed=list)
    assert set(registry.available()) == set(BUILTIN)
    assert {"hybrid", "mock", "native", "native_pool"} <= set(BUILTIN)
    assert registry.get("native") is NativeAdapter
    assert isinstance(registry.create("mock", seed=3), MockAdapter)
    assert isinstance(registry.create("hybrid", config={"routing": {"threshold": 0.5}}), HybridAdapter)


def test_an_unknown_name_is_an_error_with_the_nearest() -> None:
    registry = Registry(installed=list)
    for call in (registry.get, registry.create):
        with pytest.raises(ConfigError, match="'native'"):
            call("nativ")
    for odd in (None, 3, "", "auto"):
        with pytest.raises(ConfigError):
            registry.get(odd)  # type: ignore[arg-type]


def test_register() -> None:
    registry = Registry(installed=list)
    registry.register("mine", MockAdapter)
    assert registry.get("mine") is MockAdapter
    for name in ("mine", "native", "mock"):
        with pytest.raises(ConfigError, match="replace=True"):
            registry.register(name, NativeAdapter)
    registry.register("native", MockAdapter, replace=True)
    assert registry.get("native") is MockAdapter
    registry.unregister("native")
    assert registry.get("native") is NativeAdapter
    with pytest.raises(ConfigError):
        registry.unregister("native")
    odd: list[Any] = ["auto", "", None]
    for name in odd:
        with pytest.raises(ConfigError):
            registry.register(name, MockAdapter, replace=True)
    with pytest.raises(ConfigError):
        registry.register("x", "dspex.adapters.mock:MockAdapter")  # type: ignore[arg-type]


def test_factories_that_fail() -> None:
    registry = Registry(installed=list)
    registry.register("odd", lambda: 3)  # type: ignore[arg-type,return-value]
    with pytest.raises(ConfigError, match="gave a int"):
        registry.create("odd")
    with pytest.raises(ConfigError, match="could not be made"):
        registry.create("mock", no_such_setting=1)
    with pytest.raises(ConfigError, match="error_rate"):
        registry.create("mock", error_rate=2)


def test_installed_adapters(site: Path) -> None:
    offer(site, "theirs", "other_good", GOOD_PACKAGE)
    registry = Registry()
    assert registry.get("native") is NativeAdapter
    assert "theirs" in registry.available()
    assert "other_good" not in sys.modules
    assert isinstance(registry.create("theirs"), Adapter)
    with pytest.raises(ConfigError, match="replace=True"):
        registry.register("theirs", MockAdapter)


def test_entry_points_are_read_on_first_need() -> None:
    asked = []

    def installed() -> list[EntryPoint]:
        asked.append(1)
        return []

    registry = Registry(installed)
    registry.get("native")
    assert not asked
    for _ in range(2):
        with pytest.raises(ConfigError):
            registry.get("theirs")
    assert len(asked) == 1


@pytest.mark.parametrize(
    ("code", "target"),
    [
        ("raise RuntimeError('boom')", "Adapter"),
        ("import no_such_module_at_all", "Adapter"),
        ("x = 1", "Adapter"),
        ("Adapter = 3", "Adapter"),
        ("def broken(:", "Adapter"),
    ],
)
def test_a_broken_package_is_named(site: Path, code: str, target: str) -> None:
    offer(site, "theirs", "other_broken", code, target)
    registry = Registry()
    for _ in range(2):
        with pytest.raises(ConfigError, match="other_broken"):
            registry.create("theirs")
    assert isinstance(registry.create("mock"), MockAdapter)


def test_two_packages_of_one_name(site: Path) -> None:
    offer(site, "theirs", "other_one", GOOD_PACKAGE)
    offer(site, "theirs", "other_two", GOOD_PACKAGE)
    with pytest.raises(ConfigError, match="other_one, other_two"):
        Registry().get("theirs")


def test_a_package_cannot_take_a_builtin_name(site: Path) -> None:
    offer(site, "native", "other_thief", GOOD_PACKAGE)
    registry = Registry()
    with pytest.warns(RuntimeWarning, match="other_thief"):
        assert registry.available().count("native") == 1
    assert registry.get("native") is NativeAdapter
    assert "other_thief" not in sys.modules

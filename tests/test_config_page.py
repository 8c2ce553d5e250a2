"""docs/configuration.md: its tables are the models', and its example is a configuration."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from config_tables import PAGE, page_with
from dspex.config import Config, load

TEXT = PAGE.read_text(encoding="utf-8")


def test_the_tables_are_up_to_date() -> None:
    assert page_with(TEXT) == TEXT, "run: python tests/config_tables.py"


def test_the_example_is_a_configuration(tmp_path: Path) -> None:
    blocks = re.findall(r"^```toml\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)
    assert blocks
    for number, block in enumerate(blocks):
        path = tmp_path / f"{number}.toml"
        path.write_text(block, encoding="utf-8")
        assert load(path) != Config()


def test_the_variables_are_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    shown = dict(re.findall(r"^\| `(DSPEX_\w+)=('.*?'|.*?)` \|", TEXT, re.MULTILINE))
    assert len(shown) >= 5
    for name, text in shown.items():
        monkeypatch.setenv(name, text.strip("'"))
    both = {"fast": {"model": "x"}, "strong": {"model": "y"}}
    config = load(lms=both)
    assert (config.lm, config.routing.threshold, config.dspy.timeout) == ("strong", 0.8, None)
    assert config.lms["fast"].key() == "..."
    assert config.routing.rules[0].when.tag == "hard"

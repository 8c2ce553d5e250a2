"""Saving and loading."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import dspex


def test_save(benchmark: Any, program: Any, tmp_path: Path) -> None:
    benchmark(program.save, tmp_path / "model.dspex")


def test_load(benchmark: Any, program: Any, tmp_path: Path) -> None:
    path = tmp_path / "model.dspex"
    program.save(path)
    benchmark(dspex.load, path)


def test_load_and_first_call(benchmark: Any, program: Any, tmp_path: Path) -> None:
    path = tmp_path / "model.dspex"
    program.save(path)
    benchmark(lambda: dspex.load(path).predict({"text": "my battery is empty"}))

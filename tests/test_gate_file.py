"""The gate in a model file: kept by whatever keeps a program, absent from old files, checked before use."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import dspex
from dspex import Program, modelfile
from dspex.errors import ModelFileError
from fit_tools import quick, topical

TEXT = "hello there, my card was stolen 17"


@pytest.fixture(scope="module")
def program() -> Program:
    return quick(gate=True)


def written(program: Program, path: Path, arrays: Any = None, **meta: Any) -> Path:
    about = dict(program._meta) | {"signature": program.signature.to_dict()} | meta
    about = {key: value for key, value in about.items() if value is not ...}
    modelfile.write_model(path, program._arrays if arrays is None else arrays, about)
    return path


def test_whatever_keeps_a_program_keeps_its_gate(program: Program, tmp_path: Path) -> None:
    program.save(tmp_path / "x.dspex")
    score = program(text=TEXT).score
    for other in (
        dspex.load(tmp_path / "x.dspex"),
        pickle.loads(pickle.dumps(program)),
        program.with_route(dspex.Route("other")),
    ):
        assert other.has_gate
        assert other(text=TEXT).score == score
        assert other.info()["gate"] == program.info()["gate"]


def test_learning_on_keeps_the_gate_as_it_is(program: Program) -> None:
    more = program.partial_fit(topical(5, seed=8))
    assert more.has_gate
    np.testing.assert_array_equal(more._arrays["gate"], program._arrays["gate"])
    assert more.info()["gate"] == program.info()["gate"]
    assert not quick().partial_fit(topical(5, seed=8)).has_gate


def test_a_file_of_before_gates_loads(tmp_path: Path) -> None:
    old = quick()
    assert "gate" not in old._arrays
    assert "gate" not in old._meta
    loaded = dspex.load(written(old, tmp_path / "old.dspex"))
    assert not loaded.has_gate
    assert loaded(text=TEXT).score == loaded(text=TEXT).confidence


def changed(program: Program, **cells: float) -> dict[str, Any]:
    table = program._arrays["gate"].copy()
    for cell, value in cells.items():
        table[int(cell[1]), int(cell[3:])] = value
    return dict(program._arrays) | {"gate": table}


CASES: dict[str, Any] = {
    "no record": lambda p: (None, {"gate": ...}),
    "no tensor": lambda p: ({k: v for k, v in p._arrays.items() if k != "gate"}, {}),
    "a record that is none": lambda p: (None, {"gate": [1]}),
    "other features": lambda p: (None, {"gate": p._meta["gate"] | {"features": ["one", "two"]}}),
    "features in another order": lambda p: (
        None,
        {"gate": p._meta["gate"] | {"features": p._meta["gate"]["features"][::-1]}},
    ),
    "too few rows": lambda p: (dict(p._arrays) | {"gate": p._arrays["gate"][:2].copy()}, {}),
    "too many rows": lambda p: (dict(p._arrays) | {"gate": np.vstack([p._arrays["gate"]] * 2)}, {}),
    "too few columns": lambda p: (dict(p._arrays) | {"gate": p._arrays["gate"][:, :5].copy()}, {}),
    "of doubles": lambda p: (dict(p._arrays) | {"gate": p._arrays["gate"].astype(np.float64)}, {}),
    "flat": lambda p: (dict(p._arrays) | {"gate": p._arrays["gate"].ravel()}, {}),
    "empty": lambda p: (dict(p._arrays) | {"gate": np.zeros((0, 16), np.float32)}, {}),
    "a weight far too large": lambda p: (changed(p, r0c3=1e30), {}),
    "a bound far too large": lambda p: (changed(p, r2c3=1e30), {}),
    "bounds the wrong way round": lambda p: (changed(p, r1c3=2.0, r2c3=1.0), {}),
}


@pytest.mark.parametrize("case", CASES)
def test_hostile_gates_are_refused(case: str, program: Program, tmp_path: Path) -> None:
    arrays, meta = CASES[case](program)
    path = written(program, tmp_path / "bad.dspex", arrays, **meta)
    with pytest.raises(ModelFileError, match="gate"):
        dspex.load(path)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_gate_that_is_not_finite_cannot_even_be_written(
    value: float, program: Program, tmp_path: Path
) -> None:
    with pytest.raises(ModelFileError, match="NaN or infinity"):
        written(program, tmp_path / "bad.dspex", changed(program, r0c3=value))


def test_the_largest_gate_that_is_let_in_gives_a_score(program: Program, tmp_path: Path) -> None:
    arrays = dict(program._arrays)
    for sign in (1, -1):
        arrays["gate"] = np.repeat(np.array([[sign * 1e12], [-1e12], [1e12]], np.float32), 16, axis=1)
        score = dspex.load(written(program, tmp_path / "x.dspex", arrays))(text=TEXT).gate_score
        assert score is not None
        assert 0 <= score <= 1


def test_a_gate_of_the_wrong_shape_is_refused_by_the_core(program: Program) -> None:
    arrays = dict(program._arrays) | {"gate": np.zeros((3, 5), np.float32)}
    with pytest.raises(ValueError, match="gate"):
        Program(program.signature, arrays, program._meta)

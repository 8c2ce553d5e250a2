"""Model files that are well-formed and lie: each is refused on load, or at least harmless."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import dspex
from dspex import Program, Signature
from dspex._meta import row_bytes
from dspex.errors import ModelFileError
from dspex.modelfile import read_model, write_model
from dspex.reference import row_stride
from fit_tools import LABEL, MIXED, inputs_of, mixed, quick

ROWS = mixed(60)
PROGRAM = quick(MIXED, ROWS)
SIMPLE = quick()
MANY = quick("text -> label: str", [{"text": f"word{i % 20} x{i}", "label": f"c{i % 20}"} for i in range(60)])

Arrays, Meta = dict[str, Any], dict[str, Any]
Change = Callable[[Arrays, Meta], Any]


def array_case(name: str, change: Callable[[np.ndarray], Any]) -> Change:
    def apply(arrays: Arrays, meta: Meta) -> None:
        own = np.array(arrays[name])
        changed = change(own)
        arrays[name] = own if changed is None else changed

    return apply


def set_float(row: int, at: int, value: float) -> Callable[[np.ndarray], None]:
    def change(rows: np.ndarray) -> None:
        stride = 16 if len(rows) % 64 else 64
        rows.view(np.float32)[(row * stride) // 4 + at] = value

    return change


def point_at(row: int) -> Callable[[np.ndarray], None]:
    def change(index: np.ndarray) -> None:
        used = np.flatnonzero(index[:, 1] != 2**32 - 1)
        index[used[0], 1] = row

    return change


def fill(index: np.ndarray) -> None:
    index[:, 1] = np.where(index[:, 1] == 2**32 - 1, 0, index[:, 1])


def in_meta(*path: Any, value: Any = None, drop: bool = False) -> Change:
    def apply(arrays: Arrays, meta: Meta) -> None:
        *parents, last = path
        place: Any = meta
        for step in parents:
            place = place[step]
        if drop:
            del place[last]
        else:
            place[last] = value

    return apply


HOSTILE: dict[str, Change] = {
    "a row out of range": array_case("index", point_at(10**6)),
    "a row just out of range": lambda a, m: array_case("index", point_at(len(a["hashes"])))(a, m),
    "no empty slot": array_case("index", fill),
    "an index of an odd size": array_case("index", lambda i: i[:-1]),
    "an index without slots": array_case("index", lambda i: i[:0]),
    "an index of three columns": array_case("index", lambda i: np.hstack([i, i[:, :1]])),
    "an index of one dimension": array_case("index", np.ravel),
    "an index of bytes": array_case("index", lambda i: i.view(np.uint8)),
    "a signed index": array_case("index", lambda i: i.view(np.int32)),
    "half a row": array_case("rows", lambda r: r[:-8]),
    "fewer rows than the index names": array_case("rows", lambda r: r[: len(r) // 2]),
    "no rows": array_case("rows", lambda r: r[:0]),
    "rows of floats": array_case("rows", lambda r: r.view(np.float32)),
    "rows of two dimensions": array_case("rows", lambda r: r.reshape(-1, 8)),
    "a norm that is NaN": array_case("rows", set_float(1, 0, np.nan)),
    "a norm that is negative": array_case("rows", set_float(1, 0, -1.0)),
    "a weight that is infinite": array_case("rows", set_float(2, 1, np.inf)),
    "a bias too long": array_case("bias", lambda b: np.append(b, b[:1])),
    "a bias too short": array_case("bias", lambda b: b[:-1]),
    "no bias": array_case("bias", lambda b: b[:0]),
    "a bias of doubles": array_case("bias", lambda b: b.astype(np.float64)),
    "numbers without inputs": array_case("dense", lambda d: np.ones((1, d.shape[1]), np.float32)),
    "dense of other columns": array_case("dense", lambda d: np.ones((0, d.shape[1] + 1), np.float32)),
    "scales without inputs": array_case("dense_scale", lambda d: np.ones((2, 1), np.float32)),
    "three scales": array_case("dense_scale", lambda d: np.ones((3, 0), np.float32)),
    "too few hashes": array_case("hashes", lambda h: h[:-1]),
    **{f"without {name}": (lambda a, m, n=name: a.pop(n)) for name in SIMPLE._arrays},
    **{f"without {key}": in_meta(key, drop=True) for key in (*SIMPLE._meta, "signature")},
    **{f"{key} is null": in_meta(key) for key in (*SIMPLE._meta, "signature")},
    **{f"{key} is a list": in_meta(key, value=[1]) for key in (*SIMPLE._meta, "signature")},
    "another signature": in_meta("signature", value=Signature.of("text -> other: bool").to_dict()),
    "a signature with more classes": in_meta(
        "signature", value=Signature.of("text -> label: Literal['a','b','c','d']").to_dict()
    ),
    "a signature of two outputs": in_meta("signature", value=Signature.of(LABEL + ", x: bool").to_dict()),
    "a signature that is not native": in_meta(
        "signature", value=Signature.of("text: list[str] -> label: str").to_dict()
    ),
    "a head more": lambda a, m: m["heads"].append(m["heads"][0]),
    "no heads": in_meta("heads", value=[]),
    "a head of another name": in_meta("heads", 0, "name", value="other"),
    "a head of another kind": in_meta("heads", 0, "kind", value="multilabel"),
    "a head of an unknown kind": in_meta("heads", 0, "kind", value="tree"),
    "a binary head of three classes": in_meta("heads", 0, "kind", value="binary"),
    "a head of no columns": in_meta("heads", 0, "columns", value=0),
    "a head of many columns": in_meta("heads", 0, "columns", value=2**40),
    "a head of negative columns": in_meta("heads", 0, "columns", value=-3),
    "columns that are text": in_meta("heads", 0, "columns", value="3"),
    "a head without columns": in_meta("heads", 0, "columns", drop=True),
    "a threshold of two": in_meta("heads", 0, "threshold", value=2),
    "a threshold that is text": in_meta("heads", 0, "threshold", value="0.5"),
    "an input of another name": in_meta("inputs", value=[["body", "text", 0]]),
    "an input of another kind": in_meta("inputs", value=[["text", "float", 1]]),
    "an input more": in_meta("inputs", value=[["text", "text", 0], ["x", "float", 1]]),
    "a text of a width": in_meta("inputs", value=[["text", "text", 4]]),
    "an input that is short": in_meta("inputs", value=[["text", "text"]]),
    "long n-grams": in_meta("text", "max_n", value=10**9),
    "n-grams of nothing": in_meta("text", "min_n", value=0),
    "n-grams of half a character": in_meta("text", "min_n", value=1.5),
    "a weight that is text": in_meta("text", "word_weight", value="1"),
    "a weight that is true": in_meta("text", "word_weight", value=True),
    "a weight that is huge": in_meta("text", "char_weight", value=1e30),
    "a text option missing": in_meta("text", "char_power", drop=True),
    "a text option more": in_meta("text", "extra", value=1),
    "rows that are text": in_meta("data", "rows", value="many"),
    "a fingerprint that is a number": in_meta("data", "fingerprint", value=3),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_files(name: str, tmp_path: Path) -> None:
    path = tmp_path / "x.dspex"
    SIMPLE.save(path)
    file = read_model(path)
    arrays, meta = dict(file.arrays), copy.deepcopy(file.meta)
    HOSTILE[name](arrays, meta)
    write_model(path, arrays, meta)  # well-formed, with the right checksums
    with pytest.raises(ModelFileError) as caught:
        dspex.load(path)
    assert caught.value.category == "model_file"
    assert caught.value.hint
    assert "x.dspex" in caught.value.message


def test_a_scale_of_nothing_is_hostile(tmp_path: Path) -> None:
    PROGRAM.save(tmp_path / "x.dspex")
    file = read_model(tmp_path / "x.dspex")
    for scale in (0, -1.0, "1", None):
        meta = copy.deepcopy(file.meta)
        meta["heads"][2]["scale"] = scale
        write_model(tmp_path / "x.dspex", file.arrays, meta)
        with pytest.raises(ModelFileError, match="scale"):
            dspex.load(tmp_path / "x.dspex")


def test_the_size_of_rows_is_the_one_defined() -> None:
    assert [row_bytes(columns) for columns in range(1, 300)] == [
        row_stride(columns) for columns in range(1, 300)
    ]


@pytest.mark.parametrize("program", [PROGRAM, MANY], ids=["mixed", "int8 rows"])
def test_hostile_numbers_in_other_layouts(program: Program, tmp_path: Path) -> None:
    path = tmp_path / "x.dspex"
    program.save(path)
    file = read_model(path)
    for at, value in ((0, np.nan), (1, np.nan), (1, -1.0), (0, np.inf)):
        rows = np.array(file.arrays["rows"])
        rows.view(np.float32)[at] = value
        write_model(path, {**file.arrays, "rows": rows}, file.meta)
        if program is PROGRAM and (at, value) == (1, -1.0):
            dspex.load(path)  # a float row's weights may be negative
            continue
        with pytest.raises(ModelFileError, match="finite"):
            dspex.load(path)


def test_extreme_but_finite_weights_are_refused_or_harmless(tmp_path: Path) -> None:
    path = tmp_path / "x.dspex"
    PROGRAM.save(path)
    file = read_model(path)
    rows = np.array(file.arrays["rows"])
    floats = rows.view(np.float32).reshape(len(file.arrays["hashes"]), -1)
    floats[:, 1::2], floats[:, 2::2] = 3e38, -3e38
    write_model(path, {**file.arrays, "rows": rows}, file.meta)
    try:
        program = dspex.load(path)
    except ModelFileError:
        return
    for row in ROWS[:5]:
        result = program(**inputs_of(program, row))
        assert result.label in {"refund", "card_lost", "limit"}
        assert 0 <= result.confidence <= 1
        assert all(np.isfinite(result[name]) for name in ("price", "stars"))
        program.explain(**inputs_of(program, row))

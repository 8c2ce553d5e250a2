"""The model file: its checksum, round trips, the safetensors format, mapping, and paths."""

from __future__ import annotations

import errno
import gc
import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors
import safetensors.numpy
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from dspex import _core
from dspex import _modelfile_header as header
from dspex.errors import ModelFileError
from dspex.modelfile import read_model, write_model
from dspex.reference import checksum64
from model_file_tools import META, assert_same, sample_arrays


@pytest.fixture
def path(tmp_path: Path) -> Path:
    target = tmp_path / "x.dspex"
    write_model(target, sample_arrays(), META)
    return target


# --------------------------------------------------------------------------------------------- checksum


@given(st.binary(max_size=300), st.integers(0, 9))
@example(b"", 0)
@example(bytes(64), 0)
@example(b"\xff" * 129, 3)
def test_the_checksum_is_the_one_defined(data: bytes, offset: int) -> None:
    unaligned = memoryview(bytes(offset) + data)[offset:]
    assert _core.checksum64(unaligned) == checksum64(data)


def test_the_checksum_sees_every_bit_every_cut_and_every_swap() -> None:
    data = np.random.default_rng(0).bytes(200)
    sums = {_core.checksum64(data)}
    for bit in range(len(data) * 8):
        changed = bytearray(data)
        changed[bit // 8] ^= 1 << bit % 8
        sums.add(_core.checksum64(changed))
    sums |= {_core.checksum64(data[:cut]) for cut in range(len(data))}
    sums |= {_core.checksum64(data + bytes(count)) for count in range(1, 100)}
    for first in range(0, 200, 8):
        for second in range(first + 8, 200, 8):
            words = bytearray(data)
            words[first : first + 8], words[second : second + 8] = (
                data[second : second + 8],
                data[first : first + 8],
            )
            sums.add(_core.checksum64(words))
    assert len(sums) == 1 + 1600 + 200 + 99 + 25 * 24 // 2


# ------------------------------------------------------------------------------------------- round trip

array_strategy = st.sampled_from(sorted(header.DTYPES)).flatmap(
    lambda name: hnp.arrays(
        header.DTYPES[name],
        hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=9),
        elements={"allow_nan": False, "allow_infinity": False} if name[0] == "F" else None,
    )
)
json_strategy = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters()),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=12,
)


@settings(deadline=None)
@given(
    st.dictionaries(st.text(min_size=1, max_size=9).filter(header.is_array_name), array_strategy, max_size=6),
    st.dictionaries(st.text(max_size=9), json_strategy, max_size=4),
)
def test_what_is_written_is_read_and_safetensors_reads_it_too(
    tmp_path_factory: pytest.TempPathFactory, arrays: dict[str, np.ndarray], meta: dict[str, Any]
) -> None:
    path = tmp_path_factory.getbasetemp() / "round-trip.dspex"
    write_model(path, arrays, meta)
    model = read_model(path)
    assert_same(model.arrays, arrays)
    assert model.meta == meta
    assert model.nbytes == path.stat().st_size
    theirs = safetensors.numpy.load_file(path)
    for name, array in arrays.items():
        np.testing.assert_array_equal(theirs.pop(name), array)
    assert all(name.startswith("_pad") for name in theirs)
    with safetensors.safe_open(path, framework="numpy") as file:
        assert json.loads(file.metadata()["dspex"]) == meta


def test_arrays_are_aligned_read_only_views_of_one_mapping(path: Path) -> None:
    model = read_model(path)
    for array in model.arrays.values():
        assert array.ctypes.data % 64 == 0
        assert array.flags.c_contiguous
        assert not array.flags.writeable
        with pytest.raises(ValueError, match="WRITEABLE"):
            array.setflags(write=True)
    if sys.platform == "linux":
        maps = Path("/proc/self/maps")
        assert maps.read_text().count(str(path)) == 1
        bias = model.arrays["bias"]
        del model, array
        gc.collect()
        assert maps.read_text().count(str(path)) == 1, "one array keeps the mapping"
        del bias
        assert maps.read_text().count(str(path)) == 0, "the last array frees it"


def test_other_layouts_and_byte_orders_are_converted(tmp_path: Path) -> None:
    arrays = {
        "fortran": np.asfortranarray(np.arange(12.0).reshape(3, 4)),
        "strided": np.arange(20)[::-2],
        "big": np.arange(5, dtype=">i4"),
        "longlong": np.arange(3, dtype=np.longlong),
    }
    write_model(tmp_path / "x", arrays, {})
    assert_same(read_model(tmp_path / "x").arrays, arrays)


def test_the_same_content_gives_the_same_bytes(tmp_path: Path) -> None:
    write_model(tmp_path / "a", sample_arrays(), {"x": 1, "y": [2.5]})
    write_model(tmp_path / "b", sample_arrays(), {"y": (2.5,), "x": 1})
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_a_loaded_model_outlives_the_replacement_of_its_file(path: Path) -> None:
    model = read_model(path)
    write_model(path, {"other": np.zeros(3)}, {})
    assert_same(model.arrays, sample_arrays())


def test_no_descriptor_leaks(path: Path) -> None:
    damaged = path.with_name("damaged")
    damaged.write_bytes(path.read_bytes()[:-1])
    before = os.listdir("/proc/self/fd")
    for _ in range(50):
        read_model(path)
        for bad in (damaged, path.parent, path.with_name("missing")):
            with pytest.raises(ModelFileError):
                read_model(bad)
        write_model(path, sample_arrays(), META)
    assert len(os.listdir("/proc/self/fd")) == len(before)


# ------------------------------------------------------------------------------------- refusing to open


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("missing", "No such file"),
        ("x.dspex/y", "Not a directory"),
        (".", "it is a directory"),
        ("pipe", "it is not a regular file"),
        ("circle", "Too many levels"),
        ("n" * 300, "File name too long"),
        ("nul\0", "embedded null"),
        ("", "No such file"),
    ],
)
def test_what_cannot_be_opened(name: str, reason: str, path: Path) -> None:
    os.mkfifo(path.with_name("pipe"))
    path.with_name("circle").symlink_to("circle")
    with pytest.raises(ModelFileError, match=reason) as caught:
        read_model(f"{path.parent}/{name}" if name else "")
    assert caught.value.hint
    assert not caught.value.retryable


@pytest.mark.parametrize(
    ("code", "retryable"), [(errno.EACCES, False), (errno.EMFILE, True), (errno.EIO, False)]
)
def test_a_refusal_of_the_system_is_chained(
    code: int, retryable: bool, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> int:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(ModelFileError, match=os.strerror(code)) as caught:
        read_model(path)
    monkeypatch.undo()
    assert isinstance(caught.value.__cause__, OSError)
    assert caught.value.retryable is retryable
    assert caught.value.hint


@pytest.mark.parametrize("bad", [None, 3, ["x"]])
def test_a_path_is_text(bad: Any) -> None:
    with pytest.raises(ModelFileError, match="a path of type"):
        read_model(bad)
    with pytest.raises(ModelFileError, match="a path of type"):
        write_model(bad, {}, {})


def test_paths_of_every_kind(path: Path) -> None:
    for form in (str(path), path):
        write_model(form, sample_arrays(), META)
        assert read_model(form).path == path

"""Damaged and hostile model files: each is refused, with the reason, a way out, and no large allocation."""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy

from dspex import _modelfile_header as header
from dspex import modelfile
from dspex.errors import ModelFileError
from dspex.modelfile import read_model, write_model
from model_file_tools import META, assert_same, join, sample_arrays, split


@pytest.fixture
def path(tmp_path: Path) -> Path:
    target = tmp_path / "x.dspex"
    write_model(target, sample_arrays(), META)
    return target


def tensor(dtype: Any, shape: Any, offsets: Any) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


def file_of(tensors: dict[str, Any], data: bytes, **fields: Any) -> bytes:
    metadata = {"format": "dspex", "format_version": "1", "checksum": "0" * 32, "dspex": "{}", **fields}
    kept = {key: value for key, value in metadata.items() if value is not None}
    return join(json.dumps({"__metadata__": kept, **tensors}, separators=(",", ":")).encode(), data)


HEAD = (
    b'{"__metadata__":{"format":"dspex","format_version":"1","dspex":"{}","checksum":"' + b"0" * 32 + b'"},'
)
ONE = b'"a":{"dtype":"U8","shape":[64],"data_offsets":[0,64]}'
D64, D128 = bytes(64), bytes(128)
BIG = 2**62
EMPTY, PAD4 = tensor("U8", [0], [0, 0]), tensor("U8", [4], [0, 4])
LOOSE = header.seal(HEAD + ONE + b"}", D64, modelfile._checksum)

REFUSED: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "it is empty"),
    "seven bytes": (bytes(7), "cut off after 7 bytes"),
    "no header": (bytes(8), "not in the safetensors format"),
    "pickle": (b"\x80\x04\x95" + bytes(100), "does not fit into 103 bytes"),
    "header of gigabytes": (b"\0\0\0\0\1\0\0\0{}", "announces a header of 4294967296 bytes"),
    "header past the end": (b"\xff\0\0\0\0\0\0\0{}", "does not fit into 10 bytes"),
    "other safetensors": (safetensors.numpy.save({"a": np.ones(3)}), "not one that dspex wrote"),
    "other format": (file_of({}, b"", format="pt"), "not one that dspex wrote"),
    "newer": (file_of({}, b"", format_version="2"), "version 2, and this build of dspex reads version 1"),
    "odd version": (file_of({}, b"", format_version="1.0"), "format version is '1.0'"),
    "no version": (file_of({}, b"", format_version=None), "format version is ''"),
    "number in metadata": (file_of({}, b"", dspex=1), "metadata must be text"),
    "no checksum": (file_of({}, b"", checksum=None), "no checksum"),
    "short checksum": (file_of({}, b"", checksum="0" * 16), "no checksum"),
    "no meta": (file_of({}, b"", dspex=None), "exactly the fields"),
    "extra metadata": (file_of({}, b"", extra=""), "exactly the fields"),
    "meta no JSON": (file_of({}, b"", dspex="{"), "the meta is not valid JSON"),
    "meta a list": (file_of({}, b"", dspex="[]"), "the meta is not a JSON object"),
    "meta with NaN": (file_of({}, b"", dspex='{"a":NaN}'), "NaN is no JSON"),
    "meta overflows": (file_of({}, b"", dspex='{"a":1e999}'), "beyond the range"),
    "meta integer": (file_of({}, b"", dspex='{"a":' + "9" * 99999 + "}"), "beyond 64 bits"),
    "meta key twice": (file_of({}, b"", dspex='{"a":1,"a":1}'), "twice"),
    "meta too deep": (file_of({}, b"", dspex='{"a":' + "[" * 9999 + "]" * 9999 + "}"), "nested deeper"),
    "meta too bulky": (file_of({}, b"", dspex='{"a":[' + "0," * 2**18 + "0]}"), "has more than"),
    "not UTF-8": (join(HEAD + ONE.replace(b'"a"', b'"\xff"') + b"}", D64), "not UTF-8"),
    "UTF-16": (join(b'{"a":1}'.decode().encode("utf-16"), b""), "not in the safetensors format"),
    "leading space": (join(b" " + HEAD + ONE + b"}", D64), "not in the safetensors format"),
    "trailing NUL": (join(HEAD + ONE + b"}\0", D64), "not valid JSON"),
    "tensor twice": (join(HEAD + ONE + b"," + ONE + b"}", D64), "twice"),
    "depth bomb": (join(b'{"a":' + b"[" * 60000, b""), "nested deeper"),
    "brackets": (join(b'{"a":' + b"[" * 70000, b""), "has more than"),
    "endless string": (join(b'{"a":"' + b'\\"' * 10**6 + b"[" * 600, b""), "not valid JSON"),
    "minus zero": (join(HEAD + ONE.replace(b"[0,", b"[-0,") + b"}", D64), "'-0' is no size"),
    "negative": (file_of({"a": tensor("U8", [-64], [0, 64])}, D64), "'-64' is no size"),
    "huge": (file_of({"a": tensor("U8", [10**400], [0, 64])}, D64), "is no size"),
    "float size": (file_of({"a": tensor("U8", [64.0], [0, 64])}, D64), "holds 64.0, which is no size"),
    "bool size": (file_of({"a": tensor("U8", [64, True], [0, 64])}, D64), "holds True"),
    "nested size": (file_of({"a": tensor("U8", [[64]], [0, 64])}, D64), "holds .64."),
    "shape no list": (file_of({"a": tensor("U8", 64, [0, 64])}, D64), "must be a list"),
    "many axes": (file_of({"a": tensor("U8", [1] * 8 + [64], [0, 64])}, D64), "at most 8 sizes"),
    "overflow": (file_of({"a": tensor("U8", [2**32, 2**32], [0, 0])}, b""), "larger than any memory"),
    "empty but huge": (file_of({"a": tensor("F64", [0, BIG], [0, 0])}, b""), "larger than any memory"),
    "size and shape": (file_of({"a": tensor("F32", [64], [0, 64])}, D64), "do not give the size"),
    "three offsets": (file_of({"a": tensor("U8", [64], [0, 64, 64])}, D64), "a beginning and an end"),
    "backwards": (file_of({"a": tensor("U8", [64], [64, 0])}, D64), "a beginning and an end"),
    "past the end": (file_of({"a": tensor("U8", [65], [0, 65])}, D64), "take 65 bytes, but 64 bytes"),
    "far away": (file_of({"a": tensor("U8", [64], [BIG - 64, BIG])}, D64), "leaves a hole"),
    "uncovered": (file_of({"a": tensor("U8", [64], [0, 64])}, D128), "take 64 bytes, but 128 bytes"),
    "no tensors": (file_of({}, D64), "take 0 bytes, but 64 bytes"),
    "hole": (file_of({"a": EMPTY, "b": tensor("U8", [64], [64, 128])}, D128), "'b' leaves a hole"),
    "overlap": (file_of({x: tensor("U8", [64], [0, 64]) for x in "ab"}, D64), "'b' overlaps"),
    "unaligned": (file_of({"_pad0": PAD4, "a": tensor("U8", [4], [4, 8])}, bytes(8)), "'a' does not begin"),
    "unaligned data": (struct.pack("<Q", len(LOOSE)) + LOOSE + D64, "the data does not begin on a multiple"),
    "foreign": (b"\x02" + bytes(7) + b"{}", "not one that dspex wrote"),
    "padding too long": (file_of({"_pad0": tensor("U8", [64], [0, 64])}, D64), "is not padding"),
    "dtype": (file_of({"a": tensor("BF16", [32], [0, 64])}, D64), "has the dtype 'BF16'"),
    "dtype no text": (file_of({"a": tensor(["U8"], [64], [0, 64])}, D64), "has the dtype"),
    "missing field": (file_of({"a": {"dtype": "U8", "shape": [64]}}, D64), "exactly dtype, shape and"),
    "extra field": (file_of({"a": {**tensor("U8", [64], [0, 64]), "x": 1}}, D64), "exactly dtype, shape and"),
    "entry no object": (file_of({"a": 1}, D64), "exactly dtype, shape and"),
    "no name": (file_of({"": tensor("U8", [64], [0, 64])}, D64), "has a name that"),
    "long name": (file_of({"n" * 257: tensor("U8", [64], [0, 64])}, D64), "has a name that"),
    "surrogate": (file_of({"\ud800": tensor("U8", [64], [0, 64])}, D64), "has a name that"),
    "many": (file_of({f"a{i}": EMPTY for i in range(1025)}, b""), "more than 1024 arrays"),
    "very many": (file_of({f"_pad{i}": EMPTY for i in range(2049)}, b""), "more than 1024 arrays"),
    "NaN": (file_of({"a": tensor("F32", [1], [0, 4])}, b"\0\0\xc0\x7f"), "array 'a' holds NaN"),
    "infinity": (file_of({"a": tensor("F64", [1], [0, 8])}, b"\0\0\0\0\0\0\xf0\xff"), "array 'a' holds NaN"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_a_bad_file_is_refused_with_the_reason_and_a_way_out(case: str, tmp_path: Path) -> None:
    content, reason = REFUSED[case]
    path = tmp_path / "bad.dspex"
    path.write_bytes(content)
    with pytest.raises(ModelFileError, match=reason) as caught:
        read_model(path)
    assert caught.value.hint
    assert str(path) in caught.value.message
    assert len(str(caught.value)) < 600


def test_the_base_of_the_refused_files_is_accepted(tmp_path: Path) -> None:
    path = tmp_path / "good.dspex"
    path.write_bytes(join(HEAD + ONE + b"}", D64))
    assert_same(read_model(path).arrays, {"a": np.zeros(64, np.uint8)})


def test_every_damaged_byte_is_seen(path: Path, tmp_path: Path) -> None:
    content = path.read_bytes()
    damaged = tmp_path / "damaged.dspex"
    for at in range(len(content)):
        damaged.unlink(missing_ok=True)  # faster than writing into it
        damaged.write_bytes(content[:at] + bytes([content[at] ^ 1 << at % 8]) + content[at + 1 :])
        with pytest.raises(ModelFileError):
            read_model(damaged)
    raw, data = split(content)
    damaged.write_bytes(content[:8] + raw + data[::-1])
    with pytest.raises(ModelFileError, match="its data does not match its checksum"):
        read_model(damaged)


@pytest.mark.parametrize(
    "unit", [b"[],", b"{},", b"0,", b"9e9,", b'"",', b'{"":[[]]},', b"[[[[", b'"\xf0\x9f\x99\x82"']
)
def test_a_hostile_header_is_refused_without_large_allocations(unit: bytes, tmp_path: Path) -> None:
    path = tmp_path / "hostile.dspex"
    room = header.MAX_HEADER_BYTES - 200
    for count in (min(header.MAX_JSON_CONTAINERS // 4, room // len(unit)), room // len(unit)):
        path.write_bytes(join(b'{"a":[' + unit * count + b'0],"__metadata__":{}}', b""))
        tracemalloc.start()
        with pytest.raises(ModelFileError):
            read_model(path)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 100 << 20


def test_a_sparse_file_costs_nothing_to_refuse(tmp_path: Path) -> None:
    path = tmp_path / "sparse.dspex"
    for length, size in ((1 << 33, 1 << 34), (1 << 20, 1 << 34), (2, 1 << 40)):
        path.write_bytes(length.to_bytes(8, "little") + b"{}")
        os.truncate(path, size)
        tracemalloc.start()
        with pytest.raises(ModelFileError):
            read_model(path)
        assert tracemalloc.get_traced_memory()[1] < 8 << 20
        tracemalloc.stop()


def test_a_short_fuzz_finds_nothing() -> None:
    script = Path(__file__).with_name("fuzz_model_file.py")
    command = [sys.executable, str(script), "--mutations", "4000", "--seed", "1"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "mutations 4000, rejected" in done.stdout

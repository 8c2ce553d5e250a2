"""Writing a model file: what is refused, and that the old file survives whatever goes wrong."""

from __future__ import annotations

import errno
import os
import stat
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dspex import _modelfile_header as header
from dspex import modelfile
from dspex.errors import ModelFileError
from dspex.modelfile import read_model, write_model
from model_file_tools import META, assert_same, sample_arrays


@pytest.fixture
def path(tmp_path: Path) -> Path:
    target = tmp_path / "x.dspex"
    write_model(target, sample_arrays(), META)
    return target


CIRCLE: list[Any] = []
CIRCLE.append(CIRCLE)


@pytest.mark.parametrize(
    ("meta", "reason"),
    [
        ({"a": {"b": [0, float("nan")]}}, r"meta.a.b\[1\] is nan"),
        ({"a": float("-inf")}, "meta.a is -inf"),
        ({"a": 2**64}, "beyond 64 bits"),
        ({"a": np.int64(1)}, "meta.a is a int64"),
        ({"a": b"x"}, "meta.a is a bytes"),
        ({"a": {1: 2}}, "meta.a has the key 1"),
        ({"a": CIRCLE}, "nested deeper"),
        ({"a": [0] * 2**18}, "has more than"),
        ({"a": "x" * (16 << 20)}, "the meta is too large"),
    ],
)
def test_meta_that_would_not_come_back_is_refused(meta: dict[str, Any], reason: str, path: Path) -> None:
    before = path.read_bytes()
    with pytest.raises(ModelFileError, match=reason) as caught:
        write_model(path, {}, meta)
    assert caught.value.hint
    assert path.read_bytes() == before
    assert os.listdir(path.parent) == [path.name]


@pytest.mark.parametrize(
    ("arrays", "reason"),
    [
        ({"a": [1, 2]}, "array 'a' is a list"),
        ({"a": np.array(["x"])}, "of dtype <U1"),
        ({"a": np.array([None])}, "of dtype object"),
        ({"a": np.ones(3, bool)}, "of dtype bool"),
        ({"a": np.ones(3, np.float16)}, "of dtype float16"),
        ({"a": np.array([1.0, np.nan])}, "array 'a' holds NaN"),
        ({"a": np.array([-np.inf], np.float32)}, "array 'a' holds NaN"),
        ({"a": np.ones((1,) * 9)}, "has 9 axes"),
        ({"": np.ones(1)}, "no array can be named ''"),
        ({3: np.ones(1)}, "no array can be named 3"),
        ({"__metadata__": np.ones(1)}, "no array can be named"),
        ({"_pad7": np.ones(1)}, "no array can be named"),
        ({"\ud800": np.ones(1)}, "no array can be named"),
        ({"n" * 257: np.ones(1)}, "no array can be named"),
        ({str(i): np.ones(1) for i in range(1025)}, "1025 arrays"),
    ],
)
def test_arrays_that_cannot_be_stored_are_refused(arrays: Any, reason: str, path: Path) -> None:
    before = path.read_bytes()
    with pytest.raises(ModelFileError, match=reason) as caught:
        write_model(path, arrays, {})
    assert caught.value.hint
    assert path.read_bytes() == before


def test_the_limits_themselves_can_be_written_and_read(tmp_path: Path) -> None:
    deep: Any = 1
    for _ in range(header.MAX_JSON_DEPTH - 1):
        deep = [deep]
    many = {str(i).rjust(header.MAX_NAME_LENGTH): np.ones(1, np.uint8) for i in range(header.MAX_ARRAYS)}
    meta = {"deep": deep, "wide": [0] * 200_000, "objects": [{}] * 50_000}
    write_model(tmp_path / "x", many, meta)
    model = read_model(tmp_path / "x")
    assert_same(model.arrays, many)
    assert model.meta == meta


def test_permission_bits(tmp_path: Path) -> None:
    path = tmp_path / "x.dspex"
    old = os.umask(0o027)
    try:
        write_model(path, {}, {})
        assert stat.S_IMODE(path.stat().st_mode) == 0o640, "a new file follows the umask"
        for mode in (0o600, 0o664, 0o444):
            path.chmod(mode)
            write_model(path, {}, {})
            assert stat.S_IMODE(path.stat().st_mode) == mode, "an old one keeps its bits"
    finally:
        os.umask(old)


def test_a_symbolic_link_stays_and_its_target_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    link = tmp_path / "link.dspex"
    link.symlink_to("real/x.dspex")
    for value in (1, 2):  # at first the link leads nowhere
        write_model(link, {}, {"value": value})
        assert link.is_symlink()
        assert read_model(tmp_path / "real" / "x.dspex").meta == {"value": value}
    assert os.listdir(tmp_path / "real") == ["x.dspex"]


@pytest.mark.parametrize("name", ["directory", "pipe", "circle", "missing/x.dspex", "n" * 300, "nul\0"])
def test_targets_that_are_no_place_for_a_model(name: str, tmp_path: Path) -> None:
    (tmp_path / "directory").mkdir()
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "circle").symlink_to("circle")
    before = sorted(os.listdir(tmp_path))
    with pytest.raises(ModelFileError) as caught:
        write_model(f"{tmp_path}/{name}", sample_arrays(), META)
    assert caught.value.hint
    assert sorted(os.listdir(tmp_path)) == before


@pytest.mark.parametrize("step", ["fsync", "replace", "fchmod"])
@pytest.mark.parametrize("error", [OSError(errno.EIO, "broken"), KeyboardInterrupt()])
def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(
    step: str, error: BaseException, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise error

    before = path.read_bytes()
    monkeypatch.setattr(os, step, fail)
    with pytest.raises(ModelFileError if isinstance(error, OSError) else KeyboardInterrupt):
        write_model(path, {"a": np.ones(9)}, {})
    monkeypatch.undo()
    assert path.read_bytes() == before
    assert os.listdir(path.parent) == [path.name]


def test_a_directory_that_does_not_sync_is_told(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: Path) -> None:
        raise OSError(errno.EIO, "broken")

    monkeypatch.setattr(modelfile, "_sync_directory", fail)
    with pytest.raises(ModelFileError, match="a power loss may undo it"):
        write_model(path, {}, {"new": True})
    assert read_model(path).meta == {"new": True}


def test_a_full_disk(path: Path) -> None:
    before = path.read_bytes()
    script = (
        "import resource, sys, numpy as np\n"
        "from dspex.errors import ModelFileError\n"
        "from dspex.modelfile import write_model\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))\n"
        "try:\n"
        "    write_model(sys.argv[1], {'a': np.zeros(10**6)}, {})\n"
        "except ModelFileError as error:\n"
        "    print(error, repr(error.__cause__))\n"
    )
    command = [sys.executable, "-c", script, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert "File too large. Raise the limit" in done.stdout
    assert "OSError(27" in done.stdout
    assert path.read_bytes() == before
    assert os.listdir(path.parent) == [path.name]


def test_only_leftovers_of_dead_writers_to_this_file_are_removed(tmp_path: Path) -> None:
    path, similar = tmp_path / ("m" * 50 + "1"), tmp_path / ("m" * 50 + "2")
    dead = tmp_path / f"{modelfile._temporary_prefix(path)}1-00.tmp"
    dead.touch()
    other = tmp_path / f"{modelfile._temporary_prefix(similar)}1-00.tmp"
    other.touch()
    descriptor, living = modelfile._create_temporary(path, None)
    write_model(path, {}, {})
    assert sorted(tmp_path.iterdir()) == sorted([path, other, living])
    os.close(descriptor)
    write_model(path, {}, {})
    assert sorted(tmp_path.iterdir()) == sorted([path, other])


def test_writers_and_readers_of_one_path_in_many_threads(path: Path) -> None:
    sums = [np.full(50_000, value, np.uint8) for value in range(4)]
    failures: list[BaseException] = []

    def write(array: np.ndarray) -> None:
        try:
            for _ in range(15):
                write_model(path, {"a": array}, {"value": int(array[0])})
                model = read_model(path)
                assert (model.arrays["a"] == model.meta["value"]).all()
        except BaseException as error:
            failures.append(error)

    write(sums[0])
    threads = [threading.Thread(target=write, args=(array,)) for array in sums]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert os.listdir(path.parent) == [path.name]

"""Stores that are damaged, foreign, of a newer version, or cannot be written: refused, and left."""

from __future__ import annotations

import os
import random
import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing, suppress
from dataclasses import replace
from pathlib import Path

import pytest

from dspex import Signature
from dspex.distill.store import Event, State, Store, VersionRecord
from dspex.distill.trace import Answer, Trace
from dspex.errors import ModelFileError, ProgramError, ResourceError

SIGNATURE = Signature.of("text -> label: Literal['a', 'b']")
STRESS = int(os.environ.get("DSPEX_STRESS", "1"))
ROWS = [
    Trace(
        {"text": f"row {n} " + "x" * (n % 50)},
        Answer({"label": "ab"[n % 2]}, usd=0.5),
        at=n + 1.0,
        extra={"n": n},
    )
    for n in range(400)
]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home that was closed properly."""
    home = tmp_path_factory.mktemp("whole")
    with Store.open(home, SIGNATURE) as store:
        store.add(ROWS)
        store.version_path(1).write_bytes(b"model")
        store.add_version(VersionRecord(1, 1.0, "000001.dspex", "ready"), [])
        store.move(0, State("live", 1), Event(1.0, "promoted", "rule"))
    return home


@pytest.fixture
def home(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "home"))


@pytest.fixture
def killed(tmp_path: Path) -> Path:
    """A home whose process was killed: everything is still in the log."""
    home = tmp_path / "killed"
    script = (
        "import os, sys\nfrom test_store_damage import *\n"
        "store = Store.open(sys.argv[1], SIGNATURE)\nstore.add(ROWS)\nos.kill(os.getpid(), 9)\n"
    )
    folder = Path(__file__).parent
    subprocess.run([sys.executable, "-c", script, str(home)], cwd=folder, check=False)
    assert (home / "store.sqlite3-wal").stat().st_size > 0
    return home


def contents(home: Path) -> dict[str, bytes]:
    return {
        path.name: path.read_bytes() for path in home.iterdir() if path.is_file() and path.suffix != ".lock"
    }


def everything(home: Path) -> list[Trace]:
    with Store.open(home, SIGNATURE) as store:
        store.check()
        store.counts(), store.state(), store.events(), store.versions(), list(store.audits()), store.usage()
        return [replace(trace, id=None) for trace in store.traces()]


def test_a_whole_store_is_read(home: Path, killed: Path) -> None:
    assert everything(home) == ROWS
    assert everything(killed) == ROWS


@pytest.mark.parametrize("left", [0, 1, 99, 100, 4096, 0.5, -1])
def test_a_file_that_was_cut_off_is_refused_and_left(home: Path, left: float) -> None:
    file = home / "store.sqlite3"
    size = file.stat().st_size
    os.truncate(file, int(size * left) if isinstance(left, float) else left % size)
    before = contents(home)
    for signature in (SIGNATURE, None):
        with pytest.raises(ModelFileError, match=r"store\.sqlite3 is damaged.*cut off") as caught:
            Store.open(home, signature)
        assert "backup" in str(caught.value.hint)
    assert contents(home) == before


def test_a_file_that_was_overwritten_is_refused_and_left(home: Path) -> None:
    file = home / "store.sqlite3"
    file.write_bytes(b"\0" * file.stat().st_size)
    before = contents(home)
    with pytest.raises(ModelFileError, match="damaged, or no store"):
        Store.open(home, SIGNATURE)
    assert contents(home) == before


@pytest.mark.parametrize("seed", range(30 * STRESS))
def test_garbled_bytes_are_an_error_of_ours_or_do_no_harm(home: Path, seed: int) -> None:
    dice = random.Random(seed)
    file = home / "store.sqlite3"
    data = bytearray(file.read_bytes())
    for _ in range(dice.choice((1, 3, 20))):
        start = dice.randrange(len(data))
        length = dice.choice((1, 8, 500, 4096))
        data[start : start + length] = dice.choice((dice.randbytes(length), b"\0" * length))
    del data[file.stat().st_size :]
    file.write_bytes(data)
    try:
        found = everything(home)
    except ModelFileError:  # no other error
        return
    # A changed letter within a text is still a text: SQLite has no checksums.
    assert len(found) == len(ROWS)


@pytest.mark.parametrize("left", [4096, 0.5])
def test_a_cut_file_whose_log_is_there_is_whole_or_refused(killed: Path, left: float) -> None:
    file = killed / "store.sqlite3"
    os.truncate(file, int(file.stat().st_size * left) if isinstance(left, float) else left)
    with suppress(ModelFileError):
        assert everything(killed) == ROWS


def test_without_its_log_a_store_is_as_it_was_before(killed: Path) -> None:
    (killed / "store.sqlite3-wal").unlink()
    assert everything(killed) == []
    with Store.open(killed, SIGNATURE) as store:
        assert store.state().stage == "teacher"
        assert len(store.add(ROWS)) == len(ROWS)
        store.check()


def test_a_garbled_log_is_left_out_from_there_on(killed: Path) -> None:
    log = killed / "store.sqlite3-wal"
    data = bytearray(log.read_bytes())
    data[len(data) // 2 :] = os.urandom(len(data) - len(data) // 2)
    log.write_bytes(data)
    found = everything(killed)
    assert found == ROWS[: len(found)]


def test_a_stale_log_is_not_taken_for_that_of_a_new_store(killed: Path) -> None:
    (killed / "store.sqlite3").unlink()
    assert everything(killed) == []


def test_foreign_and_newer_files_are_refused(home: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    with closing(sqlite3.connect(other / "store.sqlite3")) as connection:
        connection.execute("CREATE TABLE mine (x)")
    before = contents(other)
    with pytest.raises(ModelFileError, match="another application"):
        Store.open(other, SIGNATURE)
    assert contents(other) == before
    with closing(sqlite3.connect(home / "store.sqlite3")) as connection:
        connection.execute("PRAGMA user_version = 999")
    before = contents(home)
    with pytest.raises(ModelFileError, match=r"newer version of dspex.*999") as caught:
        Store.open(home, SIGNATURE)
    assert "Install" in str(caught.value.hint)
    assert contents(home) == before


def test_a_store_without_a_table_or_state_is_refused(home: Path) -> None:
    for statement in ("DELETE FROM state", "DROP TABLE state", "DELETE FROM meta"):
        with closing(sqlite3.connect(home / "store.sqlite3", isolation_level=None)) as connection:
            connection.execute(statement)
        with pytest.raises(ModelFileError, match="damaged"):
            Store.open(home, SIGNATURE)


def test_a_store_that_is_a_directory_is_refused(tmp_path: Path) -> None:
    (tmp_path / "store.sqlite3").mkdir()
    with pytest.raises(ModelFileError, match="cannot be read"):
        Store.open(tmp_path, SIGNATURE)


# --- what cannot be written


def test_read_only_writes_nothing(home: Path) -> None:
    (home / "versions" / "000009.dspex").write_bytes(b"orphan")
    before = contents(home)
    with Store.open(home, read_only=True) as store:
        assert store.read_only
        assert store.counts()["rows"] == len(ROWS)
        for write in (lambda: store.add(ROWS[:1]), lambda: store.record(Event(1.0, "x", "y")), store.prune):
            with pytest.raises(ProgramError, match="read only"):
                write()
    kept = {name: data for name, data in contents(home).items() if not name.endswith(("-shm", "-wal"))}
    assert kept == before
    assert (home / "versions" / "000009.dspex").exists()


def as_nobody(script: str, *arguments: str) -> str:
    """Run as a user who may not write what root made; where this is no root, permissions bind already."""
    drop = "import os\nif os.getuid() == 0:\n    os.setgid(65534)\n    os.setuid(65534)\n"
    imports = "import sys\nfrom test_store_damage import *\n"
    done = subprocess.run(
        [sys.executable, "-c", imports + drop + script, *arguments], cwd=Path(__file__).parent,
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def locked_away(home: Path) -> Path:
    """A home that may be read, and not written."""
    for path in (*home.parents[:3], home):
        path.chmod(path.stat().st_mode | 0o555)
    for path in (home, home / "versions"):
        path.chmod(0o555)
    for path in home.glob("*.*"):
        path.chmod(0o444)
    return home


def test_a_home_that_may_only_be_read(locked_away: Path) -> None:
    script = """
with Store.open(sys.argv[1], SIGNATURE, read_only=True) as store:
    print(store.counts()["rows"], len(list(store.traces())))
try:
    with Store.open(sys.argv[1], SIGNATURE) as store:
        store.add(ROWS[:1])
except ModelFileError as error:
    print(error)
try:
    Store.open(sys.argv[1] + "/new", SIGNATURE)
except ModelFileError as error:
    print(error)
"""
    lines = as_nobody(script, str(locked_away)).splitlines()
    assert lines[0] == "400 400"
    assert "store.sqlite3 cannot be" in lines[1]
    assert "permissions" in lines[1]
    assert "no store can be made" in lines[2]


def test_a_full_disk_is_said_and_what_was_stored_is_kept(tmp_path: Path) -> None:
    script = """
import resource
home = sys.argv[1]
store = Store.open(home, SIGNATURE)
soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, hard))
added = []
try:
    for n in range(10_000):
        added += store.add([Trace({"text": f"{n}" + "y" * 500}, Answer({"label": "a"}))])
except ResourceError as error:
    print(error.retryable, error)
assert 10 < len(added) < 10_000, len(added)
try:
    store.export(home + "/out.jsonl")
except ResourceError as error:
    print(error)
resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
assert [trace.id for trace in store.traces()] == added
added += store.add([Trace({"text": "room again"}, Answer({"label": "a"}))])
store.check()
store.close()
with Store.open(home, SIGNATURE) as store:
    assert [trace.id for trace in store.traces()] == added
print("whole")
"""
    done = subprocess.run(
        [sys.executable, "-c", "import sys\nfrom test_store_damage import *\n" + script, str(tmp_path / "h")],
        cwd=Path(__file__).parent, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    first, *rest = done.stdout.splitlines()
    assert first.startswith("True [resource]")
    assert "Make room" in first
    assert rest[-1] == "whole"


def test_an_export_that_fails_leaves_the_old_file(home: Path, tmp_path: Path) -> None:
    target = tmp_path / "out.jsonl"
    target.write_text("old")
    with Store.open(home, SIGNATURE) as store:
        with pytest.raises(ResourceError, match="cannot be written"):
            store.export(tmp_path / "none" / "out.jsonl")
        with closing(sqlite3.connect(home / "store.sqlite3", isolation_level=None)) as connection:
            connection.execute("UPDATE traces SET answer = 'garbled' WHERE id = 300")
        with pytest.raises(ModelFileError, match="trace 300"):
            store.export(target)
    assert target.read_text() == "old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["home", "out.jsonl"]

"""The command line as a process of its own: streams, pipes, encodings and start-up."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

import dspex
from dspex import demo


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with a program."""
    folder = tmp_path_factory.mktemp("cli")
    dspex.fit(demo.SIGNATURE, demo.load(), threads=1).save(folder / "one.dspex")
    return folder


def command(*argv, **options):
    return subprocess.Popen(
        [sys.executable, "-m", "dspex", *argv], stdout=subprocess.PIPE, stderr=subprocess.PIPE, **options
    )


def test_as_a_process(folder):
    with command("predict", "one.dspex", stdin=subprocess.PIPE, cwd=folder) as process:
        process.stdin.write(b"where is my refund?\n")
        process.stdin.flush()
        assert process.stdout.readline().startswith(b"refund_status\t"), "answered before the input ends"
        out, err = process.communicate(b"caf\xe9\n", timeout=60)
    assert process.returncode == 2
    assert out == b""
    assert err.count(b"\n") == 1
    assert b"line 2" in err


def test_help_loads_no_numeric_library():
    code = "import sys, dspex.cli.main as m\ntry: m.main(['--help'])\nexcept SystemExit: print(*sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert not {"numpy", "dspy", "sklearn", "pyarrow"} & set(out.splitlines()[-1].split())


@pytest.mark.skipif(os.name == "nt", reason="POSIX pipes")
def test_a_reader_that_goes_away_is_no_error(folder):
    with command("predict", "one.dspex", stdin=subprocess.PIPE, cwd=folder) as process:
        process.stdout.close()
        process.stdout = None
        _, err = process.communicate(b"where is my refund?\n" * 50_000, timeout=60)
    assert (process.returncode, err) == (141, b"")


def test_texts_that_the_terminal_cannot_show(folder):
    env = {**os.environ, "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"}
    with command("predict", "one.dspex", "caf\u00e9 \U0001f6b2 refund", cwd=folder, env=env) as process:
        out, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (0, b"")
    assert b"caf\\xe9" in out

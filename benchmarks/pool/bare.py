"""Two bare threads that hand a word back and forth, and the pool without Python: `benchmarks.native_pool`."""

from __future__ import annotations

import json
import subprocess
import tempfile
from functools import cache
from pathlib import Path

from benchmarks import native_pool
from benchmarks.rounds import Figures, say

_folders: list[tempfile.TemporaryDirectory[str]] = []  # removed at exit


@cache
def _program() -> Path | None:
    folder = tempfile.TemporaryDirectory()
    _folders.append(folder)
    target = Path(folder.name, "pool")
    try:
        native_pool.compile_to(target, [])
    except (OSError, subprocess.CalledProcessError, SystemExit) as error:
        say(f"bare threads are left out: {error}")
        return None
    return target


def available() -> bool:
    return _program() is not None


def hand_off(peer: str, mode: str, scale: float) -> Figures:
    """p50 of a hand-off and back, in microseconds. Of peers whose names begin so, the best."""
    program = _program()
    assert program is not None, "see available()"
    command = [str(program), "handoff", "--rounds=1", f"--scale={scale}"]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    rows = [json.loads(line) for line in lines]
    found = [row["p50_ns"] for row in rows if row["mode"] == mode and row["peer"].startswith(peer)]
    return {"p50 µs": min(found) / 1000}

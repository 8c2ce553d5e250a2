"""A writer that is killed, at any moment and at each step, leaves the old file or the new one, whole."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from dspex.modelfile import read_model, write_model

KILLS = 60
ROWS = 1 << 17

# Imports once, then forks a writer for every line it reads: "" writes in a loop, a name dies at that step.
WRITERS = """
import os, signal, sys
import numpy as np
from dspex.modelfile import write_model

ROWS = int(sys.argv[2])

def contents(value):
    return {"rows": np.full(ROWS, value, np.float64)}, {"value": value}

def dying(step, late):
    real = getattr(os, step)
    def call(*arguments):
        if late:
            real(*arguments)
        os.kill(os.getpid(), signal.SIGKILL)
    return call

for line in sys.stdin:
    name, late = line.strip().rstrip("+"), line.strip().endswith("+")
    writer = os.fork()
    if writer == 0:
        if name:
            setattr(os, name, dying(name, late))
        value = 0
        while True:
            write_model(sys.argv[1], *contents(value % 2))
            value += 1
    print(writer, flush=True)
    os.waitpid(writer, 0)
    print("dead", flush=True)
"""


class Writers:
    """The process that forks writers to one path."""

    def __init__(self, path: Path) -> None:
        command = [sys.executable, "-c", WRITERS, str(path), str(ROWS)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.input, self.output = self.process.stdin, self.process.stdout

    def start(self, step: str = "") -> int:
        self.input.write(step + "\n")
        self.input.flush()
        return int(self.output.readline())

    def wait(self) -> None:
        assert self.output.readline() == "dead\n"

    def close(self) -> None:
        self.input.close()
        self.output.close()
        assert self.process.wait(30) == 0


@pytest.fixture
def path(tmp_path: Path) -> Path:
    target = tmp_path / "x.dspex"
    write_model(target, {"rows": np.zeros(ROWS)}, {"value": 0})
    return target


@pytest.fixture
def writers(path: Path) -> Iterator[Writers]:
    started = Writers(path)
    yield started
    started.close()


def value_of(path: Path) -> int:
    """The value that the file holds throughout; the file is whole."""
    model = read_model(path)
    value = model.meta["value"]
    assert value in (0, 1)
    assert list(model.arrays) == ["rows"]
    assert model.arrays["rows"].shape == (ROWS,)
    assert (model.arrays["rows"] == value).all()
    return int(value)


def test_killed_at_random_moments(path: Path, writers: Writers) -> None:
    rng = random.Random(0)
    values, cut_short = set(), 0
    for _ in range(KILLS):
        writer = writers.start()
        time.sleep(rng.uniform(0.0, 0.06))
        os.kill(writer, signal.SIGKILL)
        writers.wait()
        values.add(value_of(path))
        cut_short += len(os.listdir(path.parent)) > 1
    assert values == {0, 1}, "the writers never got to write"
    assert cut_short > 0, "no writer was killed in the middle of a write"
    assert len(os.listdir(path.parent)) <= 2, "each writer removes what the one before it left"
    write_model(path, {}, {})
    assert os.listdir(path.parent) == [path.name]


# With "+": just after the step. The first write changes nothing (it writes value 0 over value 0).
@pytest.mark.parametrize("step", ["open", "open+", "fsync", "fsync+", "replace", "replace+"])
def test_killed_at_each_step(step: str, path: Path, writers: Writers) -> None:
    write_model(path, {"rows": np.ones(ROWS)}, {"value": 1})
    writers.start(step)
    writers.wait()
    assert value_of(path) == (0 if step == "replace+" else 1)
    assert len(os.listdir(path.parent)) == (1 if step in ("open", "replace+") else 2)
    write_model(path, {"rows": np.ones(ROWS)}, {"value": 1})
    assert value_of(path) == 1
    assert os.listdir(path.parent) == [path.name]

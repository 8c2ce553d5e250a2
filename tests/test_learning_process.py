"""The process that learns: what it can import, and what becomes of one that cannot be started."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from dspex.distill import jobs
from dspex.distill.live import LiveProgram
from dspex.distill.settings import DistillSettings
from dspex.errors import InternalError, ResourceError
from live_tools import Planted, home, rows, settings

RULES = """
def part(inputs): return "long" if len(inputs["text"]) > 25 else "short"
def cost(inputs, native, teacher): return float(native != teacher)
"""
SCRIPT = """
import sys, json
from pathlib import Path
from dspex.distill.live import LiveProgram
from live_tools import Planted, home, rows, serve

given = {"learning": {"automatic": False}, "guarantee": {
    "agreement": 0.8, "slices": "rules_beside:part", "costs": "rules_beside:cost", "calibration_share": 0.4,
}}
with home(Path(sys.argv[1])) as store, LiveProgram(store, Planted(), given, seed=1) as live:
    serve(live, rows(600, seed=1, hard=0.0), step=600)
    live.learn(wait=True)
    print(json.dumps(live.status()["learning"]["last"]))
"""


def test_functions_beside_the_script_are_found(tmp_path: Path) -> None:
    """The script's folder and one that it added are on its path only."""
    beside, tools = tmp_path / "app", Path(__file__).parent
    beside.mkdir()
    (beside / "rules_beside.py").write_text(RULES)
    (beside / "main.py").write_text(f"import sys; sys.path.append({str(tools)!r})\n" + SCRIPT)
    done = subprocess.run(
        [sys.executable, str(beside / "main.py"), str(tmp_path)],
        capture_output=True, text=True, check=False, cwd=tmp_path,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert '"outcome": "made"' in done.stdout


def test_a_process_that_cannot_be_started_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("multiprocessing.spawn.get_executable", lambda: str(tmp_path / "no-python"))
    with home(tmp_path) as store:
        open_before = len(os.listdir("/proc/self/fd"))
        with pytest.raises(ResourceError, match="no learning process can be started") as caught:
            jobs.start(store, DistillSettings())
        assert caught.value.retryable
        assert len(os.listdir("/proc/self/fd")) == open_before
        with LiveProgram(store, Planted(), settings(), seed=1) as live:
            live.predict(rows(1)[0])
            with pytest.raises(ResourceError):
                live.learn()
            assert live.status()["learning"]["last"]["outcome"] == "failed"
        assert [event.kind for event in store.events()] == ["learning started", "learning failed"]


def test_one_that_ends_before_it_has_read_its_settings_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\nexec 0<&-\necho broken >&2\nexit 3\n")
    python.chmod(0o755)
    monkeypatch.setattr("multiprocessing.spawn.get_executable", lambda: str(python))
    long = {"guarantee": {"tolerance": {f"output {n}": 0.5 for n in range(20_000)}}}  # a pipe takes less
    with home(tmp_path) as store:
        job = jobs.start(store, DistillSettings.of(long))
        with pytest.raises(InternalError, match="code 3: broken"):
            job.wait()

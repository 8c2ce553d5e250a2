"""SPIN searches every order of steps of the worker pool's protocols; see tests/native/models/README.md."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

MODELS = Path(__file__).parent / "native" / "models"
SPIN = shutil.which("spin")
COMPILER = shutil.which("gcc") or shutil.which("cc")

pytestmark = [
    pytest.mark.skipif(SPIN is None, reason="the model checker SPIN is not installed"),
    pytest.mark.skipif(COMPILER is None, reason="there is no C compiler for SPIN's verifiers"),
]

# To optimise a verifier takes longer than it saves, but for these.
LARGE = {"queue", "idle", "close"}

# Model and settings. Together they reach every step of the code; larger ones take long and find no more.
SOUND = [
    "queue",
    "queue PUSHES=3 CAPACITY=1",
    "queue PUSHES=2 RING=4 CAPACITY=3",
    "idle",
    "idle LANES=2",
    "idle OVERFLOW",
    "idle GROUPS",
    "idle RESIZE SUBMITTERS=1",
    "idle WORKERS=3 SUBMITTERS=1",
    "idle STRANDS=1 SUBMITTERS=1 TASKS=1",
    "idle STRANDS=2 SUBMITTERS=0 TASKS=0",
    "close TASKS=1 STRAND_TASKS=0",
    "close TASKS=0 STRAND_TASKS=1 RESIZE",
    "close TASKS=0 STRAND_TASKS=2",
    "close TASKS=0 STRAND_TASKS=1 SESSIONS=2 STRANDS=2 WORKERS=1",
    "strand RESIZE DEATHS=1 STRAND_TASKS=1",
    "strand RESIZE FAILURES=1",
    "strand DEATHS=2 FAILURES=2 STRAND_TASKS=1",
    "strand DEATHS=1 FAILURES=1 STARTED=2 GROWER STRAND_TASKS=1",
    "task",
    "task TIMEOUT",
    "task CANCELLERS=2 WAITERS=0",
    "task CANCELLERS=2 WAITERS=2 LISTENERS=0",
    "task WAITERS=0 LISTENERS=0",
    "links",
    "drain",
]

# What is broken on purpose, and a part of the assertion that says so.
BROKEN = [
    ("queue BUG_RETURN_BEFORE_READ", "storage[(at%2)]==0"),
    ("queue BUG_NO_ROOM_CHECK CAPACITY=1", "inside<=1"),
    ("queue BUG_BLIND_CLAIM", "claimed[at]==0"),
    ("queue BUG_PUBLISH_EARLY", "storage[(at%2)]!=0"),
    ("queue BUG_RING_OF_ONE", "inside<=1"),
    ("idle BUG_NO_RESCAN", "sleeping==0"),
    ("idle BUG_ANNOUNCE_LATE", "sleeping==0"),
    ("idle BUG_LOOK_BEFORE_PUSH", "sleeping==0"),
    ("idle BUG_NOBODY_WAKES_THE_NEXT", "sleeping==0"),
    ("idle BUG_LEAVES_SILENTLY RESIZE SUBMITTERS=1", "sleeping==0"),
    ("idle BUG_WAKE_WITHOUT_SEARCH", "searching>0"),
    ("idle BUG_TOKEN_LEFT_BEHIND OVERFLOW", "searching==0"),
    ("idle BUG_LOOK_BEFORE_PUSH STRANDS=2 SUBMITTERS=0 TASKS=0", "pinned[i]"),
    ("idle BUG_NO_RESCAN STRANDS=2 SUBMITTERS=0 TASKS=0", "pinned[i]"),
    ("close BUG_STAGE_UNSEEN TASKS=1 STRAND_TASKS=0", "ended=="),
    ("close BUG_STAGE_UNSEEN TASKS=0 STRAND_TASKS=2", "ended=="),
    ("close BUG_SWEEP_BEFORE_JOIN TASKS=0 STRAND_TASKS=2 WORKERS=1", "ended=="),
    ("close BUG_STRANDS_TAKEN_ALONG TASKS=0 STRAND_TASKS=1 SESSIONS=2 STRANDS=2 WORKERS=1", "ended=="),
    ("close BUG_LEAVING_UNSEEN TASKS=1 STRAND_TASKS=0", "_nr_pr==1"),
    ("strand BUG_REROUTE_FIRST RESIZE", "ended==accepted"),
    ("strand BUG_PUSHED_UNSEEN RESIZE", "ended==accepted"),
    ("strand BUG_COUNTED_IN_TWO_STEPS", "ended==accepted"),
    ("strand BUG_FAILED_START_KEEPS_STRANDS RESIZE FAILURES=1", "ended==accepted"),
    ("strand BUG_NOBODY_ADOPTS DEATHS=1 FAILURES=1 STARTED=2 GROWER STRAND_TASKS=1", "ended==accepted"),
    ("task BUG_CANCEL_BLINDLY", "letters==0"),
    ("task BUG_NOBODY_IS_TOLD", "_nr_pr==2"),
    ("task BUG_SLEEPS_UNANNOUNCED", "_nr_pr==2"),
    ("task BUG_RELEASED_BEFORE_TOLD", "frees==0"),
    ("task BUG_BURIED_AFTER_CANCEL", "letters==0"),
    ("links BUG_SHARED_LINK", "pushed["),
    ("links BUG_BELL_STILLED_LATE", "takes[i]==3"),
    ("links BUG_GIVEN_UP_TOO_LATE", "pushed["),
    ("drain BUG_COUNTED_AFTER_PUSH", "before&over"),
    ("drain BUG_ACCEPTED_READ_FIRST", "before&over"),
]


def search(case: str, optimise: str, where: Path) -> str:
    """What the verifier says of a model: an exhaustive search, up to the first error."""
    model, *settings = case.split()

    def run(*command: str) -> str:
        done = subprocess.run(command, cwd=where, capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
        return done.stdout

    defines = [f"-D{each}" for each in settings]
    run(f"{SPIN}", f"-P{COMPILER} -E -x c", "-a", *defines, f"{MODELS / model}.pml")
    run(f"{COMPILER}", optimise, "-w", "-DSAFETY", "-DMEMLIM=1000", "-o", "pan", "pan.c")
    return run("./pan", "-m10000", "-w22")


def test_every_deliberate_bug_is_searched_for() -> None:
    written = {bug for model in MODELS.glob("*.pml") for bug in re.findall(r"\bBUG_\w+", model.read_text())}
    assert written == {word for case, _ in BROKEN for word in case.split() if word.startswith("BUG_")}


@pytest.mark.parametrize("case", SOUND)
def test_no_order_of_steps_breaks_the_pool(case: str, tmp_path: Path) -> None:
    said = search(case, "-Og" if case.split()[0] in LARGE else "-O0", tmp_path)
    assert re.search(r"errors: 0\b", said), said
    assert "not completed" not in said, said
    assert "depth too small" not in said, said
    assert "memory" not in said.split("errors:")[0], said
    states = re.search(r"(\d+) states, stored", said)
    assert states is not None
    assert int(states[1]) > 100, said


@pytest.mark.parametrize(("case", "violated"), BROKEN)
def test_the_search_finds_what_is_broken_on_purpose(case: str, violated: str, tmp_path: Path) -> None:
    said = search(case, "-O0", tmp_path)
    assert re.search(r"errors: [1-9]", said), said
    assert "assertion violated" in said, said
    assert violated in said.split("\n", 2)[1] + said.split("\n", 2)[0], said

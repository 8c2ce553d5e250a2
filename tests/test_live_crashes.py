"""Services that are really killed, at each step and at random: the home is as before a step or after it."""

from __future__ import annotations

import os
import random
import shutil
import signal
import time
from collections.abc import Iterator
from contextlib import suppress
from itertools import pairwise
from pathlib import Path

import pytest

from dspex.distill.live import LiveProgram
from dspex.distill.store import Store
from forking_tools import Services
from live_tools import Planted, add_version, home, rows, serve, settings

STRESS = int(os.environ.get("DSPEX_STRESS", "1"))
MOVES = {"adopted", "promoted", "demoted", "rolled back", "breach", "held", "released"}

# Imports once, then forks a service for each line: home, commit to die at (0: none), before or after, seed.
SERVICES = """
import os, signal, sqlite3, sys
sys.path.insert(0, sys.argv[1])
import live_tools
from live_tools import *
from dspex.distill.store import Store
live_tools.program()
real = sqlite3.connect
left = [0]

class Dying(sqlite3.Connection):
    late = False
    def execute(self, statement, *values):
        if statement != "COMMIT" or not left[0]:
            return super().execute(statement, *values)
        left[0] -= 1
        if left[0]:
            return super().execute(statement, *values)
        if self.late:
            super().execute(statement, *values)
        os.kill(os.getpid(), signal.SIGKILL)

def scenario(home, seed):
    returned = os.open(home + ".returned", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    store = Store.open(home, SIGNATURE)
    teacher = Planted()
    rules = settings(shadow_checks=8, canary_checks=8, audit_share=0.5)
    live = LiveProgram(store, teacher, rules, seed=seed)
    def calls(n, seed, until):
        for at, inputs in enumerate(rows(n, seed)):
            if live.predict(inputs).route == "dspy":
                os.write(returned, (inputs["text"] + "\\n").encode())
            if at % 3 == 0:
                live.flush()
                if store.state().stage == until:
                    return
    if store.state().stage == "live":  # where the one before ended
        live.demote("again")
        live.release("again")
        live.promote("again")
    calls(300, 3 * seed, "live")
    teacher.shift = 1.0
    calls(300, 3 * seed + 1, "shadow")
    teacher.shift = 0.0
    if len(store.versions()) < 2:
        add_version(store, parent=1)
    elif store.state().stage == "shadow":
        live.promote("again")
    live.flush()
    calls(300, 3 * seed + 2, "live")
    if store.state().previous is not None:
        live.rollback("test")
    live.hold("test")
    live.release("test")
    live.close()
    store.close()

for line in sys.stdin:
    home, at, late, seed = line.rstrip("\\n").split("|")
    service = os.fork()
    if service == 0:
        code = 1
        try:
            left[0], Dying.late = int(at), late == "late"
            sqlite3.connect = lambda *a, **k: real(*a, **{"factory": Dying, **k})
            scenario(home, int(seed))
            code = 0
        finally:
            os._exit(code)
    print(service, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(service, 0)[1]), flush=True)
"""


class Crashing(Services):
    """Services that are killed at a commit, or from outside."""

    def start(self, home: Path, at: int = 0, late: bool = False, seed: int = 1) -> int:
        return self.send(f"{home}|{at}|{'late' if late else 'early'}|{seed}")


@pytest.fixture(scope="module")
def services() -> Iterator[Crashing]:
    started = Crashing(SERVICES)
    yield started
    started.close()


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("template")
    with home(path) as store:
        add_version(store)
    return path / "home"


def check(place: Path) -> str:
    """The stage that a home is in, which its log agrees with; no answer that was returned is missing."""
    returned = Path(f"{place}.returned")
    said = set(returned.read_text().splitlines()) if returned.exists() else set()
    with Store.open(place) as store:
        state = store.state()
        moves = [event for event in store.events() if event.kind in MOVES]
        assert state.revision == len(moves), "one event for each move, and one move for each event"
        for before, after in pairwise(moves):
            assert after.before == before.after
        if moves:
            shown = {name: getattr(state, name) for name in ("stage", "version", "previous", "held")}
            assert moves[-1].after == shown
            assert (moves[-1].reason, moves[-1].at) == (state.reason, state.since)
        kept = {trace.id: trace.inputs["text"] for trace in store.traces()}
        assert said <= set(kept.values()), "an answer was returned and is lost"
        audits = list(store.audits())
        assert all(audit.trace in kept for audit in audits)
        assert int(state.watch.get("upto", 0)) <= max((audit.id or 0 for audit in audits), default=0)
        return str(state.stage)


def test_the_scenario_goes_all_the_way(services: Crashing, template: Path, tmp_path: Path) -> None:
    place = shutil.copytree(template, tmp_path / "home")
    services.start(place)
    assert services.ended() == 0
    check(place)
    with Store.open(place) as store:
        kinds = [event.kind for event in store.events() if event.kind in MOVES]
        assert kinds == [
            "adopted", "promoted", "promoted", "breach", "adopted", "promoted", "promoted", "rolled back",
            "held", "released",
        ]  # fmt: skip


@pytest.mark.parametrize("late", [False, True], ids=["before", "after"])
def test_killed_at_each_commit(services: Crashing, template: Path, tmp_path: Path, late: bool) -> None:
    stages, stride, at = set(), max(1, 5 // STRESS), 1
    while True:
        place = shutil.copytree(template, tmp_path / f"home{at}")
        services.start(place, at, late)
        if services.ended() == 0:
            break  # the scenario has fewer commits
        stages.add(check(place))
        shutil.rmtree(place)
        at += stride
    assert at > 100
    assert stages == {"teacher", "shadow", "canary", "live"}


def test_killed_at_random_moments_and_going_on(services: Crashing, template: Path, tmp_path: Path) -> None:
    place, draw = shutil.copytree(template, tmp_path / "home"), random.Random(1)
    for seed in range(25 * STRESS):
        service = services.start(place, seed=seed)
        time.sleep(draw.uniform(0.0, 0.25))
        with suppress(ProcessLookupError):  # it was done already
            os.kill(service, signal.SIGKILL)
        assert services.ended() in (-signal.SIGKILL, 0)
        check(place)
    with Store.open(place) as store, LiveProgram(store, Planted(), settings(), seed=1) as live:
        serve(live, rows(100, seed=77))
    check(place)

"""A service that is really killed, wherever its loop stands: it goes on, and nothing that it said is lost."""

from __future__ import annotations

import json
import os
import random
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from distill_loop_tools import (
    ROWS,
    SLOWER,
    Mind,
    Service,
    agreeing,
    language_model,
    natives,
    opened,
    texts,
    until,
)
from dspex.distill.store import State, Store
from dspex.errors import DspexError
from dspex.testing import LMServer
from forking_tools import Services
from test_live_crashes import check

STRESS = int(os.environ.get("DSPEX_STRESS", "1"))
EACH = 3000  # calls that a service may make before it is killed
THREADS = 2

# Imports once, then forks a service for each line: home, the first text to ask, settings of the LM. It
# compiles where nothing is in service yet, else opens the home; then it is called, until it is killed.
SERVICES = f"""
import json, os, signal, sys, threading, time, traceback
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import dspy
from dspex.distill.store import Store
from dspex.dspy import route
from distill_loop_tools import SLOWER, compiled, model, opened, texts

def in_service(home):
    if not (home / "store.sqlite3").exists():
        return False
    with Store.open(home) as store:
        return store.state().version is not None

def serve(home, start, config):
    os.setsid()
    dspy.configure(lm=model(config))
    program = (opened if in_service(home) else compiled)(home, settings=SLOWER)
    returned = os.open(f"{{home}}.answers", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    asked = iter(texts(start, start + {EACH}))
    def calls():
        for text in asked:
            answer = program(text=text)
            line = [text, answer.label, str(route(answer))]
            os.write(returned, (json.dumps(line) + "\\n").encode())
            time.sleep(0.003 if route(answer) == "native" else 0.0)
    threads = [threading.Thread(target=calls) for _ in range({THREADS})]
    for thread in threads:
        thread.start()
    signal.pause()

for line in sys.stdin:
    home, start, config = json.loads(line)
    service = os.fork()
    if service == 0:
        try:
            serve(Path(home), start, config)
        except BaseException:
            traceback.print_exc()
        os._exit(1)
    print(service, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(service, 0)[1]), flush=True)
"""


class Looping(Services):
    """Services that go through the loop."""

    def start(self, home: Path, start: int, config: Any) -> int:
        return self.send(json.dumps([str(home), start, config]))


@pytest.fixture(scope="module")
def services() -> Iterator[Looping]:
    started = Looping(SERVICES)
    yield started
    started.close()


class Seen:
    """What an onlooker sees of a home, without holding anybody up."""

    def __init__(self, home: Path) -> None:
        self.home = home

    def __call__(self) -> tuple[State, list[str]] | None:
        """The state and the kinds of the events; None: there is no home yet."""
        try:
            with Store.open(self.home, read_only=True) as store:
                return store.state(), [event.kind for event in store.events()]
        except DspexError:
            return None

    def stage(self) -> str:
        found = self()
        return "teacher" if found is None else found[0].stage

    def count(self, kind: str) -> int:
        found = self()
        return 0 if found is None else found[1].count(kind)


def unharmed(home: Path, mind: Mind) -> str:
    """The stage; checks the log of events, and the store against what the caller and the server noted."""
    stage = check(home)
    path = Path(f"{home}.answers")
    lines = path.read_text().splitlines() if path.exists() else []
    with Store.open(home) as store:
        for text, label, way in map(json.loads, lines):
            if way == "dspy":
                assert label in mind.said[text], "the server gave it"
                kept = store.has_answer({"text": text})
                assert kept is not None, "the caller got it, and it is lost"
                assert kept.outputs["label"] == label
        for trace in store.traces():
            assert trace.answer.outputs["label"] in mind.said[trace.inputs["text"]], "nobody gave it"
        for record in store.versions():
            assert store.version_file(record.number).exists()
    return stage


def kill(service: int, draw: random.Random) -> None:
    """Alone, or with the process that learns for it."""
    with suppress(ProcessLookupError):
        (os.kill if draw.random() < 0.5 else os.killpg)(service, signal.SIGKILL)


Moment = tuple[str, Callable[[Seen, LMServer], bool], float]
#: When a service is killed: what is waited for, and up to how many seconds longer.
MOMENTS: list[Moment] = [
    ("labels", lambda seen, server: server.count > 20, 0.3),
    ("certifies", lambda seen, server: seen.count("learning started") > 0, 0.3),
    ("shadow", lambda seen, server: seen.stage() == "shadow", 0.1),
    ("promotes", lambda seen, server: seen.stage() in ("canary", "live"), 0.05),
    ("canary", lambda seen, server: seen.stage() in ("canary", "live"), 0.1),
    ("live", lambda seen, server: seen.stage() == "live", 0.3),
    ("drifts", lambda seen, server: seen.stage() == "live", 0.6),
    ("demotes", lambda seen, server: seen.count("breach") > 0, 0.05),
    ("learns", lambda seen, server: seen.count("learning started") > 1, 0.5),
    ("adopts", lambda seen, server: seen.count("version made") > 1, 1.0),
]


@pytest.mark.parametrize("seed", range(STRESS))
def test_killed_wherever_it_stands_and_going_on(services: Looping, tmp_path: Path, seed: int) -> None:
    home, mind, draw = tmp_path / "home", Mind(), random.Random(seed)
    seen, stages, at = Seen(home), set(), ROWS
    groups = []
    with language_model(mind) as server:
        server.delay = 0.01  # else a fast machine is through with a stage before a service in it is killed
        for name, moment, longest in MOMENTS:
            mind.changed = mind.changed or name == "drifts"
            service = services.start(home, at, server.lm_config())
            groups.append(service)
            until(lambda moment=moment: moment(seen, server), 60)
            time.sleep(draw.uniform(0.0, longest))
            kill(service, draw)
            assert services.ended() == -signal.SIGKILL, name
            server.wait_idle(10)
            stages.add(unharmed(home, mind))
            at += EACH
        again = [len(mind.said[text]) - 1 for text in texts(0, ROWS)]
        assert sum(again) <= 8, "only what was under way at a kill is asked again"
        with Service(opened(home, settings=SLOWER), at) as last:
            last.until("live", None, 4000)
            while last.state().version == 1:  # it had not been caught out yet
                last.calls(20)
                last.until("live", None, 4000)
            assert agreeing(natives(last.calls(150)), mind) >= 0.85
    assert unharmed(home, mind) == "live"
    assert stages == {"teacher", "shadow", "canary", "live"}
    for group in groups:
        with suppress(ProcessLookupError):
            os.killpg(group, signal.SIGKILL)

"""Processes that are really killed: what was reported is there, and the state is the one before or after."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from dspex import Signature
from dspex.distill.store import Audit, Event, State, Store, VersionRecord
from dspex.distill.trace import Answer, Trace
from dspex.errors import ResourceError

SIGNATURE = Signature.of("text -> label: Literal['a', 'b']")
STRESS = int(os.environ.get("DSPEX_STRESS", "1"))
SETTINGS = {"max_rows": None}


def report(kind: str, number: int) -> None:
    os.write(1, f"{kind} {number}\n".encode())


def live(home: str, name: str) -> None:
    """Adds traces, learns versions, moves and audits for ever, and reports each step once it is done."""
    with Store.open(home, SIGNATURE, SETTINGS) as store:
        report("open", 0)
        for n in range(10**9):
            role = "calibrate" if n % 3 == 0 else "fit"
            for number in store.add(
                [Trace({"text": f"{name} {n}"}, Answer({"label": "a"}, usd=1.0), role=role)]
            ):  # type: ignore[arg-type]
                report("row", number or 0)
            if n % 5 == 0:
                learn(store, name)
            if n % 7 == 0:
                move(store, name, n)


def learn(store: Store, name: str) -> None:
    try:
        with store.learning():
            number = store.next_version()
            fresh = [trace.id or 0 for trace in store.traces("calibrate", fresh=True, newest=3)]
            path = store.version_path(number)
            path.write_bytes(f"{number} {fresh}".encode())
            store.add_version(VersionRecord(number, 1.0, path.name, "ready", figures={"rows": fresh}), fresh)
            report("version", number)
    except ResourceError:
        pass  # the other process is learning


def move(store: Store, name: str, n: int) -> None:
    before = store.state()
    version = store.next_version() - 1
    if version == 0:
        return  # the other process is still learning the first one
    new = State("live", version, before.version, reason=f"{name} {n}", watch={"n": 0})
    after = {"revision": before.revision + 1, "version": version, "reason": new.reason}
    try:
        moved = store.move(before.revision, new, Event(1.0, "moved", "rule", new.reason, {}, after))
    except ResourceError:
        return  # the other process was first
    report("revision", moved.revision)
    audits = list(store.audits(version=version))
    audit = Audit(1.0, version, "live", 0.5, {"label": "a"}, {"label": "b"}, True)
    if store.add_audits([audit], {"n": len(audits) + 1}, revision=moved.revision):
        report("audit", moved.revision)


def start(home: Path, name: str) -> subprocess.Popen[bytes]:
    script = "import sys\nfrom test_store_kills import live\nlive(sys.argv[1], sys.argv[2])"
    return subprocess.Popen(
        [sys.executable, "-c", script, str(home), name], cwd=Path(__file__).parent, stdout=subprocess.PIPE
    )


def reported(output: bytes) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {}
    for line in output.decode().splitlines():
        kind, number = line.split()
        found.setdefault(kind, []).append(int(number))
    return found


def check(home: Path, said: list[dict[str, list[int]]]) -> None:
    with Store.open(home, SIGNATURE, SETTINGS) as store:
        store.check()
        rows = {trace.id: trace for trace in store.traces()}
        every = [number for each in said for number in each.get("row", [])]
        assert len(set(every)) == len(every)
        assert rows.keys() >= set(every)
        # Whole transactions: a version with its event, its file and all of its rows; a state with its event.
        versions = store.versions()
        made = [event.after["version"] for event in store.events() if event.kind == "version made"]
        assert made == [version.number for version in versions]
        assert {number for each in said for number in each.get("version", [])} <= set(made)
        for version in versions:
            used = version.figures["rows"]
            assert store.version_file(version.number).read_bytes() == f"{version.number} {used}".encode()
            assert [rows[number].used_by for number in used] == [version.number] * len(used)
        assert sum(trace.used_by is not None for trace in rows.values()) == sum(
            len(version.figures["rows"]) for version in versions
        )
        assert sorted(path.name for path in (home / "versions").iterdir()) == [each.file for each in versions]
        state = store.state()
        moves = [event.after for event in store.events() if event.kind == "moved"]
        assert [each["revision"] for each in moves] == list(range(1, state.revision + 1))
        if moves:
            assert moves[-1] == {"revision": state.revision, "version": state.version, "reason": state.reason}
            assert state.watch["n"] in (0, sum(1 for _ in store.audits(version=state.version)))
        assert max((n for each in said for n in each.get("revision", [])), default=0) <= state.revision
        counts = store.counts()
        assert counts["rows"] == len(rows)
        assert counts["usd"] == counts["last"]
        assert counts["fresh"] == sum(t.role == "calibrate" and t.used_by is None for t in rows.values())


@pytest.mark.parametrize("processes", [1, 2])
def test_killed_at_any_moment(tmp_path: Path, processes: int) -> None:
    dice = random.Random(processes)
    said: list[dict[str, list[int]]] = []
    added = 0
    for life in range(4 * STRESS):
        if life % 5 == 4:  # what a home has kept is read each time
            tmp_path, said = tmp_path / "next", []
        children = [start(tmp_path, f"{life}.{n}") for n in range(processes)]
        for child in children:
            assert child.stdout is not None
            assert child.stdout.readline() == b"open 0\n"
        time.sleep(dice.uniform(0.0, 0.12))
        for child in children:
            child.send_signal(signal.SIGKILL)
        outputs = [child.communicate()[0] for child in children]
        assert all(child.returncode == -signal.SIGKILL for child in children)
        said += [reported(output) for output in outputs]
        added += sum(len(each.get("row", [])) for each in said[-processes:])
        check(tmp_path, said)
    assert added > 20


def test_killed_while_the_home_is_made(tmp_path: Path) -> None:
    dice = random.Random(3)
    script = (
        "import os, sys\nfrom test_store_kills import *\nos.write(1, b'x')\n"
        "for n in range(10**6):\n    Store.open(f'{sys.argv[1]}/{n}', SIGNATURE).close()\n"
    )
    for life in range(2 * STRESS):
        folder = tmp_path / str(life)
        child = subprocess.Popen(
            [sys.executable, "-c", script, str(folder)], cwd=Path(__file__).parent, stdout=subprocess.PIPE
        )
        assert child.stdout is not None
        with child.stdout:
            child.stdout.read(1)
            time.sleep(dice.uniform(0.0, 0.1))
            child.kill()
            child.wait()
        for home in folder.iterdir() if folder.exists() else ():
            with Store.open(home, SIGNATURE) as store:
                store.add([Trace({"text": "x"}, Answer({"label": "a"}))])
                store.check()


def test_an_add_takes_microseconds(tmp_path: Path) -> None:
    traces = [Trace({"text": f"what about number {n}"}, Answer({"label": "b"}, usd=0.1)) for n in range(1000)]
    seconds = []
    with Store.open(tmp_path, SIGNATURE) as store:
        for trace in traces:
            start_time = time.perf_counter()
            store.add([trace])
            seconds.append(time.perf_counter() - start_time)
    assert sorted(seconds)[300] < 300e-6  # loose: other tests may run beside this one

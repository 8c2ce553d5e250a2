"""One real worker process: how it starts, what it survives, and that it never outlives its parent."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterator
from multiprocessing import spawn
from pathlib import Path
from typing import Any

import pytest

from dspex.errors import (
    CallTimeoutError,
    CommunicationError,
    ConfigError,
    DspexError,
    InputError,
    InternalError,
    ResourceError,
)
from dspex.processes.process import WorkerProcess
from processes_tools import after, children, descriptors, in_background, is_alive, linux, run_script, until

FOREVER = 10**15  # steps of a loop in C


@contextlib.contextmanager
def worker(handler: str = "toy_handlers:make", settings: Any = None) -> Iterator[WorkerProcess]:
    process = WorkerProcess(handler, settings)
    try:
        process.start(after(20))
        yield process
    finally:
        process.kill()


def test_it_becomes_what_it_is_told() -> None:
    with worker(settings={"a": [1]}) as process:
        assert process.channel.call("settings", None) == {"a": [1]}
        assert process.channel.call("pid", None) == process.pid
        assert process.alive


def test_it_is_spawned_and_imports_neither_dspy_nor_numpy_nor_the_pool() -> None:
    with worker("toy_bare:make") as process:
        names = set(process.channel.call("modules", None))
    assert not names & {"dspy", "numpy", "pydantic", "dspex.processes.pool", "dspex.adapters", "pytest"}


STARTS: list[tuple[str, type[DspexError], str]] = [
    ("no_such_module:make", ConfigError, "'no_such_module:make' cannot be imported: ModuleNotFoundError"),
    ("toy_handlers:mk", ConfigError, "cannot be imported: AttributeError"),
    ("toy_broken:make", ConfigError, "RuntimeError: this module is broken"),
    ("toy_handlers:make_error", ConfigError, "cannot be made: ValueError: no"),
    ("toy_handlers:make_nothing", InputError, "these settings are wrong"),
    ("toy_handlers:make_crash", CommunicationError, "ended before it was ready, with exit code 7"),
    ("sys:exit", InternalError, "SystemExit"),
]


@pytest.mark.parametrize(("handler", "error", "message"), STARTS, ids=[each[0] for each in STARTS])
def test_a_start_that_fails_says_why(
    handler: str, error: type[DspexError], message: str, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(error) as caught, worker(handler):
        pass
    assert message in caught.value.message
    assert not caught.value.retryable


def test_a_start_that_takes_too_long_is_given_up() -> None:
    process = WorkerProcess("toy_handlers:make_slowly", 30.0)
    try:
        with pytest.raises(ResourceError, match=r"was not ready within 0\.3 s"):
            process.start(after(0.3))
    finally:
        process.kill()
    assert not process.alive


def test_a_process_that_cannot_be_had(monkeypatch: pytest.MonkeyPatch) -> None:
    before = descriptors()
    monkeypatch.setattr(spawn, "_python_exe", "/nonexistent/python")  # as multiprocessing.set_executable does
    with pytest.raises(ResourceError, match="cannot be started") as caught:
        WorkerProcess("toy_handlers:make", None)
    assert caught.value.retryable
    assert descriptors() == before


@linux
def test_nothing_is_left_of_it() -> None:
    before = descriptors(), children()
    with worker() as process:
        assert process.rss() > 2**20
        assert children() - before[1] == {process.pid}
    process.kill()
    assert (descriptors(), children()) == before
    assert process.rss() == 0


def test_it_stops_in_good_order(tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    with worker("toy_bare:make", str(trace)) as process:
        process.stop(10)
        assert trace.read_text() == "ended"


def test_one_that_does_not_stop_is_killed() -> None:
    with worker() as process:
        asked = in_background(lambda: process.channel.call("sleep", 60, after(60)))
        until(lambda: process.channel._sent)
        start = time.monotonic()
        process.stop(0.1)
        assert time.monotonic() - start < 5
        with pytest.raises(CommunicationError):
            asked.result()


def test_what_a_program_prints_is_no_answer(capfd: pytest.CaptureFixture[str]) -> None:
    with worker() as process:
        assert process.channel.call("noise", None) == ""  # nothing to read from stdin
        assert process.channel.call("echo", 1) == 1
    out, err = capfd.readouterr()
    assert out == "to stdout\nraw to stdout\n"
    assert err == "to stderr\nraw to stderr\n"


def test_the_parents_stdin_is_its_own() -> None:
    code = """
import sys
from dspex.processes.process import WorkerProcess
from processes_tools import after
process = WorkerProcess("toy_handlers:make", None)
process.start(after(20))
assert process.channel.call("noise", None) == ""
process.kill()
print(sys.stdin.read())
"""
    assert run_script(code, stdin="for the parent").stdout.endswith("for the parent\n")


@pytest.mark.parametrize(
    "garbage", [b"x", b"GET / HTTP/1.1\r\n\r\n" * 10, bytes(1000), b"DSPX\x02" + bytes(30)]
)
def test_garbage_on_the_socket_is_noticed(garbage: bytes) -> None:
    with worker() as process:
        process.channel.call("garbage", b"", after(10))
        with pytest.raises(CommunicationError, match="garbage"):
            process.channel.call("garbage", garbage, after(10))


@pytest.mark.parametrize(("op", "payload"), [("exit", 0), ("exit", 3), ("kill", None)])
def test_a_death_during_a_call_is_noticed_at_once(op: str, payload: Any) -> None:
    with worker() as process:
        start = time.monotonic()
        with pytest.raises(CommunicationError, match="has ended; the call may have been begun"):
            process.channel.call(op, payload, after(20))
        assert time.monotonic() - start < 5


@linux
def test_a_death_is_noticed_though_a_child_holds_the_connection_open() -> None:
    with worker() as process:
        child = process.channel.call("child", 60.0)
        try:
            start = time.monotonic()
            with pytest.raises(CommunicationError, match="has ended"):
                process.channel.call("kill", None, after(20))
            assert time.monotonic() - start < 5
        finally:
            os.kill(child, signal.SIGKILL)


@linux
def test_what_a_program_starts_gets_nothing_of_the_protocol() -> None:
    with worker() as process:
        listed = process.channel.call("inherited", None)
        assert "/dev/null" in listed
        assert "socket:" not in listed


def test_ctrl_c_is_the_parents_affair() -> None:
    with worker() as process:
        os.kill(process.pid, signal.SIGINT)
        assert process.channel.call("echo", 1) == 1


@pytest.mark.parametrize(("op", "payload"), [("sleep", 1.2), ("spin", 1.2)])
def test_pings_are_answered_during_a_call(op: str, payload: float) -> None:
    with worker() as process:
        outcome = in_background(lambda: process.channel.call(op, payload, after(20)))
        until(lambda: process.channel._sent)
        time.sleep(0.05)  # the call is running now
        number = process.channel.send_ping()
        until(lambda: process.channel.pongs == number, 1.1)
        assert not outcome.done
        outcome.result()


def test_a_stopped_process_does_not_answer_pings() -> None:
    with worker() as process:
        os.kill(process.pid, signal.SIGSTOP)
        with pytest.raises(CallTimeoutError):
            process.channel.ping(after(0.1))


# The end of the parent

PARENT = """
import os, sys, threading, time
from dspex.processes.process import WorkerProcess
from processes_tools import after
process = WorkerProcess("toy_handlers:make", None)
process.start(after(20))
print(process.pid, flush=True)
op, payload = sys.argv[1], float(sys.argv[2])
if op != "idle":
    payload = int(payload) if payload > 1000 else payload
    threading.Thread(target=process.channel.call, args=(op, payload), daemon=True).start()
    time.sleep(0.2)
if sys.argv[3] == "kill":
    os.kill(os.getpid(), 9)
os._exit(0)
"""


@linux
@pytest.mark.parametrize("end", ["kill", "exit"])
@pytest.mark.parametrize(("op", "payload"), [("idle", 0), ("sleep", 60), ("spin", 60), ("hold_gil", FOREVER)])
def test_a_worker_never_outlives_its_parent(op: str, payload: float, end: str) -> None:
    done = run_script(PARENT, op, str(payload), end)
    assert done.returncode == (-signal.SIGKILL if end == "kill" else 0)
    until(lambda: not is_alive(int(done.stdout)), 5)


@linux
@pytest.mark.parametrize("handler", ["make", "make_hang"])
def test_a_worker_whose_parent_ended_before_it_had_started_ends_too(handler: str) -> None:
    code = f"""
import os
from dspex.processes.process import WorkerProcess
from dspex.processes.frames import Frame, Kind, encode
process = WorkerProcess("toy_handlers:{handler}", None)
process._own.send(encode(Frame(Kind.HELLO, 0, process._hello)))
print(process.pid, flush=True)
os._exit(0)
"""
    done = run_script(code)
    until(lambda: not is_alive(int(done.stdout)), 5)


def test_it_finds_what_its_parent_finds(tmp_path: Path) -> None:
    (tmp_path / "only_here.py").write_text("from toy_handlers import make\n")
    code = f"""
import sys
sys.path.append({str(tmp_path)!r})
from dspex.processes.process import WorkerProcess
from processes_tools import after
process = WorkerProcess("only_here:make", None)
process.start(after(20))
print(process.channel.call("echo", "found"))
process.kill()
"""
    assert run_script(code).stdout == "found\n"


def test_a_module_in_the_current_folder_hides_nothing(tmp_path: Path) -> None:
    (tmp_path / "json.py").write_text("raise RuntimeError('the wrong json')\n")
    code = """
import json, os, sys
sys.path.remove("")  # as in a program that is started from elsewhere
os.chdir(sys.argv[1])
from dspex.processes.process import WorkerProcess
from processes_tools import after
process = WorkerProcess("toy_handlers:make", None)
process.start(after(20))
print(process.channel.call("echo", "ok"))
process.kill()
"""
    done = run_script(code, str(tmp_path))
    assert (done.stdout, done.stderr) == ("ok\n", "")


def test_a_forked_child_of_the_parent_does_not_keep_the_process() -> None:
    with worker() as process:
        child = os.fork()
        if child == 0:
            process.forget()
            time.sleep(0.3)
            os._exit(0)
        assert process.channel.call("echo", 1) == 1
        os.waitpid(child, 0)
        assert process.channel.call("echo", 2) == 2

"""From the first call to the end: facts and counters, health, deletion and close beside calls, forks."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import subprocess
import sys
import textwrap
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

import dspex
from dspex.adapters.dspy import DspyAdapter
from dspex.errors import DspexError, LMError, ProgramError
from dspex.testing.lm_server import Hang, LMServer, Slow, Status
from dspy_adapter_tools import LABEL, NO_RETRY, TwoSteps, over, program, wait_until

ROW = {"text": "x"}
GOOD = {"label": "refund", "topic": "t", "reply": "r"}


def own_threads() -> list[str]:
    return [each.name for each in threading.enumerate() if each.name.startswith("dspex-dspy")]


def sockets() -> int:
    """Open sockets of this process that are connected to somewhere."""
    count = 0
    for each in os.listdir("/proc/self/fd"):
        try:
            count += os.readlink(f"/proc/self/fd/{each}").startswith("socket:")
        except OSError:
            continue
    return count


def test_info(lm_server: LMServer) -> None:
    lm_server.answers = GOOD
    settings = {"timeout": 5.0, "cache": {"size": 3}}
    spec = {"id": "p", "signature": LABEL, "kind": "chain_of_thought", "dspy": settings, "tags": ["a"]}
    adapter, pid = program(lm_server, spec, lm={"api_key": "very-secret"})
    info = adapter.get_program_info(pid)
    assert info["adapter"] == info["backend"] == "dspy"
    assert (info["kind"], info["tags"], info["calls"]) == ("chain_of_thought", ["a"], 0)
    inner = info["program"]
    assert inner["module"] == "dspy.predict.chain_of_thought.ChainOfThought"
    assert inner["predictors"] == ["predict"]
    assert inner["lm"] == "server"
    assert inner["settings"]["timeout"] == 5.0
    assert inner["cache"] == {"kept": 0, "hits": 0, "misses": 0}
    assert "very-secret" not in json.dumps([info, adapter.get_stats()])


def test_stats(lm_server: LMServer) -> None:
    adapter, pid = program(lm_server)
    for answer in (GOOD, Status(500), Status(400)):
        lm_server.answers = answer
        try:
            adapter.execute_program(pid, ROW)
        except LMError:
            continue
    stats = adapter.get_stats()
    assert (stats["calls"], stats["errors"]) == (3, {"lm": 2})
    guard = stats["lms"]["server"]
    assert (guard["succeeded"], guard["failed"], guard["circuit"]) == (1, 2, "closed")
    json.dumps(stats)


def test_health_tells_the_program_and_why(lm_server: LMServer) -> None:
    adapter = over(lm_server, lm={"breaker": {"min_calls": 1, "cooldown": 30.0}})
    assert adapter.health_check()
    adapter.create_program({"id": "fine", "signature": LABEL})
    health = adapter.health_check()
    assert (health.ok, health.checked) == (True, 1)
    lm_server.answers = Status(500)
    with pytest.raises(LMError):
        adapter.execute_program("fine", ROW)
    health = adapter.health_check()
    assert not health
    assert "'fine'" in health.reason
    assert "kept failing" in health.reason
    adapter.close()
    assert not adapter.health_check()


def test_through_the_client(lm_server: LMServer) -> None:
    lm_server.answers = GOOD
    with dspex.Client() as client:
        client.configure_lm(lm_server.lm_config(), adapter="dspy")
        pid = client.create_program({"signature": LABEL, "adapter": "dspy"})
        assert client.execute_program(pid, ROW).label == "refund"
        assert client.execute_program(pid, ROW, {"timeout": 5}).route == "dspy"
        assert client.get_program_info(pid)["adapter"] == "dspy"


def test_close_leaves_no_thread_and_no_socket(lm_server: LMServer) -> None:
    lm_server.answers = GOOD
    gc.collect()
    threads, before = own_threads(), sockets()
    for _ in range(3):
        adapter = over(lm_server)
        adapter.configure_lm(lm_server.lm_config(model="openai/other"))
        pids = [
            adapter.create_program({"signature": LABEL}),
            adapter.create_program({"signature": "text -> topic, reply", "module": TwoSteps()}),
            adapter.create_program({"signature": LABEL, "lm": lm_server.lm_config(temperature=0.5)}),
        ]
        with ThreadPoolExecutor(4) as callers:
            for pid in pids * 4:
                callers.submit(adapter.execute_program, pid, ROW)
                callers.submit(adapter.execute_program, pid, ROW, {"timeout": 5})
        for pid in pids:
            asyncio.run(adapter.aexecute_program(pid, ROW))
            adapter.execute_program(pid, ROW, {"lm": lm_server.lm_config(temperature=0.7)})
        assert sockets() > before
        lms = [adapter.lms.get(name) for name in (None, "server")]  # somebody may still have one
        adapter.close()
        adapter.close()
    assert [lm.model for lm in lms] == ["openai/other", "openai/test-model"]
    gc.collect()
    wait_until(lambda: own_threads() == threads)
    # The server's ends are in this process too, and close when they have seen it.
    wait_until(lambda: sockets() <= before)


def test_close_during_calls(lm_server: LMServer) -> None:
    lm_server.answers = Slow(300, answer=GOOD)
    before = own_threads()
    adapter, pid = program(lm_server)
    module = adapter.create_program({"signature": "text -> topic, reply", "module": TwoSteps()})
    found: list[Any] = []

    def call(pid: str, options: dict[str, Any] | None) -> None:
        try:
            found.append(adapter.execute_program(pid, ROW, options))
        except BaseException as error:
            found.append(error)

    callers = [
        threading.Thread(target=call, args=(each, options))
        for each in (pid, module)
        for options in (None, {"timeout": 30})
    ]
    for caller in callers:
        caller.start()
    lm_server.wait_for(4)
    started = time.monotonic()
    adapter.close()
    assert time.monotonic() - started < 2
    for caller in callers:
        caller.join(10)
    assert len(found) == 4
    closed = [each for each in found if isinstance(each, ProgramError)]
    assert len(closed) >= 2  # with a deadline they are cut off
    assert all("closed" in error.message and not error.retryable for error in closed)
    assert all(isinstance(each, DspexError | dspex.Result) for each in found)
    wait_until(lambda: own_threads() == before)
    with pytest.raises(ProgramError, match="closed"):
        adapter.execute_program(pid, ROW)


def test_close_during_the_pause_before_another_try(lm_server: LMServer) -> None:
    lm_server.answers = Status(503, retry_after=0.5)
    adapter, pid = program(lm_server, lm={"retry": {"attempts": 5, "backoff": 0.0}})
    with ThreadPoolExecutor(2) as callers:
        calls = [callers.submit(adapter.execute_program, pid, ROW, each) for each in (None, {"timeout": 30})]
        lm_server.wait_for(2)
        lm_server.wait_idle()
        adapter.close()
    assert [type(call.exception()) for call in calls] == [ProgramError] * 2
    assert lm_server.count == 2


def test_use_after_close(lm_server: LMServer) -> None:
    adapter, pid = program(lm_server)
    adapter.close()
    calls: list[Any] = [
        lambda: adapter.execute_program(pid, ROW),
        lambda: adapter.execute_program(pid, ROW, {"timeout": 1}),
        lambda: asyncio.run(adapter.aexecute_program(pid, ROW)),
        lambda: adapter.execute_batch(pid, [ROW]),
        lambda: adapter.create_program({"signature": LABEL}),
        lambda: adapter.configure_lm(lm_server.lm_config()),
        lambda: adapter.available(pid),
        lambda: adapter.lms.get("server"),
        adapter.get_stats,
    ]
    for call in calls:
        with pytest.raises(ProgramError, match="closed") as caught:
            call()
        assert not caught.value.retryable
    assert lm_server.count == 0


def test_deletion_during_calls_lets_them_end(lm_server: LMServer) -> None:
    lm_server.answers = GOOD
    lm_server.delay = 0.2
    adapter, pid = program(lm_server)
    with ThreadPoolExecutor(3) as callers:
        calls = [callers.submit(adapter.execute_program, pid, ROW) for _ in range(3)]
        lm_server.wait_for(3)
        adapter.delete_program(pid)
        with pytest.raises(ProgramError):
            adapter.execute_program(pid, ROW)
    assert [call.result().label for call in calls] == ["refund"] * 3
    assert adapter.list_programs() == []
    adapter.create_program({"id": pid, "signature": LABEL})
    assert adapter.execute_program(pid, ROW).label == "refund"


def test_configuring_during_calls(lm_server: LMServer) -> None:
    lm_server.answers = GOOD
    adapter = DspyAdapter({"lms": {"server": lm_server.lm_config(retry=NO_RETRY)}})
    pid = adapter.create_program({"signature": LABEL})
    stop = threading.Event()

    def calls() -> int:
        count = 0
        while not stop.is_set():
            assert adapter.execute_program(pid, ROW).label == "refund"
            count += 1
        return count

    with ThreadPoolExecutor(4) as callers:
        running = [callers.submit(calls) for _ in range(4)]
        for number in range(30):
            adapter.configure_lm(lm_server.lm_config(retry=NO_RETRY, max_tokens=100 + number))
            time.sleep(0.005)
        stop.set()
        assert all(each.result() > 0 for each in running)
    adapter.close()


def test_a_forked_child_has_connections_and_loops_of_its_own(lm_server: LMServer) -> None:
    lm_server.answers = GOOD
    script = f"""
        import os, sys, warnings
        warnings.simplefilter("ignore")
        from dspex.adapters.dspy import DspyAdapter

        import dspy

        settings = {lm_server.lm_config()!r}
        adapter = DspyAdapter({{"lms": {{"server": settings}}}})
        module = dspy.Predict({LABEL!r})
        module.lm = dspy.LM(settings["model"], api_base=settings["api_base"], api_key="k", cache=False)
        pids = [
            adapter.create_program({{"signature": {LABEL!r}}}),
            adapter.create_program({{"signature": {LABEL!r}, "lm": {{**settings, "temperature": 0.5}}}}),
            adapter.create_program({{"module": module}}),
        ]

        def call():
            for pid in pids:
                assert adapter.execute_program(pid, {{"text": "x"}}).label == "refund"
                assert adapter.execute_program(pid, {{"text": "x"}}, {{"timeout": 5}}).label == "refund"

        call()
        child = os.fork()
        for _ in range(5):
            call()
        if child == 0:
            os._exit(0)
        sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert lm_server.count == 66


def test_nothing_of_dspy_is_imported_for_native_programs() -> None:
    script = """
        import sys, dspex
        from dspex import demo
        spec = {"signature": "text -> label", "examples": demo.load(), "adapter": "native"}
        pid = dspex.create_program(spec)
        dspex.execute_program(pid, {"text": "hi"})
        assert not [name for name in sys.modules if name.partition(".")[0] in ("dspy", "litellm")]
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(script)], check=True, timeout=60)


def test_a_hanging_lm_does_not_hold_up_the_interpreters_end(lm_server: LMServer) -> None:
    lm_server.answers = Hang()
    script = f"""
        from dspex.adapters.dspy import DspyAdapter
        from dspex.errors import CallTimeoutError

        adapter = DspyAdapter({{"lms": {{"server": {lm_server.lm_config()!r}}}}})
        for spec in ({{"signature": "text -> topic, reply", "module": "dspy_adapter_tools:TwoSteps"}},
                     {{"signature": "text -> topic"}}):
            pid = adapter.create_program(spec)
            try:
                adapter.execute_program(pid, {{"text": "x"}}, {{"timeout": 0.1}})
            except CallTimeoutError:
                print("late")
    """
    started = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(script)],
        cwd=os.path.dirname(__file__),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stdout == "late\nlate\n", done.stderr
    assert time.monotonic() - started < 20
    assert done.stderr == ""

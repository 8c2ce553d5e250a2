"""The end of pools, of their parents, and of processes that were forked from these."""

from __future__ import annotations

import gc
import subprocess
import sys
import threading
import time

from dspex.testing.lm_server import LMServer
from dspy_pool_tools import echo, in_background, is_alive, over, until
from processes_tools import children, descriptors, linux

SCRIPT = """
import os, sys, time
from dspex.adapters import create
from dspex.errors import ResourceError

if __name__ == "__main__":
    lm = {"model": "openai/x", "api_base": sys.argv[1], "api_key": "k"}
    adapter = create("dspy_pool", config={"lms": {"main": lm}, "dspy_pool": {"size": 1}})
    adapter.create_program({"signature": "text -> reply", "id": "it"})
    for use in (
        lambda: adapter.execute_program("it", {"text": "x"}),
        lambda: adapter.create_program({"signature": "text -> reply"}),
        lambda: adapter.configure_lm(lm),
        adapter.close,
    ):
        child = os.fork()
        if not child:
            code = 1
            try:
                use()
                code = 2 if use != adapter.close else 0
            except ResourceError as error:
                code = 0 if "belongs to the process that forked this one" in error.message else 3
            finally:
                os._exit(code)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    print(adapter.execute_program("it", {"text": "abc"}).reply)
    print(*adapter.pool.pids(), flush=True)
    if sys.argv[2] == "stay":
        time.sleep(60)
"""


def script(server: LMServer, how: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", SCRIPT, server.url, how]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@linux
def test_forked_children_are_refused_and_workers_end_with_their_parent(lm_server: LMServer) -> None:
    lm_server.answers = echo
    killed, left = script(lm_server, "stay"), script(lm_server, "leave")
    assert killed.stdout is not None
    lines = [killed.stdout.readline().strip() for _ in range(6)]
    assert lines[:5] == ["0", "0", "0", "0", "cba"]
    worker = int(lines[5])
    assert is_alive(worker)
    killed.kill()
    assert killed.communicate(timeout=10)[1] == ""
    until(lambda: not is_alive(worker), 5)
    out, err = left.communicate(timeout=30)  # it ends without closing its pool
    assert (left.returncode, err, out.split()[:5]) == (0, "", lines[:5])
    until(lambda: not is_alive(int(out.split()[5])), 5)


@linux
def test_closing_leaves_nothing(lm_server: LMServer) -> None:
    lm_server.answers = echo
    gc.collect()
    before = descriptors(), children(), set(threading.enumerate())
    adapter = over(lm_server, dspy_pool={"size": 2})
    pid = adapter.create_program({"signature": "text -> reply", "dspy": {"timeout": 20.0}})
    rows = [{"text": str(n)} for n in range(6)]
    assert [result.reply for result in adapter.execute_batch(pid, rows)] == [str(n) for n in range(6)]
    workers = adapter.pool.pids()
    lm_server.delay = 0.3
    last = in_background(lambda: adapter.execute_program(pid, {"text": "abc"}).reply)
    until(lambda: lm_server.in_flight == 1)
    start = time.monotonic()
    adapter.close()
    adapter.close()
    assert time.monotonic() - start < 2
    assert last.result() == "cba"
    assert not any(map(is_alive, workers))
    lm_server.close()  # its connections are descriptors of this process too
    until(lambda: (descriptors(), children()) <= (before[0], before[1]))
    until(lambda: not {t for t in threading.enumerate() if "dspex" in t.name} - before[2])


@linux
def test_an_adapter_that_is_dropped_ends_its_workers(lm_server: LMServer) -> None:
    adapter = over(lm_server)
    adapter.create_program({"signature": "text -> reply"})
    workers = adapter.pool.pids()
    del adapter
    gc.collect()
    until(lambda: not any(map(is_alive, workers)))

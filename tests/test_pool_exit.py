"""The end of the interpreter, with and without work under way: prompt, with code 0, and without a word.

Each script is a process of its own; "a queue" is 10 s of work that waits when it ends.

DSPEX_STRESS=20 repeats
20 times those that end beside other threads: where these are then is a matter of luck.
"""

from __future__ import annotations

import time

import pytest

from test_pool_tools import run_script, scaled

START = """
import asyncio, atexit, concurrent.futures, os, signal, sys, threading, time
import dspex
from test_pool_tools import LONG, hold, simple, texts
program, rows = simple(), texts(1000)
pool = dspex.Pool(size=2, capacity=5000)
"""
QUEUE = """
futures = [pool._probe(sleep=0.01) for _ in range(2000)]
futures += [pool.submit(program, row) for row in rows]
"""

SCRIPTS: dict[str, str] = {
    "nothing under way": "",
    "nothing under way, closed": "pool.close()",
    "a queue": QUEUE,
    "a queue, closed at once": QUEUE + "pool.close(0)",
    "a queue, and futures dropped": QUEUE + "del futures",
    "a queue, and the pool dropped": QUEUE + "del pool",
    "a session's queue": "futures = [pool.session('a').submit(program, {'text': LONG}) for _ in range(50)]",
    "callbacks to come": QUEUE + "[future.add_done_callback(id) for future in futures[-500:]]",
    "sys.exit": QUEUE + "sys.exit()",
    "sys.exit in a with-block": f"with pool:\n{QUEUE.replace(chr(10), chr(10) + '    ')}\n    sys.exit()",
    "a callback that still runs": QUEUE + "pool._probe().add_done_callback(lambda future: time.sleep(0.3))",
    "a default pool": "assert program.batch(rows * 10)\ndspex.default_pool()._probe(sleep=0.1)",
    "overflow workers": QUEUE + "pool.resize(1, 4)\n" + QUEUE,
    "a worker that dies": "pool._probe(fault='death')\n" + QUEUE + "pool._probe(fault='death')",
    "a text that is being scored": "future = pool.submit(program, {'text': LONG})",
    "a text that is being scored, and nobody waits": "pool.submit(program, {'text': LONG})",
}
BUSY_THREADS: dict[str, str] = {
    "threads that submit": """
def work():
    while True:
        pool.submit(program, rows[0])
""",
    "threads that call": """
def work():
    while True:
        pool.call(program, rows[0])
""",
    "threads that wait for a result": """
held = hold(pool, 0.3)
def work():
    pool._probe().result()
""",
    "threads that wait for futures": """
held = hold(pool, 0.3)
def work():
    concurrent.futures.wait([pool._probe() for _ in range(100)])
""",
    "threads that wait for room": """
small = dspex.Pool(size=1, capacity=1)
held = hold(small, 0.3)
def work():
    while True:
        small._probe()
""",
    "threads with batches": """
def work():
    while True:
        program.batch(rows * 100)
""",
    "threads with event loops": """
async def calls():
    while True:
        await asyncio.gather(*(pool.acall(program, row) for row in rows))
def work():
    asyncio.run(calls())
""",
    "threads that make pools": """
def work():
    while True:
        dspex.Pool(size=1).submit(program, rows[0])
""",
}


def assert_clean_end(code: str) -> None:
    begin = time.monotonic()
    done = run_script(code)
    took = time.monotonic() - begin
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert took < 5


@pytest.mark.parametrize("name", SCRIPTS)
def test_the_interpreter_ends(name: str) -> None:
    assert_clean_end(START + SCRIPTS[name])


@pytest.mark.parametrize("name", BUSY_THREADS)
def test_the_interpreter_ends_beside_daemon_threads(name: str) -> None:
    """Python stops them where they are. They may be anywhere in the pool then."""
    code = f"""{START}
{BUSY_THREADS[name]}
def quietly():
    try:
        work()
    except (dspex.DspexError, concurrent.futures.CancelledError, RuntimeError):
        pass  # the pool is closed before they are stopped
for _ in range(3):
    threading.Thread(target=quietly, daemon=True).start()
time.sleep(0.2)
"""
    for _ in range(scaled(1)):
        assert_clean_end(code)


def test_the_interpreter_ends_while_a_daemon_thread_closes_the_pool() -> None:
    assert_clean_end(f"""{START}{QUEUE}
threading.Thread(target=pool.close, daemon=True).start()
time.sleep(0.1)
""")


def test_other_threads_may_go_on_until_they_have_what_they_want() -> None:
    """The main thread is at its end, but theirs keep the interpreter: all that they wait for still comes."""
    assert_clean_end(f"""{START}
async def calls():
    futures = [pool._probe(sleep=0.02) for _ in range(20)]
    assert await asyncio.gather(*map(asyncio.wrap_future, futures))
    assert await asyncio.gather(*(pool.acall(program, row) for row in rows)) == truth
def work():
    time.sleep(0.1)
    ended = threading.Event()
    pool._probe(sleep=0.2).add_done_callback(lambda future: ended.set())
    assert ended.wait(5)
    done, not_done = concurrent.futures.wait([pool._probe(sleep=0.02) for _ in range(20)], 5)
    assert len(done) == 20 and not not_done
    asyncio.run(calls())
    assert program.batch(rows, pool=pool) == program.batch(rows) == truth
    assert not pool.closed
truth = [program.predict(row) for row in rows]
for _ in range(3):
    threading.Thread(target=work).start()
""")


def test_an_error_that_nobody_catches_is_all_that_is_said() -> None:
    done = run_script(f"""{START}{QUEUE}
raise ValueError("mine")
""")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.splitlines()[-1] == "ValueError: mine"
    assert done.stderr.startswith("Traceback")
    assert done.stderr.count("Traceback") == 1


def test_ctrl_c_that_nobody_catches() -> None:
    done = run_script(f"""{START}{QUEUE}
threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGINT)).start()
futures[1999].result()
""")
    assert done.returncode == -2  # by the signal, as shells expect
    assert done.stderr.splitlines()[-1] == "KeyboardInterrupt"


def test_what_runs_at_exit_may_still_use_pools() -> None:
    """Before the pools are closed, and after: the default pool is made anew."""
    done = run_script("""
import atexit
rows, answers = [], []
@atexit.register
def after():
    assert program.batch(rows) == truth
    print("after")
from test_pool_tools import simple, texts
import dspex
program, rows = simple(), texts(3000)
truth = [program.predict(row) for row in rows]
assert program.batch(rows) == truth
pool = dspex.default_pool()
@atexit.register
def before():
    assert not pool.closed
    assert program.batch(rows) == truth
    print("before")
""")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.split() == ["before", "after"]


def test_an_import_alone_starts_nothing() -> None:
    done = run_script("""
import threading
import dspex, dspex.pool
from dspex.adapters import create
from pathlib import Path
print(len(list(Path("/proc/self/task").iterdir())) if Path("/proc").is_dir() else 1, threading.active_count())
""")
    assert (done.returncode, done.stdout.split(), done.stderr) == (0, ["1", "1"], "")

"""How stores end, and forks from several threads at once."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
from pathlib import Path

import pytest

from dspex.distill.store import Store

FORKS = """
import faulthandler, os, sys, threading
from dspex.distill.store import Store
from dspex.distill.trace import Answer, Trace

faulthandler.dump_traceback_later({limit}, exit=True)
sys.setswitchinterval(1e-6)
stores = [Store.open(f"{{sys.argv[1]}}/{{n}}", "text -> label: bool") for n in range(4)]
trace = Trace({{"text": "x"}}, Answer({{"label": True}}))

def fork(store):
    for _ in range({times}):
        child = os.fork()
        if not child:
            for each in stores:
                each.counts()
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
        store.add([trace])

def open_more(at):
    for n in range({times}):
        Store.open(f"{{sys.argv[1]}}/more-{{at}}", "text -> label: bool").close()

threads = [threading.Thread(target=fork, args=(store,)) for store in stores[:3]]
threads += [threading.Thread(target=open_more, args=(at,)) for at in range(2)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
print([store.counts()["answers"] for store in stores])
[store.close() for store in stores]
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_several_threads_fork_at_once(tmp_path: Path) -> None:
    times = 25 * int(os.environ.get("DSPEX_STRESS", "1"))
    code = FORKS.format(limit=60 + times, times=times)
    done = subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", code, str(tmp_path)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.strip() == str([times] * 3 + [0])


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_a_forked_child_neither_holds_nor_releases_a_lock(tmp_path: Path) -> None:
    code = (
        "import os, sys; from dspex.distill.store import Store\n"
        "store = Store.open(sys.argv[1], 'text -> label: bool')\n"
        "with store.learning():\n"
        "    leaves, stays = os.fork(), os.getpid()\n"
        "    if leaves: os.waitpid(leaves, 0)\n"
        "    if leaves: child = os.fork()\n"
        "    if leaves and not child: os.close(1); sys.stdin.read(); os._exit(0)\n"  # until the test ends
        "    if leaves:\n"
        "        try:\n"
        "            with store.learning(): print('released by the child')\n"
        "        except Exception as error: print(type(error).__name__)\n"
        "if not leaves: os._exit(0)\n"
        "with store.learning(): print('free')\n"
        "with store.learning(): print('again', flush=True); os.kill(os.getpid(), 9)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", code, str(tmp_path)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        said = [process.stdout.readline().strip() for _ in range(3)]
        assert process.wait(20) == -9
        assert said == ["ResourceError", "free", "again"]
        with Store.open(tmp_path) as store, store.learning():
            pass  # though a child lives


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_a_child_of_one_that_is_killed_does_not_keep_its_lock(tmp_path: Path) -> None:
    code = (
        "import os, sys, time; from dspex.distill.store import Store\n"
        "store = Store.open(sys.argv[1], 'text -> label: bool')\n"
        "with store.learning():\n"
        "    end, begun = os.pipe()\n"
        "    if not os.fork(): os.write(begun, b'.'); sys.stdin.read(); os._exit(0)\n"
        "    os.read(end, 1); os.kill(os.getpid(), 9)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", code, str(tmp_path)],
        stdin=subprocess.PIPE,
    ) as process:  # fmt: skip
        assert process.wait(20) == -9
        with Store.open(tmp_path) as store, store.learning():
            pass


def test_a_temporary_home_goes_with_its_store() -> None:
    store = Store.open(None, "text -> label: bool")
    path = store.home
    assert path.is_dir()
    del store
    gc.collect()
    assert not path.exists()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_a_temporary_home_goes_with_its_own_process_and_no_other(tmp_path: Path) -> None:
    code = (
        "import os; from dspex.distill.store import Store\n"
        "from dspex.distill.live import LiveProgram\n"
        "store = Store.open(None, 'text -> label: bool'); live = LiveProgram(store, None)\n"
        "child = os.fork()\n"
        "if not child: raise SystemExit\n"  # with all that runs at the end
        "os.waitpid(child, 0); assert store.home.is_dir(); print(store.home)\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", code],
        capture_output=True, text=True, check=False, timeout=60, env={**os.environ, "TMPDIR": str(tmp_path)},
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert not Path(done.stdout.strip()).exists()
    assert not list(tmp_path.iterdir())

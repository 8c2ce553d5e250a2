"""Figures that need a process of their own: peak memory of a fit, time and memory of an import.

As a command it is the child that fits: `python -m benchmarks.fresh PEER SET`, JSON out.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time
from pathlib import Path
from statistics import median

from benchmarks import datasets, tune
from benchmarks.peers import peer_class

MIB = 1024 * 1024


# Bare, so that nothing this package imports is there already; NumPy is, as every peer has it.
IMPORT = """
import numpy, resource, time
size = lambda: int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize() / 2**20
before, begin = size(), time.perf_counter()
{statement}
spent = time.perf_counter() - begin
print(spent * 1000, size() - before)
"""


def fit_in_fresh_process(peer: str, data: str, timeout: float = 1800) -> dict[str, float]:
    """`fit_s`, and `fit_mib`: the largest resident size during the fit beyond that before it."""
    found: dict[str, float] = json.loads(_child(["-m", "benchmarks.fresh", peer, data], timeout))
    return found


def import_in_fresh_process(peer: str, repeats: int = 5) -> dict[str, float]:
    """`import_ms` and `import_mib` beyond NumPy's own, medians over `repeats` processes (Linux)."""
    code = IMPORT.format(statement=peer_class(peer).import_statement)
    runs = [[float(word) for word in _child(["-c", code], 120).split()[-2:]] for _ in range(repeats)]
    return {"import_ms": median(run[0] for run in runs), "import_mib": median(run[1] for run in runs)}


def _child(arguments: list[str], timeout: float) -> str:
    """The last line that the child prints."""
    root = Path(__file__).parents[1]
    command = [sys.executable, *arguments]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=timeout, check=False)
    if done.returncode:
        raise RuntimeError(f"a fresh process failed: {done.stderr.strip()[-400:]}")
    return done.stdout.splitlines()[-1]


def resident_bytes() -> int:
    """Resident size now; 0 where /proc is missing."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:
        return 0
    return pages * resource.getpagesize()


def forget_peak() -> None:
    """Start a new high-water mark (Linux); elsewhere the peak since the start of the process stands."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return


def peak_bytes() -> int:
    """Largest resident size since `forget_peak`."""
    try:
        status = Path("/proc/self/status").read_text()
        return int(status.split("VmHWM:")[1].split()[0]) * 1024
    except (OSError, IndexError):
        scale = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale


def measure_fit(name: str, data: datasets.DataSet) -> dict[str, float]:
    cls = peer_class(name)
    peer = cls(data.task, data.classes, tune.settings_for(data.name, name))
    exec(cls.import_statement, {})  # the libraries are not part of the fit
    forget_peak()
    before, begin = resident_bytes(), time.perf_counter()
    peer.fit(data.train)
    return {"fit_s": time.perf_counter() - begin, "fit_mib": (peak_bytes() - before) / MIB}


if __name__ == "__main__":
    print(json.dumps(measure_fit(sys.argv[1], datasets.load(sys.argv[2]))))

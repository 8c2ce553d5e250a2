"""``python -m dspex.distill.job HOME``: learns one version in a process of its own, beside a service.

Settings come as JSON on standard input; one line of JSON goes to standard output: {"outcome": ..., "version":
..., "reason": ...}, or {"error": ...} with exit code 2.
"""

from __future__ import annotations

import json
import os
import sys
from contextlib import suppress

from dspex.distill.learner import learn
from dspex.distill.settings import DistillSettings
from dspex.distill.store import Store
from dspex.errors import DspexError
from dspex.processes.failures import to_data

_LAST = 19  # the greatest niceness


def main(home: str) -> int:
    """Learns from the traces of a home; the exit code."""
    settings = DistillSettings.of(json.loads(sys.stdin.read() or "{}"))
    _give_way(settings.learning.nice)
    try:
        with Store.open(home, settings=settings.store, create=False) as store:
            lesson = learn(store, settings)
    except DspexError as error:
        print(json.dumps({"error": to_data(error)}), flush=True)
        return 2
    print(json.dumps(lesson.to_dict()), flush=True)
    return 0


def _give_way(nice: int) -> None:
    """Lets the service go first. A nice process keeps a core for its slice; an idle one leaves it at once."""
    os.nice(nice)
    if nice == _LAST and hasattr(os, "SCHED_IDLE"):
        with suppress(OSError):  # where a sandbox forbids it, niceness alone has to do
            os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))

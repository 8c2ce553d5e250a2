"""Instructions of a process, counted by valgrind's callgrind."""

from __future__ import annotations

import os
import re
import subprocess
import sys

__all__ = ["counted"]


def counted(module: str, *arguments: object) -> int:
    """Instructions of `python -m module *arguments`, the start included.

    Raises:
        RuntimeError: the process failed, or valgrind did.
    """
    command = [
        *("valgrind", "--tool=callgrind", f"--callgrind-out-file={os.devnull}"),
        *(sys.executable, "-m", module, *map(str, arguments)),
    ]
    env = {**os.environ, "PYTHONHASHSEED": "0"}
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    found = re.search(r"Collected : (\d+)", done.stderr)
    if done.returncode or found is None:
        raise RuntimeError(f"callgrind failed: {done.stderr.strip()[-400:]}")
    return int(found[1])

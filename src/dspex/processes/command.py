"""The command of a process that can import what this one can."""

from __future__ import annotations

import sys
from multiprocessing import spawn

__all__ = ["python_command"]

# The parent's sys.path as a whole, before anything is imported: a folder that the script put there, or its
# own, holds what the settings name.
_BOOT = (
    "import sys; module, own, *given = sys.argv[1:]; del sys.argv[1:]; sys.path[:] = given[int(own):]; "
    "import importlib; sys.exit(importlib.import_module(module).main(*given[: int(own)]))"
)


def python_command(module: str, *arguments: str) -> list[str]:
    """Runs `main(*arguments)` of a module; what it returns is the exit code."""
    # As for multiprocessing: a program that embeds Python says with its set_executable what to start.
    executable = spawn.get_executable()
    return [executable, "-c", _BOOT, module, str(len(arguments)), *arguments, *map(str, sys.path)]

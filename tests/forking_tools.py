"""A process that forks services to be killed: what they import is imported once."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path


class Services:
    """The process that forks services, one for each line that it is sent.

    Args:
        code: what it runs: it prints each service's process id, and its exit code once it has ended.
    """

    def __init__(self, code: str) -> None:
        command = [sys.executable, "-c", code, str(Path(__file__).parent)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.input, self.output = self.process.stdin, self.process.stdout

    def send(self, line: str) -> int:
        """The process id of the service that is started with this line."""
        self.input.write(line + "\n")
        self.input.flush()
        return int(self.output.readline())

    def ended(self) -> int:
        """Exit code of the service, negative for a signal."""
        return int(self.output.readline())

    def close(self) -> None:
        self.input.close()
        self.output.close()
        assert self.process.wait(30) == 0

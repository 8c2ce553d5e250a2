"""A handler that imports next to nothing: what a worker has loaded of itself. Holds no tests."""

import atexit
import sys
from pathlib import Path


class Modules:
    def handle(self, op, payload, context):
        return sorted(sys.modules)


def make(settings):
    if settings is not None:
        atexit.register(lambda: Path(settings).write_text("ended"))
    return Modules()

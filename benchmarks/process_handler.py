"""What the workers of `benchmarks.processes` run: a module of its own, which imports next to nothing."""

from __future__ import annotations

import time
from typing import Any

__all__ = ["make"]


class Handler:
    """Gives back what it gets, at once or after a while."""

    def handle(self, op: str, payload: Any, context: Any) -> Any:
        if op == "sleep":
            time.sleep(payload)
        elif op == "ask":
            return context.ask("question", payload)
        return payload


def make(settings: Any) -> Handler:
    return Handler()

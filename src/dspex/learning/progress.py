"""A progress bar for people, or a function for programs."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator

__all__ = ["reporter"]

_WIDTH = 30
_SHOW_AFTER = 0.3  # seconds; what is done sooner needs no bar


@contextlib.contextmanager
def reporter(
    progress: bool | Callable[[float], None] | None, title: str
) -> Iterator[Callable[[float], None] | None]:
    """Yields the function to call with a share in [0, 1], or None when nobody wants to know."""
    if callable(progress):
        yield progress
        return
    if not progress:
        yield None
        return
    bar = _Bar(title)
    try:
        yield bar.show
    finally:
        bar.clear()


class _Bar:
    def __init__(self, title: str) -> None:
        self._title = title
        self._begin = time.monotonic()
        self._shown = False

    def show(self, share: float) -> None:
        seconds = time.monotonic() - self._begin
        if seconds < _SHOW_AFTER:
            return
        full = int(share * _WIDTH)
        bar = "#" * full + "." * (_WIDTH - full)
        print(f"\r{self._title} [{bar}] {share:4.0%} {seconds:.1f} s", end="", file=sys.stderr, flush=True)
        self._shown = True

    def clear(self) -> None:
        if self._shown:
            print("\r" + " " * 78 + "\r", end="", file=sys.stderr, flush=True)

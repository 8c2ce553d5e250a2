"""Whether an optimizer is at work: then predictors have to answer by the LM, whose prompts it tries out."""

from __future__ import annotations

import sys
from types import FrameType
from typing import Any

import dspy
from dspy.utils import callback_context

__all__ = ["CompilingCopy", "compiling_thread", "is_compiling"]

_LOOKS = 3


def compiling_thread() -> int | None:
    """The id of the thread in which an optimizer compiles, when this code is called by it."""
    # DSPy's own note. An optimizer that makes its copies on other threads, as GEPA does, hands it on to them.
    note: Any = getattr(callback_context, "_ACTIVE_COMPILES", None)
    active = note.get() if note is not None else ()
    return int(active[-1][1]) if active else None


def is_compiling(thread: int) -> bool:
    """Whether an optimizer's `compile` is under way in a thread, as seen from any thread.

    Nothing that DSPy passes on to the threads that it evaluates in says so; the stack of the thread does.
    """
    # A stack that moves while it is read can look shorter than it is: only several looks say no.
    return any(_has_compile(sys._current_frames().get(thread)) for _ in range(_LOOKS))


def _has_compile(frame: FrameType | None) -> bool:
    code = dspy.BootstrapFewShot.compile.__code__  # DSPy's wrapper, one for the compile of every optimizer
    while frame is not None:
        if frame.f_code is code:
            return True
        frame = frame.f_back
    return False


class CompilingCopy:
    """Base of what knows whether it is a copy that an optimizer made, while that compiles."""

    def __init__(self, thread: int | None = None) -> None:
        self._thread = thread

    def is_compiled_now(self) -> bool:
        """Whether this is a copy made by an optimizer that is still compiling."""
        if self._thread is None:
            return False
        if is_compiling(self._thread):
            return True
        self._thread = None
        return False

    def _copys_thread(self) -> int | None:
        """Of a copy that is made now."""
        thread = compiling_thread()
        return self._thread if thread is None else thread

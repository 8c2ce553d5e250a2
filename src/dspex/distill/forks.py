"""Live programs after a fork: the child has no thread of its parent's, and draws no coin of its parent's."""

from __future__ import annotations

import os
import weakref
from typing import Protocol

import dspex.distill.store  # noqa: F401  what it does after a fork comes first

__all__ = ["children"]


class _Reborn(Protocol):
    def _in_child(self) -> None: ...


#: What starts anew in a forked child.
children: weakref.WeakSet[_Reborn] = weakref.WeakSet()


def _in_child() -> None:
    for each in list(children):
        each._in_child()


os.register_at_fork(after_in_child=_in_child)

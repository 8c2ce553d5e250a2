"""Who a program learns from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from dspex.distill.trace import Answer

__all__ = ["Teacher"]


class Teacher(Protocol):
    """Answers calls, slowly and for money. Its errors reach the caller unchanged.

    `ask` is called by the caller's thread, by threads of a batch, and by the thread that audits. A teacher
    whose answers depend on who calls may have a method `later()`, called in the caller's thread: it gives the
    teacher that the audit asks once the reply has gone out.
    """

    def ask(self, inputs: Mapping[str, Any], /) -> Answer:
        """The answer to inputs that fit the signature."""
        ...

    async def aask(self, inputs: Mapping[str, Any], /) -> Answer:
        """The same, without holding up the event loop."""
        ...

"""Callbacks for what happens to a program: they see every event, and cannot harm a call."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dspex.distill.store import Event

__all__ = ["ANY", "Hooks", "log"]

log = logging.getLogger("dspex.distill")

#: In place of a kind: every event.
ANY = "*"


class Hooks:
    """Calls back for events, in the order in which the callbacks were added."""

    def __init__(self) -> None:
        self._callbacks: tuple[tuple[str, Callable[[Event], object]], ...] = ()

    def on(self, kind: str, callback: Callable[[Event], object]) -> None:
        """Adds a callback for events of one kind, or of `ANY`."""
        self._callbacks = (*self._callbacks, (kind, callback))

    def tell(self, event: Event) -> None:
        """Logs an event and calls back. What a callback raises is logged and goes no further."""
        level = (
            logging.WARNING
            if event.kind in ("breach", "drift", "learning failed", "audits fail")
            else logging.INFO
        )
        log.log(level, "%s: %s", event.kind, event.reason)
        for kind, callback in self._callbacks:
            if kind in (ANY, event.kind):
                try:
                    callback(event)
                except Exception:
                    log.exception("a callback for %r raised", event.kind)

"""Temporary homes: gone when their store is, at the latest with the process."""

from __future__ import annotations

import atexit
import os
import shutil
import weakref
from pathlib import Path
from typing import Any

from dspex.distill.store.database import Database

__all__ = ["kept", "removal"]

_left: set[Path] = set()  # homes that are there still


def removal(store: Any, database: Database, home: Path) -> weakref.finalize[..., Any]:
    """Removes a home when it is called, the store is collected, or the process ends."""
    _left.add(home)
    return weakref.finalize(store, _removed, database, home, os.getpid())


def kept(remove: weakref.finalize[..., Any], home: Path) -> None:
    """Takes back what `removal` promised."""
    remove.detach()
    _left.discard(home)


def _removed(database: Database, home: Path, owner: int) -> None:
    """Ends a temporary home; in a forked child, only what the child has of it."""
    database.close()
    if owner == os.getpid():
        shutil.rmtree(home, ignore_errors=True)
        _left.discard(home)


@atexit.register
def _at_exit() -> None:
    """What a background thread, which ends with the process, was still removing."""
    for home in list(_left):
        shutil.rmtree(home, ignore_errors=True)


os.register_at_fork(after_in_child=_left.clear)  # they are the parent's

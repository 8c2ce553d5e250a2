"""A try to learn that ended with its service, and of which nothing came, is made again; once."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from dspex.distill.live import LiveProgram
from dspex.distill.store import Event, Store
from live_tools import SETTINGS, Planted, home, rows, serve

RULES = {**SETTINGS, "learning": {"first_rows": 10_000, "growth": 2.0}}


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with home(tmp_path) as opened:
        with LiveProgram(opened, Planted(), {**SETTINGS}, seed=1) as live:
            serve(live, rows(60))
        yield opened


def noted(store: Store, kind: str, rows: int = 0) -> None:
    store.record(Event(time.time(), kind, "rule", "test", {}, {"rows": rows}))


def left(store: Store) -> int:
    """Rows until the next try, by a service that starts now."""
    with LiveProgram(store, Planted(), RULES, seed=1) as live:
        return int(live.status()["learning"]["rows_until_next"])


def test_tries(store: Store) -> None:
    first, again = 10_000 - 60, 2 * 10_000 - 60
    assert left(store) == first
    noted(store, "learning started", 9_000)
    assert left(store) == first, "it was cut short"
    with store.learning():
        assert left(store) == 2 * 9_000 - 60, "it is under way, in another process"
    noted(store, "learning started", 10_000)
    assert left(store) == again, "the second was cut short too: it may be what the service died of"
    noted(store, "learning waits")
    assert left(store) == again
    noted(store, "learning started", 15_000)
    assert left(store) == again, "the one before counts"
    for end in ("learning failed", "version made", "version refused", "learning waits"):
        noted(store, "learning started", 20_000)
        noted(store, end)
        assert left(store) == 40_000 - 60

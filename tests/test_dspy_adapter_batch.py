"""Batches: in order, bounded, in the caller's context, each row with its deadline."""

from __future__ import annotations

import signal
import threading
import time
from typing import Any

import dspy
import pytest

from dspex.errors import CallTimeoutError, InputError, LMError
from dspex.testing.lm_server import Hang, LMServer, Request, Status
from dspy_adapter_tools import LABEL, program

ECHO = "text -> label"


def echo(request: Request) -> dict[str, str]:
    time.sleep(0.001 * (hash(request.fields["text"]) % 7))
    return {"label": request.fields["text"]}


def rows(count: int) -> list[dict[str, str]]:
    return [{"text": f"text {number}"} for number in range(count)]


def test_results_are_in_the_order_of_the_rows(lm_server: LMServer) -> None:
    lm_server.answers = echo
    adapter, pid = program(lm_server, ECHO)
    results = adapter.execute_batch(pid, (row for row in rows(60)))
    assert [result.label for result in results] == [row["text"] for row in rows(60)]
    assert lm_server.count == 60
    assert adapter.execute_batch(pid, []) == []
    stats = adapter.get_stats()
    assert (stats["calls"], stats["batches"]) == (60, 2)


@pytest.mark.parametrize("concurrency", [1, 3])
def test_concurrency_bounds_what_is_under_way(lm_server: LMServer, concurrency: int) -> None:
    lm_server.answers = {"label": "x"}
    lm_server.delay = 0.02
    adapter, pid = program(lm_server, ECHO, dspy={"concurrency": concurrency})
    adapter.execute_batch(pid, rows(12))
    assert lm_server.max_in_flight == concurrency
    own = adapter.create_program({"signature": ECHO, "dspy": {"concurrency": 5}})
    adapter.execute_batch(own, rows(15))
    assert lm_server.max_in_flight == 5


def test_it_is_as_fast_as_its_concurrency(lm_server: LMServer) -> None:
    lm_server.answers = {"label": "x"}
    lm_server.delay = 0.3
    adapter, pid = program(lm_server, ECHO, dspy={"concurrency": 10})
    started = time.monotonic()
    adapter.execute_batch(pid, rows(20))
    assert time.monotonic() - started < 3.0  # one after another: 6 s


def test_every_row_is_checked_before_any_is_asked(lm_server: LMServer) -> None:
    adapter, pid = program(lm_server)
    with pytest.raises(InputError) as caught:
        adapter.execute_batch(pid, [*rows(20), {"txt": "x"}])
    assert caught.value.row == 20
    assert lm_server.count == 0
    for odd in ({"text": "x"}, "text", 3):
        with pytest.raises(InputError):
            adapter.execute_batch(pid, odd)  # type: ignore[arg-type]


def test_an_error_ends_what_has_not_begun(lm_server: LMServer) -> None:
    lm_server.answers = lambda request: (
        Status(400, message="bad row") if request.fields["text"] == "text 3" else {"label": "refund"}
    )
    adapter, pid = program(lm_server, LABEL, dspy={"concurrency": 2})
    with pytest.raises(LMError, match="bad row") as caught:
        adapter.execute_batch(pid, rows(100))
    assert (caught.value.row, caught.value.program) == (3, pid)
    assert lm_server.count < 10
    assert adapter.get_stats()["errors"] == {"lm": 1}


def test_each_row_has_the_whole_time(lm_server: LMServer) -> None:
    lm_server.answers = {"label": "x"}
    lm_server.delay = 0.3
    adapter, pid = program(lm_server, ECHO, dspy={"concurrency": 2})
    assert len(adapter.execute_batch(pid, rows(8), {"timeout": 1.0})) == 8  # 1.2 s together
    lm_server.answers = lambda request: Hang() if request.fields["text"] == "text 2" else {"label": "x"}
    with pytest.raises(CallTimeoutError) as caught:
        adapter.execute_batch(pid, rows(4), {"timeout": 1.0})
    assert caught.value.row == 2


def test_rows_see_the_callers_context(lm_server: LMServer) -> None:
    lm_server.answers = {"label": "x"}
    adapter, pid = program(lm_server, ECHO)
    with dspy.context(adapter=dspy.XMLAdapter()):
        adapter.execute_batch(pid, rows(5))
    assert {entry.request.format for entry in lm_server.requests} == {"xml"}


def test_ctrl_c_ends_a_batch(lm_server: LMServer) -> None:
    lm_server.answers = Hang()
    adapter, pid = program(lm_server, ECHO, dspy={"concurrency": 2})

    def press() -> None:
        lm_server.wait_for(2)
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

    presser = threading.Thread(target=press)
    presser.start()
    started = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        adapter.execute_batch(pid, rows(50), {"timeout": 3.0})
    assert time.monotonic() - started < 2.5
    presser.join()
    adapter.close()
    lm_server.wait_idle()
    assert lm_server.count == 2


def test_batches_side_by_side(lm_server: LMServer) -> None:
    lm_server.answers = echo
    adapter, pid = program(lm_server, ECHO)
    found: dict[int, Any] = {}

    def batch(number: int) -> None:
        mine = [{"text": f"{number}: {row}"} for row in range(20)]
        found[number] = [
            (row["text"], r.label) for row, r in zip(mine, adapter.execute_batch(pid, mine), strict=True)
        ]

    threads = [threading.Thread(target=batch, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4
    assert all(text == label for pairs in found.values() for text, label in pairs)

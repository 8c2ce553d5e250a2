"""Programs that do to their worker what programs should not do."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dspex.adapters.dspy_pool import DspyPoolAdapter
from dspex.errors import CommunicationError, DspexError, LMError, ProgramError
from dspex.testing.lm_faults import HalfRight, Malformed
from dspy_pool_tools import LABEL, SERVER, borrowed, in_threads, running, settled, until
from processes_tools import linux

ACTING = {"signature": "text -> said", "module": "dspy_pool_tools:Acting", "id": "it"}


@pytest.fixture
def adapter() -> Iterator[DspyPoolAdapter]:
    with borrowed() as adapter:
        adapter.create_program(ACTING)
        yield adapter


def said(adapter: DspyPoolAdapter, text: str, **options: Any) -> str:
    found: str = adapter.execute_program("it", {"text": text}, options or None).said
    return found


@linux
@pytest.mark.parametrize(
    ("text", "timeout"),
    [("garbage", None), ("garbage", 5.0), ("exit 0", None), ("exit 7", 5.0), ("reset", None)],
)
def test_a_worker_that_breaks_off_fails_its_call_and_is_replaced(
    adapter: DspyPoolAdapter, text: str, timeout: float | None
) -> None:
    options: dict[str, Any] = {"session": "a"} | ({"timeout": timeout} if timeout else {})
    worker = int(said(adapter, "pid", session="a"))
    before = time.monotonic()
    with pytest.raises(CommunicationError, match="may have been begun") as caught:
        said(adapter, text, **options)
    assert time.monotonic() - before < 2
    assert caught.value.program == "it"
    assert caught.value.retryable
    assert said(adapter, "reverse abc", session="a") == "cba"
    until(lambda: running(adapter) == 2 and worker not in adapter.pool.pids())


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("sys_exit 3", "SystemExit: 3"),
        ("interrupt", "KeyboardInterrupt"),
        ("fail \u00fcber", "ValueError: über"),
    ],
)
def test_whatever_a_program_raises_is_an_error_of_the_programs(
    adapter: DspyPoolAdapter, text: str, told: str
) -> None:
    workers = adapter.pool.pids()
    for options in ({}, {"timeout": 5.0}):
        with pytest.raises(ProgramError, match=f"the program raised {told}") as caught:
            said(adapter, text, **options)
        assert (caught.value.program, caught.value.retryable) == ("it", False)
        (note,) = caught.value.__notes__  # the traceback, whose lines name the program's own code
        assert "dspy_pool_tools.py" in note
    assert adapter.pool.pids() == workers


def test_a_program_may_write_to_stdout_and_fork(adapter: DspyPoolAdapter) -> None:
    workers = adapter.pool.pids()
    assert said(adapter, "shout 100000") == "2"
    for _ in range(3):
        assert said(adapter, "fork") == "3"
        assert said(adapter, "reverse abc") == "cba"
    assert adapter.pool.pids() == workers
    assert settled(adapter).health_check()


def test_a_program_that_goes_elsewhere(adapter: DspyPoolAdapter, tmp_path: Path) -> None:
    here = os.getcwd()
    gone = tmp_path / "gone"
    gone.mkdir()
    for folder in (tmp_path, gone):
        assert said(adapter, f"chdir {folder}", session="a") == str(folder)
        assert said(adapter, "cwd", session="a") == here
    gone.rmdir()


def test_workers_to_come_begin_where_the_first_ones_did(
    adapter: DspyPoolAdapter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = os.getcwd()
    monkeypatch.chdir(tmp_path)
    for pid in adapter.pool.pids():
        os.kill(pid, 9)
    assert in_threads(lambda n: said(adapter, "cwd"), 3) == [here] * 3


@pytest.mark.parametrize(
    ("fault", "error"),
    [(HalfRight(answer={"label": "refund"}), LMError), (Malformed(), CommunicationError)],
)
def test_answers_that_do_not_fit(adapter: DspyPoolAdapter, fault: Any, error: type[DspexError]) -> None:
    SERVER.answers = fault
    pid = adapter.create_program({"signature": LABEL})
    with pytest.raises(error) as caught:
        adapter.execute_program(pid, {"text": "x"})
    assert caught.value.program == pid


def test_tools_that_raise(adapter: DspyPoolAdapter) -> None:
    SERVER.answers = {"next_thought": "", "next_tool_name": "breaks", "next_tool_args": {}}
    spec = {"signature": "text -> reply", "kind": "react", "tools": ["dspy_pool_tools:breaks"]}
    pid = adapter.create_program(spec)
    with pytest.raises(ProgramError, match="tool 'breaks' raised ValueError: broken") as caught:
        adapter.execute_program(pid, {"text": "x"})
    assert (caught.value.program, caught.value.field) == (pid, "breaks")
    SERVER.answers = None
    shown = adapter.create_program({**spec, "dspy": {"on_tool_error": "observe"}, "init": {"max_iters": 1}})
    SERVER.answers = {
        "next_thought": "",
        "next_tool_name": "breaks",
        "next_tool_args": {},
        "reasoning": "",
        "reply": "so be it",
    }
    result = adapter.execute_program(shown, {"text": "x"})
    assert "broken" in result.trajectory["observation_0"]


def test_additions_of_every_kind_come_back(adapter: DspyPoolAdapter) -> None:
    pid = adapter.create_program({"signature": "text -> said", "module": "dspy_pool_tools:Adding"})
    result = adapter.execute_program(pid, {"text": "x"})
    assert result.said == "x"
    assert result.large == 2**80
    assert result.odd == "half \ud83d"
    assert result.path == "/tmp"
    assert result.thing.startswith("<object object")
    assert result.nested == {"1": [1.5, None, "refund"]}

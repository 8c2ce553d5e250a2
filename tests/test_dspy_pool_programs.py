"""Which workers know which programs, and which worker a session goes to."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from dspex.adapters.dspy_pool import DspyPoolAdapter
from dspex.errors import CallTimeoutError, ConfigError, ProgramError, SignatureError
from dspy_pool_tools import LABEL, SERVER, Wrapping, borrowed, echo, in_background, running, settled, until

ACTING = {"signature": "text -> said", "module": "dspy_pool_tools:Acting", "id": "acting"}


@pytest.fixture
def adapter() -> Iterator[DspyPoolAdapter]:
    with borrowed() as adapter:
        yield adapter


def said(adapter: DspyPoolAdapter, text: str, session: str | None = None) -> str:
    found: str = adapter.execute_program("acting", {"text": text}, {"session": session}).said
    return found


def kill_all(adapter: DspyPoolAdapter) -> None:
    pids = adapter.pool.pids()
    for pid in pids:
        os.kill(pid, 9)
    until(lambda: running(adapter) == len(pids) and not set(pids) & set(adapter.pool.pids()))


def test_programs_are_there_on_replaced_workers_and_deleted_ones_are_not(adapter: DspyPoolAdapter) -> None:
    SERVER.answers = {"label": "refund"}
    adapter.create_program({"signature": LABEL, "id": "kept"})
    adapter.create_program({"signature": "text -> label: bool", "id": "gone"})
    adapter.create_program(ACTING)
    adapter.delete_program("gone")
    kill_all(adapter)
    workers = set(adapter.pool.pids())
    rows = [{"text": str(number)} for number in range(8)]
    assert {result.label for result in adapter.execute_batch("kept", rows)} == {"refund"}
    assert set(adapter.pool.pids()) == workers
    with pytest.raises(ProgramError, match="no such program"):
        adapter.execute_program("gone", {"text": "x"})
    assert adapter.list_programs() == ["kept", "acting"]
    assert settled(adapter).health_check()


def test_a_program_that_is_made_again_under_its_id_is_the_new_one_everywhere(
    adapter: DspyPoolAdapter,
) -> None:
    SERVER.answers = lambda request: {"label": "True" if "bool" in request.text else "refund"}
    SERVER.delay = 0.01
    rows = [{"text": str(number)} for number in range(6)]
    for _ in range(3):
        for signature, label in ((LABEL, "refund"), ("text -> label: bool", True)):
            adapter.create_program({"signature": signature, "id": "it"})
            assert {result.label for result in adapter.execute_batch("it", rows)} == {label}
            adapter.delete_program("it")
    adapter.create_program({"signature": LABEL, "id": "it"})
    kill_all(adapter)
    assert {result.label for result in adapter.execute_batch("it", rows)} == {"refund"}


def test_a_call_under_way_ends_when_its_program_is_deleted(adapter: DspyPoolAdapter) -> None:
    SERVER.answers = {"label": "refund"}
    SERVER.delay = 0.2
    adapter.create_program({"signature": LABEL, "id": "it"})
    rows = [{"text": str(number)} for number in range(4)]  # some of them wait for a worker
    calls = [in_background(lambda row=row: adapter.execute_program("it", row)) for row in rows]
    until(lambda: SERVER.in_flight == 2)
    adapter.delete_program("it")
    adapter.create_program({"signature": "text -> label: bool", "id": "it"})
    assert [call.result().label for call in calls] == ["refund"] * 4


def test_a_call_of_the_program_before_is_not_answered_by_the_new_one(adapter: DspyPoolAdapter) -> None:
    SERVER.answers = {"label": "refund"}
    SERVER.delay = 0.3
    session = {"session": "a"}
    adapter.create_program({"signature": LABEL, "id": "it"})
    # The second one waits for the session's worker, which meanwhile has heard of the new program.
    calls = [in_background(lambda: adapter.execute_program("it", {"text": "x"}, session)) for _ in range(2)]
    until(lambda: SERVER.in_flight == 1 and adapter.get_stats()["pool"]["waiting"] == 1)
    adapter.delete_program("it")
    adapter.create_program({"signature": "text -> label: bool", "id": "it"})
    assert [call.result().label for call in calls] == ["refund"] * 2
    SERVER.answers, SERVER.delay = {"label": "True"}, 0.0
    assert adapter.execute_program("it", {"text": "x"}, session).label is True


def test_a_worker_that_could_not_make_a_program_tries_again_when_it_is_called(
    adapter: DspyPoolAdapter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The module can be imported in one worker first, and later in all."""
    SERVER.answers = {"label": "refund"}
    lock = tmp_path / "lock"
    (tmp_path / "one_only.py").write_text(
        "import os\n"
        f"try: os.mkdir({str(lock)!r})\n"
        "except FileExistsError: raise ImportError('not now') from None\n"
        "from dspy_pool_tools import Wrapping\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    adapter.create_program({"module": "one_only:Wrapping", "id": "it"})
    settled(adapter)
    assert "program 'it'" in adapter.health_check().reason
    lock.rmdir()
    SERVER.delay = 0.02
    rows = [{"text": str(number)} for number in range(6)]
    assert {result.label for result in adapter.execute_batch("it", rows)} == {"refund"}
    adapter.delete_program("it")
    assert settled(adapter).health_check()


def test_the_error_of_a_program_that_cannot_be_made_any_more(
    adapter: DspyPoolAdapter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = tmp_path / "soon_gone.py"
    module.write_text("from dspy_pool_tools import Wrapping\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    adapter.create_program({"module": "soon_gone:Wrapping", "id": "it"})
    module.unlink()
    kill_all(adapter)
    with pytest.raises(ConfigError, match="'soon_gone:Wrapping' cannot be imported") as caught:
        adapter.execute_program("it", {"text": "x"})
    assert (caught.value.program, caught.value.field) == ("it", "module")


def test_a_constructor_that_hangs(monkeypatch: pytest.MonkeyPatch, adapter: DspyPoolAdapter) -> None:
    patient = adapter.config.dspy_pool.model_copy(update={"start_timeout": 0.3})
    monkeypatch.setattr(adapter, "config", adapter.config.model_copy(update={"dspy_pool": patient}))
    with pytest.raises(CallTimeoutError) as caught:
        adapter.create_program({"signature": LABEL, "module": "dspy_pool_tools:Hanging", "id": "it"})
    assert caught.value.program == "it"
    assert adapter.list_programs() == []


def test_a_program_that_is_refused_at_last_is_forgotten(adapter: DspyPoolAdapter) -> None:
    with pytest.raises(SignatureError, match="kind 'classify'"):
        adapter.create_program({"signature": "text -> reply", "kind": "classify", "id": "it"})
    SERVER.answers = echo
    adapter.create_program({"signature": "text -> answer", "id": "it"})
    kill_all(adapter)
    assert adapter.execute_program("it", {"text": "abc"}).answer == "cba"


def test_what_a_program_keeps_is_not_shared_with_the_caller(adapter: DspyPoolAdapter) -> None:
    SERVER.answers = {"label": "refund"}
    module = Wrapping()
    adapter.create_program({"module": module, "id": "it"})
    module.ask.demos = [{"text": "a demo", "label": "refund"}]
    adapter.execute_program("it", {"text": "x"})
    assert "a demo" not in SERVER.requests[-1].request.text


def test_sessions_stick_to_a_worker_and_move_when_it_dies(adapter: DspyPoolAdapter) -> None:
    adapter.create_program(ACTING)
    settled(adapter)  # both know it
    first = [said(adapter, "calls", "a").split() for _ in range(5)]
    assert len({pid for pid, _ in first}) == 1
    assert [int(count) for _, count in first] == list(range(1, 6))  # the module's own state lives there
    other = {said(adapter, "pid", f"session {number}") for number in range(4)}
    assert len(other) == 2  # they are spread
    os.kill(int(first[0][0]), 9)
    until(lambda: running(adapter) == 2)
    moved = [said(adapter, "calls", "a").split() for _ in range(3)]
    assert len({pid for pid, _ in moved}) == 1
    assert moved[0][0] != first[0][0]
    counts = [int(count) for _, count in moved]
    assert counts == list(range(counts[0], counts[0] + 3))


def test_calls_of_a_session_wait_for_each_other(adapter: DspyPoolAdapter) -> None:
    adapter.create_program(ACTING)
    calls = [in_background(lambda: said(adapter, "calls", "a")) for _ in range(6)]
    found = [call.result().split() for call in calls]
    assert len({pid for pid, _ in found}) == 1
    assert sorted(int(count) for _, count in found) == list(range(1, 7))

"""Which LM is asked in a worker, and that its key stays where it is needed."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from dspex.adapters.dspy_pool import DspyPoolAdapter
from dspex.errors import ConfigError, DspexError
from dspex.testing.lm_faults import Status
from dspex.testing.lm_server import LMServer
from dspy_pool_tools import (
    LABEL,
    NO_RETRY,
    SERVER,
    borrowed,
    error_of,
    in_background,
    over,
    running,
    settled,
    until,
)
from processes_tools import linux

SECRET = "sk-secret-7f3a"


@pytest.fixture
def adapter() -> Iterator[DspyPoolAdapter]:
    with borrowed() as adapter:
        yield adapter


@pytest.fixture
def other() -> Iterator[LMServer]:
    with LMServer({"label": "card_lost"}) as server:
        yield server


def labels(adapter: DspyPoolAdapter, pid: str, count: int = 4) -> set[str]:
    """What all workers say."""
    rows = [{"text": str(number)} for number in range(count)]
    return {result.label for result in adapter.execute_batch(pid, rows)}


def test_configure_lm_reaches_every_worker_present_and_future(lm_server: LMServer, other: LMServer) -> None:
    lm_server.answers = {"label": "refund"}
    lm_server.delay = other.delay = 0.02  # so that a batch takes all workers
    with over(lm_server, dspy_pool={"size": 1, "max_size": 2}) as adapter:
        pid = adapter.create_program({"signature": LABEL})
        assert labels(adapter, pid, 1) == {"refund"}
        adapter.configure_lm(other.lm_config())
        assert labels(adapter, pid, 1) == {"card_lost"}
        lm_server.clear()
        other.delay = 0.3
        assert labels(adapter, pid, 4) == {"card_lost"}
        until(lambda: adapter.get_stats()["pool"]["started"] == 2)  # an overflow worker has come for them
        other.delay = 0.05
        assert labels(adapter, pid, 6) == {"card_lost"}
        assert other.max_in_flight == 2
        for worker in adapter.pool.pids():
            os.kill(worker, 9)
        until(lambda: running(adapter) == 1)
        assert labels(adapter, pid) == {"card_lost"}
        assert lm_server.count == 0


def test_configure_lm_while_calls_run(adapter: DspyPoolAdapter, other: LMServer) -> None:
    SERVER.answers = {"label": "refund"}
    SERVER.delay = other.delay = 0.005
    pid = adapter.create_program({"signature": LABEL})
    stop = threading.Event()

    def call() -> int:
        count = 0
        while not stop.is_set():
            assert adapter.execute_program(pid, {"text": "x"}).label in ("refund", "card_lost")
            count += 1
        return count

    calls = [in_background(call) for _ in range(3)]
    try:
        for _ in range(5):
            adapter.configure_lm(other.lm_config())
            assert adapter.execute_program(pid, {"text": "x"}).label == "card_lost"
            adapter.configure_lm(SERVER.lm_config())
            assert adapter.execute_program(pid, {"text": "x"}).label == "refund"
    finally:
        stop.set()
    assert min(call.result() for call in calls) > 0


def test_the_lm_of_a_program_and_of_a_call(adapter: DspyPoolAdapter, other: LMServer) -> None:
    SERVER.answers = {"label": "refund"}
    default = adapter.create_program({"signature": LABEL})
    named = adapter.create_program({"signature": LABEL, "lm": "server"})
    own = adapter.create_program({"signature": LABEL, "lm": other.lm_config()})
    adapter.configure_lm(other.lm_config(temperature=0.5))
    assert adapter.execute_program(default, {"text": "x"}).usage["lms"] == {"default": 1}
    assert adapter.execute_program(named, {"text": "x"}).usage["lms"] == {"server": 1}
    assert adapter.execute_program(own, {"text": "x"}).label == "card_lost"
    assert adapter.execute_program(own, {"text": "x"}, {"lm": "server"}).label == "refund"
    assert adapter.execute_program(named, {"text": "x"}, {"lm": "default"}).label == "card_lost"
    assert other.requests[-1].request.body["temperature"] == 0.5


def test_an_lm_that_the_programs_code_makes(adapter: DspyPoolAdapter, other: LMServer) -> None:
    pid = adapter.create_program({"module": "dspy_pool_tools:OwnLM", "init": {"url": other.url}})
    result = adapter.execute_program(pid, {"text": "x"})
    assert (result.label, result.usage["lms"]) == ("card_lost", {"openai/own": 1})
    other.answers = Status(503)
    errors = [error_of(lambda: adapter.execute_program(pid, {"text": "x"})) for _ in range(12)]
    assert "left alone" in errors[-1].message  # there is one breaker for all workers
    assert errors[-1].category == "lm"
    assert other.count <= 11


def test_without_an_lm(lm_server: LMServer) -> None:
    with DspyPoolAdapter({"dspy_pool": {"size": 1}}) as adapter:
        pid = adapter.create_program({"signature": LABEL, "id": "it"})
        refusal = adapter.available(pid)
        assert isinstance(refusal, ConfigError)
        with pytest.raises(ConfigError, match="no language model is configured") as caught:
            adapter.execute_program(pid, {"text": "x"})
        assert (caught.value.field, caught.value.program) == ("lm", "it")
        assert "dspy.settings do not reach workers" in str(caught.value)
        lm_server.answers = {"label": "refund"}
        adapter.configure_lm(lm_server.lm_config())
        assert adapter.available(pid) is None
        assert adapter.execute_program(pid, {"text": "x"}).label == "refund"


@linux
def test_keys_are_shown_nowhere(
    adapter: DspyPoolAdapter, lm_server: LMServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys: list[str] = []
    monkeypatch.setattr("dspex.testing.lm_server._SECRET", ())
    lm_server.answers = {"label": "refund"}
    # A variable that is set after the workers were started: its value reaches them all the same.
    monkeypatch.setenv("DSPEX_TEST_KEY", SECRET)
    settings = lm_server.lm_config(api_key="env:DSPEX_TEST_KEY")
    adapter.configure_lm(settings)
    pids = [
        adapter.create_program({"signature": LABEL, "id": "default"}),
        adapter.create_program({"signature": LABEL, "lm": settings, "id": "own"}),
    ]
    for pid in pids:
        assert adapter.execute_program(pid, {"text": "x"}).label == "refund"
        keys.append(lm_server.requests[-1].headers["authorization"])
    assert keys == [f"Bearer {SECRET}"] * 2
    acting = adapter.create_program({"signature": "text -> said", "module": "dspy_pool_tools:Acting"})
    for _ in range(3):
        assert adapter.execute_program(acting, {"text": f"hidden {SECRET}"}).said == "False"
    for worker in adapter.pool.pids():
        for name in ("cmdline", "environ"):
            assert SECRET.encode() not in Path(f"/proc/{worker}/{name}").read_bytes()
    lm_server.answers = Status(401, message="no")
    shown = [repr(adapter), repr(adapter.pool), repr(adapter.config), json.dumps(adapter.get_stats())]
    for pid in pids:
        shown.append(json.dumps(adapter.get_program_info(pid)))
        with pytest.raises(DspexError) as caught:
            adapter.execute_program(pid, {"text": "x"})
        shown += [str(caught.value), json.dumps(caught.value.to_dict())]
        shown += getattr(caught.value, "__notes__", [])
    with pytest.raises(ConfigError) as config_error:
        adapter.configure_lm({**settings, "api_bas": SECRET})
    shown.append(str(config_error.value))
    assert SECRET not in "".join(shown)


def test_a_key_in_a_variable_that_is_not_set(adapter: DspyPoolAdapter) -> None:
    with pytest.raises(ConfigError, match="NO_SUCH_KEY") as caught:
        adapter.configure_lm({"model": "openai/x", "api_key": "env:NO_SUCH_KEY"})
    assert caught.value.field == "lm.api_key"


def test_an_lm_that_cannot_be_made_in_a_worker_is_no_other_one(
    adapter: DspyPoolAdapter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A module that can be imported only here: later, workers must not go on with the LM before."""
    SERVER.answers = {"label": "refund"}
    pid = adapter.create_program({"signature": LABEL})
    (tmp_path / "only_here.py").write_text(
        f"import os\nif os.getpid() != {os.getpid()}: raise ImportError('not there')\n"
        "from dspy_adapter_tools import ready\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    adapter.configure_lm({"model": "openai/x", "options": {"engine": "only_here:ready"}})
    with pytest.raises(ConfigError, match="not there"):
        adapter.execute_program(pid, {"text": "x"})
    settled(adapter)
    assert "configure_lm" in adapter.health_check().reason
    assert SERVER.count == 0
    adapter.configure_lm(SERVER.lm_config(retry=NO_RETRY))
    assert adapter.execute_program(pid, {"text": "x"}).label == "refund"
    assert settled(adapter).health_check()


def test_a_module_that_can_be_found_since_the_workers_were_started(
    adapter: DspyPoolAdapter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    SERVER.answers = {"label": "refund"}
    (tmp_path / "come_late.py").write_text("from dspy_pool_tools import Wrapping\n")
    monkeypatch.syspath_prepend(tmp_path)
    pid = adapter.create_program({"module": "come_late:Wrapping"})
    assert adapter.execute_program(pid, {"text": "x"}).label == "refund"

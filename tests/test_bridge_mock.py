"""The bridge_mock adapter: the mock's answers over the real protocol, with faults as scripted."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from dspex.adapters import create
from dspex.adapters.bridge_mock import BridgeMockAdapter
from dspex.adapters.mock import MockAdapter
from dspex.errors import (
    CallTimeoutError,
    CommunicationError,
    ConfigError,
    DspexError,
    InternalError,
    LMError,
    SignatureError,
)
from dspex.processes import frames
from dspex.testing.cases import CASES, Case
from processes_tools import until

SIGNATURE = "text -> label: Literal['a', 'b', 'c', 'd', 'e', 'f', 'g', 'h']"
ROWS = [{"text": f"text {n}"} for n in range(60)]


def made(**settings: Any) -> tuple[BridgeMockAdapter, str]:
    adapter = BridgeMockAdapter(**{"timeout": 5.0, **settings})
    return adapter, adapter.create_program({"id": "p", "signature": SIGNATURE})


def truth() -> list[Any]:
    with MockAdapter() as mock:
        mock.create_program({"id": "p", "signature": SIGNATURE})
        return [mock.execute_program("p", row).label for row in ROWS]


def peers() -> int:
    return sum(thread.name == "dspex-peer" for thread in threading.enumerate())


@pytest.mark.parametrize("case", CASES, ids=str)
def test_it_answers_as_the_mock_does(case: Case) -> None:
    spec = {"id": "p", "signature": case.signature, "examples": list(case.examples)}
    with MockAdapter(seed=3) as mock, create("bridge_mock", seed=3) as bridge:
        mock.create_program(spec)
        bridge.create_program(spec)
        for row in case.rows():
            one, other = mock.execute_program("p", row), bridge.execute_program("p", row)
            assert dict(one) == dict(other)
            assert one.confidence == other.confidence
            assert (one.route, other.route) == ("mock", "bridge_mock")
            for name in one:
                assert _odds(one, name) == _odds(other, name)


def _odds(result: Any, name: str) -> Any:
    try:
        return result.probabilities(name)
    except KeyError:
        return None


def test_every_call_really_crosses_in_frames(monkeypatch: pytest.MonkeyPatch) -> None:
    decoded: list[Any] = []
    feed = frames.Decoder.feed

    def watching(self: frames.Decoder, data: bytes) -> Any:
        found = feed(self, data)
        decoded.extend(found)
        return found

    monkeypatch.setattr(frames.Decoder, "feed", watching)
    adapter, program = made()
    with adapter:
        label = adapter.execute_program(program, {"text": "a"}).label
        call, result = decoded
        assert call.payload[0] == "execute"
        assert call.payload[2] == {"text": "a"}
        assert result.payload["values"] == {"label": label}
        assert adapter.get_program_info(program)["program"]["frames"] == {"calls": 1, "answers": 1}


def test_it_is_for_its_own_layer() -> None:
    with BridgeMockAdapter() as adapter:
        assert adapter.supports_test_layer("bridge_mock")
        assert not adapter.supports_test_layer("mock")
        assert not adapter.supports_test_layer("full")


def test_the_mocks_scripts_work_over_the_bridge() -> None:
    with BridgeMockAdapter(timeout=5.0) as adapter:
        options = {"answers": {"one": "a", "two": LMError, "three": LMError("no", retryable=True)}}
        adapter.create_program({"id": "p", "signature": SIGNATURE, "options": options})
        assert adapter.execute_program("p", {"text": "one"}).label == "a"
        with pytest.raises(LMError, match="scripted failure") as caught:
            adapter.execute_program("p", {"text": "two"})
        assert caught.value.program == "p"
        with pytest.raises(LMError) as caught:
            adapter.execute_program("p", {"text": "three"})
        assert caught.value.retryable
        adapter.create_program(
            {"id": "q", "signature": SIGNATURE, "options": {"answers": lambda inputs: 1 / 0}}
        )
        with pytest.raises(InternalError, match="ZeroDivisionError"):
            adapter.execute_program("q", {"text": "one"})


WHAT_HAPPENS: dict[str, type[DspexError] | None] = {
    "delay": None,
    "duplicate": None,
    "drop": CallTimeoutError,
    "reorder": CallTimeoutError,
    "truncate": CallTimeoutError,
    "corrupt": CommunicationError,
    "wrong_id": CommunicationError,
    "wrong_version": CommunicationError,
}


@pytest.mark.parametrize("side", ["calls", "answers"])
@pytest.mark.parametrize("kind", WHAT_HAPPENS)
def test_one_faulty_frame(kind: str, side: str) -> None:
    expected, want = WHAT_HAPPENS[kind], truth()
    adapter, program = made(faults=[{"kind": kind, "side": side, "frame": 1, "seconds": 0.01}], timeout=0.2)
    with adapter:
        for n in range(6):
            if n == 1 and expected is not None:
                with pytest.raises(expected) as caught:
                    adapter.execute_program(program, ROWS[n])
                assert (caught.value.program, caught.value.retryable) == (program, True)
            elif n == 2 and kind == "truncate":  # comes behind half a frame, and cannot be told from its rest
                with pytest.raises((CommunicationError, CallTimeoutError)):
                    adapter.execute_program(program, ROWS[n])
            else:
                assert adapter.execute_program(program, ROWS[n]).label == want[n]
        assert adapter.get_program_info(program)["program"]["faults_happened"] == {kind: 1}
        assert adapter.get_stats()["calls"] == 6


MIXTURES: list[list[dict[str, Any]]] = [
    [{"kind": kind, "side": side, "share": 0.2, "seconds": 0.005} for kind in kinds]
    for side in ("calls", "answers")
    for kinds in (["duplicate", "reorder"], ["delay", "drop", "duplicate"], list(WHAT_HAPPENS))
]


@pytest.mark.parametrize("faults", MIXTURES, ids=range(len(MIXTURES)))
def test_no_mixture_of_faults_gives_a_wrong_answer(faults: list[dict[str, Any]]) -> None:
    want = truth()
    adapter, program = made(faults=faults, timeout=0.02)

    def ask(n: int) -> bool:
        try:
            assert adapter.execute_program(program, ROWS[n]).label == want[n]
        except (CallTimeoutError, CommunicationError):
            return False
        return True

    with adapter, ThreadPoolExecutor(4) as threads:
        answered = list(threads.map(ask, range(len(ROWS))))
        assert any(answered)
        assert not all(answered)


def test_a_mock_that_takes_too_long_is_a_time_out() -> None:
    adapter, _ = made()
    with adapter:
        options = {"delay": 0.3, "timeout": 0.05}
        slow = adapter.create_program({"signature": SIGNATURE, "options": options})
        start = time.monotonic()
        for _ in range(2):  # each on a connection of its own: the peer of the other is still at work
            with pytest.raises(CallTimeoutError):
                adapter.execute_program(slow, ROWS[0])
        assert time.monotonic() - start < 0.3
        with pytest.raises(CallTimeoutError):
            asyncio.run(adapter.aexecute_program(slow, ROWS[0]))


def test_options_of_a_program_come_before_the_settings() -> None:
    adapter, _ = made(faults=[{"kind": "drop", "share": 1.0}], timeout=0.03)
    with adapter:
        with pytest.raises(CallTimeoutError):
            adapter.execute_program("p", ROWS[0])
        options = {"faults": [], "timeout": 5.0}
        good = adapter.create_program({"id": "good", "signature": SIGNATURE, "options": options})
        assert adapter.execute_program(good, ROWS[0])
        assert adapter.get_program_info(good)["program"]["timeout"] == 5.0
        assert adapter.get_program_info("p")["program"]["faults"][0]["kind"] == "drop"


BAD: list[tuple[dict[str, Any], str]] = [
    ({"faults": "drop"}, "faults are a list"),
    ({"faults": {"kind": "drop"}}, "faults are a list"),
    ({"faults": [{"kind": "dorp", "frame": 0}]}, "kind|Input should be"),
    ({"faults": [{"kind": "drop"}]}, "either a frame or a share"),
    ({"timeout": 0}, "timeout is a number"),
    ({"timeout": True}, "timeout is a number"),
    ({"timeout": float("nan")}, "timeout is a number"),
    ({"seed": "x"}, "seed is an int"),
    ({"error_rate": 2}, "error_rate"),
]


@pytest.mark.parametrize(("settings", "message"), BAD, ids=[str(each) for each, _ in BAD])
def test_settings_are_checked_in_both_places(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        BridgeMockAdapter(**settings)
    with BridgeMockAdapter() as adapter, pytest.raises(ConfigError, match=message) as caught:
        adapter.create_program({"id": "p", "signature": SIGNATURE, "options": settings})
    assert caught.value.program == "p"


def test_an_unknown_option_is_refused_with_the_nearest() -> None:
    with BridgeMockAdapter() as adapter, pytest.raises(ConfigError, match="faults"):
        adapter.create_program({"signature": SIGNATURE, "options": {"fault": []}})


def test_a_program_without_a_signature_is_refused() -> None:
    with BridgeMockAdapter() as adapter, pytest.raises(SignatureError):
        adapter.create_program({"path": "x.dspex"})


def test_health_asks_the_peers(monkeypatch: pytest.MonkeyPatch) -> None:
    adapter, _ = made(faults=[{"kind": "drop", "share": 1.0}])
    with adapter:
        assert adapter.health_check().checked == 1
        assert adapter.health_check()
        monkeypatch.setattr(frames, "VERSION", 2)  # its frames are foreign to itself now
        monkeypatch.setattr("dspex.processes.frames._KINDS", {})
        assert not adapter.health_check()


def test_peers_go_with_their_program_with_the_adapter_and_when_it_is_dropped() -> None:
    until(lambda: not peers())
    adapter, program = made()
    adapter.execute_program(program, ROWS[0])
    assert peers() == 1
    adapter.delete_program(program)
    until(lambda: not peers())
    program = adapter.create_program({"signature": SIGNATURE})
    adapter.execute_program(program, ROWS[0])
    adapter.close()
    until(lambda: not peers())
    adapter, program = made()
    adapter.execute_program(program, ROWS[0])
    del adapter
    gc.collect()
    until(lambda: not peers())


def test_calls_under_way_end_though_their_program_is_deleted() -> None:
    adapter = BridgeMockAdapter(timeout=5.0)
    program = adapter.create_program({"signature": SIGNATURE, "options": {"delay": 0.2}})
    with adapter, ThreadPoolExecutor(1) as threads:
        running = threads.submit(adapter.execute_program, program, ROWS[0])
        until(lambda: adapter.get_stats()["calls"])
        time.sleep(0.05)
        adapter.delete_program(program)
        assert running.result().label
    until(lambda: not peers())

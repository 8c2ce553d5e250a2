"""Scripted faults: each does what it says, and both ends of the protocol notice or do not mind."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any, get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dspex.errors import CallTimeoutError, CommunicationError, ConfigError, DspexError
from dspex.processes import Channel
from dspex.processes.faults import Fault, FaultKind, Faults, FaultyTransport
from dspex.processes.frames import Decoder, Frame, Kind, encode
from dspex.processes.server import Server
from dspex.processes.transport import MemoryTransport
from processes_tools import after, until
from toy_handlers import Toy

KINDS = get_args(FaultKind)


def one(n: int) -> bytes:
    return encode(Frame(Kind.RESULT, n, "payload"))


def sent(fault: dict[str, Any], count: int = 3) -> list[bytes]:
    """What arrives when so many frames are sent, the second with the fault."""
    near, far = MemoryTransport.pair()
    faults = Faults([{"frame": 1, **fault}])
    transport = FaultyTransport(near, faults, "answers")
    for n in range(count):
        transport.send(one(n))
    transport.close()
    arrived = []
    while data := far.recv(1):
        arrived.append(data)
    assert faults.happened == {fault["kind"]: 1}
    return arrived


def test_drop_duplicate_and_reorder() -> None:
    assert sent({"kind": "drop"}) == [one(0), one(2)]
    assert sent({"kind": "duplicate"}) == [one(0), one(1), one(1), one(2)]
    assert sent({"kind": "reorder"}) == [one(0), one(2), one(1)]
    assert sent({"kind": "reorder"}, count=2) == [one(0)]  # nothing comes after it


def test_truncate_corrupt_wrong_id_and_wrong_version() -> None:
    _, short, _ = sent({"kind": "truncate"})
    assert short == one(1)[: len(short)]
    assert 0 < len(short) < len(one(1))
    _, bad, _ = sent({"kind": "corrupt"})
    assert [a != b for a, b in zip(bad, one(1), strict=True)].count(True) == 1
    _, other, _ = sent({"kind": "wrong_id"})
    (frame,) = Decoder().feed(other)
    assert (frame.request, frame.payload) == (1_000_001, "payload")
    _, foreign, _ = sent({"kind": "wrong_version"})
    with pytest.raises(CommunicationError, match="version 2"):
        Decoder().feed(foreign)


def test_delay_lets_others_overtake() -> None:
    near, far = MemoryTransport.pair()
    transport = FaultyTransport(near, Faults([{"kind": "delay", "frame": 0, "seconds": 0.1}]), "answers")
    start = time.monotonic()
    transport.send(one(0))
    transport.send(one(1))
    assert far.recv(1) == one(1)
    assert far.recv(1) == one(0)
    assert time.monotonic() - start >= 0.1


def test_a_delayed_frame_of_a_closed_connection_is_gone() -> None:
    near, _ = MemoryTransport.pair()
    transport = FaultyTransport(near, Faults([{"kind": "delay", "frame": 0, "seconds": 0.02}]), "answers")
    transport.send(one(0))
    transport.close()
    until(lambda: not any(isinstance(thread, threading.Timer) for thread in threading.enumerate()))


def test_a_share_is_fixed_by_its_seed() -> None:
    def hits(seed: int, count: int = 2000) -> list[int]:
        faults = Faults([{"kind": "drop", "share": 0.25}], seed=seed)
        return [n for n in range(count) if faults.next("answers")]

    assert hits(1) == hits(1) != hits(2)
    assert 400 < len(hits(1)) < 600


def test_sides_are_counted_apart_and_the_first_fault_that_fits_is_taken() -> None:
    faults = Faults(
        [
            {"kind": "drop", "side": "calls", "frame": 1},
            {"kind": "corrupt", "frame": 1},
            {"kind": "truncate", "share": 1.0},
        ]
    )
    kinds = [getattr(faults.next(side), "kind", None) for side in ("calls", "answers", "calls", "answers")]
    assert kinds == [None, "truncate", "drop", "corrupt"]
    assert faults.sent == {"calls": 2, "answers": 2}


BAD: list[tuple[Any, str | None]] = [
    ({"kind": "explode", "frame": 0}, "faults.0.kind"),
    ({"kind": "drop"}, "faults.0"),
    ({"kind": "drop", "frame": 0, "share": 0.5}, "faults.0"),
    ({"kind": "drop", "frame": -1}, "faults.0.frame"),
    ({"kind": "drop", "share": 1.5}, "faults.0.share"),
    ({"kind": "drop", "share": 0}, "faults.0.share"),
    ({"kind": "drop", "frame": 0, "side": "left"}, "faults.0.side"),
    ({"kind": "delay", "frame": 0, "seconds": -1}, "faults.0.seconds"),
    ({"kind": "drop", "frme": 0}, "faults.0.frme"),
    ("drop", "faults.0"),
]


@pytest.mark.parametrize(("fault", "field"), BAD, ids=repr)
def test_a_fault_that_makes_no_sense_is_refused(fault: Any, field: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Faults([fault])
    assert caught.value.field == field


# Against both ends


@pytest.fixture
def line() -> Iterator[Any]:
    """Makes a channel to a toy over a connection with faults."""
    made: list[Channel] = []

    def make(*faults: Any, seed: int = 0) -> Channel:
        near, far = MemoryTransport.pair()
        scripted = Faults(faults, seed)
        server = Server(FaultyTransport(far, scripted, "answers"))
        threading.Thread(target=server.serve, args=(Toy(None),), daemon=True).start()
        made.append(Channel(FaultyTransport(near, scripted, "calls")))
        return made[-1]

    yield make
    for channel in made:
        channel.close()


WHAT_HAPPENS: dict[tuple[str, str], type[DspexError] | None] = {
    ("delay", "calls"): None,
    ("delay", "answers"): None,
    ("drop", "calls"): CallTimeoutError,
    ("drop", "answers"): CallTimeoutError,
    ("duplicate", "calls"): None,
    ("duplicate", "answers"): None,
    ("reorder", "calls"): CallTimeoutError,
    ("reorder", "answers"): CallTimeoutError,
    ("truncate", "calls"): CallTimeoutError,
    ("truncate", "answers"): CallTimeoutError,
    ("corrupt", "calls"): CommunicationError,
    ("corrupt", "answers"): CommunicationError,
    ("wrong_id", "calls"): CommunicationError,
    ("wrong_id", "answers"): CommunicationError,
    ("wrong_version", "calls"): CommunicationError,
    ("wrong_version", "answers"): CommunicationError,
}


@pytest.mark.parametrize(("kind", "side"), WHAT_HAPPENS, ids="-".join)
def test_what_a_fault_does_to_a_call(line: Any, kind: str, side: str) -> None:
    expected = WHAT_HAPPENS[kind, side]
    channel = line(Fault(kind=kind, side=side, frame=1, seconds=0.01))  # type: ignore[arg-type]
    assert channel.call("echo", 0, after(5)) == 0
    if expected is None:
        assert channel.call("echo", 1, after(5)) == 1
    else:
        with pytest.raises(expected) as caught:
            channel.call("echo", 1, after(0.05), program="p")
        assert caught.value.retryable
        assert caught.value.program == "p"
    if channel.intact and kind != "truncate":  # what was late or lost does no harm to the next
        for n in (2, 3, 4):
            assert channel.call("echo", n, after(5)) == n


def test_every_kind_is_tried() -> None:
    assert {kind for kind, _ in WHAT_HAPPENS} == set(KINDS)


fault = st.builds(
    Fault,
    kind=st.sampled_from(KINDS),
    side=st.sampled_from(["calls", "answers"]),
    share=st.floats(0.05, 0.5),
    seconds=st.floats(0, 0.01),
)


@settings(max_examples=40, deadline=None)
@given(st.lists(fault, max_size=3), st.integers(0, 100))
def test_no_mixture_of_faults_gives_a_wrong_answer(faults: list[Fault], seed: int) -> None:
    near, far = MemoryTransport.pair()
    scripted = Faults(faults, seed)
    server = Server(FaultyTransport(far, scripted, "answers"))
    threading.Thread(target=server.serve, args=(Toy(None),), daemon=True).start()
    channel = Channel(FaultyTransport(near, scripted, "calls"))
    try:
        for n in range(8):
            try:
                assert channel.call("echo", n, after(0.01)) == n
            except CallTimeoutError:
                continue
            except CommunicationError:
                break
    finally:
        channel.close()

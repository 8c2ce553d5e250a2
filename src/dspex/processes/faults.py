"""Scripted faults of a transport: what a test wants to go wrong with frames, by number or by share."""

from __future__ import annotations

import contextlib
import random
import threading
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from dspex.config.base import Settings
from dspex.processes.frames import VERSION, Decoder, encode
from dspex.processes.transport import Transport

__all__ = ["Fault", "FaultKind", "Faults", "FaultyTransport", "Side"]

FaultKind = Literal[
    "delay", "drop", "duplicate", "reorder", "truncate", "corrupt", "wrong_id", "wrong_version"
]
#: Frames to the worker, or from it.
Side = Literal["calls", "answers"]

_FOREIGN = 1_000_000  # added to a request's number: nobody has asked so much


class Fault(Settings):
    """One thing that goes wrong with some frames of one side. Either `frame` or `share` says with which."""

    kind: FaultKind
    """delay: comes later, and others overtake it. drop: never comes. duplicate: comes twice. reorder: comes
    after the next one. truncate: its end is missing. corrupt: one byte is another. wrong_id: belongs to a
    call that nobody made. wrong_version: of a protocol that nobody speaks.
    """
    side: Side = "answers"
    frame: Annotated[int, Field(ge=0)] | None = None
    """The number of the frame among those of its side, from 0."""
    share: Annotated[float, Field(gt=0, le=1)] | None = None
    """The share of the frames of its side; which ones is fixed by the seed."""
    seconds: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.05
    """How long a delay is."""

    @model_validator(mode="after")
    def _one(self) -> Fault:
        if (self.frame is None) == (self.share is None):
            raise ValueError("a fault has either a frame or a share")
        return self


class Faults:
    """Says what goes wrong with each frame. Threads may share it: frames are counted as they are sent.

    Args:
        faults: looked at in order; the first that fits a frame is its fault.
        seed: another seed, other frames of a share.

    Raises:
        ConfigError: a fault that makes no sense.
    """

    def __init__(self, faults: Iterable[Fault | Mapping[str, Any]] = (), seed: int = 0) -> None:
        self.faults = tuple(Fault.of(fault, at=f"faults.{i}") for i, fault in enumerate(faults))
        self._seed = seed
        self._sent: dict[Side, int] = {"calls": 0, "answers": 0}
        self._lock = threading.Lock()
        self.happened: dict[str, int] = {}

    @property
    def sent(self) -> dict[str, int]:
        """Frames so far, by side."""
        return {str(side): count for side, count in self._sent.items()}

    def next(self, side: Side) -> Fault | None:
        """What goes wrong with the next frame of a side; None: nothing."""
        with self._lock:
            number = self._sent[side]
            self._sent[side] += 1
            for position, fault in enumerate(self.faults):
                if fault.side == side and self._hits(fault, position, number):
                    self.happened[fault.kind] = self.happened.get(fault.kind, 0) + 1
                    return fault
        return None

    def _hits(self, fault: Fault, position: int, number: int) -> bool:
        if fault.share is None:
            return fault.frame == number
        return random.Random(f"{self._seed}/{position}/{number}").random() < fault.share


class FaultyTransport:
    """Sends over another transport, one frame at a time, with faults; receives as that does."""

    def __init__(self, inner: Transport, faults: Faults, side: Side) -> None:
        self._inner = inner
        self._faults = faults
        self._side: Side = side
        self._held: list[bytes] = []  # until the next frame has gone
        self._lock = threading.Lock()

    def send(self, data: bytes, timeout: float | None = None) -> None:
        fault = self._faults.next(self._side)
        if fault is not None and fault.kind == "reorder":
            with self._lock:
                self._held.append(data)
            return
        for part in _spoilt(data, fault):
            self._inner.send(part, timeout)
        if fault is not None and fault.kind == "delay":
            timer = threading.Timer(fault.seconds, self._send_late, (data,))
            timer.daemon = True
            timer.start()
        with self._lock:
            held, self._held = self._held, []
        for part in held:
            self._inner.send(part, timeout)

    def _send_late(self, data: bytes) -> None:
        with contextlib.suppress(OSError):  # closed meanwhile
            self._inner.send(data)

    def recv(self, timeout: float | None = None) -> bytes:
        return self._inner.recv(timeout)

    def close(self) -> None:
        self._inner.close()

    def fileno(self) -> int | None:
        return self._inner.fileno()


def _spoilt(data: bytes, fault: Fault | None) -> list[bytes]:
    """What is sent now in place of a frame."""
    kind = fault.kind if fault is not None else None
    if kind in ("delay", "drop"):
        return []
    if kind == "duplicate":
        return [data, data]
    if kind == "truncate":
        return [data[: len(data) // 2]]
    if kind == "corrupt":
        at = random.Random(data).randrange(len(data) - 4)
        at += 4 * (at >= 8)  # not the length: a longer frame would be waited for, as a truncated one is
        return [data[:at] + bytes([data[at] ^ 0x41]) + data[at + 1 :]]
    if kind == "wrong_id":
        (frame,) = Decoder().feed(data)
        return [encode(frame._replace(request=frame.request + _FOREIGN))]
    if kind == "wrong_version":
        return [data[:4] + bytes([VERSION + 1]) + data[5:]]
    return [data]

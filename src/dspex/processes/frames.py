"""Frames: the protocol's unit. A header of 24 bytes and a payload in msgpack, both under one checksum."""

from __future__ import annotations

import enum
import struct
import zlib
from typing import Any, NamedTuple

import msgspec

from dspex.errors import CommunicationError

__all__ = ["HEADER_SIZE", "MAGIC", "MAX_PAYLOAD", "VERSION", "Decoder", "Frame", "Kind", "encode", "pack"]

MAGIC = b"DSPX"
VERSION = 1
#: Bytes that the payload of one frame may have.
MAX_PAYLOAD = 256 * 1024 * 1024

# magic, version, kind, flags, payload's length, request; then the checksum of all that and the payload
_HEAD = struct.Struct(">4sBBHIQ")
_CHECK = struct.Struct(">I")
HEADER_SIZE = _HEAD.size + _CHECK.size


class Kind(enum.IntEnum):
    """What a frame is for, and who sends it."""

    HELLO = 1  # parent: what to be; the worker's first frame
    READY = 2  # worker: it is that now
    CALL = 3  # parent: [op, seconds left or None, payload]
    RESULT = 4  # worker: the payload
    ERROR = 5  # worker: an error, see `failures`; request 0: of the stream itself
    ASK = 6  # worker, during a call: [number, op, payload]
    ANSWER = 7  # parent: [number, whether it is an answer, payload or error]
    TELL = 8  # worker, during a call: [op, payload]
    PING = 9  # parent: are you there?
    PONG = 10  # worker, also during a call: yes
    STOP = 11  # parent: end when the call under way has ended


class Frame(NamedTuple):
    """One frame.

    Attributes:
        kind: what it is for.
        request: the number of the call it belongs to; of a PING, its own.
        payload: what msgpack can carry.
    """

    kind: Kind
    request: int
    payload: Any = None


_encode_payload = msgspec.msgpack.Encoder().encode
_KINDS = {int(kind): kind for kind in Kind}


def pack(payload: Any) -> msgspec.Raw:
    """A payload, encoded ahead; it can be part of another one.

    Raises:
        CommunicationError: it holds what msgpack cannot carry, or is too large. Not retryable.
    """
    return msgspec.Raw(_packed(payload))


def encode(frame: Frame) -> bytes:
    """The frame as bytes.

    Raises:
        CommunicationError: as `pack`.
    """
    payload = _packed(frame.payload)
    head = _HEAD.pack(MAGIC, VERSION, frame.kind, 0, len(payload), frame.request)
    return b"".join((head, _CHECK.pack(zlib.crc32(payload, zlib.crc32(head))), payload))


def _packed(payload: Any) -> bytes:
    try:
        packed = _encode_payload(payload)
    except (TypeError, ValueError, OverflowError, RecursionError) as cause:
        what = str(cause) or type(cause).__name__
        raise CommunicationError(
            f"this cannot be sent to another process: {what}",
            retryable=False,
            hint="Send numbers below 2**64, text, bytes, lists and mappings of these",
        ) from cause
    if len(packed) > MAX_PAYLOAD:
        raise CommunicationError(
            f"{len(packed):,} bytes are too many for one frame",
            retryable=False,
            hint=f"It holds at most {MAX_PAYLOAD:,}",
        )
    return packed


def _no_extension(code: int, data: memoryview) -> Any:
    raise ValueError(f"an extension type {code} of msgpack")


class Decoder:
    """Frames out of a stream of bytes that may be cut anywhere. One error ends the stream: what follows a
    damaged frame cannot be trusted to begin where it seems to.
    """

    def __init__(self, max_payload: int = MAX_PAYLOAD) -> None:
        self._max_payload = max_payload
        self._rest = bytearray()
        self._wanted = 0  # bytes, before which looking at the rest is of no use
        self._payload = msgspec.msgpack.Decoder(ext_hook=_no_extension)
        self.broken: CommunicationError | None = None

    @property
    def pending(self) -> int:
        """Bytes of a frame whose rest has not come yet."""
        return len(self._rest)

    def feed(self, data: bytes) -> list[Frame]:
        """The frames that these bytes complete. A fault behind them is raised by the next call.

        Raises:
            CommunicationError: what comes is not a frame; the message says why. Every later call raises it
                again.
        """
        if self.broken is not None:
            raise self.broken
        if self._rest:
            self._rest += data
            if len(self._rest) < self._wanted:
                return []
            data = bytes(self._rest)
            self._rest.clear()
        frames, at = [], 0
        try:
            while at < len(data) and (found := self._frame(data, at)) is not None:
                frame, at = found
                frames.append(frame)
        except CommunicationError as error:
            self.broken = error
            if not frames:
                raise
        else:
            self._rest += data[at:]
        return frames

    def _frame(self, data: bytes, at: int) -> tuple[Frame, int] | None:
        """The frame that begins there and where it ends; None when its rest is missing."""
        seen = data[at : at + 4]
        if not MAGIC.startswith(seen):
            raise _malformed(f"it begins with {seen!r}, not with {MAGIC!r}")
        if len(data) - at < HEADER_SIZE:
            self._wanted = HEADER_SIZE
            return None
        _, version, kind, flags, length, request = _HEAD.unpack_from(data, at)
        if version != VERSION:
            raise _malformed(f"it is of version {version} of the protocol, and this side speaks {VERSION}")
        if kind not in _KINDS:
            raise _malformed(f"its kind {kind} is unknown")
        if flags:
            raise _malformed(f"its flags {flags:#06x} are unknown")
        if length > self._max_payload:
            raise _malformed(f"its payload of {length:,} bytes is too large")
        start = at + HEADER_SIZE
        end = start + length
        if len(data) < end:
            self._wanted = end - at
            return None
        body = memoryview(data)[start:end]
        (check,) = _CHECK.unpack_from(data, at + _HEAD.size)
        if zlib.crc32(body, zlib.crc32(data[at : at + _HEAD.size])) != check:
            raise _malformed("its checksum is wrong")
        try:
            payload = self._payload.decode(body)
        except (ValueError, TypeError, RecursionError) as cause:
            raise _malformed(f"its payload is no msgpack: {cause}") from None
        return Frame(_KINDS[kind], request, payload), end


def _malformed(what: str) -> CommunicationError:
    return CommunicationError(f"a frame is malformed: {what}")

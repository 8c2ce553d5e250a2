"""The decoder takes what the encoder wrote, cut anywhere, and says what is wrong with everything else."""

from __future__ import annotations

import struct
import zlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dspex.errors import CommunicationError
from dspex.processes import frames
from dspex.processes.frames import (
    HEADER_SIZE,
    MAGIC,
    MAX_PAYLOAD,
    VERSION,
    Decoder,
    Frame,
    Kind,
    encode,
    pack,
)

payloads = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False)
    | st.text()
    | st.binary(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)
any_frame = st.builds(Frame, st.sampled_from(Kind), st.integers(0, 2**64 - 1), payloads)


def header(
    magic: bytes = MAGIC,
    version: int = VERSION,
    kind: int = 3,
    flags: int = 0,
    length: int = 1,
    request: int = 7,
) -> bytes:
    return struct.pack(">4sBBHIQ", magic, version, kind, flags, length, request)


def sealed(head: bytes, payload: bytes = b"\xc0") -> bytes:
    """With a checksum that is right."""
    return head + struct.pack(">I", zlib.crc32(payload, zlib.crc32(head))) + payload


def test_the_layout_of_a_frame() -> None:
    data = encode(Frame(Kind.CALL, 7, None))
    assert data == sealed(header())
    assert len(data) == HEADER_SIZE + 1 == 25


@given(st.lists(any_frame, max_size=5), st.data())
def test_frames_come_back_however_the_stream_is_cut(sent: list[Frame], data: st.DataObject) -> None:
    stream = b"".join(map(encode, sent))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=8)))
    decoder, found = Decoder(), []
    for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        found += decoder.feed(stream[start:end])
    assert found == sent
    assert decoder.pending == 0


@given(st.lists(any_frame, min_size=1, max_size=3))
def test_frames_come_back_byte_by_byte(sent: list[Frame]) -> None:
    decoder, found = Decoder(), []
    for byte in b"".join(map(encode, sent)):
        found += decoder.feed(bytes([byte]))
    assert found == sent


@given(st.binary(max_size=200))
def test_garbage_is_refused_or_waited_for(data: bytes) -> None:
    decoder = Decoder(max_payload=1000)
    try:
        assert decoder.feed(data) == []
    except CommunicationError:
        assert decoder.broken is not None
    else:
        assert decoder.pending == len(data)  # it may still become a frame
        assert MAGIC.startswith(data[:4])


@given(any_frame, st.data())
def test_no_flipped_bit_goes_unnoticed(frame: Frame, data: st.DataObject) -> None:
    good = encode(frame)
    at = data.draw(st.integers(0, len(good) - 1))
    bad = bytearray(good)
    bad[at] ^= data.draw(st.integers(1, 255))
    decoder = Decoder(max_payload=100_000)
    try:
        found = decoder.feed(bytes(bad))
    except CommunicationError:
        return
    assert found == []  # the length is larger now: the rest is waited for
    with pytest.raises(CommunicationError):
        _finish(decoder)


def _finish(decoder: Decoder) -> None:
    """Gives the decoder as much as it waits for."""
    decoder.feed(bytes(max(0, decoder._wanted - decoder.pending)))
    raise AssertionError("a damaged frame was taken")


@given(any_frame, st.data())
def test_a_frame_without_its_end_is_waited_for(frame: Frame, data: st.DataObject) -> None:
    good = encode(frame)
    cut = data.draw(st.integers(0, len(good) - 1))
    decoder = Decoder()
    assert decoder.feed(good[:cut]) == []
    assert decoder.pending == cut
    assert decoder.feed(good[cut:]) == [frame]


MALFORMED = [
    (b"GET / HTTP/1.1\r\n\r\n", "begins with b'GET '"),
    (b"D" + bytes(30), "begins with"),
    (sealed(header(version=2)), "version 2 of the protocol, and this side speaks 1"),
    (sealed(header(kind=0)), "kind 0 is unknown"),
    (sealed(header(kind=99)), "kind 99 is unknown"),
    (sealed(header(flags=1)), "flags 0x0001 are unknown"),
    (sealed(header(length=MAX_PAYLOAD + 1)), "268,435,457 bytes is too large"),
    (header() + b"\0\0\0\0\xc0", "checksum"),
    (sealed(header(), b"\xc1"), "no msgpack"),
    (sealed(header(length=2), b"\xc0\xc0"), "no msgpack"),  # more than one value
    (sealed(header(length=0), b""), "no msgpack"),
    (sealed(header(length=3), b"\xd4\x05\x00"), "extension type 5"),
    (sealed(header(length=100_000), b"\x91" * 100_000), "no msgpack"),  # nested too deeply
    (sealed(header(length=3), b"\xa2\xff\xfe"), "no msgpack"),  # text that is no UTF-8
]


@pytest.mark.parametrize(("data", "what"), MALFORMED, ids=[what for _, what in MALFORMED])
def test_what_is_wrong_is_said(data: bytes, what: str) -> None:
    decoder = Decoder()
    with pytest.raises(CommunicationError, match="a frame is malformed") as caught:
        decoder.feed(data)
    assert what in caught.value.message
    with pytest.raises(CommunicationError) as again:
        decoder.feed(encode(Frame(Kind.PING, 1)))
    assert again.value is caught.value


def test_a_bad_header_is_refused_before_its_payload_has_come() -> None:
    with pytest.raises(CommunicationError, match="too large"):
        Decoder(max_payload=10).feed(header(length=11) + b"\0\0\0\0")


def test_a_good_frame_before_garbage_is_not_lost() -> None:
    decoder, frame = Decoder(), Frame(Kind.RESULT, 1, "answer")
    assert decoder.feed(encode(frame) + b"garbage") == [frame]
    assert decoder.broken is not None
    with pytest.raises(CommunicationError, match="begins with"):
        decoder.feed(b"")


def test_a_large_payload_is_looked_at_when_it_is_complete(monkeypatch: pytest.MonkeyPatch) -> None:
    looks = 0
    look = Decoder._frame

    def counting(self: Decoder, data: bytes, at: int) -> Any:
        nonlocal looks
        looks += 1
        return look(self, data, at)

    data = encode(Frame(Kind.RESULT, 1, b"x" * 5_000_000))
    monkeypatch.setattr(Decoder, "_frame", counting)
    decoder, found = Decoder(), []
    for at in range(0, len(data), 65536):
        found += decoder.feed(data[at : at + 65536])
    assert len(found[0].payload) == 5_000_000
    assert looks == 2  # at its header, and at the whole


LOOP: list[Any] = []
LOOP.append(LOOP)


@pytest.mark.parametrize("payload", [object(), {"a": object()}, 2**64, -(2**63) - 1, "\ud800", LOOP, len])
def test_what_cannot_be_sent_is_said_before_it_is(payload: Any) -> None:
    for write in (pack, lambda payload: encode(Frame(Kind.CALL, 1, payload))):
        with pytest.raises(CommunicationError, match="cannot be sent") as caught:
            write(payload)
        assert not caught.value.retryable


def test_a_payload_that_is_too_large_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frames, "MAX_PAYLOAD", 10)
    with pytest.raises(CommunicationError, match="too many"):
        encode(Frame(Kind.CALL, 1, "x" * 20))


@given(payloads)
def test_what_is_packed_ahead_is_sent_as_it_is(payload: Any) -> None:
    (frame,) = Decoder().feed(encode(Frame(Kind.CALL, 1, ["op", pack(payload)])))
    assert frame.payload == ["op", payload]

"""Samples of model files and mutations of them: damage as by accident, and edits with checksums redone."""

from __future__ import annotations

import json
import random
import struct
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from dspex import _modelfile_header as header
from dspex import modelfile
from dspex.errors import ModelFileError

Mutation = Callable[[bytes, random.Random], bytes]

META = {
    "classes": ["a", "ß", "🙂", "\ud800"],
    "rate": 0.1,
    "seed": 2**64 - 1,
    "none": None,
    "deep": [[{}], True],
}


def sample_arrays() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(3)
    return {
        "rows": rng.integers(-128, 128, (33, 16), dtype=np.int8),
        "bias": rng.normal(size=13),
        "scalar": np.array(2.5, np.float32),
        "empty": np.zeros((0, 4), np.uint16),
        "ids": np.arange(7, dtype=np.uint64),
    }


def assert_same(loaded: dict[str, np.ndarray], arrays: dict[str, np.ndarray]) -> None:
    assert list(loaded) == list(arrays)
    for name, array in arrays.items():
        assert loaded[name].dtype == array.dtype.newbyteorder("<")
        assert loaded[name].shape == array.shape
        np.testing.assert_array_equal(loaded[name], array)


# ------------------------------------------------------------------------------------------ valid files


def sample_files(directory: Path) -> list[bytes]:
    """The bytes of a few valid files: a usual one, one of all dtypes, a tiny and an empty one."""
    rng = np.random.default_rng(7)
    usual: dict[str, np.ndarray] = {
        "rows": rng.integers(-128, 128, (120, 16), dtype=np.int8),
        "scales": rng.random(120, dtype=np.float32),
        "bias": rng.normal(size=13),
        "idf": rng.random((5, 7), dtype=np.float32),
        "bounds": np.arange(14, dtype=np.uint32),
    }
    every: dict[str, np.ndarray] = {
        f"{name}.{axes}": np.ones((3,) * axes, dtype=dtype)
        for name, dtype in header.DTYPES.items()
        for axes in range(3)
    }
    every |= {"empty": np.zeros((0, 4), np.float32), "é✓": np.ones(65, np.uint8)}
    meta = {
        "signature": {
            "inputs": {"text": "str"},
            "outputs": {"label": ["refund", "card_lost", "größe", "🙂"]},
        },
        "options": {"seed": 0, "rate": 0.25, "threads": None, "balanced": True},
        "calibration": [0.5, 1.5, -2.0],
    }
    tiny: dict[str, np.ndarray] = {"x": np.ones(1)}
    files = []
    for arrays, about in ((usual, meta), (every, meta), (tiny, {}), ({}, {"a": [[], {}]})):
        modelfile.write_model(directory / "sample.dspex", arrays, about)
        files.append((directory / "sample.dspex").read_bytes())
    (directory / "sample.dspex").unlink()
    return files


def split(content: bytes) -> tuple[bytes, bytes]:
    """The raw header and the data of a valid file."""
    length = int.from_bytes(content[:8], "little")
    return content[8 : 8 + length], content[8 + length :]


def join(raw: bytes, data: bytes) -> bytes:
    """A file of this header and data, with the right length, padding and checksums."""
    raw += b" " * (-(8 + len(raw)) % header.ALIGNMENT)
    with suppress(ModelFileError):  # when the mutation hit the checksum field
        raw = header.seal(raw, data, modelfile._checksum)
    return struct.pack("<Q", len(raw)) + raw + data


# ------------------------------------------------------------------------------- damage, as by accident


def flip_bits(content: bytes, rng: random.Random) -> bytes:
    damaged = bytearray(content)
    for _ in range(rng.choice((1, 1, 2, 8))):
        damaged[rng.randrange(len(damaged))] ^= 1 << rng.randrange(8)
    return bytes(damaged)


def set_bytes(content: bytes, rng: random.Random) -> bytes:
    at = rng.randrange(len(content))
    count = rng.choice((1, 2, 8, 64))
    value = rng.choice((b"\0" * count, b"\xff" * count, rng.randbytes(count)))
    return (content[:at] + value + content[at + count :])[: len(content)]


def truncate(content: bytes, rng: random.Random) -> bytes:
    return content[: rng.choice((rng.randrange(len(content)), rng.randrange(16), len(content) - 1))]


def extend(content: bytes, rng: random.Random) -> bytes:
    return content + rng.randbytes(rng.choice((1, 63, 64, 4096)))


def move_bytes(content: bytes, rng: random.Random) -> bytes:
    """Delete, repeat or overwrite a stretch with another one."""
    begin, other = rng.randrange(len(content)), rng.randrange(len(content))
    stretch = content[begin : begin + rng.choice((1, 8, 64, 512))]
    rest = content[:begin] + content[begin + len(stretch) :]
    return rng.choice(
        (rest, content[:other] + stretch + content[other:], rest[:other] + stretch + rest[other:])
    )


def set_length(content: bytes, rng: random.Random) -> bytes:
    length = int.from_bytes(content[:8], "little")
    near = length + rng.choice((-64, -8, -1, 1, 8, 64))
    far = rng.choice(
        (0, 1, 2, len(content), len(content) - 8, 1 << 24, 1 << 31, 1 << 32, 1 << 63, (1 << 64) - 1)
    )
    return struct.pack("<Q", rng.choice((max(near, 0), far))) + content[8:]


# ----------------------------------------------------------- edits that a checksum would vouch for again

# Numbers as JSON text: some are no JSON, some are JSON that other readers take differently.
NUMBERS = (
    "-1", "0", "1", "2", "3", "63", "64", "65", "127", "4095", "2147483647", "2147483648", "4294967296",
    "4611686018427387904", "4611686018427387905", "9223372036854775807", "9223372036854775808",
    "18446744073709551615", "18446744073709551616", "-9223372036854775808", "-0", "0.0", "1.0", "64.0", "1e1",
    "1e999", "-1e999", "NaN", "Infinity", "-Infinity", "01", "+1", "1_0", "0x10", "٣", "9" * 400, "9" * 5000,
    "true", "false", "null",
)  # fmt: skip
OTHERS = (
    "{}", "[]", "[[]]", '[{"a":[]}]', '""', '"F32"', '"U8"', '"BF16"', '"\\ud800"', '"\\u0000"', '"\\x"',
    '"__metadata__"', '"' + "n" * 300 + '"', "[" * 600 + "]" * 600, "[" * 70000, '{"a":' * 40000,
    "[" + "0," * 300000 + "0]", "'x'", "", ",", "}", "]", '"', "\ufeff", "\n", "// c",
)  # fmt: skip


def any_token(rng: random.Random) -> str:
    return rng.choice(NUMBERS if rng.random() < 0.6 else OTHERS)


class Table:
    """A header as Python objects, in which any value can be replaced by any text."""

    def __init__(self, raw: bytes) -> None:
        self.table: dict[str, Any] = json.loads(raw)
        self.texts: dict[str, str] = {}

    def text(self, replacement: str) -> str:
        """A placeholder for this text, to put into the table."""
        mark = f"@@{len(self.texts)}@@"
        self.texts[mark] = replacement
        return mark

    def render(self) -> bytes:
        text = json.dumps(self.table, ensure_ascii=False, separators=(",", ":"))
        for mark, replacement in self.texts.items():
            text = text.replace(f'"{mark}"', replacement)
        return text.encode("utf-8", "surrogatepass")

    def tensor(self, rng: random.Random) -> dict[str, Any] | None:
        names = [name for name in self.table if name != header.METADATA_KEY]
        return self.table[rng.choice(names)] if names else None


def edit_sizes(table: Table, rng: random.Random) -> None:
    """Another number, or no number, in a shape or an offset."""
    for _ in range(rng.choice((1, 1, 2))):
        tensor = table.tensor(rng)
        if tensor is None:
            return
        sizes = tensor[rng.choice(("shape", "data_offsets"))]
        if not isinstance(sizes, list):
            continue
        value = table.text(any_token(rng))
        choice = rng.randrange(5)
        if choice == 0 or not sizes:
            sizes.insert(rng.randint(0, len(sizes)), value)
        elif choice == 1:
            sizes.pop(rng.randrange(len(sizes)))
        elif choice == 2 and isinstance(sizes[0], int):
            sizes[0] += rng.choice((-64, -1, 1, 64))
        else:
            sizes[rng.randrange(len(sizes))] = value


def edit_shape(table: Table, rng: random.Random) -> None:
    """Another shape of the same or a different size, another dtype: some of these load."""
    tensor = table.tensor(rng)
    if tensor is None:
        return
    count = int(np.prod(tensor["shape"], dtype=np.int64))
    shapes: tuple[list[int], ...] = (
        [count],
        [1, count],
        [count, 1],
        [1] * 8 + [count],
        [0, 2**62],
        [2**62, 0, 4],
        [2**32, 2**32],
        [],
    )
    if rng.random() < 0.7:
        tensor["shape"] = list(rng.choice(shapes))
    if rng.random() < 0.5:
        tensor["dtype"] = rng.choice((*header.DTYPES, "F16", "BOOL", "", 3, None, ["F32"]))


def edit_offsets(table: Table, rng: random.Random) -> None:
    """Tensors that overlap, trade places, or lie as if shifted."""
    first, second = table.tensor(rng), table.tensor(rng)
    if first is None or second is None:
        return
    choice = rng.randrange(3)
    if choice == 0:
        first["data_offsets"], second["data_offsets"] = second["data_offsets"], first["data_offsets"]
    elif choice == 1:
        first["data_offsets"] = list(second["data_offsets"])
    else:
        shift = rng.choice((-64, -1, 1, 64, 2**62, 2**63))
        first["data_offsets"] = [offset + shift for offset in first["data_offsets"]]


def edit_entries(table: Table, rng: random.Random) -> None:
    """Remove, rename, add, replace entries and their fields."""
    name = rng.choice(list(table.table))
    entry = table.table[name]
    choice = rng.randrange(6)
    if choice == 0:
        del table.table[name]
    elif choice == 1:
        names = (
            "",
            "_pad0",
            "_pad",
            "_pad9",
            "a/../b",
            "\ud800",
            "\0",
            "n" * 256,
            "n" * 257,
            "@@",
            "__metadata__",
        )
        table.table[rng.choice(names)] = table.table.pop(name)
    elif choice == 2:
        table.table[name] = table.text(any_token(rng))
    elif choice == 3:
        entry.pop(rng.choice(list(entry)))
    elif choice == 4:
        entry[rng.choice(("extra", "dtype", "shape"))] = table.text(any_token(rng))
    else:
        table.table["new"] = {"dtype": "U8", "shape": [0], "data_offsets": [0, 0]}


def edit_metadata(table: Table, rng: random.Random) -> None:
    fields = table.table[header.METADATA_KEY]
    key = rng.choice((*fields, "extra"))
    values = ("", "1", "2", "02", "-1", "999999999", "1.0", "pt", "²", "\0", "x" * 40, "0" * 32)
    fields[key] = rng.choice((rng.choice(values), table.text(any_token(rng))))


def edit_meta(table: Table, rng: random.Random) -> None:
    """The meta's own JSON text: a token replaced or inserted, a key doubled, another text."""
    fields = table.table[header.METADATA_KEY]
    text = fields["dspex"]
    at = rng.randrange(len(text))
    token = any_token(rng)
    fields["dspex"] = rng.choice((
        token,
        text[:at] + token + text[at:],
        text[:at] + token + text[at + 1 :],
        text[:-1] + ',"k":1,"k":2}',
        '{"k":' + token + "}",
        text[:at],
    ))  # fmt: skip


TABLE_EDITS = (edit_sizes, edit_sizes, edit_shape, edit_offsets, edit_entries, edit_metadata, edit_meta)


def edit_table(content: bytes, rng: random.Random) -> bytes:
    raw, data = split(content)
    table = Table(raw)
    rng.choice(TABLE_EDITS)(table, rng)
    return join(table.render(), data)


def edit_text(content: bytes, rng: random.Random) -> bytes:
    """A token put anywhere into the header's text, or an entry doubled."""
    raw, data = split(content)
    text = raw.decode().rstrip()
    if rng.random() < 0.2:
        doubled = text[1:-1].split("},")[-1]
        return join(f"{text[:-1]},{doubled}}}".encode(), data)
    at = rng.choice((0, 1, len(text), rng.randrange(len(text))))
    return join((text[:at] + any_token(rng) + text[at + rng.choice((0, 1)) :]).encode(), data)


def edit_data(content: bytes, rng: random.Random) -> bytes:
    """Other values in the arrays, NaN and infinities among them; or more or fewer of them."""
    raw, data = split(content)
    if not data or rng.random() < 0.1:
        return join(raw.rstrip(), data + rng.randbytes(rng.choice((1, 64))))
    values = struct.pack("<f", float("nan")), struct.pack("<d", float("-inf")), b"\xff" * 8, rng.randbytes(8)
    value = rng.choice(values)
    at = rng.randrange(len(data)) & -len(value)
    changed = (data[:at] + value + data[at + len(value) :])[: len(data)]
    return join(raw.rstrip(), changed if rng.random() < 0.9 else changed[: rng.randrange(len(data))])


DAMAGES: tuple[Mutation, ...] = (flip_bits, set_bytes, truncate, extend, move_bytes, set_length)
EDITS: tuple[Mutation, ...] = (edit_table,) * 8 + (edit_text,) * 2 + (edit_data,) * 2

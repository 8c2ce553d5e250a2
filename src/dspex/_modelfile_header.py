"""The header of a model file: planned, rendered, parsed, and checked without trusting a byte of it.

Every function that reads raises ModelFileError without the path; the caller, who knows it, adds it.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

import numpy as np

from .errors import ModelFileError

ALIGNMENT = 64
MAX_HEADER_BYTES = 16 << 20
MAX_ARRAYS = 1024
MAX_NAME_LENGTH = 256
MAX_DIMENSIONS = 8
MAX_ARRAY_BYTES = 1 << 62
# JSON grows when it is parsed, up to a hundredfold for `{}`: these bounds keep 16 MiB of it under 100 MB.
MAX_JSON_CONTAINERS = 1 << 16
MAX_JSON_ITEMS = 1 << 18
MAX_JSON_DEPTH = 64
SAFE_JSON_DEPTH = 512  # nothing with fewer lists and objects than this can exhaust a C stack

FORMAT = "dspex"
FORMAT_VERSION = 1
METADATA_KEY = "__metadata__"
_METADATA_FIELDS = {"format", "format_version", "dspex", "checksum"}
_ENTRY_FIELDS = {"dtype", "shape", "data_offsets"}

DTYPES: dict[str, np.dtype[Any]] = {
    "F32": np.dtype("<f4"),
    "F64": np.dtype("<f8"),
    "I8": np.dtype("i1"),
    "U8": np.dtype("u1"),
    "I16": np.dtype("<i2"),
    "U16": np.dtype("<u2"),
    "I32": np.dtype("<i4"),
    "U32": np.dtype("<u4"),
    "I64": np.dtype("<i8"),
    "U64": np.dtype("<u8"),
}
_DTYPE_NAMES = {dtype.str: name for name, dtype in DTYPES.items()}

DAMAGED = "The file is damaged, or not from dspex: restore it from its source, or save the program again"
FOREIGN = "dspex reads only what program.save(path) writes; check that this is the right file"
MOVE_TO_ARRAYS = "Large tables belong into arrays, not into the meta"

_PADDING_NAME = re.compile(r"_pad[0-9]+")
# A JSON string is full of escaped quotes, so these bytes can only be the metadata field itself.
_CHECKSUM_FIELD = re.compile(rb'"checksum":"([0-9a-f]{32})"')
_NO_CHECKSUM = "0" * 32
# Always matches a whole string, or the rest of the text if it never ends: no rescans, so linear time.
_STRING_OR_BRACKET = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*(?:"|\\?\Z)|[\[{\]}]', re.DOTALL)

Checksum = Callable[[Any], int]


@dataclass(frozen=True, slots=True)
class Entry:
    """One tensor of the table: where its bytes [begin, end) lie in the data buffer and what they are."""

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    begin: int
    end: int
    is_padding: bool = False


@dataclass(frozen=True, slots=True)
class Header:
    """A checked header: the arrays' entries without padding, the meta, and what the data must sum to."""

    entries: tuple[Entry, ...]
    meta: dict[str, Any]
    data_checksum: int


def _damaged(message: str) -> NoReturn:
    raise ModelFileError(message, hint=DAMAGED)


# ---------------------------------------------------------------------------------------------- writing


def is_array_name(name: object) -> bool:
    """Whether an array can have this name: 1 to 256 Unicode characters, and not one of the reserved names."""
    return (
        isinstance(name, str)
        and 0 < len(name) <= MAX_NAME_LENGTH
        and _is_unicode(name)
        and name != METADATA_KEY
        and not _PADDING_NAME.fullmatch(name)
    )


def little_endian(dtype: np.dtype[Any]) -> np.dtype[Any] | None:
    """The stored form of a dtype, or None if the file has none for it."""
    return DTYPES.get(_DTYPE_NAMES.get(dtype.newbyteorder("<").str, ""))


def plan(arrays: Mapping[str, np.ndarray]) -> list[Entry]:
    """Lay the arrays out in their order, each on a multiple of 64 bytes.

    The format forbids holes, so the gaps are tensors of their own, named `_pad` and a number.
    """
    entries: list[Entry] = []
    position = 0
    for index, (name, array) in enumerate(arrays.items()):
        gap = -position % ALIGNMENT
        if gap:
            entries.append(
                Entry(f"_pad{index}", DTYPES["U8"], (gap,), position, position + gap, is_padding=True)
            )
            position += gap
        entries.append(Entry(name, array.dtype, array.shape, position, position + array.nbytes))
        position += array.nbytes
    return entries


def render(entries: list[Entry], meta_text: str) -> bytes:
    """The header's bytes, its checksum still zeros, padded so that the data begins on a multiple of 64."""
    fields = {
        "format": FORMAT,
        "format_version": str(FORMAT_VERSION),
        "checksum": _NO_CHECKSUM,
        "dspex": meta_text,
    }
    table: dict[str, Any] = {METADATA_KEY: fields}
    for entry in entries:
        table[entry.name] = {
            "dtype": _DTYPE_NAMES[entry.dtype.str],
            "shape": list(entry.shape),
            "data_offsets": [entry.begin, entry.end],
        }
    raw = json.dumps(table, ensure_ascii=False, separators=(",", ":")).encode("utf-8")
    return raw + b" " * (-(8 + len(raw)) % ALIGNMENT)


def seal(raw: bytes, data: Any, checksum: Checksum) -> bytes:
    """The same header with its checksum filled in: 16 hex digits for the header, 16 for the data."""
    blank, _ = _split_checksum(raw)
    digits = f"{checksum(blank):016x}{checksum(data):016x}".encode()
    return _CHECKSUM_FIELD.sub(b'"checksum":"' + digits + b'"', raw)


def dump_meta(meta: Mapping[str, Any]) -> str:
    """The meta as compact JSON with sorted keys, refusing whatever would not come back the same."""
    _check_json(meta, "meta", MAX_JSON_DEPTH)
    return json.dumps(meta, sort_keys=True, separators=(",", ":"), allow_nan=False)


def _check_json(value: Any, where: str, depth: int) -> None:
    problem = None
    if depth == 0 and isinstance(value, (dict, list, tuple)):
        problem = f"is nested deeper than {MAX_JSON_DEPTH} levels"
    elif isinstance(value, dict):
        for key, item in value.items():
            if type(key) is not str:
                raise ModelFileError(f"{where} has the key {key!r}", hint="Keys must be str")
            _check_json(item, f"{where}.{key}", depth - 1)
    elif isinstance(value, (list, tuple)):
        for index, item in enumerate(value):
            _check_json(item, f"{where}[{index}]", depth - 1)
    elif isinstance(value, float):
        problem = None if math.isfinite(value) else f"is {value}"
    elif isinstance(value, int):
        problem = None if -(2**63) <= value < 2**64 else "is an integer beyond 64 bits"
    elif value is not None and not isinstance(value, str):
        problem = f"is a {type(value).__name__}"
    if problem:
        raise ModelFileError(
            f"{where} {problem}", hint="Meta takes None, bool, 64-bit int, finite float, str, list and dict"
        )


# ---------------------------------------------------------------------------------------------- reading


def parse_header(raw: bytes, data_bytes: int, checksum: Checksum) -> Header:
    """Check a header against its own checksum and against the size of the data that follows it.

    Args:
        raw: the header as it lies in the file, with its trailing spaces.
        data_bytes: how many bytes follow it.
        checksum: the 64-bit checksum of a buffer.

    Raises:
        ModelFileError: anything about it is not as `render` and `seal` write it.
    """
    table = _header_table(raw)
    fields = _metadata(table)
    _check_version(fields)
    if (8 + len(raw)) % ALIGNMENT:
        _damaged("the data does not begin on a multiple of 64 bytes")
    blank, digits = _split_checksum(raw)
    if checksum(blank) != int(digits[:16], 16):
        _damaged("the header does not match its checksum")
    if fields.keys() != _METADATA_FIELDS:
        _damaged(f"the metadata must have exactly the fields {', '.join(sorted(_METADATA_FIELDS))}")
    entries = _entries(table, data_bytes)
    return Header(entries, _parse_meta(fields["dspex"]), int(digits[16:], 16))


def _header_table(raw: bytes) -> dict[str, Any]:
    if not raw.startswith(b"{"):
        raise ModelFileError("it is not in the safetensors format", hint=FOREIGN)
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError:
        _damaged("the header is not UTF-8")
    return _parse_json(text.rstrip(" "), _HEADER_JSON, "the header")


def _metadata(table: dict[str, Any]) -> dict[str, str]:
    fields = table.pop(METADATA_KEY, None)
    if not isinstance(fields, dict) or fields.get("format") != FORMAT:
        raise ModelFileError("it is a safetensors file, but not one that dspex wrote", hint=FOREIGN)
    for value in fields.values():
        if not isinstance(value, str) or not _is_unicode(value):
            _damaged("the metadata must be text")
    return fields


def _check_version(fields: dict[str, str]) -> None:
    version = fields.get("format_version", "")
    if version == str(FORMAT_VERSION):
        return
    if version.isascii() and version.isdigit() and len(version) < 10 and int(version) > FORMAT_VERSION:
        raise ModelFileError(
            f"it is of format version {version}, and this build of dspex reads version {FORMAT_VERSION}",
            hint="Upgrade dspex, or save the program again with this version",
        )
    _damaged(f"its format version is {_shown(version)}")


def _split_checksum(raw: bytes) -> tuple[bytes, str]:
    """The header with zeros in place of its checksum, and the checksum's 32 digits."""
    found = list(_CHECKSUM_FIELD.finditer(raw))
    if len(found) != 1:
        _damaged("the metadata has no checksum of 32 hex digits")
    begin, end = found[0].span(1)
    return raw[:begin] + _NO_CHECKSUM.encode() + raw[end:], found[0][1].decode()


def _entries(table: dict[str, Any], data_bytes: int) -> tuple[Entry, ...]:
    if len(table) > 2 * MAX_ARRAYS:
        _damaged(f"it holds more than {MAX_ARRAYS} arrays")
    entries = sorted((_entry(name, spec) for name, spec in table.items()), key=lambda e: (e.begin, e.end))
    position = 0
    for entry in entries:
        if entry.begin != position:
            relation = "overlaps" if entry.begin < position else "leaves a hole after"
            _damaged(f"tensor {_shown(entry.name)} {relation} the one before it")
        position = entry.end
    if position != data_bytes:
        _damaged(f"its tensors take {position} bytes, but {data_bytes} bytes of data are there")
    arrays = tuple(entry for entry in entries if not entry.is_padding)
    if len(arrays) > MAX_ARRAYS:
        _damaged(f"it holds more than {MAX_ARRAYS} arrays")
    return arrays


def _entry(name: str, spec: Any) -> Entry:
    where = f"tensor {_shown(name)}"
    if not 0 < len(name) <= MAX_NAME_LENGTH or not _is_unicode(name):
        _damaged(f"{where} has a name that is empty, too long or not Unicode")
    if not isinstance(spec, dict) or spec.keys() != _ENTRY_FIELDS:
        _damaged(f"{where} must have exactly dtype, shape and data_offsets")
    dtype = DTYPES.get(spec["dtype"]) if isinstance(spec["dtype"], str) else None
    if dtype is None:
        _damaged(f"{where} has the dtype {_shown(spec['dtype'])}, not one of {', '.join(DTYPES)}")
    shape = _sizes(spec["shape"], f"{where}: shape")
    offsets = _sizes(spec["data_offsets"], f"{where}: data_offsets")
    if len(offsets) != 2 or offsets[0] > offsets[1]:
        _damaged(f"{where}: data_offsets must be a beginning and an end")
    entry = Entry(name, dtype, shape, *offsets, is_padding=_PADDING_NAME.fullmatch(name) is not None)
    _check_extent(entry, where)
    return entry


def _sizes(value: Any, where: str) -> tuple[int, ...]:
    if not isinstance(value, list) or len(value) > MAX_DIMENSIONS:
        _damaged(f"{where} must be a list of at most {MAX_DIMENSIONS} sizes")
    for size in value:
        if type(size) is not int or not 0 <= size <= MAX_ARRAY_BYTES:
            _damaged(f"{where} holds {_shown(size)}, which is no size")
    return tuple(value)


def _check_extent(entry: Entry, where: str) -> None:
    # Zeros count as ones: NumPy too refuses a shape whose other sizes overflow, empty or not.
    bound = entry.dtype.itemsize
    for size in entry.shape:
        bound *= max(size, 1)
        if bound > MAX_ARRAY_BYTES:
            _damaged(f"{where} is larger than any memory")
    if entry.end - entry.begin != (0 if 0 in entry.shape else bound):
        _damaged(f"{where}: its shape and dtype do not give the size of its data")
    if entry.is_padding:
        if entry.dtype != DTYPES["U8"] or len(entry.shape) != 1 or bound >= ALIGNMENT:
            _damaged(f"{where} is not padding")
    elif entry.begin % ALIGNMENT:
        _damaged(f"{where} does not begin on a multiple of 64 bytes")


def _parse_meta(text: str) -> dict[str, Any]:
    return _parse_json(text, _META_JSON, "the meta")


# ------------------------------------------------------------------------------------------------- JSON


def _parse_json(text: str, decoder: json.JSONDecoder, what: str) -> dict[str, Any]:
    _check_bulk(text)
    try:
        value = decoder.decode(text)
    except (ValueError, RecursionError) as error:
        raise ModelFileError(f"{what} is not valid JSON: {error}", hint=DAMAGED) from error
    if not isinstance(value, dict):
        _damaged(f"{what} is not a JSON object")
    return value


def _check_bulk(text: str) -> None:
    containers = text.count("[") + text.count("{")
    if containers > MAX_JSON_CONTAINERS or text.count(",") > MAX_JSON_ITEMS:
        raise ModelFileError(
            f"its JSON has more than {MAX_JSON_ITEMS} items or {MAX_JSON_CONTAINERS} lists and objects",
            hint=MOVE_TO_ARRAYS,
        )
    # Python's own depth limit is the application's to raise, and the C stack ends before it.
    if containers > SAFE_JSON_DEPTH:
        depth = 0
        for token in _STRING_OR_BRACKET.finditer(text):
            kind = text[token.start()]
            depth += (kind in "[{") - (kind in "]}")
            if depth > MAX_JSON_DEPTH:
                _damaged(f"its JSON is nested deeper than {MAX_JSON_DEPTH} levels")


def _size(text: str) -> int:
    if not text.isdigit() or len(text) > 19:  # "-0" too: other readers take it for a float
        raise ValueError(f"{_shown(text)} is no size")
    return int(text)


def _integer(text: str) -> int:
    value = int(text) if len(text) <= 20 else 2**64
    if not -(2**63) <= value < 2**64:
        raise ValueError("an integer beyond 64 bits")
    return value


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError("a number beyond the range of floats")
    return value


def _no_constant(text: str) -> NoReturn:
    raise ValueError(f"{text} is no JSON")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        raise ValueError("a key occurs twice in one object")
    return value


def _decoder(integer: Callable[[str], int]) -> json.JSONDecoder:
    return json.JSONDecoder(
        parse_int=integer, parse_float=_finite, parse_constant=_no_constant, object_pairs_hook=_unique
    )


_HEADER_JSON = _decoder(_size)
_META_JSON = _decoder(_integer)


def _is_unicode(text: str) -> bool:
    # JSON can spell a lone surrogate, which is no text: other readers refuse the file.
    if text.isascii():
        return True
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."

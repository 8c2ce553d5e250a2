"""Rows from files: JSONL, CSV, TSV and Parquet, each row a dict.

With a signature, rows hold exactly its fields: other columns are left out, missing ones are an error, and
the text of CSV cells is read as the type of its field. JSONL and Parquet have types of their own, which are
checked against the signature when the rows are used.

CSV cells: a bool is true/false, yes/no or 1/0; a number is written with a point and without separators; a
class is written as its value (an Enum member also by its name); several labels are a JSON list or are
separated by ``|``, an empty cell meaning none; a vector is a JSON list of numbers.
"""

from __future__ import annotations

import csv
import importlib
import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from dspex._cells import cell_reader, class_finder
from dspex.errors import ConfigError, InputError, nearest

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from dspex.signature import Field, Signature

__all__ = ["class_finder", "iter_rows", "json_row", "read_rows"]

Row = dict[str, Any]

_FORMATS = {
    ".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "jsonl",
    ".csv": "csv", ".tsv": "tsv", ".parquet": "parquet", ".pq": "parquet",
}  # fmt: skip
_CELL_LIMIT = 64 << 20  # bytes; the csv module's own limit of 128 KiB is short for documents
_UTF16 = (b"\xff\xfe", b"\xfe\xff")


def read_rows(
    path: str | os.PathLike[str],
    signature: Signature | None = None,
    *,
    outputs: bool = True,
    format: str | None = None,
) -> list[Row]:
    """All rows of a file.

    Args:
        path: the file, or ``"-"`` for JSONL on standard input.
        signature: keep, require and convert its fields; without it rows come as they are (CSV cells as text).
        outputs: whether the signature's outputs are wanted too, or its inputs only.
        format: ``"jsonl"``, ``"csv"``, ``"tsv"`` or ``"parquet"``; by default the file's ending says it.

    Raises:
        InputError: the file cannot be read, holds no rows, or a row is not what it should be. ``row`` is the
            index in the returned list; the message has the line in the file, counted from 1.
        ConfigError: an unknown format, or Parquet without pyarrow.
    """
    rows = list(iter_rows(path, signature, outputs=outputs, format=format))
    if not rows:
        raise InputError(f"{_name(path)} holds no rows")
    return rows


def iter_rows(
    path: str | os.PathLike[str],
    signature: Signature | None = None,
    *,
    outputs: bool = True,
    format: str | None = None,
) -> Iterator[Row]:
    """As ``read_rows``, one row at a time; a file without rows yields nothing."""
    kind = format or _format_of(path)
    fields = _wanted(signature, outputs)
    if kind == "jsonl":
        return _jsonl_rows(path, fields)
    if kind == "csv" or kind == "tsv":
        return _csv_rows(path, fields, "," if kind == "csv" else "\t")
    if kind == "parquet":
        return _parquet_rows(path, fields)
    raise ConfigError(f"unknown data format {kind!r}", hint=nearest(kind, set(_FORMATS.values())))


def json_row(line: str | bytes, where: str, row: int) -> Row:
    """One line of JSONL as a dict; ``where`` (file and line) and ``row`` are for the error."""
    try:
        value = json.loads(line, object_pairs_hook=_no_duplicates)
    except RecursionError:
        raise InputError(f"{where}: JSON nested too deeply", row=row) from None
    except UnicodeDecodeError as error:
        raise _not_utf8(where, error, row) from None
    except json.JSONDecodeError as error:
        raise InputError(
            f"{where}: not valid JSON at character {error.pos + 1}: {error.msg}",
            row=row,
            hint=_json_hint(error.doc),
        ) from None
    except ValueError as error:
        raise InputError(f"{where}: {error}", row=row) from None
    if not isinstance(value, dict):
        raise InputError(
            f"{where}: a row must be a JSON object, not {_json_type(value)}",
            row=row,
            hint='Write one object a line, such as {"text": "...", "label": "..."}',
        )
    return value


# Files


def _name(path: str | os.PathLike[str]) -> str:
    return "standard input" if path == "-" else os.fspath(path)


def _format_of(path: str | os.PathLike[str]) -> str:
    if path == "-":
        return "jsonl"
    suffix = Path(path).suffix.lower()
    if suffix not in _FORMATS:
        raise ConfigError(
            f"cannot tell the format of {_name(path)} from its ending {suffix!r}",
            hint=f"Known endings: {', '.join(_FORMATS)}",
        )
    return _FORMATS[suffix]


def _open(path: str | os.PathLike[str]) -> AbstractContextManager[BinaryIO]:
    if path == "-":
        return nullcontext(sys.stdin.buffer)
    try:
        return open(path, "rb")
    except (OSError, ValueError) as error:
        raise _unreadable(path, error) from None


def _unreadable(path: str | os.PathLike[str], error: Exception) -> InputError:
    reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return InputError(f"cannot read {_name(path)}: {reason}")


def _lines(handle: BinaryIO, path: str | os.PathLike[str]) -> Iterator[bytes]:
    """The lines of a file without its byte order mark."""
    try:
        for number, line in enumerate(handle):
            if number == 0:
                if line.startswith(_UTF16):
                    raise InputError(f"{_name(path)} is UTF-16, not UTF-8", hint="Save it as UTF-8")
                line = line.removeprefix(b"\xef\xbb\xbf")
            yield line
    except OSError as error:
        raise _unreadable(path, error) from None


def _not_utf8(where: str, error: UnicodeDecodeError, row: int | None) -> InputError:
    byte = error.object[error.start]
    message = f"{where}: byte {error.start + 1} (0x{byte:02x}) is not UTF-8"
    return InputError(message, row=row, hint="Save the file as UTF-8")


# JSONL


def _jsonl_rows(path: str | os.PathLike[str], fields: Mapping[str, Field] | None) -> Iterator[Row]:
    row = 0
    with _open(path) as handle:
        for number, line in enumerate(_lines(handle, path), start=1):
            if not line.strip():
                continue
            where = f"{_name(path)} line {number}"
            yield _select(json_row(line, where, row), fields, where, row)
            row += 1


def _select(values: Row, fields: Mapping[str, Field] | None, where: str, row: int) -> Row:
    if fields is None:
        return values
    try:
        return {name: values[name] for name in fields}
    except KeyError:
        missing = next(name for name in fields if name not in values)
        raise _missing(missing, values, where, row) from None


def _missing(name: str, known: Iterable[str], where: str, row: int | None) -> InputError:
    hint = nearest(name, known)
    return InputError(f"{where}: {name!r} is missing", field=name, row=row, hint=hint)


def _no_duplicates(pairs: list[tuple[str, Any]]) -> Row:
    values = dict(pairs)
    if len(values) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the key {twice!r} occurs twice")
    return values


def _json_type(value: Any) -> str:
    kinds = {list: "a list", str: "a string", bool: "a boolean", type(None): "null"}
    return kinds.get(type(value), "a number")


def _json_hint(text: str) -> str:
    if text.strip() in ("[", "{"):
        return "The JSON is spread over several lines: write each row on one line, without a list around them"
    return "Each line must be one JSON object"


# CSV


def _csv_rows(path: str | os.PathLike[str], fields: Mapping[str, Field] | None, comma: str) -> Iterator[Row]:
    csv.field_size_limit(max(csv.field_size_limit(), _CELL_LIMIT))
    with _open(path) as handle:
        records = _records(handle, path, comma)
        _, header = next(records, (0, []))
        if not header:
            raise InputError(f"{_name(path)} holds no header and no rows")
        columns = _columns(header, fields, path)
        for row, (line, cells) in enumerate(records):
            where = f"{_name(path)} line {line}"
            if len(cells) != len(header):
                raise InputError(
                    f"{where}: {len(cells)} cells where the header has {len(header)} columns",
                    row=row,
                    hint='Put a cell that holds the separator or a line break in "quotes"',
                )
            yield {name: _read_cell(cells[at], name, read, where, row) for name, at, read in columns}


def _records(handle: BinaryIO, path: str | os.PathLike[str], comma: str) -> Iterator[tuple[int, list[str]]]:
    """Each record that is not blank, with the line it starts on."""
    reader = csv.reader(_text_lines(handle, path), delimiter=comma, strict=True)
    while True:
        line = reader.line_num + 1
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            hint = 'A quoted cell ends with ", and a " inside it is written ""'
            raise InputError(
                f"{_name(path)}: broken record from line {line} on: {error}", hint=hint
            ) from None
        if cells:
            yield line, cells


def _text_lines(handle: BinaryIO, path: str | os.PathLike[str]) -> Iterator[str]:
    for number, line in enumerate(_lines(handle, path), start=1):
        try:
            yield line.decode("utf-8")
        except UnicodeDecodeError as error:
            raise _not_utf8(f"{_name(path)} line {number}", error, None) from None


def _columns(
    header: list[str], fields: Mapping[str, Field] | None, path: str | os.PathLike[str]
) -> list[tuple[str, int, Callable[[str], Any]]]:
    """Name, position and reader of each column that is wanted."""
    names = [name.strip() for name in header]
    for name in names:
        if names.count(name) > 1:
            raise InputError(f"{_name(path)}: the column {name!r} occurs twice", field=name)
    if fields is None:
        return [(name, at, str) for at, name in enumerate(names)]
    for name in fields:
        if name not in names:
            error = _missing(name, names, f"{_name(path)} header", None)
            if len(names) == 1 and ";" in names[0]:
                error.hint = "The columns are separated by ';': use ',' or save the file as .tsv"
            raise error
    return [(name, names.index(name), cell_reader(field)) for name, field in fields.items()]


def _read_cell(cell: str, name: str, read: Callable[[str], Any], where: str, row: int) -> Any:
    try:
        return read(cell)
    except ValueError as error:
        raise InputError(f"{where}: {error}", field=name, row=row) from None


# Parquet


def _parquet_rows(path: str | os.PathLike[str], fields: Mapping[str, Field] | None) -> Iterator[Row]:
    try:
        arrow: Any = importlib.import_module("pyarrow")
        parquet: Any = importlib.import_module("pyarrow.parquet")
    except ImportError:
        hint = "Install it with: pip install 'dspex[parquet]'"
        raise ConfigError(f"reading {_name(path)} needs pyarrow", hint=hint) from None
    try:
        with _open(path) as handle, parquet.ParquetFile(handle) as table:
            names = table.schema_arrow.names
            for name in fields or ():
                if name not in names:
                    raise _missing(name, names, _name(path), None)
            columns = None if fields is None else list(fields)
            for batch in table.iter_batches(columns=columns, batch_size=8192):
                yield from batch.to_pylist()
    except (arrow.ArrowException, OSError) as error:
        raise InputError(f"{_name(path)} cannot be read as Parquet: {error}") from None


def _wanted(signature: Signature | None, outputs: bool) -> Mapping[str, Field] | None:
    if signature is None:
        return None
    return {**signature.inputs, **signature.outputs} if outputs else dict(signature.inputs)

"""What all imports share: rows that fit are traces, rows that do not are errors, raised or collected."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Self

from dspex.distill.trace import Trace
from dspex.errors import ConfigError, DspexError, InputError, SignatureError, nearest
from dspex.signature import Signature

__all__ = ["Item", "Misfit", "OnError", "Problem", "Reading", "documents"]

OnError = Literal["raise", "collect"]
_SHOWN = 12


class Misfit(Exception):
    """A row that is no trace of this signature; becomes an error with its place.

    Args:
        found: the names of fields that it has instead.
    """

    def __init__(self, reason: str, *, field: str | None = None, found: Iterable[str] = ()) -> None:
        super().__init__(reason)
        self.field = field
        self.found = tuple(found)


@dataclass(frozen=True, slots=True)
class Problem:
    """A row that was left out.

    Attributes:
        where: its line or the id of its trace.
        error: what is wrong with it.
    """

    where: str
    error: DspexError


@dataclass(frozen=True, slots=True)
class Item:
    """One row to be read: where it stands, and what makes traces of it or raises `Misfit` or InputError."""

    where: str
    read: Callable[[], Iterable[Trace]]


class Reading(Iterator[Trace]):
    """Traces of a source, as they are read.

    Attributes:
        taken: traces so far.
        problems: with `on_error="collect"`, the rows that were left out.
    """

    def __init__(self, items: Iterable[Item], signature: Signature, source: str, on_error: OnError) -> None:
        if on_error not in ("raise", "collect"):
            raise ConfigError(
                f"on_error cannot be {on_error!r}", hint=nearest(on_error, ("raise", "collect"))
            )
        self.taken = 0
        self.problems: list[Problem] = []
        self._signature = signature
        self._source = source
        self._on_error = on_error
        self._found: dict[str, None] = {}
        self._traces = self._read(iter(items))

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Trace:
        return next(self._traces)

    def _read(self, items: Iterator[Item]) -> Iterator[Trace]:
        for item in items:
            try:
                traces = list(item.read())
            except (Misfit, InputError) as cause:
                self._leave_out(item.where, cause)
                continue
            self.taken += len(traces)
            yield from traces
        if not self.taken:
            raise self._nothing()

    def _leave_out(self, where: str, cause: Misfit | InputError) -> None:
        if isinstance(cause, Misfit):
            self._found.update(dict.fromkeys(cause.found))
        if self._on_error == "raise":
            if isinstance(cause, Misfit) and cause.found and not self.taken and self._foreign():
                raise self._nothing() from None
            raise _placed(where, cause) from None
        self.problems.append(Problem(where, _placed(where, cause)))

    def _foreign(self) -> bool:
        return not any(name in self._signature.fields for name in self._found)

    def _nothing(self) -> DspexError:
        wanted = self._signature.to_string()
        if self._found:
            names = ", ".join(map(repr, list(self._found)[:_SHOWN]))
            return SignatureError(
                f"nothing in {self._source} fits the signature {wanted!r}: found the fields {names}",
                hint="Give the file that belongs to it, or another signature",
            )
        if self.problems:
            return InputError(f"nothing in {self._source} can be used", hint=str(self.problems[0].error))
        return InputError(f"{self._source} holds no traces", hint=f"Wanted are calls of {wanted!r}")


def _placed(where: str, cause: Misfit | InputError) -> InputError:
    if isinstance(cause, InputError):
        return InputError(f"{where}: {cause.message}", field=cause.field, hint=cause.hint)
    found = ", ".join(map(repr, cause.found[:_SHOWN]))
    hint = f"It has {found}" if found else None
    return InputError(f"{where}: {cause}", field=cause.field, hint=hint)


def documents(source: Any) -> tuple[str, Iterator[tuple[str, Any]]]:
    """The JSON values of a source, each with its place.

    Args:
        source: a path to JSON, a JSON list or JSONL; or lines; or values already read, one or several.

    Returns:
        the name of the source, and (place, value); a line that is no JSON is an InputError for a value.

    Raises:
        InputError: the file cannot be read.
    """
    if isinstance(source, str | os.PathLike):
        name = os.fspath(source)
        return name, _of_file(name)
    if isinstance(source, Mapping):
        return "the source", iter([("the source", source)])
    return "the source", _of_values(source)


def _of_file(name: str) -> Iterator[tuple[str, Any]]:
    try:
        with open(name, "rb") as file:
            first = _first_character(file.read(4096))
            file.seek(0)
            if first == b"[":
                yield from _whole(name, file.read())
                return
            lines = iter(enumerate(file, 1))
            for number, line in lines:
                if not line.strip():
                    continue
                if number == 1 and _is_open(line):  # one object over many lines
                    file.seek(0)
                    yield from _whole(name, file.read())
                    return
                yield f"{name} line {number}", _parsed(line)
    except OSError as error:
        raise InputError(f"cannot read {name}: {error.strerror}") from None


def _first_character(start: bytes) -> bytes:
    return start.removeprefix(b"\xef\xbb\xbf").lstrip()[:1]


def _is_open(line: bytes) -> bool:
    return isinstance(_parsed(line), InputError) and line.strip().removeprefix(b"\xef\xbb\xbf") in (
        b"{",
        b"[",
    )


def _whole(name: str, text: bytes) -> Iterator[tuple[str, Any]]:
    value = _parsed(text)
    if isinstance(value, list):
        yield from ((f"{name} item {number}", item) for number, item in enumerate(value, 1))
    else:
        yield name, value


def _of_values(values: Iterable[Any]) -> Iterator[tuple[str, Any]]:
    for number, value in enumerate(values, 1):
        if isinstance(value, str | bytes):
            if value.strip():
                yield f"line {number}", _parsed(value)
        else:
            yield f"item {number}", value


def _parsed(text: str | bytes) -> Any:
    try:
        if isinstance(text, bytes):
            text = text.decode("utf-8-sig")
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        reason = str(error) if isinstance(error, ValueError) else "it is nested too deeply"
        return InputError(f"not valid JSON: {reason}")

"""Errors as data, so that one raised in a worker is raised again, as itself, in its parent."""

from __future__ import annotations

import traceback
from typing import Any

from dspex import errors
from dspex.errors import CommunicationError, DspexError, InternalError

__all__ = ["from_data", "to_data"]

_FIELDS = ("field", "program", "row", "hint", "retryable", "retry_after")
_CLASSES = {
    name: each
    for name, each in vars(errors).items()
    if isinstance(each, type) and issubclass(each, DspexError)
}


def to_data(error: BaseException) -> dict[str, Any]:
    """The error as JSON-able data. One that is no DspexError becomes an InternalError with its traceback."""
    if not isinstance(error, DspexError):
        wrapped = InternalError(f"a worker's handler raised {type(error).__name__}: {error}")
        wrapped.add_note("".join(traceback.format_exception(error)).rstrip())
        error = wrapped
    return {
        # A subclass of somebody else's is known on the other side by its next relative here.
        "class": next(each.__name__ for each in type(error).__mro__ if _CLASSES.get(each.__name__) is each),
        "message": _plain(error.message),
        **{name: _plain(getattr(error, name)) for name in _FIELDS},
        "notes": [_plain(note) for note in getattr(error, "__notes__", ())],
    }


def _plain(value: Any) -> Any:
    """What can always be sent: an error must not fail for the text in it."""
    if value is None or isinstance(value, bool | int | float):
        return value
    return str(value).encode(errors="backslashreplace").decode()


def from_data(data: Any) -> DspexError:
    """The error that `to_data` described; a CommunicationError when it describes none."""
    try:
        error = _CLASSES[data["class"]](str(data["message"]), **{name: data[name] for name in _FIELDS})
        for note in data["notes"]:
            error.add_note(note)
    except (KeyError, TypeError):
        return CommunicationError("an error came that cannot be read", retryable=False)
    return error

"""The one exception tree: every error says what it is about and whether trying again can help."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, ClassVar

__all__ = [
    "CallTimeoutError",
    "CommunicationError",
    "ConfigError",
    "DspexError",
    "InputError",
    "InternalError",
    "LMError",
    "ModelFileError",
    "PoolSaturated",
    "ProgramError",
    "ResourceError",
    "SignatureError",
    "nearest",
]


class DspexError(Exception):
    """Base of every error that dspex raises on purpose.

    Attributes:
        category: what kind of thing went wrong; fixed by the class.
        field: the signature field it is about, or None.
        program: the id of the program it is about, or None.
        row: the zero-based row of a batch or of the examples, or None.
        hint: what the caller can do about it, or None.
        retryable: whether the same call can succeed later, unchanged.
        retry_after: seconds to wait before that, or None when unknown.
    """

    category: ClassVar[str] = "system"
    default_retryable: ClassVar[bool] = False

    def __init__(
        self,
        message: str,
        *,
        field: str | None = None,
        program: str | None = None,
        row: int | None = None,
        hint: str | None = None,
        retryable: bool | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.field = field
        self.program = program
        self.row = row
        self.hint = hint
        self.retryable = self.default_retryable if retryable is None else retryable
        self.retry_after = retry_after

    def __str__(self) -> str:
        where = [
            f"{name} {value!r}"
            for name, value in (("program", self.program), ("field", self.field), ("row", self.row))
            if value is not None
        ]
        text = f"[{self.category}] {self.message}"
        if where:
            text += f" ({', '.join(where)})"
        if self.hint:
            text += f". {self.hint}"
        return text

    def to_dict(self) -> dict[str, Any]:
        """The error as JSON-able data, for logs and HTTP answers."""
        return {
            "category": self.category,
            "message": self.message,
            "field": self.field,
            "program": self.program,
            "row": self.row,
            "hint": self.hint,
            "retryable": self.retryable,
            "retry_after": self.retry_after,
        }

    def __reduce__(self) -> tuple[Any, ...]:
        # Keyword-only arguments do not survive Exception's own pickling, and errors cross processes.
        return _rebuild, (type(self), self.message, self.__dict__)


def _rebuild(cls: type[DspexError], message: str, state: dict[str, Any]) -> DspexError:
    error = cls(message)
    error.__dict__.update(state)
    return error


class SignatureError(DspexError):
    """A signature that cannot be read, or that asks for what a backend cannot give."""

    category = "signature"


class InputError(DspexError):
    """Inputs or examples that do not fit the signature."""

    category = "input"


class ProgramError(DspexError):
    """A program that is unknown, unfitted, closed or of the wrong kind."""

    category = "program"


class ModelFileError(DspexError):
    """A model file that is damaged, hostile, or of a version this build does not read."""

    category = "model_file"


class ResourceError(DspexError):
    """A pool, memory or other limit is exhausted."""

    category = "resource"
    default_retryable = True


class PoolSaturated(ResourceError):
    """The worker pool's queue is full; ``retry_after`` estimates when it will not be."""


class CallTimeoutError(DspexError, TimeoutError):
    """The call's deadline passed before its answer came."""

    category = "timeout"
    default_retryable = True


class CommunicationError(DspexError):
    """A worker process or a peer broke off, or sent what cannot be understood."""

    category = "communication"
    default_retryable = True


class LMError(DspexError):
    """The language model refused, failed, or gave an answer that does not fit the signature."""

    category = "lm"


class ConfigError(DspexError):
    """A setting, an adapter name or an option that does not exist or makes no sense."""

    category = "config"


class InternalError(DspexError):
    """A fault of dspex itself."""

    category = "system"


_SHOWN = 12


def nearest(name: str, known: Iterable[str]) -> str:
    """A hint that names the closest known spelling, or lists what is known."""
    import difflib  # only failures pay for it

    names = [str(k) for k in known]
    close = difflib.get_close_matches(str(name), names, n=1)
    if close:
        return f"Did you mean {close[0]!r}?"
    if not names:
        return "None are known"
    shown = ", ".join(sorted(names)[:_SHOWN])
    return f"Known: {shown}" + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")

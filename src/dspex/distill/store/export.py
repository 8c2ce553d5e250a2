"""Traces as JSONL."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from dspex.distill.imports.rows import row_of
from dspex.distill.trace import Trace
from dspex.errors import ConfigError, ResourceError, nearest
from dspex.signature import Signature

__all__ = ["export"]

_FORMATS = ("jsonl",)


def export(traces: Iterable[Trace], signature: Signature, path: str | os.PathLike[str], format: str) -> int:
    """Write a file that is whole or not there at all; returns the number of rows.

    Raises:
        ConfigError: no such format.
        ResourceError: the file cannot be written.
    """
    if format not in _FORMATS:
        raise ConfigError(f"unknown format {format!r}", hint=nearest(format, _FORMATS))
    target = Path(path)
    unfinished = target.with_name(f"{target.name}.{os.getpid()}.tmp")
    count = 0
    try:
        with unfinished.open("w", encoding="ascii") as file:
            for trace in traces:
                file.write(json.dumps(row_of(trace, signature)) + "\n")
                count += 1
            file.flush()
            os.fsync(file.fileno())
        os.replace(unfinished, target)
    except BaseException as error:
        with suppress(OSError):
            unfinished.unlink()
        if isinstance(error, OSError):
            hint = "Check the path, the permissions and the room on the disk"
            raise ResourceError(f"{target} cannot be written: {error.strerror}", hint=hint) from None
        raise
    return count

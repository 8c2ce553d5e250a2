"""The model file: arrays and a JSON meta in one file, mapped on load, checked whole before use.

The format is safetensors: eight bytes of header length (little-endian), a JSON header, the data. The
header's `__metadata__` holds `format` ("dspex"), `format_version`, `dspex` (the meta as JSON text) and
`checksum`: 16 hex digits for the header, taken with zeros in place of these 32 digits, then 16 for the data.
`src/_native/model/checksum.hpp` defines the checksum; it finds accidents, and is no signature: a file that
was made to deceive can be well-formed and still predict what its maker likes.

POSIX only: it relies on `rename` over an existing file, and on `flock`.
"""

from __future__ import annotations

import errno
import fcntl
import math
import mmap
import os
import stat
import sys
import zlib
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from . import _modelfile_header as header
from .errors import ModelFileError

__all__ = ["ModelFile", "read_model", "write_model"]

StrPath = str | os.PathLike[str]

MAX_FILE_BYTES = 1 << 36
_TEMPORARY_SUFFIX = ".tmp"
_TRANSIENT = {errno.ENOSPC, errno.EDQUOT, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN, errno.EBUSY}
_HINTS = {
    errno.ENOENT: "Check the path: program.save(path) writes a file, into a directory that exists",
    errno.ENOTDIR: "Check the path: one of its directories is a file",
    errno.ELOOP: "Check the path: its symbolic links go in a circle",
    errno.EACCES: "Check the permissions of the file and of its directory",
    errno.EPERM: "Check the permissions of the file and of its directory",
    errno.EROFS: "Choose a path on a file system that can be written",
    errno.ENOSPC: "Make room on the disk, or choose another path",
    errno.EDQUOT: "Make room in your quota, or choose another path",
    errno.EFBIG: "Raise the limit on the size of files (ulimit -f)",
    errno.EMFILE: "Raise the limit on open files (ulimit -n), or close some",
    errno.ENAMETOOLONG: "Choose a shorter file name",
}


@dataclass(frozen=True, slots=True, eq=False)
class ModelFile:
    """A loaded model file.

    The arrays are read-only views of one mapping of the file, which is freed with the last of them. Replace a
    file that is in use by renaming another over it (`write_model`, `mv`), never by writing into it (`cp`):
    that changes the arrays of whoever has it mapped, and a truncated file kills them (SIGBUS).

    Attributes:
        path: where it was read from.
        arrays: the arrays by name, C-contiguous, little-endian, beginning on multiples of 64 bytes.
        meta: the JSON object that was written with them.
        nbytes: the size of the file.
    """

    path: Path
    arrays: dict[str, np.ndarray]
    meta: dict[str, Any]
    nbytes: int


def _checksum(buffer: Any) -> int:
    """The 64-bit checksum of a contiguous buffer; bound late, for tests that put a reference in its place."""
    from dspex import _core

    return _core.checksum64(buffer)


# ---------------------------------------------------------------------------------------------- reading


def read_model(path: StrPath) -> ModelFile:
    """Map a model file and check everything in it before any of it is used.

    Allocates for the header only, in proportion to it; reads every byte once.

    Args:
        path: a file that `write_model` wrote.

    Raises:
        ModelFileError: the file cannot be opened, is damaged, foreign, of another version, or holds a float
            that is not finite. Its hint says what to do.
    """
    name = _path_text(path)
    try:
        # O_NONBLOCK: opening a named pipe must not wait for its writer.
        descriptor = os.open(name, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            return _read(descriptor, Path(name))
        finally:
            os.close(descriptor)
    except ModelFileError as error:
        raise ModelFileError(f"cannot load {name!r}: {error.message}", hint=error.hint) from error.__cause__
    except (OSError, ValueError, MemoryError) as error:
        _raise_for(error, f"cannot load {name!r}")


def _read(descriptor: int, path: Path) -> ModelFile:
    size = _file_size(descriptor)
    length = int.from_bytes(_read_exactly(descriptor, 8, 0), "little")
    if length > header.MAX_HEADER_BYTES:
        raise ModelFileError(
            f"it announces a header of {length} bytes, more than {header.MAX_HEADER_BYTES}",
            hint=header.FOREIGN,
        )
    start = 8 + length
    if start > size:
        raise ModelFileError(
            f"it is cut off: a header of {length} bytes does not fit into {size} bytes", hint=header.DAMAGED
        )
    checked = header.parse_header(_read_exactly(descriptor, length, 8), size - start, _checksum)

    data = np.frombuffer(_map(descriptor, size), dtype=np.uint8)[start:]
    if _checksum(data) != checked.data_checksum:
        raise ModelFileError("its data does not match its checksum", hint=header.DAMAGED)
    arrays = {}
    for entry in checked.entries:
        array = data[entry.begin : entry.end].view(entry.dtype).reshape(entry.shape)
        _check_finite(entry.name, array, header.DAMAGED)
        arrays[entry.name] = array
    return ModelFile(path, arrays, checked.meta, size)


def _file_size(descriptor: int) -> int:
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        kind = "a directory" if stat.S_ISDIR(status.st_mode) else "not a regular file"
        raise ModelFileError(f"it is {kind}", hint=_HINTS[errno.ENOENT])
    if status.st_size < 8:
        what = "it is empty" if status.st_size == 0 else f"it is cut off after {status.st_size} bytes"
        raise ModelFileError(what, hint=header.DAMAGED)
    if status.st_size > MAX_FILE_BYTES:
        raise ModelFileError(
            f"it has {status.st_size} bytes, more than {MAX_FILE_BYTES}", hint=header.FOREIGN
        )
    return status.st_size


def _read_exactly(descriptor: int, count: int, offset: int) -> bytes:
    data = os.pread(descriptor, count, offset)
    if len(data) != count:
        raise ModelFileError("it was cut off while being read", hint=header.DAMAGED)
    return data


def _map(descriptor: int, size: int) -> mmap.mmap:
    if sys.version_info >= (3, 13):
        return mmap.mmap(descriptor, size, access=mmap.ACCESS_READ, trackfd=False)
    return mmap.mmap(descriptor, size, access=mmap.ACCESS_READ)  # holds a duplicate of the descriptor open


def _check_finite(name: str, array: np.ndarray, hint: str) -> None:
    # The extremes carry every NaN and infinity, and finding them allocates nothing.
    if array.dtype.kind != "f" or array.size == 0:
        return
    if not (math.isfinite(array.min()) and math.isfinite(array.max())):
        raise ModelFileError(f"array {name!r} holds NaN or infinity", hint=hint)


# ---------------------------------------------------------------------------------------------- writing


def write_model(path: StrPath, arrays: Mapping[str, np.ndarray], meta: Mapping[str, Any]) -> None:
    """Write a model file so that the path always holds the old file or the new one, whole and synced.

    The bytes go to a temporary file in the same directory, which is synced and renamed. Leftovers of killed
    writers to this path are removed. An existing file keeps its permission bits; of a symbolic link, the file
    it points to is replaced. The same arrays and meta give the same bytes.

    Args:
        path: the file to write; its directory exists.
        arrays: at most 1024 arrays by name (1 to 256 characters), of 8 to 64-bit integers or 32 or 64-bit
            floats, all finite. Written C-contiguous and little-endian, in the order of the mapping.
        meta: a JSON object: str keys; None, bool, 64-bit int, finite float, str, list and dict values (tuples
            come back as lists).

    Raises:
        ModelFileError: the arrays or the meta cannot be stored, or the file system refused (chained). The old
            file is then as it was, unless the message says that only syncing the directory failed.
    """
    name = _path_text(path)
    try:
        text = header.dump_meta(dict(meta))
        prepared = {key: _prepared(key, array) for key, array in _checked_names(arrays).items()}
        entries = header.plan(prepared)
        data = _buffer(entries, prepared)
        raw = header.seal(header.render(entries, text), data, _checksum)
        _check_limits(raw, data)
        _replace(name, [len(raw).to_bytes(8, "little"), raw, data])
    except ModelFileError as error:
        raise ModelFileError(f"cannot write {name!r}: {error.message}", hint=error.hint) from error.__cause__
    except (OSError, ValueError, MemoryError) as error:
        _raise_for(error, f"cannot write {name!r}")


def _checked_names(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    if len(arrays) > header.MAX_ARRAYS:
        raise ModelFileError(f"{len(arrays)} arrays", hint=f"At most {header.MAX_ARRAYS} fit into one file")
    for name in arrays:
        if not header.is_array_name(name):
            raise ModelFileError(
                f"no array can be named {name!r}",
                hint=f"Take 1 to {header.MAX_NAME_LENGTH} characters; __metadata__ and _pad0 are reserved",
            )
    return dict(arrays)


def _prepared(name: str, array: np.ndarray) -> np.ndarray:
    if not isinstance(array, np.ndarray):
        raise ModelFileError(f"array {name!r} is a {type(array).__name__}", hint="Pass a numpy.ndarray")
    little = header.little_endian(array.dtype)
    if little is None:
        raise ModelFileError(
            f"array {name!r} is of dtype {array.dtype}",
            hint=f"Convert it to one of {', '.join(header.DTYPES)}",
        )
    if array.ndim > header.MAX_DIMENSIONS:
        raise ModelFileError(
            f"array {name!r} has {array.ndim} axes", hint=f"At most {header.MAX_DIMENSIONS} fit"
        )
    _check_finite(name, array, "Fit again with inputs that are finite")
    return np.asarray(array, dtype=little, order="C")


def _buffer(entries: list[header.Entry], arrays: Mapping[str, np.ndarray]) -> np.ndarray:
    data = np.zeros(entries[-1].end if entries else 0, dtype=np.uint8)
    for entry in entries:
        if not entry.is_padding:
            data[entry.begin : entry.end] = arrays[entry.name].reshape(-1).view(np.uint8)
    return data


def _check_limits(raw: bytes, data: np.ndarray) -> None:
    """Refuse to write what `read_model` would refuse to read."""
    if len(raw) > header.MAX_HEADER_BYTES:
        raise ModelFileError(
            f"the meta is too large: the header takes {len(raw)} bytes", hint=header.MOVE_TO_ARRAYS
        )
    if len(raw) + data.size > MAX_FILE_BYTES - 8:
        raise ModelFileError(
            "the arrays are too large", hint=f"At most {MAX_FILE_BYTES} bytes fit into one file"
        )
    header.parse_header(raw, data.size, _checksum)


def _replace(name: str, parts: list[Any]) -> None:
    target = Path(os.path.realpath(name))
    mode = _mode_of(target)
    _remove_leftovers(target)
    descriptor, temporary = _create_temporary(target, mode)
    try:
        with os.fdopen(descriptor, "wb") as file:
            for part in parts:
                file.write(part)
            file.flush()
            os.fsync(descriptor)
            os.replace(temporary, target)  # before the file closes: that would release the lock on it
    except BaseException:
        with suppress(OSError):
            os.unlink(temporary)
        raise
    try:
        _sync_directory(target.parent)
    except OSError as error:
        message = "the file is written, but syncing its directory failed, so a power loss may undo it"
        raise ModelFileError(message, hint="Check the disk, and save again") from error


def _mode_of(target: Path) -> int | None:
    """The permission bits to keep, or None when there is nothing there yet."""
    try:
        mode = os.stat(target).st_mode
    except FileNotFoundError:
        return None
    if not stat.S_ISREG(mode):
        kind = "a directory" if stat.S_ISDIR(mode) else "not a regular file"
        raise ModelFileError(f"it is {kind}", hint="Choose another path")
    return stat.S_IMODE(mode) & 0o777


def _temporary_prefix(target: Path) -> str:
    # The name is cut to leave room for the rest; the number tells names apart that begin alike.
    return f".{target.name[:40]}.{zlib.crc32(os.fsencode(target.name)):08x}."


def _create_temporary(target: Path, mode: int | None) -> tuple[int, Path]:
    """A new file beside the target, locked for as long as it is open, so that others see it is in use."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
    while True:
        unique = f"{os.getpid()}-{os.urandom(6).hex()}"
        path = target.with_name(_temporary_prefix(target) + unique + _TEMPORARY_SUFFIX)
        descriptor = os.open(path, flags, 0o666 if mode is None else 0o600)
        try:
            if mode is not None:
                os.fchmod(descriptor, mode)
            if _lock(descriptor) and os.fstat(descriptor).st_nlink:
                return descriptor, path
        except BaseException:
            os.close(descriptor)
            with suppress(OSError):
                os.unlink(path)
            raise
        os.close(descriptor)  # another writer's clean-up came before the lock, and took the file away


def _lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        pass  # a file system without locks, where no clean-up gets a lock either
    return True


def _remove_leftovers(target: Path) -> None:
    """Remove temporary files of dead writers to this target: those whose lock is free. Best effort."""
    prefix = _temporary_prefix(target)
    with suppress(OSError), os.scandir(target.parent) as entries:
        for entry in entries:
            if entry.name.startswith(prefix) and entry.name.endswith(_TEMPORARY_SUFFIX):
                _remove_if_free(entry.path)


def _remove_if_free(path: str) -> None:
    with suppress(OSError):
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.unlink(path)
        finally:
            os.close(descriptor)


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # file systems whose directories need no sync
            raise
    finally:
        os.close(descriptor)


# ----------------------------------------------------------------------------------------------- errors


def _path_text(path: StrPath) -> str:
    try:
        return os.fsdecode(path)
    except TypeError:
        raise ModelFileError(
            f"a path of type {type(path).__name__}", hint="Pass a str or an os.PathLike"
        ) from None


def _raise_for(error: OSError | ValueError | MemoryError, what: str) -> NoReturn:
    code, reason = None, str(error)
    if isinstance(error, MemoryError):
        code, reason = errno.ENOMEM, "out of memory"
    elif isinstance(error, OSError):
        code, reason = error.errno, error.strerror or reason
    hint = _HINTS.get(code or 0, "Check the path and the disk")
    raise ModelFileError(f"{what}: {reason}", hint=hint, retryable=code in _TRANSIENT) from error

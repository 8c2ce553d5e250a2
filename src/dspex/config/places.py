"""Where settings are looked for: the environment and a file. Reads no setting, and imports nothing heavy."""

from __future__ import annotations

import os
import tomllib
from pathlib import Path
from typing import Any

from dspex.errors import ConfigError

__all__ = [
    "CONFIG",
    "FILE",
    "PREFIX",
    "PROJECT",
    "RESERVED",
    "find_file",
    "is_configured",
    "read_file",
    "variables",
]

PREFIX = "DSPEX_"
FILE = "dspex.toml"
PROJECT = "pyproject.toml"
#: Names the file.
CONFIG = "DSPEX_CONFIG"
#: Variables with the prefix that are no settings.
RESERVED = frozenset(
    {
        CONFIG, "DSPEX_DATA", "DSPEX_FUZZ", "DSPEX_LONG", "DSPEX_SANITIZE", "DSPEX_SEED", "DSPEX_STRESS",
        "DSPEX_TEST_MODE",
    }
)  # fmt: skip


def variables() -> dict[str, str]:
    """The environment variables that are settings. An empty one is as good as none."""
    return {
        name: text
        for name, text in sorted(os.environ.items())
        if name.startswith(PREFIX) and name not in RESERVED and text
    }


def find_file(path: str | os.PathLike[str] | None = None) -> Path | None:
    """The file that settings are read from.

    It is `path`, else what DSPEX_CONFIG names, else `dspex.toml` in the working directory, else
    `pyproject.toml` there if it has a table [tool.dspex]; or None.

    Raises:
        ConfigError: a named file does not exist, or `pyproject.toml` cannot be read.
    """
    for named, origin in ((path, "path"), (os.environ.get(CONFIG) or None, CONFIG)):
        if named is not None:
            found = Path(named)
            if not found.is_file():
                raise ConfigError(f"there is no file {os.fspath(named)!r}", field=origin)
            return found
    if Path(FILE).is_file():
        return Path(FILE)
    return Path(PROJECT) if has_table(Path(PROJECT)) else None


def has_table(project: Path) -> bool:
    """Whether a `pyproject.toml` is there and has settings of ours."""
    if not project.is_file() or b"dspex" not in project.read_bytes():
        return False
    return "dspex" in _toml(project).get("tool", {})


def is_configured() -> bool:
    """Whether there are settings outside the program: without them nothing needs to be imported."""
    return bool(variables()) or find_file() is not None


def read_file(path: Path) -> dict[str, Any]:
    """The settings in a file; of a `pyproject.toml`, those in its table [tool.dspex].

    Raises:
        ConfigError: it cannot be read, is no TOML, or lacks the table.
    """
    content = _toml(path)
    if path.name != PROJECT:
        return content
    table = content.get("tool", {}).get("dspex")
    if not isinstance(table, dict):
        raise ConfigError(f"{path} has no table [tool.dspex]", hint="Add it, or name another file")
    return table


def _toml(path: Path) -> dict[str, Any]:
    text = ""
    try:
        text = path.read_bytes().decode()
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        last = len(text.splitlines())
        problem = str(error).replace("(at end of document)", f"(at line {last}, the end)")
        raise ConfigError(f"{path} is not TOML: {problem}") from None
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise ConfigError(f"{path} is not UTF-8 (line {line})") from None
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from None

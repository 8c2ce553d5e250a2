"""Programs and LMs as data that another process makes them from: DSPy's own state, settings, import paths.

A pickle runs code when it is read, so it is used only where the user has said so.
"""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import dspy

from dspex.config import Config, LMSettings
from dspex.dspy.modules import Built, build
from dspex.dspy.portable_modules import packed_module, packed_tool, unpacked_module, unpacked_tool
from dspex.dspy.portable_types import Packing, packed_signature, unpacked_signature
from dspex.errors import ConfigError, DspexError
from dspex.spec import ProgramSpec

__all__ = ["described", "portable_config", "portable_lm", "revived"]


def described(
    spec: ProgramSpec, program_id: str, *, allow_pickle: bool = False
) -> tuple[ProgramSpec, dict[str, Any]]:
    """The spec, with its signature if that is known here, and what msgpack can carry of the program.

    Raises:
        ProgramError: the module or a tool cannot be made in another process; `field` names it.
        SignatureError: a type that only this process knows; `field` names it.
        ConfigError: a keyword or an LM that is no data; and as `dspex.dspy.modules.build`.
    """
    if isinstance(spec.lm, dspy.BaseLM):
        raise ConfigError(
            "an LM object cannot be sent to a worker process",
            field="lm",
            program=program_id,
            hint="Give its settings, or the name of a configured LM",
        )
    packing = Packing(program_id, allow_pickle)
    data: dict[str, Any] = {"names_lm": spec.lm is not None, "made": None}
    if isinstance(spec.module, dspy.Module):
        # What is wrong with it in this process is found here; and a state, if there is one, is then in it.
        built = build(spec, program_id, allow_pickle=allow_pickle)
        spec = dataclasses.replace(spec, signature=built.signature)
        data["made"] = packed_module(built.module, packing)
    else:
        data["kind"] = spec.kind
        data["module"] = spec.module
        data["init"] = _plain(spec.init, "init", program_id)
        data["tools"] = [packed_tool(tool, packing) for tool in spec.tools]
        data["state"] = None if spec.state is None else _packed_state(Path(spec.state))
    data["signature"] = None if spec.signature is None else packed_signature(spec.signature, packing)
    return spec, data


def revived(data: Mapping[str, Any], program_id: str, *, allow_pickle: bool = False) -> Built:
    """The program that `described` described.

    Raises:
        DspexError: as `dspex.dspy.modules.build`.
    """
    signature = None if data["signature"] is None else unpacked_signature(data["signature"])
    if data["made"] is not None:
        assert signature is not None  # of a module that is there, it is known
        return Built(unpacked_module(data["made"]), signature)
    with _unpacked_state(data["state"]) as state:
        spec = ProgramSpec(
            signature=signature,
            kind=data["kind"],
            module=data["module"],
            init=data["init"],
            tools=tuple(map(unpacked_tool, data["tools"])),
            state=state,
            lm="named" if data["names_lm"] else None,  # which one is no matter of the module
        )
        return build(spec, program_id, allow_pickle=allow_pickle)


def portable_lm(settings: LMSettings, at: str = "lm", program_id: str | None = None) -> dict[str, Any]:
    """An LM's settings as data, with the key in the clear: for workers of this process, and nobody else.

    An environment variable that holds the key is read here: workers have the environment of their start.

    Raises:
        ConfigError: an option that is an object; or the variable is not set. `field` names it.
    """
    data = settings.model_dump(exclude={"options", "api_key"}, exclude_unset=True)
    if settings.api_key is not None:
        data["api_key"] = settings.key(at)
    if settings.options:
        data["options"] = {
            name: _plain({name: value}, f"{at}.options.{name}", program_id)[name]
            for name, value in settings.options.items()
        }
    plain: dict[str, Any] = json.loads(json.dumps(data))
    return plain


def portable_config(config: Config) -> dict[str, Any]:
    """A configuration as data, with keys in the clear.

    Raises:
        ConfigError: as `portable_lm`.
    """
    data = config.model_dump(mode="json", exclude={"lms"}, exclude_unset=True)
    return data | {"lms": {name: portable_lm(lm, f"lms.{name}") for name, lm in config.lms.items()}}


def _plain(values: Mapping[str, Any], at: str, program_id: str | None) -> dict[str, Any]:
    """Values that come back equal from JSON."""
    try:
        plain: dict[str, Any] = json.loads(json.dumps(dict(values)))
        if plain != dict(values):
            raise TypeError("it would come back as something else")
    except (TypeError, ValueError, RecursionError) as error:
        raise ConfigError(
            f"{at} cannot be sent to a worker process: {error}",
            field=at,
            program=program_id,
            hint="Give text, numbers, lists and mappings of these; an import path in place of an object",
        ) from error
    return plain


def _packed_state(path: Path) -> dict[str, Any]:
    """What is in the file now, which workers to come are to have too; a directory by its path."""
    data = base64.b64encode(path.read_bytes()).decode() if path.is_file() else None
    return {"path": os.path.abspath(path), "data": data}


@contextlib.contextmanager
def _unpacked_state(packed: Mapping[str, Any] | None) -> Iterator[str | None]:
    """Where the state can be read from."""
    if packed is None or packed["data"] is None:
        yield None if packed is None else packed["path"]
        return
    with tempfile.TemporaryDirectory(prefix="dspex-") as folder:
        here = Path(folder, Path(packed["path"]).name)
        here.write_bytes(base64.b64decode(packed["data"]))
        try:
            yield str(here)
        except DspexError as error:
            error.message = error.message.replace(str(here), packed["path"])
            raise

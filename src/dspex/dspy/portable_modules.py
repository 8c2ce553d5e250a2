"""DSPy modules and tools as data: how they are made, and what they have learned since.

What is packed is made again at once and compared: a module that would come out as another one is refused.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping
from enum import Enum
from typing import Any

import dspy
from dspy.predict.parameter import Parameter
from dspy.utils.constants import IS_TYPE_UNDEFINED
from pydantic_core import to_jsonable_python

from dspex._signature_types import type_text
from dspex.dspy.imports import import_path, imported
from dspex.dspy.modules import build
from dspex.dspy.portable_types import Packing, packed_signature, unpacked_signature, unpickled
from dspex.dspy.predict import Predict, converted
from dspex.dspy.states import predictors
from dspex.errors import ConfigError, DspexError, ProgramError
from dspex.signature import Signature
from dspex.spec import ProgramSpec

__all__ = ["packed_module", "packed_tool", "unpacked_module", "unpacked_tool"]


class _Unfit(Exception):
    """Why something cannot be made in another process."""


def packed_module(module: Any, packing: Packing) -> dict[str, Any]:
    """A module as data, which `unpacked_module` makes an equal one of in another process.

    Raises:
        ProgramError: its class is none of DSPy's that are known here, and cannot be imported or takes
            arguments; or it has what its class does not give it and DSPy's state does not hold; and pickles
            are not allowed.
        SignatureError: a type that only this process knows, and pickles are not allowed.
        ConfigError: its predictors have LMs of their own.
    """
    if any(predictor.lm is not None for predictor in predictors(module)):
        raise ConfigError(
            "the module's predictors have LMs of their own, which cannot be sent to a worker process",
            field="lm",
            program=packing.program,
            hint="Configure the LM by name, and give the spec that name",
        )
    try:
        parts = {name: _packed_part(part) for name, part in _parts(module, Parameter).items()}
        data = {**_recipe(module, packing), "parts": parts}
        why = _misfit(module, data)
    except _Unfit as unfit:
        why = str(unfit)
    if why is None:
        return data
    refusal = _refusal(why, "module", packing.program)
    if any(getattr(part, "callbacks", None) for part in _parts(module).values()):
        raise refusal  # DSPy leaves them out of pickles too
    return packing.pickled(module, refusal)


def unpacked_module(data: Mapping[str, Any]) -> Any:
    """What `packed_module` packed.

    Raises:
        ProgramError: its class does not make such a module here.
        ConfigError: something in it cannot be imported.
    """
    if "pickle" in data:
        return unpickled(data)
    module = _made(data)
    parts = _parts(module, Parameter)
    for name, state in data["parts"].items():
        if name not in parts:
            raise ProgramError(f"its class makes no part {name!r}", field="module")
        if "native" in state:
            converted(parts[name])
        try:
            parts[name].load_state(state)
        except Exception as error:
            what = f"the state of {name} does not fit what its class makes: {type(error).__name__}: {error}"
            raise ProgramError(what, field="module") from error
    return module


def _made(data: Mapping[str, Any]) -> Any:
    """The module as its class makes it."""
    if "path" not in data:
        spec = ProgramSpec(
            signature=unpacked_signature(data["signature"]),
            kind=data["kind"],
            init=data["init"],
            tools=tuple(map(unpacked_tool, data["tools"])),
        )
        return build(spec, data["kind"]).module
    cls = imported(data["path"], "module")
    try:
        return cls()
    except Exception as error:
        what = f"its class cannot be made: {type(error).__name__}: {error}"
        raise ProgramError(what, field="module") from error


def packed_tool(tool: Any, packing: Packing) -> Any:
    """A tool as data.

    Raises:
        ProgramError: its function cannot be imported, and pickles are not allowed.
    """
    if isinstance(tool, str):
        return tool
    function = tool.func if type(tool) is dspy.Tool else tool
    path, name = import_path(function), getattr(tool, "name", None) or getattr(tool, "__name__", repr(tool))
    if path is None:
        why = f"tool {name!r} cannot be imported there"
    elif function is tool:
        return path
    elif _same_tool(dspy.Tool(function, name=tool.name, desc=tool.desc), tool):
        return {"path": path, "name": tool.name, "desc": tool.desc}
    else:
        why = f"tool {name!r} has arguments that are not its function's"
    return packing.pickled(tool, _refusal(why, "tools", packing.program))


def unpacked_tool(data: Any) -> Any:
    """What `packed_tool` packed."""
    if isinstance(data, str):
        return data
    if "pickle" in data:
        return unpickled(data)
    return dspy.Tool(imported(data["path"], "tools"), name=data["name"], desc=data["desc"])


def _refusal(why: str, field: str, program_id: str) -> ProgramError:
    return ProgramError(
        f"the program cannot be sent to a worker process: {why}",
        program=program_id,
        field=field,
        hint="Give import paths, 'package.module:Name', with `init` for what a module takes and `state` for "
        "what it has learned; or set dspy_pool.allow_pickle",
    )


# How a module is made


def _recipe(module: Any, packing: Packing) -> dict[str, Any]:
    found = _RECIPES.get(type(module))
    if found is not None:
        return {"tools": [], **found(module, packing)}
    cls = type(module)
    path = import_path(cls)
    if path is None:
        raise _Unfit(f"its class {cls.__name__} cannot be imported there")
    if not _made_without_arguments(cls):
        raise _Unfit(f"its class {cls.__name__} takes arguments, which are not known any more")
    return {"path": path}


def _predict(module: Any, packing: Packing) -> dict[str, Any]:
    signature = packed_signature(Signature.of(module.signature), packing)
    return {"kind": "predict", "signature": signature, "init": _config(module)}


def _chain_of_thought(module: Any, packing: Packing) -> dict[str, Any]:
    signature = Signature.of(module.predict.signature.delete("reasoning"))
    init = _config(module.predict)
    return {"kind": "chain_of_thought", "signature": packed_signature(signature, packing), "init": init}


def _react(module: Any, packing: Packing) -> dict[str, Any]:
    return {
        "kind": "react",
        "signature": packed_signature(Signature.of(module.signature), packing),
        "init": {"max_iters": module.max_iters},
        "tools": [packed_tool(tool, packing) for name, tool in module.tools.items() if name != "finish"],
    }


_RECIPES: dict[type, Callable[[Any, Packing], dict[str, Any]]] = {
    dspy.Predict: _predict,
    Predict: _predict,
    dspy.ChainOfThought: _chain_of_thought,
    dspy.ReAct: _react,
}


def _made_without_arguments(cls: type) -> bool:
    initialise: Any = inspect.getattr_static(cls, "__init__")
    try:
        inspect.signature(initialise).bind(None)
    except (TypeError, ValueError):
        return False
    return True


def _config(predictor: Any) -> dict[str, Any]:
    if not _is_plain(predictor.config):
        raise _Unfit("a predictor's config holds what is no JSON")
    return dict(predictor.config)


def _packed_part(part: Any) -> dict[str, Any]:
    """DSPy's state, without what only optimizers look at."""
    state = {name: value for name, value in part.dump_state().items() if name not in ("traces", "train")}
    try:
        plain: dict[str, Any] = to_jsonable_python(state)
    except ValueError as error:
        raise _Unfit(f"its state is no JSON: {error}") from error
    return plain


# Whether it was made as it was

#: What optimizers leave on a program, and no call looks at.
_OF_OPTIMIZERS = frozenset({
    *("candidate_programs", "mb_candidate_programs", "trial_logs", "detailed_results", "score"),
    *("total_calls", "prompt_model_total_calls", "results_best", "results_latest", "simba_idx"),
    *("_compiled", "stage", "traces", "train", "_dspex_reasons"),
})  # fmt: skip
_IGNORED = _OF_OPTIMIZERS | {"history", "demos", "lm"}


def _parts(module: Any, kind: type | None = None) -> dict[str, Any]:
    """The modules in a module, also those that are frozen, by where they are."""
    return {
        name: part
        for name, part in module.named_sub_modules(kind)
        if _OF_OPTIMIZERS.isdisjoint(re.split(r"[.\[]", name))
    }


def _misfit(module: Any, data: Mapping[str, Any]) -> str | None:
    """Why another process would make another module of the data; None: it would not."""
    try:
        made = unpacked_module(data)
    except DspexError as error:
        return error.message
    return _difference(module, made)


def _difference(module: Any, made: Any) -> str | None:
    """What the module has and the other one has not, as far as that can be seen; None: nothing."""
    mine, others = _parts(module), _parts(made)
    if mine.keys() != others.keys():
        name = min(mine.keys() ^ others.keys())
        return f"its class makes no part {name!r}" if name in mine else f"it has no part {name!r}"
    for name, part in mine.items():
        own, new = vars(part), vars(others[name])
        for key in sorted((own.keys() | new.keys()) - _IGNORED):
            if key not in own or key not in new or not _alike(own[key], new[key]):
                return f"{name}.{key} is not what its class makes it, and DSPy's state does not hold it"
    return None


def _alike(one: Any, other: Any) -> bool:
    """Whether two values are equal; objects that say nothing of themselves are if they are of one class."""
    if isinstance(one, type) and isinstance(other, type):
        return one is other or _signature_text(one) == _signature_text(other) is not None
    if type(one) is not type(other):
        return False
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(_alike(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(_alike, one, other))
    if isinstance(one, dspy.Tool):
        return _same_tool(one, other)
    return bool(one == other) if _is_plain(one) else True


def _is_plain(value: Any) -> bool:
    if isinstance(value, dict):
        return all(isinstance(key, str) and _is_plain(item) for key, item in value.items())
    if isinstance(value, list | tuple | set | frozenset):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, str | bytes | int | float | Enum)


def _signature_text(cls: Any) -> Any:
    """What a dspy.Signature class says to an LM; None: it is none."""
    if not issubclass(cls, dspy.Signature):
        return None
    fields = [
        # Whether a type was written is of interest only for a warning.
        (name, type_text(field.annotation)[0], {**field.json_schema_extra, IS_TYPE_UNDEFINED: None})
        for name, field in cls.fields.items()
    ]
    return cls.instructions, fields


def _same_tool(one: Any, other: Any) -> bool:
    names = ("name", "desc", "args", "arg_types", "arg_desc", "has_kwargs")
    return import_path(one.func) == import_path(other.func) and all(
        getattr(one, name) == getattr(other, name) for name in names
    )

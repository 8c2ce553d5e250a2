"""DSPy modules from program specs: every kind, a module of the user's own, a saved program."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import dspy

from dspex.dspy.imports import imported
from dspex.dspy.states import load_state, loaded_program, predictors
from dspex.dspy.tools import made_tools
from dspex.errors import ConfigError, DspexError, ProgramError, SignatureError
from dspex.signature import Field, Signature
from dspex.spec import ProgramSpec

__all__ = ["Built", "build"]


class Built:
    """A DSPy module and the signature that its answers are held to."""

    __slots__ = ("module", "signature")

    def __init__(self, module: Any, signature: Signature) -> None:
        self.module = module
        self.signature = signature


def build(spec: ProgramSpec, program_id: str, *, allow_pickle: bool = False) -> Built:
    """The module that a spec asks for, a copy where the spec holds one.

    Args:
        allow_pickle: read saved programs that run code when they are read.

    Raises:
        ConfigError: a module, a tool or a file that cannot be had.
        SignatureError: no signature, or one that the module does not have.
        ProgramError: the module cannot be made.
    """
    try:
        module = _module(spec, allow_pickle)
    except DspexError as error:
        error.program = program_id
        raise
    return Built(module, _signature(spec, module, program_id))


def _module(spec: ProgramSpec, allow_pickle: bool) -> Any:
    whole = spec.state is not None and Path(spec.state).is_dir()
    _check_keys(spec, whole)
    if spec.state is not None and whole:
        module = loaded_program(spec.state, allow_pickle)
    elif spec.module is not None:
        module = _given(spec.module, spec)
    else:
        module = _of_kind(spec)
    if spec.state is not None and not whole:
        load_state(module, spec.state, allow_pickle=allow_pickle, addresses=spec.lm is not None)
    if spec.state is not None and spec.lm is not None:
        for predictor in predictors(module):  # the spec says more than the LMs that were saved
            predictor.lm = None
    return module


def _check_keys(spec: ProgramSpec, whole: bool) -> None:
    """Raises ConfigError for keys that would have no effect beside the others."""
    made = "module" if spec.module is not None else "state" if whole else None
    if made is not None and spec.kind not in (None, "module"):
        raise ConfigError(
            f"a spec whose {made} is a program has the kind 'module', not {spec.kind!r}", field="kind"
        )
    if spec.tools and (made is not None or spec.kind != "react"):
        raise ConfigError("only a program of kind 'react' takes tools", field="tools")
    if whole and (spec.module is not None or spec.init):
        key = "module" if spec.module is not None else "init"
        raise ConfigError(f"{key!r} has no effect beside a program that was saved whole", field=key)


def _of_kind(spec: ProgramSpec) -> Any:
    kind = spec.kind or "predict"
    if kind == "module":
        raise ConfigError(
            "a program of kind 'module' needs its module",
            field="module",
            hint="Give a dspy.Module, or its import path 'package.module:Name'",
        )
    if kind not in _KINDS:
        raise ProgramError(f"DSPy has no kind {kind!r}", hint=f"Kinds: {', '.join(_KINDS)}, module")
    if spec.signature is None:
        raise SignatureError("the program has no signature")
    keywords = dict(spec.init)
    if kind == "react":
        if "tools" in keywords:
            raise ConfigError("tools have a key of their own in a spec", field="init")
        keywords["tools"] = made_tools(spec.tools)
    try:
        return _KINDS[kind](_asked_signature(spec.signature).to_dspy(), **keywords)
    except DspexError:
        raise
    except Exception as error:
        raise ProgramError(
            f"the program cannot be made: {type(error).__name__}: {error}",
            field="init" if spec.init else None,
            hint="See `init` and `tools`",
        ) from error


_KINDS: dict[str, Callable[..., Any]] = {
    "predict": dspy.Predict,
    "classify": dspy.Predict,
    "chain_of_thought": dspy.ChainOfThought,
    "react": dspy.ReAct,
    "program_of_thought": dspy.ProgramOfThought,
}


def _asked_signature(signature: Signature) -> Signature:
    """The signature with learned classes declared, so that an LM is told of them."""
    return (
        Signature(
            [_declared(field) for field in signature.fields.values()],
            instructions=signature.instructions,
            name=signature.name,
        )
        if any(field.learned for field in signature.outputs.values())
        else signature
    )


def _declared(field: Field) -> Field:
    if not field.learned or field.classes is None:
        return field
    literal: Any = Literal.__getitem__(tuple(field.classes))
    annotation = literal if field.kind == "class" else list[literal]
    return Field(
        field.name, annotation, field.role, desc=field.desc, prefix=field.prefix, order=field.classes
    )


def _given(module: Any, spec: ProgramSpec) -> Any:
    """A copy of a live module, or what an import path leads to."""
    if isinstance(module, dspy.Module):
        if spec.init:
            raise ConfigError("a module that is made already takes no init", field="init")
        return _copied(module)
    found = imported(module, "module")
    if isinstance(found, dspy.Module):
        if spec.init:
            raise ConfigError(f"{module!r} is made already, and takes no init", field="init")
        return _copied(found)
    if not callable(found):
        raise ConfigError(f"{module!r} is a {type(found).__name__}, not a dspy.Module", field="module")
    try:
        made = found(**spec.init)
    except Exception as error:
        raise ProgramError(
            f"{module!r} cannot be made: {type(error).__name__}: {error}",
            field="init",
            hint="Its keywords are `init`",
        ) from error
    if not isinstance(made, dspy.Module):
        raise ConfigError(f"{module!r} makes a {type(made).__name__}, not a dspy.Module", field="module")
    return made


def _copied(module: Any) -> Any:
    """A copy with the same LMs, tools and callbacks: others may share them, and they hold what is theirs."""
    copy = module.deepcopy()
    for original, copied in zip(module.named_sub_modules(), copy.named_sub_modules(), strict=True):
        for name in ("lm", "tools", "callbacks"):
            if name in vars(original[1]):
                setattr(copied[1], name, getattr(original[1], name))
    return copy


def _signature(spec: ProgramSpec, module: Any, program_id: str) -> Signature:
    if spec.signature is not None:
        return spec.signature
    found = getattr(module, "signature", None)
    if found is None:
        inner = [each for _, each in module.named_predictors()]
        # A module that wraps one predictor, as ChainOfThought does, answers what that one answers.
        found = inner[0].signature if len(inner) == 1 else None
    if found is None:
        raise SignatureError(
            f"{type(module).__name__} does not say what it takes and gives",
            program=program_id,
            hint="Give the spec a signature, or the module an attribute `signature`",
        )
    signature = Signature.of(found)
    if isinstance(module, dspy.ChainOfThought):  # what it adds is in the result, and is no part of the task
        kept = [f for f in signature.fields.values() if f.name != "reasoning"]
        signature = Signature(kept, instructions=signature.instructions, name=signature.name)
    return signature

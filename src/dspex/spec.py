"""What a program is asked to be: the one typed, checked form of a program spec."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from dspex.errors import ConfigError, DspexError, ProgramError, SignatureError, nearest
from dspex.signature import Field, Signature

if TYPE_CHECKING:
    from dspex.program import Program

__all__ = [
    "DSPY_KINDS",
    "ENUMERABLE",
    "KINDS",
    "ProgramSpec",
    "asked_kind",
    "bound_signature",
    "kind_error",
    "natural_kind",
    "with_learned_classes",
]

#: Field kinds whose values can be listed, so that each value has a probability.
ENUMERABLE = frozenset({"bool", "class", "multilabel"})
#: Program kinds that only a DSPy backend can run.
DSPY_KINDS = ("chain_of_thought", "react", "program_of_thought", "module")
#: Every program kind that means something to dspex, whether or not this version can run it.
KINDS = ("predict", "classify", "embed", *DSPY_KINDS)

_KEYS = (
    *("signature", "id", "kind", "adapter", "tags"),
    *("examples", "path", "program", "options"),
    *("module", "state", "init", "tools", "lm", "dspy"),
    "routing",
)
_SOURCES = ("examples", "path", "program")  # of a native program
_MAX_ID = 256


@dataclass(frozen=True, slots=True)
class ProgramSpec:
    """A program spec whose keys have been checked. Build it with :meth:`of`.

    Attributes:
        signature: the task; None only when `path` is given, whose file holds it.
        id: the wanted id, or None for a new one.
        kind: one of `KINDS`, or None for what the outputs suggest.
        adapter: the name of the adapter that is to run it, or None for "auto".
        examples: rows to fit on, in any form that `dspex.fit` takes.
        path: a saved `.dspex` file.
        program: a fitted `dspex.Program`. (A `dspy.Module` given here is taken as `module`.)
        options: settings for the adapter that builds the program; for native ones those of `dspex.fit`.
        tags: free labels, shown in the program's info, which routing rules can look at.
        module: the DSPy program: a `dspy.Module`, or the import path "package.module:Name" of one, of its
            class or of a function that makes it; None for what the kind says.
        state: a saved DSPy program: a `.json` state, or a directory that holds the whole of it.
        init: keywords for the module's constructor, such as `max_iters`.
        tools: for kind `react`: functions, `dspy.Tool`s or import paths of them.
        lm: the program's LM: a name in the configuration, a mapping such as `configure_lm` takes, or a
            `dspy.BaseLM`; None for the default.
        dspy: settings of `DspySettings` for this program.
        routing: settings of `RoutingSettings` for this program.
    """

    signature: Signature | None
    id: str | None = None
    kind: str | None = None
    adapter: str | None = None
    examples: Any = None
    path: str | None = None
    program: Program | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    tags: tuple[str, ...] = ()
    module: Any = None
    state: str | None = None
    init: Mapping[str, Any] = field(default_factory=dict)
    tools: tuple[Any, ...] = ()
    lm: Any = None
    dspy: Mapping[str, Any] = field(default_factory=dict)
    routing: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, spec: Mapping[str, Any] | ProgramSpec) -> ProgramSpec:
        """Checks a mapping and returns it as a spec; a spec is returned as it is.

        Raises:
            ConfigError: an unknown key, a value of the wrong type, or more than one of
                `examples`, `path` and `program`.
            SignatureError: no signature, one that cannot be read, or one that is not the
                given program's.
        """
        if isinstance(spec, ProgramSpec):
            return spec
        if not isinstance(spec, Mapping):
            raise ConfigError(
                f"a program spec is a mapping, not {type(spec).__name__}",
                hint="For instance {'signature': 'text -> label: bool', 'examples': rows}",
            )
        program_id = _program_id(spec.get("id"))
        try:
            return _from_mapping(cls, spec, program_id)
        except DspexError as error:
            if error.program is None:
                error.program = program_id
            raise


def _from_mapping(cls: type[ProgramSpec], spec: Mapping[str, Any], program_id: str | None) -> ProgramSpec:
    for key in spec:
        if key not in _KEYS:
            raise ConfigError(f"unknown key {key!r} in a program spec", hint=nearest(str(key), _KEYS))
    given = [key for key in _SOURCES if spec.get(key) is not None]
    if len(given) > 1:
        raise ConfigError(
            f"a program comes from one source, not from {' and '.join(given)}",
            hint="Give one of examples, path and program",
        )
    program, module = _programs(spec.get("program"), spec.get("module"))
    return cls(
        signature=_signature(spec, program, module),
        id=program_id,
        kind=_kind(spec.get("kind")),
        adapter=_text(spec, "adapter"),
        examples=spec.get("examples"),
        path=_path(spec, "path"),
        program=program,
        options=_mapping(spec, "options"),
        tags=_tags(spec.get("tags")),
        module=module,
        state=_path(spec, "state"),
        init=_mapping(spec, "init"),
        tools=_tools(spec.get("tools")),
        lm=_lm(spec.get("lm")),
        dspy=_mapping(spec, "dspy"),
        routing=_mapping(spec, "routing"),
    )


def with_learned_classes(spec: ProgramSpec) -> ProgramSpec:
    """The spec with the classes of `str` outputs that its examples hold; they are checked as for fitting.

    Raises:
        InputError: an example does not fit the signature.
    """
    if spec.examples is None or spec.signature is None:
        return spec
    from dspex.learning.examples import read_examples  # not at the top: learning stands above

    return replace(spec, signature=read_examples(spec.signature, spec.examples)[0])


def asked_kind(spec: ProgramSpec) -> str:
    """The kind of a program that DSPy runs."""
    if spec.kind is not None:
        return spec.kind
    return "predict" if spec.module is None and spec.state is None else "module"


def natural_kind(signature: Signature) -> str:
    """`classify` if every output can be listed, else `predict`."""
    return "classify" if all(f.kind in ENUMERABLE for f in signature.outputs.values()) else "predict"


def kind_error(kind: str, adapter: str, program: str | None = None) -> ProgramError:
    """The error for a kind that exists, but that `adapter` does not run."""
    if kind in DSPY_KINDS:
        hint = "This kind runs on DSPy: choose adapter 'dspy', 'dspy_pool' or 'auto'"
    elif kind == "embed":
        hint = "Embeddings are not in this version of dspex"
    else:
        hint = "Choose another adapter, or leave the kind out"
    return ProgramError(f"the {adapter} adapter cannot run kind {kind!r}", program=program, hint=hint)


def bound_signature(declared: Signature, actual: Signature, program: str | None = None) -> Signature:
    """The signature of a program made elsewhere, with the Enums of the one it is declared to have.

    A declared `str` output also stands for classes that were learned from examples, and an Enum for its
    values, which a saved program holds in its place. Instructions and descriptions may differ.

    Raises:
        SignatureError: it does another task; `field` names the first field that differs.
    """
    sides = ((declared.inputs, actual.inputs), (declared.outputs, actual.outputs))
    for role, (wanted, found) in zip(("input", "output"), sides, strict=True):
        for name in (*wanted, *found):
            if name not in wanted or name not in found or not _fits(wanted[name], found[name]):
                raise SignatureError(
                    f"the program's signature is {actual.to_string()!r}, not {declared.to_string()!r}",
                    field=name,
                    program=program,
                    hint=f"The {role} {name!r} differs. Leave the signature out to take the program's",
                )
    for name, output in declared.outputs.items():
        if output.classes is not None and output.classes != actual.outputs[name].classes:
            actual = actual.with_classes(name, type(output.classes[0]))
    return actual


def _fits(wanted: Field, found: Field) -> bool:
    if wanted.takes_learned_classes and wanted.classes is None and found.learned:
        return wanted.type_name == found.type_name
    return wanted.kind == found.kind and wanted.values == found.values


def _program_id(value: Any) -> str | None:
    if value is None:
        return None
    if not isinstance(value, str) or not value.strip() or not value.isprintable() or len(value) > _MAX_ID:
        raise ConfigError(
            f"a program id is a printable string of 1 to {_MAX_ID} characters, not {_short(value)}",
            hint="Leave the id out to be given one",
        )
    return value


def _signature(spec: Mapping[str, Any], program: Program | None, module: Any) -> Signature | None:
    given = spec.get("signature")
    if given is not None:
        signature = Signature.of(given)
        if program is not None:
            return bound_signature(signature, program.signature)
        return signature
    if program is not None:
        return program.signature
    if module is not None or any(spec.get(key) is not None for key in ("path", "state")):
        return None
    raise SignatureError(
        "a program spec needs a signature",
        hint="For instance {'signature': \"text -> label: Literal['a', 'b']\"}",
    )


def _programs(program: Any, module: Any) -> tuple[Program | None, Any]:
    """(native program, DSPy module) of what stands under `program` and `module`."""
    if program is not None:
        from dspex.program import Program

        if isinstance(program, Program):
            return program, _module(module)
        if _is_dspy(program, "Module") and module is None:
            return None, program
        raise ConfigError(
            f"program is a fitted dspex.Program or a dspy.Module, not {type(program).__name__}",
            hint="Make one with dspex.fit or dspex.load",
        )
    return None, _module(module)


def _module(value: Any) -> Any:
    if value is None or _is_dspy(value, "Module") or (isinstance(value, str) and _is_import_path(value)):
        return value
    raise ConfigError(
        f"module is a dspy.Module or the import path of one, not {_short(value)}",
        hint="For instance 'package.module:Name'",
    )


def _is_dspy(value: Any, name: str) -> bool:
    dspy = sys.modules.get("dspy")  # who has an object of DSPy's has imported it
    found = getattr(dspy, name, None)
    return isinstance(found, type) and isinstance(value, found)


def _is_import_path(text: str) -> bool:
    module, colon, name = text.partition(":")
    return bool(colon) and all(part.isidentifier() for part in (*module.split("."), *name.split(".")))


def _tools(value: Any) -> tuple[Any, ...]:
    if value is None:
        return ()
    if not isinstance(value, Sequence) or isinstance(value, str | bytes):
        raise ConfigError(f"tools are a list of functions or import paths, not {_short(value)}")
    for tool in value:
        if not callable(tool) and not (isinstance(tool, str) and _is_import_path(tool)):
            raise ConfigError(
                f"a tool is a function or an import path, not {_short(tool)}",
                hint="For instance 'package.module:function'",
            )
    return tuple(value)


def _lm(value: Any) -> Any:
    if value is None or (isinstance(value, str) and value.strip()):
        return value
    if isinstance(value, Mapping) or _is_dspy(value, "BaseLM"):
        return value
    raise ConfigError("lm is the name of a configured LM, its settings, or a dspy.BaseLM")


def _kind(value: Any) -> str | None:
    if value is None or value in KINDS:
        return value  # type: ignore[no-any-return]
    raise ConfigError(f"unknown program kind {_short(value)}", hint=nearest(str(value), KINDS))


def _text(spec: Mapping[str, Any], key: str) -> str | None:
    value = spec.get(key)
    if value is None or (isinstance(value, str) and value):
        return value
    raise ConfigError(f"{key} is a non-empty string, not {_short(value)}")


def _path(spec: Mapping[str, Any], key: str) -> str | None:
    value = spec.get(key)
    if value is None:
        return None
    if isinstance(value, str | os.PathLike) and (path := os.fspath(value)) and isinstance(path, str):
        return path
    raise ConfigError(f"{key} names a saved program, and is not {_short(value)}")


def _mapping(spec: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = spec.get(key)
    if value is None:
        return {}
    if isinstance(value, Mapping) and all(isinstance(name, str) for name in value):
        return dict(value)
    raise ConfigError(f"{key} is a mapping with string keys, not {_short(value)}")


def _tags(value: Any) -> tuple[str, ...]:
    if value is None:
        return ()
    listed = isinstance(value, Sequence) and not isinstance(value, str | bytes)
    if listed and all(isinstance(tag, str) and tag for tag in value):
        return tuple(value)
    raise ConfigError(f"tags is a list of non-empty strings, not {_short(value)}")


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."

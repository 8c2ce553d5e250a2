"""The contract that every adapter keeps, whatever drives it."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, ClassVar, Self, TypedDict

from dspex.errors import ConfigError, DspexError, InputError, ProgramError, nearest
from dspex.result import Result
from dspex.spec import ProgramSpec, kind_error

__all__ = [
    "TEST_LAYERS",
    "Adapter",
    "Capabilities",
    "Health",
    "Spec",
    "as_rows",
    "check_lm_config",
    "check_options",
    "check_test_layer",
    "closed_error",
    "unknown_program",
]

#: How much of the real system a test run uses: made-up answers, the real protocol against
#: scripted peers, or everything.
TEST_LAYERS = ("mock", "bridge_mock", "full")

#: What `create_program` takes.
Spec = Mapping[str, Any] | ProgramSpec


class Capabilities(TypedDict):
    """What a test suite needs to know about an adapter; JSON-able."""

    adapter: str
    layers: list[str]  # the TEST_LAYERS in which it may be used
    kinds: list[str]  # the program kinds it runs
    deterministic: bool  # equal inputs give equal results, in every process
    uses_lm: bool  # False: configure_lm checks its argument and has no other effect
    needs_examples: bool  # True: a program is made from examples, a file or a fitted program
    scripted: bool  # True: answers, delays and errors can be scripted


@dataclass(frozen=True, slots=True)
class Health:
    """What a health check found; true when everything that was checked works.

    Attributes:
        ok: whether the adapter can answer calls now.
        reason: what was checked, or what failed.
        checked: how many programs were looked at.
    """

    ok: bool
    reason: str
    checked: int = 0

    def __bool__(self) -> bool:
        return self.ok

    def to_dict(self) -> dict[str, Any]:
        """The finding as JSON-able data."""
        return {"ok": self.ok, "reason": self.reason, "checked": self.checked}


class Adapter(ABC):
    """Drives one backend. Every method may be called from any thread.

    All adapters share one result shape (`dspex.Result`) and one exception tree
    (`dspex.errors`), and pass `dspex.testing.AdapterConformance`. Most are easier to write on
    `LocalAdapter`, which keeps the programs and the counters.

    After `close` every method but `close` and `health_check` raises ProgramError or ResourceError,
    not retryable.
    """

    #: The name it is registered under.
    name: ClassVar[str] = ""
    #: The program kinds it runs.
    kinds: ClassVar[frozenset[str]] = frozenset({"predict", "classify"})
    #: The test layers it may be used in.
    layers: ClassVar[frozenset[str]] = frozenset({"full"})
    #: Whether `close` has been called.
    closed: bool = False

    @abstractmethod
    def create_program(self, spec: Spec) -> str:
        """Makes a program ready to run and returns its id.

        Raises:
            ConfigError: the spec has unknown keys or options.
            SignatureError: this backend cannot run the signature.
            ProgramError: the id is taken, the kind is not run here, or nothing makes the program
                fit to run.
        """

    @abstractmethod
    def execute_program(
        self, program_id: str, inputs: Mapping[str, Any], options: Mapping[str, Any] | None = None
    ) -> Result:
        """Runs a program once.

        Raises:
            ProgramError: no such program.
            InputError: an input is missing, unknown or of the wrong type; `field` names it.
            ConfigError: an option this adapter does not have.
        """

    @abstractmethod
    def list_programs(self) -> list[str]:
        """The ids, in order of creation."""

    @abstractmethod
    def delete_program(self, program_id: str) -> None:
        """Forgets a program, so that its id is free again; running calls end undisturbed.

        Raises:
            ProgramError: no such program.
        """

    @abstractmethod
    def configure_lm(self, config: Mapping[str, Any]) -> None:
        """Sets the default LM: a mapping with at least `model`.

        An adapter that uses no LM checks the mapping and goes on as before; it says so in
        `get_test_capabilities()["uses_lm"]`.

        Raises:
            ConfigError: not a mapping, or without a model.
        """

    def supports_test_layer(self, layer: str) -> bool:
        """Whether it may be used in a test run of that layer.

        Raises:
            ConfigError: no such layer.
        """
        return check_test_layer(layer) in self.layers

    @abstractmethod
    def get_test_capabilities(self) -> Capabilities:
        """What a test suite needs to know about this adapter."""

    # What follows has defaults in terms of the above.

    def get_program_info(self, program_id: str) -> dict[str, Any]:
        """JSON-able facts of a program, at least `id` and `adapter`.

        Raises:
            ProgramError: no such program.
        """
        known = self.list_programs()
        if program_id not in known:
            raise unknown_program(program_id, known, self.name)
        return {"id": program_id, "adapter": self.name}

    def health_check(self) -> Health:
        """Looks whether calls can be answered now. Raises nothing; after `close` it is not ok."""
        if self.closed:
            return Health(False, "closed")
        try:
            programs = self.list_programs()
            for program_id in programs:
                self.get_program_info(program_id)
        except Exception as error:  # whatever is wrong is the finding
            return Health(False, str(error) or type(error).__name__)
        return Health(True, "every program listed can be described", len(programs))

    def get_stats(self) -> dict[str, Any]:
        """JSON-able counters since the adapter was made.

        At least `adapter` and `programs` (held now). Adapters that count also give `created`,
        `deleted`, `calls` (rows run, failed ones included), `batches` and `errors` (by category).
        """
        return {"adapter": self.name, "programs": len(self.list_programs())}

    def execute_batch(
        self,
        program_id: str,
        rows: Iterable[Mapping[str, Any]],
        options: Mapping[str, Any] | None = None,
    ) -> list[Result]:
        """Runs a program on many rows; the results are in the order of the rows.

        Raises:
            The first row's error that occurs, with `row` set; see `execute_program`.
        """
        results = []
        for row, inputs in enumerate(as_rows(rows, program_id)):
            try:
                results.append(self.execute_program(program_id, inputs, options))
            except DspexError as error:
                if error.row is None:
                    error.row = row
                raise
        return results

    async def aexecute_program(
        self, program_id: str, inputs: Mapping[str, Any], options: Mapping[str, Any] | None = None
    ) -> Result:
        """`execute_program` without blocking the event loop."""
        return await asyncio.to_thread(self.execute_program, program_id, inputs, options)

    async def astream_program(
        self, program_id: str, inputs: Mapping[str, Any], options: Mapping[str, Any] | None = None
    ) -> AsyncGenerator[tuple[str, str] | Result, None]:
        """`aexecute_program` in pieces: (output, piece of text) as they come, if any do, then the result."""
        yield await self.aexecute_program(program_id, inputs, options)

    def close(self) -> None:
        """Gives back what the adapter holds. Closing twice is harmless."""
        self.closed = True

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def require_kind(self, spec: ProgramSpec) -> None:
        """Raises ProgramError when this adapter does not run the spec's kind."""
        if spec.kind is not None and spec.kind not in self.kinds:
            raise kind_error(spec.kind, self.name, spec.id)


def unknown_program(program_id: Any, known: Sequence[str], owner: str) -> ProgramError:
    """The error for an id that nothing was created under; `owner` is who was asked."""
    if not isinstance(program_id, str):
        return ProgramError(f"a program id is a string, not {type(program_id).__name__}")
    return ProgramError(
        f"{owner} has no such program",
        program=program_id,
        hint=nearest(program_id, known) if known else "No program has been created yet",
    )


def closed_error(owner: str, program_id: str | None = None) -> ProgramError:
    """The error for any use of `owner` after it was closed."""
    return ProgramError(f"{owner} is closed", program=program_id, hint="Make a new one")


def check_test_layer(layer: str) -> str:
    """Returns a known layer; anything else is a ConfigError."""
    if layer in TEST_LAYERS:
        return layer
    raise ConfigError(f"unknown test layer {layer!r}", hint=nearest(str(layer), TEST_LAYERS))


def check_options(options: Any, known: Iterable[str], owner: str, program_id: str | None = None) -> None:
    """Raises ConfigError for options that are not a mapping, or that `owner` does not have."""
    if not isinstance(options, Mapping):
        raise ConfigError(f"options is a mapping, not {type(options).__name__}", program=program_id)
    names = tuple(known)
    for name in options:
        if name not in names:
            hint = nearest(str(name), names) if names else f"{owner} takes none here"
            raise ConfigError(f"{owner} has no option {name!r}", program=program_id, hint=hint)


def check_lm_config(config: Any) -> dict[str, Any]:
    """Returns a copy of an LM configuration that has a model; values are never shown, they may be secret.

    Raises:
        ConfigError: not a mapping with string keys, or without a model.
    """
    if not isinstance(config, Mapping) or not all(isinstance(key, str) for key in config):
        raise ConfigError(
            f"an LM configuration is a mapping with string keys, not {type(config).__name__}",
            hint="For instance {'model': 'openai/gpt-4o-mini'}; an LM of DSPy's goes into a spec, as `lm`",
        )
    model = config.get("model")
    if not isinstance(model, str) or not model.strip():
        raise ConfigError(
            "an LM configuration names a model", hint="For instance {'model': 'openai/gpt-4o-mini'}"
        )
    return dict(config)


def as_rows(rows: Any, program_id: str | None = None) -> Sequence[Mapping[str, Any]]:
    """The rows of a batch as a sequence; one row, or a string, is an InputError."""
    if isinstance(rows, Mapping | str | bytes) or not isinstance(rows, Iterable):
        raise InputError(
            f"a batch is a list of mappings, not {type(rows).__name__}",
            program=program_id,
            hint="For one row, use execute_program",
        )
    return rows if isinstance(rows, list | tuple) else list(rows)

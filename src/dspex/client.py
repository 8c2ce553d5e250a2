"""The client face: programs by id, whichever adapter runs them."""

from __future__ import annotations

import contextlib
import dataclasses
import threading
from collections.abc import Iterable, Mapping
from types import TracebackType
from typing import Any, Self

from dspex.adapters import registry
from dspex.adapters.base import Adapter, Health, Spec, check_lm_config
from dspex.adapters.local import ProgramStore
from dspex.adapters.spec import ProgramSpec, kind_error
from dspex.errors import ConfigError, DspexError, ProgramError, SignatureError, nearest
from dspex.result import Result

__all__ = [
    "Client",
    "create_program",
    "delete_program",
    "execute_program",
    "get_program_info",
    "list_programs",
    "resolve_adapter",
]

_AUTO = "auto"


class _Place:
    """Where a program lives."""

    __slots__ = ("adapter", "execute", "name")

    def __init__(self, name: str, adapter: Adapter) -> None:
        self.name = name
        self.adapter = adapter
        self.execute = adapter.execute_program  # bound once: saves look-ups on every call


class Client:
    """Programs of any number of adapters under one set of ids. Safe to use from many threads.

    Adapters are made by the registry when a program first names them, and closed with the client.

    Args:
        adapters: adapters of one's own by name; they come before the registry's, and stay open when
            the client is closed.

    Raises:
        ConfigError: an adapter that is not one, or has a reserved name.
    """

    def __init__(self, adapters: Mapping[str, Adapter] | None = None) -> None:
        self._own = dict(adapters or {})
        for name, adapter in self._own.items():
            if name == _AUTO or not isinstance(adapter, Adapter):
                raise ConfigError(
                    f"{name!r}: {type(adapter).__name__} cannot serve as an adapter of that name"
                )
        self._made: dict[str, Adapter] = {}
        self._places: ProgramStore[_Place] = ProgramStore("the client")
        self._lock = threading.RLock()

    def create_program(self, spec: Spec, adapter: str | None = None) -> str:
        """Makes a program ready to run and returns its id.

        Args:
            spec: a mapping with `signature` (any form that DSPy takes, or a mapping), and as needed
                `id`, `kind`, `adapter`, one of `examples`, `path` and `program`, `options`, `tags`.
            adapter: the adapter's name, in place of the spec's; by default "auto", see
                `resolve_adapter`.

        Raises:
            ConfigError: unknown keys or options, or an unknown adapter.
            SignatureError: an unreadable signature, or one the adapter cannot run.
            ProgramError: the id is taken, the kind is not run here, or nothing makes the program
                fit to run.
        """
        self._places.require_open()
        checked = ProgramSpec.of(spec)
        name = self._name(checked, adapter)
        target = self.adapter(name)

        built: list[str] = []

        def build(program_id: str) -> _Place:
            made = target.create_program(_with_id(checked, program_id))
            built.append(made)
            if made != program_id:
                raise ProgramError(f"adapter {name!r} made program {made!r} instead", program=program_id)
            return _Place(name, target)

        try:
            return self._places.create(checked.id, build)
        except DspexError:
            for made in built:  # closed meanwhile: leave nothing behind in an adapter that stays open
                with contextlib.suppress(DspexError):
                    target.delete_program(made)
            raise

    def execute_program(
        self, program_id: str, inputs: Mapping[str, Any], options: Mapping[str, Any] | None = None
    ) -> Result:
        """Runs a program once.

        Raises:
            ProgramError: no such program.
            InputError: an input is missing, unknown or of the wrong type; `field` names it.
            ConfigError: an option that the program's adapter does not have.
        """
        try:
            execute = self._places.items[program_id].execute
        except (KeyError, TypeError):
            raise self._places.missing(program_id) from None
        return execute(program_id, inputs, options)

    def execute_batch(
        self,
        program_id: str,
        rows: Iterable[Mapping[str, Any]],
        options: Mapping[str, Any] | None = None,
    ) -> list[Result]:
        """Runs a program on many rows, in order; errors as `execute_program`, with `row` set."""
        return self._places.get(program_id).adapter.execute_batch(program_id, rows, options)

    async def aexecute_program(
        self, program_id: str, inputs: Mapping[str, Any], options: Mapping[str, Any] | None = None
    ) -> Result:
        """`execute_program` without blocking the event loop."""
        return await self._places.get(program_id).adapter.aexecute_program(program_id, inputs, options)

    def list_programs(self) -> list[str]:
        """The ids of this client's programs, in order of creation."""
        self._places.require_open()
        return list(self._places.items)

    def get_program_info(self, program_id: str) -> dict[str, Any]:
        """JSON-able facts of a program, at least `id` and `adapter`.

        Raises:
            ProgramError: no such program.
        """
        place = self._places.get(program_id)
        return {**place.adapter.get_program_info(program_id), "adapter": place.name}

    def delete_program(self, program_id: str) -> None:
        """Forgets a program, so that its id is free again.

        Raises:
            ProgramError: no such program.
        """
        place = self._places.get(program_id)
        try:
            place.adapter.delete_program(program_id)
        except ProgramError:
            if program_id in self._places.items:  # deleted behind the client's back: let go of it here too
                self._places.remove(program_id)
            raise
        self._places.remove(program_id)

    def configure_lm(self, config: Mapping[str, Any], adapter: str | None = None) -> None:
        """Sets the LM of one adapter, or of all in use. See `Adapter.configure_lm`."""
        self._places.require_open()
        check_lm_config(config)
        for target in [self.adapter(adapter)] if adapter is not None else self._in_use().values():
            target.configure_lm(config)

    def health_check(self) -> dict[str, Health]:
        """What each adapter in use finds about itself, by name."""
        self._places.require_open()
        return {name: adapter.health_check() for name, adapter in self._in_use().items()}

    def get_stats(self) -> dict[str, dict[str, Any]]:
        """The counters of each adapter in use, by name."""
        self._places.require_open()
        return {name: adapter.get_stats() for name, adapter in self._in_use().items()}

    def adapter(self, name: str) -> Adapter:
        """The adapter of that name, made when first asked for.

        Raises:
            ConfigError: no such adapter.
        """
        with self._lock:
            self._places.require_open()
            found = self._own.get(name) or self._made.get(name)
            if found is None:
                found = self._made[name] = self._make(name)
            return found

    def close(self) -> None:
        """Closes the adapters that the client made. Closing twice is harmless."""
        self._places.close()
        with self._lock:
            made, self._made = self._made, {}
        for adapter in made.values():
            adapter.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _name(self, spec: ProgramSpec, adapter: str | None) -> str:
        if adapter is not None and spec.adapter is not None and adapter != spec.adapter:
            raise ConfigError(
                f"the spec names adapter {spec.adapter!r}, the call {adapter!r}", program=spec.id
            )
        name = adapter if adapter is not None else spec.adapter
        return resolve_adapter(spec) if name is None or name == _AUTO else name

    def _make(self, name: str) -> Adapter:
        try:
            return registry.create(name)
        except ConfigError as error:
            known = registry.available()
            if name not in known:  # the nearest name may be one of this client's own
                error.hint = nearest(str(name), [*self._own, *known])
            raise

    def _in_use(self) -> dict[str, Adapter]:
        with self._lock:
            return {**self._made, **self._own}


def resolve_adapter(spec: ProgramSpec) -> str:
    """The adapter that "auto" stands for: native, or an error that says why not. Never the mock.

    Raises:
        ProgramError: a kind that native programs do not have.
        SignatureError: the signature cannot run natively; `field` says which field is in the way.
    """
    from dspex.adapters.native import NativeAdapter, native_obstacle

    if spec.kind is not None and spec.kind not in NativeAdapter.kinds:
        raise kind_error(spec.kind, _AUTO, spec.id)
    if spec.signature is not None and spec.program is None:
        obstacle = native_obstacle(spec.signature, has_examples=spec.examples is not None)
        if obstacle is not None:
            field, reason = obstacle
            raise SignatureError(
                f"the signature cannot run natively: {reason}",
                field=field,
                program=spec.id,
                hint="What native programs cannot do runs on DSPy, and this version has no DSPy adapter",
            )
    return NativeAdapter.name


def _with_id(spec: ProgramSpec, program_id: str) -> ProgramSpec:
    return dataclasses.replace(spec, id=program_id, adapter=None)


_default = Client()

# Bound methods: the module's functions cost no call of their own.
create_program = _default.create_program
execute_program = _default.execute_program
list_programs = _default.list_programs
get_program_info = _default.get_program_info
delete_program = _default.delete_program

"""The client face: programs by id, whichever adapter runs them."""

from __future__ import annotations

import contextlib
import dataclasses
import inspect
import os
import threading
from collections.abc import AsyncGenerator, Iterable, Iterator, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from dspex.adapters import registry
from dspex.adapters.base import Adapter, Health, Spec, check_lm_config
from dspex.adapters.local import ProgramStore
from dspex.adapters.test_layer import spec_for, stand_in, without_options
from dspex.config.places import is_configured
from dspex.errors import ConfigError, DspexError, ProgramError, nearest
from dspex.result import Result, Route
from dspex.routing import BACKENDS, OPERATIONS, Explanation, Step, rules_of
from dspex.spec import ProgramSpec

if TYPE_CHECKING:
    from dspex.config import Config

__all__ = [
    "Client",
    "aexecute_program",
    "configure_lm",
    "create_program",
    "delete_program",
    "execute_batch",
    "execute_program",
    "explain",
    "get_program_info",
    "list_programs",
]

_AUTO = "auto"
_HYBRID = "hybrid"  # what "auto" stands for
_ASKING = ("dspy", "dspy_pool")  # its backends that have an LM


class _Place:
    """Where a program lives. The methods are bound once: it saves look-ups on every call."""

    __slots__ = ("adapter", "aexecute", "batch", "execute", "name", "stream")

    def __init__(self, name: str, adapter: Adapter, *, stands_in: bool = False) -> None:
        self.name = name
        self.adapter = adapter
        self.execute = adapter.execute_program
        self.aexecute = adapter.aexecute_program
        self.batch = adapter.execute_batch
        self.stream = adapter.astream_program
        if stands_in:
            self.execute = without_options(self.execute)
            self.aexecute = without_options(self.aexecute)
            self.batch = without_options(self.batch)
            self.stream = without_options(self.stream)


class Client:
    """Programs of any number of adapters under one set of ids. Safe to use from many threads.

    Adapters are made by the registry when a program first names them, and closed with the client.

    Args:
        adapters: adapters of one's own by name; they come before the registry's, and stay open when
            the client is closed.
        config: for the adapters that the client makes: a `Config`, a mapping, or the path of a file. By
            default what `dspex.toml` in the working directory and the environment variables DSPEX_* say, read
            when the first adapter is made.

    Raises:
        ConfigError: an adapter that is not one, or has a reserved name; a setting or a rule that makes no
            sense.
    """

    def __init__(
        self,
        adapters: Mapping[str, Adapter] | None = None,
        config: Config | Mapping[str, Any] | str | os.PathLike[str] | None = None,
    ) -> None:
        self._own = dict(adapters or {})
        for name, adapter in self._own.items():
            if name == _AUTO or not isinstance(adapter, Adapter):
                raise ConfigError(
                    f"{name!r}: {type(adapter).__name__} cannot serve as an adapter of that name"
                )
        self._made: dict[str, Adapter] = {}
        self._places: ProgramStore[_Place] = ProgramStore("the client")
        self._lock = threading.RLock()
        self._lm: dict[str, Any] | None = None
        self._hybrids_lm: dict[str, Any] | None = None  # where it alone has another: for its backends to come
        self._config = None if config is None else _checked_config(config)

    def create_program(self, spec: Spec, adapter: str | None = None) -> str:
        """Makes a program ready to run and returns its id.

        Args:
            spec: a mapping with `signature` (any form that DSPy takes, or a mapping), and as needed
                `id`, `kind`, `adapter`, one of `examples`, `path` and `program`, and more; see `ProgramSpec`.
            adapter: the adapter's name, in place of the spec's; by default "auto": the hybrid adapter, which
                answers natively where it can and asks DSPy for the rest.

        Raises:
            ConfigError: unknown keys or options, or an unknown adapter.
            SignatureError: an unreadable signature, or one the adapter cannot run.
            ProgramError: the id is taken, the kind is not run here, or nothing makes the program
                fit to run.
        """
        self._places.require_open()
        checked = ProgramSpec.of(spec)
        wanted = self._wanted(checked, adapter)
        name = self._name(wanted)
        target = self.adapter(name)
        if name != wanted:
            checked = spec_for(checked, target)

        built: list[str] = []

        def build(program_id: str) -> _Place:
            made = target.create_program(dataclasses.replace(checked, id=program_id, adapter=None))
            built.append(made)
            if made != program_id:
                raise ProgramError(f"adapter {name!r} made program {made!r} instead", program=program_id)
            return _Place(name, target, stands_in=name != wanted)

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
        return self._places.get(program_id).batch(program_id, rows, options)

    async def aexecute_program(
        self, program_id: str, inputs: Mapping[str, Any], options: Mapping[str, Any] | None = None
    ) -> Result:
        """`execute_program` without blocking the event loop."""
        return await self._places.get(program_id).aexecute(program_id, inputs, options)

    def astream_program(
        self, program_id: str, inputs: Mapping[str, Any], options: Mapping[str, Any] | None = None
    ) -> AsyncGenerator[tuple[str, str] | Result, None]:
        """`aexecute_program` in pieces: (output, piece of text) as they come, then the result.

        There are pieces where DSPy answers in this process; any other answer is the one result. Who stops
        reading closes the generator, as `contextlib.aclosing` does.

        Raises:
            As `execute_program`; after a piece has come, no other backend is asked.
        """
        return self._places.get(program_id).stream(program_id, inputs, options)

    def explain(
        self,
        program_id: str,
        inputs: Mapping[str, Any],
        operation: str = "call",
        options: Mapping[str, Any] | None = None,
    ) -> Explanation:
        """Where a call would go, and why; see `HybridAdapter.explain`. The LM is not asked.

        Raises:
            ProgramError: no such program.
            InputError: the inputs do not fit the signature.
            ConfigError: an operation or an option that does not exist.
        """
        place = self._places.get(program_id)
        explain = getattr(place.adapter, "explain", None)
        if explain is not None:
            explanation: Explanation = explain(program_id, inputs, operation, options)
            return explanation
        if operation not in OPERATIONS:
            hint = nearest(str(operation), OPERATIONS)
            raise ConfigError(f"there is no operation {operation!r}", hint=hint)
        reason = f"the program was created on the {place.name} adapter"
        steps = (Step("explicit", reason, place.name),)
        return Explanation(program_id, operation, steps, Route(place.name, reason=reason))

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
        """Sets the LM of one adapter, or of all, those to come included. See `Adapter.configure_lm`.

        That of the client's hybrid adapter is that of its DSPy backends, which are the client's.

        Raises:
            ConfigError: the settings are not those of an LM, and nobody was told; or an unknown adapter.
        """
        self._places.require_open()
        checked = check_lm_config(config)
        name = None if adapter is None else self._name(adapter)
        if name is not None and (name != _HYBRID or name in self._own):
            self.adapter(name).configure_lm(checked)
            return
        from dspex.config import LMSettings

        LMSettings.of(checked, at="lm")
        if name is not None:
            self.adapter(name)
        with self._lock:
            before = self._lm, self._hybrids_lm
            targets = self._in_use()
            if name is None:
                self._lm, self._hybrids_lm = checked, None
            else:
                self._hybrids_lm = checked
                targets = {each: targets[each] for each in (*_ASKING, name) if each in targets}
        try:
            for target in targets.values():
                target.configure_lm(checked)
        except BaseException:
            self._lm, self._hybrids_lm = before
            raise

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
            ConfigError: no such adapter, or the configuration makes no sense.
        """
        name = self._name(name)
        with self._lock:
            self._places.require_open()
            found = self._own.get(name) or self._made.get(name)
            if found is None:
                found = self._make(name)
                lm = self._hybrids_lm if self._hybrids_lm is not None and name in _ASKING else self._lm
                if lm is not None:
                    found.configure_lm(lm)
                self._made[name] = found
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

    @staticmethod
    def _wanted(spec: ProgramSpec, adapter: str | None) -> str:
        """The adapter that a program is to run on, as it is named."""
        if adapter is not None and spec.adapter is not None and adapter != spec.adapter:
            raise ConfigError(
                f"the spec names adapter {spec.adapter!r}, the call {adapter!r}", program=spec.id
            )
        name = adapter if adapter is not None else spec.adapter
        return _HYBRID if name is None or name == _AUTO else name

    def _name(self, name: str) -> str:
        """The adapter that is used for a name: in tests that may be a stand-in."""
        name = _HYBRID if name == _AUTO else name
        return name if name in self._own else stand_in(name) or name

    def _make(self, name: str) -> Adapter:
        try:
            return registry.create(name, **self._settings(name))
        except ConfigError as error:
            known = registry.available()
            if name not in known:  # the nearest name may be one of this client's own
                error.hint = nearest(str(name), [*self._own, *known])
            raise

    def _settings(self, name: str) -> dict[str, Any]:
        """What an adapter that is made here is told."""
        takes = _parameters(registry.get(name))
        settings: dict[str, Any] = {}
        if name == "native_pool":
            config = self._read_config()
            settings.update({} if config is None else config.native_pool)
        elif "config" in takes:
            settings["config"] = self._read_config()
        if name == _HYBRID and "backends" in takes:
            settings["backends"] = _Backends(self)
        return settings

    def _read_config(self) -> Config | None:
        """The configuration; None, and nothing imported, where there is none."""
        if self._config is None and is_configured():
            from dspex.config import load

            self._config = _checked_config(load())
        return self._config

    def _in_use(self) -> dict[str, Adapter]:
        with self._lock:
            return {**self._made, **self._own}


class _Backends(Mapping[str, Adapter]):
    """The client's adapters as the backends of its hybrid one: pools and LM limits are there once."""

    tells_lm = True  # the client does, each adapter once

    def __init__(self, client: Client) -> None:
        self._client = client
        # Native programs of the hybrid adapter are its own, unless the user brought where they are to be.
        self._names = [name for name in BACKENDS if name != "native" or name in client._own]

    def __getitem__(self, name: str) -> Adapter:
        if name not in self._names:
            raise KeyError(name)
        return self._client.adapter(name)

    def __contains__(self, name: object) -> bool:
        return name in self._names  # without making it

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def _parameters(factory: Any) -> Mapping[str, Any]:
    try:
        return inspect.signature(factory).parameters
    except (TypeError, ValueError):  # written in C
        return {}


def _checked_config(config: Config | Mapping[str, Any] | str | os.PathLike[str]) -> Config:
    from dspex.config import Config, load

    checked = load(config) if isinstance(config, str | os.PathLike) else Config.of(config)
    rules_of(checked.routing.rules)
    return checked


_default = Client()

# Bound methods: the module's functions cost no call of their own.
create_program = _default.create_program
execute_program = _default.execute_program
execute_batch = _default.execute_batch
aexecute_program = _default.aexecute_program
explain = _default.explain
configure_lm = _default.configure_lm
list_programs = _default.list_programs
get_program_info = _default.get_program_info
delete_program = _default.delete_program

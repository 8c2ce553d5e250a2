"""Adapters that hold their programs in this process: ids, counters and life cycle in one place."""

from __future__ import annotations

import contextlib
import threading
import uuid
from abc import abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import UTC, datetime
from typing import Any, Generic, Protocol, TypeVar

from dspex.adapters.base import (
    Adapter,
    Spec,
    as_rows,
    check_lm_config,
    check_options,
    closed_error,
    unknown_program,
)
from dspex.errors import ConfigError, DspexError, InputError, ProgramError, SignatureError
from dspex.result import Result
from dspex.signature import Signature
from dspex.spec import ENUMERABLE, ProgramSpec

__all__ = ["LocalAdapter", "ProgramStore", "Runner"]

T = TypeVar("T")


class Runner(Protocol):
    """What a held program can do; `dspex.Program` is one."""

    @property
    def signature(self) -> Signature: ...
    @property
    def kind(self) -> str: ...
    @property
    def backend(self) -> str: ...
    def predict(self, inputs: Mapping[str, Any], /) -> Result: ...
    def batch(self, rows: Any, /) -> list[Result]: ...
    async def acall(self, /, **inputs: Any) -> Result: ...
    def info(self) -> dict[str, Any]: ...


class ProgramStore(Generic[T]):
    """Things under program ids. Readers take no lock: `items` is replaced, never changed."""

    def __init__(self, owner: str) -> None:
        self.items: dict[str, T] = {}
        self.closed = False
        self._owner = owner
        self._pending: set[str] = set()
        self._lock = threading.Lock()

    def create(self, program_id: str | None, build: Callable[[str], T]) -> str:
        """Takes the id (or a new one), builds outside the lock, and puts the outcome in the store.

        Raises:
            ProgramError: the id is taken, also by a build that is under way; or the store is closed.
        """
        program_id = self._reserve(program_id)
        try:
            item = build(program_id)
            with self._lock:
                if self.closed:
                    raise closed_error(self._owner, program_id)
                self.items = {**self.items, program_id: item}
        finally:
            with self._lock:
                self._pending.discard(program_id)
        return program_id

    def _reserve(self, program_id: str | None) -> str:
        with self._lock:
            if self.closed:
                raise closed_error(self._owner, program_id)
            if program_id is None:
                program_id = f"prog-{uuid.uuid4().hex[:12]}"
            if program_id in self.items or program_id in self._pending:
                raise ProgramError(
                    f"{self._owner} has a program of this id already",
                    program=program_id,
                    hint="Delete it first, or choose another id",
                )
            self._pending.add(program_id)
            return program_id

    def get(self, program_id: str) -> T:
        """What is under the id.

        Raises:
            ProgramError: nothing is, or the store is closed.
        """
        try:
            return self.items[program_id]
        except (KeyError, TypeError):
            raise self.missing(program_id) from None

    def missing(self, program_id: Any) -> ProgramError:
        """The error for an id that is not in `items`."""
        if self.closed:
            return closed_error(self._owner, program_id if isinstance(program_id, str) else None)
        return unknown_program(program_id, list(self.items), self._owner)

    def remove(self, program_id: str) -> T:
        """Frees the id and returns what was under it.

        Raises:
            ProgramError: nothing was, or the store is closed.
        """
        with self._lock:
            item = self.get(program_id)
            self.items = {key: value for key, value in self.items.items() if key != program_id}
            return item

    def require_open(self) -> None:
        """Raises ProgramError after `close`."""
        if self.closed:
            raise closed_error(self._owner)

    def close(self) -> dict[str, T]:
        """Empties the store for good and returns what was in it."""
        with self._lock:
            self.closed = True
            items, self.items = self.items, {}
            return items


class _Held:
    """One program with what is told about it."""

    __slots__ = ("calls", "created_at", "kind", "predict", "runner", "tags")

    def __init__(self, runner: Runner, spec: ProgramSpec) -> None:
        self.runner = runner
        self.predict = runner.predict  # bound once: saves an attribute look-up on every call
        self.kind = spec.kind or runner.kind
        self.tags = spec.tags
        self.created_at = datetime.now(UTC).isoformat()
        self.calls = 0


class LocalAdapter(Adapter):
    """An adapter that keeps `Runner`s in this process. Subclasses say how to `build` one.

    `calls` is counted without a lock: exact under the GIL, where nothing runs between the read and
    the write; on a free-threaded build a lower bound.
    """

    def __init__(self) -> None:
        self._store: ProgramStore[_Held] = ProgramStore(f"the {self.name} adapter")
        self._lock = threading.Lock()
        self._errors: Counter[str] = Counter()
        self._created = self._deleted = self._batches = self._retired_calls = 0

    @abstractmethod
    def build(self, spec: ProgramSpec, program_id: str) -> Runner:
        """Makes what runs the program; called without any lock held.

        Raises:
            DspexError: as `create_program` says.
        """

    def create_program(self, spec: Spec) -> str:
        self._store.require_open()
        try:
            checked = self._checked(spec)
            program_id = self._store.create(checked.id, lambda key: self._held(checked, key))
        except Exception as error:
            self._note(error, None)
            raise
        with self._lock:
            self._created += 1
        return program_id

    def _checked(self, spec: Spec) -> ProgramSpec:
        checked = ProgramSpec.of(spec)
        self.require_kind(checked)
        if checked.adapter not in (None, self.name):
            raise ConfigError(
                f"the spec names adapter {checked.adapter!r}, not {self.name!r}", program=checked.id
            )
        return checked

    def _held(self, spec: ProgramSpec, program_id: str) -> _Held:
        try:
            runner = self.build(spec, program_id)
        except DspexError as error:
            error.program = program_id
            raise
        if spec.kind == "classify" and runner.kind != "classify":
            raise SignatureError(
                "kind 'classify' needs outputs that can be listed",
                field=next(
                    (n for n, f in runner.signature.outputs.items() if f.kind not in ENUMERABLE), None
                ),
                program=program_id,
                hint="Use kind 'predict', or give the output classes",
            )
        return _Held(runner, spec)

    def execute_program(
        self, program_id: str, inputs: Mapping[str, Any], options: Mapping[str, Any] | None = None
    ) -> Result:
        # The hot path: one look-up, one count, one call. No lock, no clock, no copy.
        try:
            held = self._store.items[program_id]
        except (KeyError, TypeError):
            raise self._unknown(program_id) from None
        if options is not None:
            self._check_options(options, program_id)
        held.calls += 1
        try:
            return held.predict(inputs)
        except Exception as error:
            self._note(error, program_id)
            raise

    def execute_batch(
        self,
        program_id: str,
        rows: Iterable[Mapping[str, Any]],
        options: Mapping[str, Any] | None = None,
    ) -> list[Result]:
        held = self._get(program_id)
        if options is not None:
            self._check_options(options, program_id)
        with self._noting(program_id):
            listed = as_rows(rows, program_id)
            held.calls += len(listed)
            with self._lock:
                self._batches += 1
            return held.runner.batch(listed)

    async def aexecute_program(
        self, program_id: str, inputs: Mapping[str, Any], options: Mapping[str, Any] | None = None
    ) -> Result:
        held = self._get(program_id)
        if options is not None:
            self._check_options(options, program_id)
        held.calls += 1
        with self._noting(program_id):
            return await held.runner.acall(**_keywords(inputs))

    def list_programs(self) -> list[str]:
        self._store.require_open()
        return list(self._store.items)

    def delete_program(self, program_id: str) -> None:
        try:
            held = self._store.remove(program_id)
        except ProgramError as error:
            self._note(error, None)
            raise
        with self._lock:
            self._deleted += 1
            self._retired_calls += held.calls

    def configure_lm(self, config: Mapping[str, Any]) -> None:
        """Checks the configuration and goes on as before: programs held here ask no LM."""
        self._store.require_open()
        check_lm_config(config)

    def get_program_info(self, program_id: str) -> dict[str, Any]:
        held = self._get(program_id)
        return {
            "id": program_id,
            "adapter": self.name,
            "kind": held.kind,
            "backend": held.runner.backend,
            "signature": held.runner.signature.to_string(),
            "created_at": held.created_at,
            "tags": list(held.tags),
            "calls": held.calls,
            "program": held.runner.info(),
        }

    def get_stats(self) -> dict[str, Any]:
        self._store.require_open()
        with self._lock:
            items = self._store.items
            return {
                "adapter": self.name,
                "programs": len(items),
                "created": self._created,
                "deleted": self._deleted,
                "calls": self._retired_calls + sum(held.calls for held in items.values()),
                "batches": self._batches,
                "errors": dict(self._errors),
            }

    def close(self) -> None:
        """Forgets every program. Closing twice is harmless; running calls end undisturbed."""
        super().close()
        self._store.close()

    def runners(self) -> dict[str, Runner]:
        """The programs held now, by id."""
        return {program_id: held.runner for program_id, held in self._store.items.items()}

    def _get(self, program_id: str) -> _Held:
        try:
            return self._store.items[program_id]
        except (KeyError, TypeError):
            raise self._unknown(program_id) from None

    def _unknown(self, program_id: Any) -> ProgramError:
        error = self._store.missing(program_id)
        self._note(error, None)
        return error

    def _check_options(self, options: Any, program_id: str) -> None:
        with self._noting(program_id):
            check_options(options, (), f"the {self.name} adapter", program_id)

    @contextlib.contextmanager
    def _noting(self, program_id: str) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            self._note(error, program_id)
            raise

    def _note(self, error: Exception, program_id: str | None) -> None:
        """Counts an error, and names the program on it by the id that the caller knows."""
        category = error.category if isinstance(error, DspexError) else "system"
        if isinstance(error, DspexError) and program_id is not None:
            error.program = program_id
        with self._lock:
            self._errors[category] += 1


def _keywords(inputs: Any) -> dict[str, Any]:
    if not isinstance(inputs, Mapping):
        raise InputError(
            f"inputs are a mapping from field to value, not {type(inputs).__name__}",
            hint="For instance {'text': 'I lost my card'}",
        )
    for name in inputs:
        if not isinstance(name, str):
            raise InputError(f"a field name is a string, not {type(name).__name__}", field=repr(name))
    return dict(inputs)

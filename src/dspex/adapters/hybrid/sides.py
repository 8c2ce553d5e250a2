"""One program on its backends: a native side, a DSPy side, each made when it is needed, all under one id."""

from __future__ import annotations

import contextlib
import threading
from dataclasses import replace
from typing import Any

from dspex.adapters.base import Adapter, unknown_program
from dspex.adapters.hybrid.backends import Backends
from dspex.adapters.local import Runner
from dspex.adapters.native import native_obstacle
from dspex.errors import DspexError, ProgramError, SignatureError
from dspex.program import Program
from dspex.result import Route
from dspex.spec import DSPY_KINDS, ProgramSpec

__all__ = ["Sides", "obstacle_of"]


class Sides:
    """Where a program is present.

    Args:
        spec: the program's.
        program_id: its id on every backend.

    Attributes:
        program: the native program, or None.
    """

    def __init__(self, spec: ProgramSpec, program_id: str, backends: Backends) -> None:
        self._spec = spec
        self._id = program_id
        self._backends = backends
        self._ready: dict[str, Adapter] = {}
        self._dropped = False
        self._lock = threading.RLock()
        self.program: Program | None = None

    def fit(self) -> Program:
        """Makes the native side."""
        spec = replace(self._spec, id=self._id, adapter=None, module=None, state=None, lm=None, tools=())
        native = self._backends.native()
        native.create_program(spec)
        self._ready["native"] = native
        program: Any = native.runners()[self._id]
        self.program = program
        return self.program

    def runner(self, backend: str, route: Route) -> Runner:
        """What runs the native program on a native backend, with this route on its results."""
        assert self.program is not None
        if backend == "native":
            return self.program.with_route(route)
        pooled: Any = self._backends.native(backend)
        self.adapter(backend)
        runner: Runner = pooled.runners()[self._id].with_route(route)
        return runner

    def adapter(self, backend: str) -> Adapter:
        """The adapter of a backend, on which the program is present.

        Raises:
            DspexError: as its `create_program`; or the program has been deleted.
        """
        found = self._ready.get(backend)
        if found is not None:
            return found
        with self._lock:
            if self._dropped:
                raise unknown_program(self._id, [], "the hybrid adapter")
            if backend not in self._ready:
                adapter = self._backends.get(backend)
                adapter.create_program(self._spec_for(backend))
                self._ready[backend] = adapter
            return self._ready[backend]

    def is_ready(self, backend: str) -> bool:
        """Whether the program is present there."""
        return backend in self._ready

    def drop(self) -> None:
        """Takes the program away from every backend."""
        with self._lock:
            self._dropped = True
            ready, self._ready = self._ready, {}
        for adapter in ready.values():
            with contextlib.suppress(DspexError):  # closed, or deleted behind the hybrid adapter's back
                adapter.delete_program(self._id)

    def leave(self) -> None:
        """`drop`, but from backends that go on to live."""
        with self._lock:
            self._ready = {name: each for name, each in self._ready.items() if self._backends.stays(name)}
        self.drop()

    def _spec_for(self, backend: str) -> ProgramSpec:
        spec = replace(self._spec, id=self._id, adapter=None, routing={})
        if self.program is None:
            return spec
        if backend == "native_pool":
            return ProgramSpec(self.program.signature, self._id, program=self.program, tags=spec.tags)
        # Its answers are to be of the same types as the native ones; examples are for the native side.
        kind = spec.kind if spec.module is None else None
        return replace(
            spec,
            signature=self.program.signature,
            kind=kind,
            examples=None,
            path=None,
            program=None,
            options={},
        )


def obstacle_of(spec: ProgramSpec) -> tuple[str | None, str] | None:
    """Why the program has no native side, as (field, reason), or None if it has one.

    Raises:
        ProgramError: a fitted program of a kind that is not native.
        SignatureError: examples without the signature that they are examples of.
    """
    fitted = spec.path is not None or spec.program is not None
    if spec.kind in DSPY_KINDS:
        if fitted:
            raise ProgramError(
                f"a fitted program cannot run kind {spec.kind!r}",
                program=spec.id,
                hint="Leave the kind out, and give the DSPy program as `module`",
            )
        return None, f"kind {spec.kind!r} runs on DSPy"
    if spec.examples is not None and spec.signature is None:
        raise SignatureError("examples need the signature of which they are", program=spec.id)
    if spec.signature is not None and spec.program is None:
        # A saved program has learned the classes of its `str` outputs.
        learned = spec.examples is not None or spec.path is not None
        obstacle = native_obstacle(spec.signature, has_examples=learned)
        if obstacle is not None:
            return obstacle
    if not fitted and spec.examples is None:
        return None, "it has no examples, saved or fitted program to be native with"
    return None

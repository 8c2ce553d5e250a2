"""The adapter itself: its programs, its options, its counters."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import AsyncGenerator, Iterable, Mapping
from contextlib import aclosing
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

from dspex.adapters.base import Adapter, Capabilities, Health, Spec, as_rows, check_options
from dspex.adapters.hybrid.backends import Backends
from dspex.adapters.hybrid.program import HybridProgram
from dspex.adapters.hybrid.tally import summary
from dspex.adapters.local import LocalAdapter, Runner, _Held
from dspex.checks import check_inputs
from dspex.errors import ConfigError, DspexError, ProgramError, nearest
from dspex.result import Result
from dspex.routing import BACKENDS, Explanation, Policy
from dspex.spec import KINDS, ProgramSpec

if TYPE_CHECKING:
    from dspex.config import Config

__all__ = ["HybridAdapter"]

_OPTIONS = ("backend", "timeout", "session", "lm")
_BATCH_OPTIONS = (*_OPTIONS, "on_error")


class HybridAdapter(LocalAdapter):
    """Runs each program natively, on DSPy, or on both, as the router says; see docs/routing.md.

    Options of a call: `backend`, one of `dspex.routing.BACKENDS`, and no other; `timeout` in seconds and
    `session`, for pools and DSPy; `lm`, for DSPy. A batch takes `on_error` too: "raise", or "collect" for an
    error in the place of each row that cannot be answered.

    Args:
        config: routing, LMs and pools; a `Config` or a mapping.
        backends: adapters of one's own for "native", "native_pool", "dspy" and "dspy_pool", which stay open;
            the others are made by the registry when first needed.

    Raises:
        ConfigError: a setting or a rule that makes no sense.
    """

    name: ClassVar[str] = "hybrid"
    kinds: ClassVar[frozenset[str]] = frozenset(KINDS) - {"embed"}

    def __init__(
        self,
        config: Config | Mapping[str, Any] | None = None,
        *,
        backends: Mapping[str, Adapter] | None = None,
    ) -> None:
        super().__init__()
        checked = None
        if config is not None:  # who configures nothing does not import the configuration
            from dspex.config import Config

            checked = Config.of(config)
        self._policy = Policy.of(None if checked is None else checked.routing)
        self._backends = Backends(checked, {} if backends is None else backends)
        self._retired: Counter[str] = Counter()

    def create_program(self, spec: Spec) -> str:
        self._store.require_open()
        made: list[HybridProgram] = []

        def build(program_id: str) -> _Held:
            held = self._held(checked, program_id)
            made.append(_program(held))
            return held

        try:
            checked = self._checked(spec)
            program_id = self._store.create(checked.id, build)
        except Exception as error:
            for program in made:  # closed meanwhile
                program.sides.drop()
            self._note(error, None)
            raise
        self._plan_again(program_id)  # for an LM that was configured meanwhile
        with self._lock:
            self._created += 1
        return program_id

    def build(self, spec: ProgramSpec, program_id: str) -> Runner:
        policy = self._policy.with_own(spec.routing)
        if spec.adapter in BACKENDS:
            policy = replace(policy, backend=spec.adapter)
        program = HybridProgram(spec, program_id, policy, self._backends)
        try:
            program.plan()
            program.ready()
        except BaseException:
            program.sides.drop()
            raise
        return program

    def execute_program(
        self, program_id: str, inputs: Mapping[str, Any], options: Mapping[str, Any] | None = None
    ) -> Result:
        # The hot path, as in LocalAdapter. What can be decided has been, into `predict`.
        try:
            held = self._store.items[program_id]
        except (KeyError, TypeError):
            raise self._unknown(program_id) from None
        if options is not None:
            return self._execute_with(held, program_id, inputs, options)
        held.calls += 1
        try:
            return held.predict(inputs)
        except Exception as error:
            self._failed(held, error, program_id)
            raise

    def _execute_with(
        self, held: _Held, program_id: str, inputs: Mapping[str, Any], options: Mapping[str, Any]
    ) -> Result:
        self._check_options(options, program_id)
        held.calls += 1
        try:
            return _program(held).call(inputs, options)
        except Exception as error:
            self._failed(held, error, program_id)
            raise

    async def aexecute_program(
        self, program_id: str, inputs: Mapping[str, Any], options: Mapping[str, Any] | None = None
    ) -> Result:
        held = self._get(program_id)
        if options is not None:
            self._check_options(options, program_id)
        held.calls += 1
        try:
            return await _program(held).acall_with(inputs, options or {})
        except Exception as error:
            self._failed(held, error, program_id)
            raise

    async def astream_program(
        self, program_id: str, inputs: Mapping[str, Any], options: Mapping[str, Any] | None = None
    ) -> AsyncGenerator[tuple[str, str] | Result, None]:
        """`aexecute_program` in pieces: (output, piece of text) where DSPy in this process answers, then the
        result. After the first piece nothing falls back.

        Raises:
            As `execute_program`.
        """
        held = self._get(program_id)
        if options is not None:
            self._check_options(options, program_id)
        held.calls += 1
        try:
            async with aclosing(_program(held).astream(inputs, options or {})) as items:
                async for item in items:
                    yield item
        except Exception as error:
            self._failed(held, error, program_id)
            raise

    def execute_batch(
        self,
        program_id: str,
        rows: Iterable[Mapping[str, Any]],
        options: Mapping[str, Any] | None = None,
    ) -> list[Result]:
        held = self._get(program_id)
        if options is not None:
            self._check_options(options, program_id, _BATCH_OPTIONS)
        with self._noting(program_id):
            listed = as_rows(rows, program_id)
        held.calls += len(listed)
        with self._lock:
            self._batches += 1
        try:
            return _program(held).run_batch(listed, options or {})
        except Exception as error:
            self._failed(held, error, program_id, len(listed))
            raise

    def explain(
        self,
        program_id: str,
        inputs: Mapping[str, Any],
        operation: str = "call",
        options: Mapping[str, Any] | None = None,
    ) -> Explanation:
        """Where a call would go now, and why. Asks the native program, and never the LM; counts nothing.

        Args:
            operation: "call", "acall" or "batch"; of a batch the way of one row.
            options: those that the call would have.

        Raises:
            ProgramError: no such program, or it cannot run on the backend that the options name.
            InputError: the inputs do not fit the signature.
            ConfigError: an operation, an option or a backend that does not exist.
        """
        program = _program(self._get(program_id))
        given = {} if options is None else options
        self._check_options(given, program_id, _BATCH_OPTIONS)
        with self._noting(program_id):
            if program.program is None and program.signature is not None:
                check_inputs(program.signature, inputs)
            return program.router.explain(program.seen(given), inputs, operation, given.get("backend"))

    def delete_program(self, program_id: str) -> None:
        try:
            held = self._store.get(program_id)
            _program(held).sides.drop()  # while the id is still taken here
            self._store.remove(program_id)
        except ProgramError as error:
            self._note(error, None)
            raise
        with self._lock:
            self._deleted += 1
            self._retired_calls += held.calls
            self._retired += _program(held).tally.totals(held.calls)

    def configure_lm(self, config: Mapping[str, Any]) -> None:
        """Sets the default LM of the DSPy backends, those to come included. Native programs get their gate.

        Args:
            config: settings of `LMSettings`, at least `model`.

        Raises:
            ConfigError: a setting that does not exist or does not fit; nobody was told.
        """
        self._store.require_open()
        self._backends.configure_lm(config)
        for program_id in self._store.items:
            self._plan_again(program_id)

    def _plan_again(self, program_id: str) -> None:
        held = self._store.items.get(program_id)
        if held is not None and _program(held).is_outdated():
            _program(held).plan(held.calls)
            held.predict = _program(held).predict

    def get_test_capabilities(self) -> Capabilities:
        self._store.require_open()
        lm = self._backends.lm_of(ProgramSpec(None))
        return {
            "adapter": self.name,
            "layers": sorted(self.layers),
            "kinds": sorted(self.kinds),
            "deterministic": lm is None,
            "uses_lm": True,
            "needs_examples": lm is None,
            "scripted": False,
        }

    def health_check(self) -> Health:
        """What the backends in use find; the native one is always looked at."""
        if self.closed:
            return Health(False, "closed")
        try:
            backends = {"native": self._backends.native(), **self._backends.in_use()}
        except DspexError as error:
            return Health(False, str(error))
        checked = {name: adapter.health_check() for name, adapter in backends.items()}
        reasons = [f"{name}: {health.reason}" for name, health in checked.items() if not health]
        programs = len(self._store.items)
        if reasons:
            return Health(False, "; ".join(reasons), programs)
        found = "; ".join(f"{name}: {health.reason}" for name, health in checked.items())
        return Health(True, found, programs)

    def get_program_info(self, program_id: str) -> dict[str, Any]:
        held = self._get(program_id)
        program = _program(held)
        signature = program.told_signature if program.signature is None else program.signature.to_string()
        return {
            "id": program_id,
            "adapter": self.name,
            "kind": held.kind,
            "backend": program.backend,
            "signature": signature,
            "created_at": held.created_at,
            "tags": list(held.tags),
            "calls": held.calls,
            "routing": summary(program.tally.totals(held.calls)),
            "program": program.info(),
        }

    def get_stats(self) -> dict[str, Any]:
        """Beside the usual counters `routing`, what became of calls, and `backends`, their counters."""
        stats = super().get_stats()
        with self._lock:
            totals = Counter(self._retired)
        for held in self._store.items.values():
            totals += _program(held).tally.totals(held.calls)
        backends = {name: adapter.get_stats() for name, adapter in self._backends.in_use().items()}
        return {**stats, "routing": summary(totals), "backends": backends}

    def close(self) -> None:
        """Forgets every program and closes the backends made here. Closing twice is harmless."""
        self.closed = True
        for held in self._store.close().values():
            _program(held).sides.leave()
        self._backends.close()

    def _checked(self, spec: Spec) -> ProgramSpec:
        checked = ProgramSpec.of(spec)
        self.require_kind(checked)
        known = ("auto", self.name, *BACKENDS)
        if checked.adapter is not None and checked.adapter not in known:
            raise ConfigError(
                f"the spec names adapter {checked.adapter!r}, which is no backend of {self.name!r}",
                program=checked.id,
                hint=nearest(checked.adapter, known),
            )
        return checked

    def _check_options(self, options: Any, program_id: str, known: Iterable[str] = _OPTIONS) -> None:
        with self._noting(program_id):
            check_options(options, known, f"the {self.name} adapter", program_id)
            timeout, on_error = options.get("timeout"), options.get("on_error")
            if timeout is not None and not _is_time(timeout):
                raise ConfigError(f"timeout is a number of seconds above 0, not {timeout!r}", field="timeout")
            if on_error not in (None, "raise", "collect"):
                raise ConfigError(
                    f"on_error is 'raise' or 'collect', not {on_error!r}",
                    field="on_error",
                    hint=nearest(str(on_error), ("raise", "collect")),
                )

    def _failed(self, held: _Held, error: Exception, program_id: str, rows: int = 1) -> None:
        _program(held).tally.error(rows)
        self._note(error, program_id)


def _program(held: _Held) -> HybridProgram:
    assert isinstance(held.runner, HybridProgram)
    return held.runner


def _is_time(value: Any) -> bool:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return number and math.isfinite(value) and value > 0

"""The pooled native adapter: fitted programs, run by the worker pool's threads."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

from dspex.adapters.base import Health, as_rows, check_options
from dspex.adapters.local import Runner
from dspex.adapters.native import NativeAdapter
from dspex.errors import ConfigError
from dspex.pool import Pool
from dspex.program import Program
from dspex.result import Result, Route
from dspex.spec import ProgramSpec

__all__ = ["NativePoolAdapter"]

_ROUTE = Route("native_pool", reason="native program on the worker pool")
_OPTIONS = ("session", "timeout")
_PROBE_SECONDS = 5.0


class NativePoolAdapter(NativeAdapter):
    """Runs native programs on a worker pool: calls queue there, with deadlines, sessions and backpressure.

    Options of a call: `timeout`, in seconds, after which it is not begun any more; `session`, the id of the
    session that it belongs to.

    Args:
        pool: the pool to use, which stays open when the adapter is closed; by default one of its own.
        settings: those of `PoolSettings`, for a pool of its own.

    Raises:
        ConfigError: a setting that does not exist or is out of range; or settings beside a pool.
    """

    name: ClassVar[str] = "native_pool"

    def __init__(self, pool: Pool | None = None, **settings: Any) -> None:
        super().__init__()
        if pool is not None and settings:
            raise ConfigError("give a pool or its settings, not both", field=next(iter(settings)))
        if pool is not None and not isinstance(pool, Pool):
            raise ConfigError(f"pool is a {type(pool).__name__}, not a Pool", field="pool")
        self._owns_pool = pool is None
        self.pool = Pool(**settings) if pool is None else pool

    def build(self, spec: ProgramSpec, program_id: str) -> Runner:
        program = super().build(spec, program_id)
        assert isinstance(program, Program)
        return _Pooled(program.with_route(_ROUTE), self.pool)

    def execute_program(
        self, program_id: str, inputs: Mapping[str, Any], options: Mapping[str, Any] | None = None
    ) -> Result:
        if options is None:
            return super().execute_program(program_id, inputs)
        held = self._get(program_id)
        self._check_options(options, program_id)
        held.calls += 1
        with self._noting(program_id):
            program, timeout = _program_of(held.runner), options.get("timeout")
            if "session" in options:
                return self.pool.session(options["session"]).call(program, inputs, timeout=timeout)
            return self.pool.call(program, inputs, timeout=timeout)

    async def aexecute_program(
        self, program_id: str, inputs: Mapping[str, Any], options: Mapping[str, Any] | None = None
    ) -> Result:
        held = self._get(program_id)
        options = {} if options is None else options
        self._check_options(options, program_id)
        held.calls += 1
        with self._noting(program_id):
            program, timeout = _program_of(held.runner), options.get("timeout")
            if "session" in options:
                return await self.pool.session(options["session"]).acall(program, inputs, timeout=timeout)
            return await self.pool.acall(program, inputs, timeout=timeout)

    def execute_batch(
        self,
        program_id: str,
        rows: Iterable[Mapping[str, Any]],
        options: Mapping[str, Any] | None = None,
    ) -> list[Result]:
        if options is not None:  # a batch is no call: it takes none of their options
            with self._noting(program_id):
                check_options(options, (), "a batch", program_id)
        return super().execute_batch(program_id, as_rows(rows, program_id))

    def health_check(self) -> Health:
        """As the native adapter's, and a task has to come back from every worker."""
        health = super().health_check()
        if not health:
            return health
        try:
            workers = self.pool.workers
            probes = [self.pool._probe(strand=self.pool._strand()) for _ in range(workers)]
            for probe in probes:
                probe.result(_PROBE_SECONDS)
        except Exception as error:  # whatever is wrong is the finding
            return Health(False, f"the pool does not work: {error}")
        return Health(True, f"{health.reason}; each of {workers} workers answers", health.checked)

    def get_stats(self) -> dict[str, Any]:
        return super().get_stats() | {"pool": self.pool.stats().to_dict()}

    def close(self) -> None:
        """As the native adapter's; its own pool ends its threads, calls that were accepted end first."""
        super().close()
        if self._owns_pool:
            self.pool.close()

    def _check_options(self, options: Any, program_id: str) -> None:
        with self._noting(program_id):
            check_options(options, _OPTIONS, f"the {self.name} adapter", program_id)


class _Pooled:
    """A program and the pool it runs on."""

    backend = "native_pool"

    def __init__(self, program: Program, pool: Pool) -> None:
        self.program = program
        self.pool = pool
        self.signature = program.signature
        self.kind = program.kind

    def predict(self, inputs: Mapping[str, Any], /) -> Result:
        return self.pool.call(self.program, inputs)

    def batch(self, rows: Any, /) -> list[Result]:
        return self.program.batch(rows, pool=self.pool)

    async def acall(self, /, **inputs: Any) -> Result:
        return await self.pool.acall(self.program, inputs)

    def with_route(self, route: Route) -> _Pooled:
        return _Pooled(self.program.with_route(route), self.pool)

    def info(self) -> dict[str, Any]:
        return self.program.info() | {"backend": self.backend}


def _program_of(runner: Runner) -> Program:
    assert isinstance(runner, _Pooled)
    return runner.program

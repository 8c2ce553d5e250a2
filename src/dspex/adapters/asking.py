"""What the adapters that ask language models share: deadlines, answers kept and questions shared, batches."""

from __future__ import annotations

import contextlib
import contextvars
import copy
import json
import math
import statistics
import threading
import time
from abc import abstractmethod
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, ClassVar, Protocol

from dspex.adapters.base import Capabilities, as_rows, check_options
from dspex.adapters.local import LocalAdapter, Runner, _Held
from dspex.checks import check_inputs
from dspex.config import Config, DspySettings
from dspex.errors import CallTimeoutError, ConfigError, DspexError, InputError
from dspex.protection import NEVER, AnswerCache, Deadline, SingleFlight
from dspex.result import Result, Route
from dspex.signature import Signature
from dspex.spec import KINDS, ProgramSpec, asked_kind, natural_kind
from dspex.wire import to_wire

__all__ = ["Asked", "AskingAdapter", "Program"]

_LATE = 64  # calls that "of late" means


class Asked(Protocol):
    """What finally asks: a DSPy program here, or one in a worker process."""

    signature: Signature

    @property
    def ask(self) -> Callable[..., Result]: ...  # (inputs, deadline, **options)
    @property
    def aask(self) -> Callable[..., Awaitable[Result]]: ...
    def asks(self, lm: Any = None, /) -> object: ...
    def refusal(self, lm: Any = None, /) -> DspexError | None: ...
    def info(self) -> dict[str, Any]: ...


class Program:
    """One program of an asking adapter.

    Args:
        program_id: for errors.
        kind: the program kind.
        backend: the adapter's name, which its results carry as the route.
        asked: what answers.
        settings: of this program.
        concurrency: rows of a batch under way at once.
    """

    def __init__(
        self, program_id: str, kind: str, backend: str, asked: Asked, settings: DspySettings, concurrency: int
    ) -> None:
        self.id = program_id
        self.kind = kind
        self.backend = backend
        self.asked = asked
        self.signature = asked.signature
        self.settings = settings
        self._concurrency = concurrency
        self._cache: AnswerCache[_Kept] | None = None
        self._flight: SingleFlight[_Kept] | None = None
        if settings.cache.size:
            self._cache = AnswerCache(settings.cache)
        if settings.single_flight:
            self._flight = SingleFlight()
        self._shares = self._cache is not None or self._flight is not None
        self._seconds: deque[float] = deque(maxlen=_LATE)
        self._costs: deque[float] = deque(maxlen=_LATE)

    def predict(self, inputs: Mapping[str, Any], /) -> Result:
        return self.run(inputs, {})

    def run(self, inputs: Mapping[str, Any], options: Mapping[str, Any], row: int | None = None) -> Result:
        """One call. Options: `timeout`, in seconds, and those of the adapter's `asked`."""
        checked = check_inputs(self.signature, inputs, program=self.id, row=row)
        deadline, rest = self.deadline(options)
        key = self._key(checked, rest) if self._shares else None
        if key is None:
            return self._ask(checked, deadline, rest)
        mine: list[Result] = []

        def ask() -> _Kept:
            mine.append(self._ask(checked, deadline, rest))
            return self._keep(key, mine[0])

        kept = self._cache.get(key) if self._cache is not None else None
        if kept is not None:
            return kept.again(self.backend, "an answer kept from an equal call")
        shared = ask() if self._flight is None else self._flight.run(key, ask, deadline, self.id)
        return mine[0] if mine else shared.again(self.backend, "the answer of an equal call at the same time")

    async def arun(self, inputs: Mapping[str, Any], options: Mapping[str, Any]) -> Result:
        """`run`, as a task."""
        checked = check_inputs(self.signature, inputs, program=self.id)
        deadline, rest = self.deadline(options)
        key = self._key(checked, rest) if self._shares else None
        if key is None:
            return await self._aask(checked, deadline, rest)
        mine: list[Result] = []

        async def ask() -> _Kept:
            mine.append(await self._aask(checked, deadline, rest))
            return self._keep(key, mine[0])

        kept = self._cache.get(key) if self._cache is not None else None
        if kept is not None:
            return kept.again(self.backend, "an answer kept from an equal call")
        shared = await (ask() if self._flight is None else self._flight.arun(key, ask, deadline, self.id))
        return mine[0] if mine else shared.again(self.backend, "the answer of an equal call at the same time")

    async def acall(self, /, **inputs: Any) -> Result:
        return await self.arun(inputs, {})

    def batch(self, rows: Any, /) -> list[Result]:
        return self.run_batch(as_rows(rows, self.id), {})

    def run_batch(self, rows: Sequence[Mapping[str, Any]], options: Mapping[str, Any]) -> list[Result]:
        """Many rows, a bounded number at once, each with its own deadline; an error ends what has not begun.

        All inputs are checked before anything is asked.
        """
        for row, inputs in enumerate(rows):
            check_inputs(self.signature, inputs, program=self.id, row=row)
        self.deadline(options)
        stop = threading.Event()

        def one(row: int) -> Result | None:
            if stop.is_set():
                return None
            try:
                return self.run(rows[row], options, row)
            except BaseException as error:
                stop.set()
                if isinstance(error, DspexError) and error.row is None:
                    error.row = row
                raise

        if not rows:
            return []
        threads = ThreadPoolExecutor(min(self._concurrency, len(rows)), "dspex-batch")
        try:
            # Each in a copy of the caller's context: what dspy.context says holds for a batch as well.
            futures = [threads.submit(contextvars.copy_context().run, one, row) for row in range(len(rows))]
            failed = [error for future in futures if (error := future.exception()) is not None]
        except BaseException:  # Ctrl-C: what is under way ends by itself
            stop.set()
            threads.shutdown(wait=False, cancel_futures=True)
            raise
        threads.shutdown()
        if failed:
            raise failed[0]
        return [future.result() for future in futures]  # type: ignore[misc]

    def deadline(self, options: Mapping[str, Any]) -> tuple[Deadline, dict[str, Any]]:
        """The deadline of a call that begins now, and the options besides `timeout`.

        Raises:
            ConfigError: the timeout is no number of seconds above 0.
        """
        rest = dict(options)
        seconds = rest.pop("timeout", None)
        if seconds is None:
            seconds = self.settings.timeout
        elif isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 < seconds < math.inf:
            raise ConfigError(
                f"timeout is a number of seconds above 0, not {seconds!r}", field="timeout", program=self.id
            )
        return (NEVER if seconds is None else Deadline.after(seconds)), rest

    def observed(self) -> dict[str, float | None]:
        """Medians of the calls of late that were asked: `latency_ms`, and `usd` where the cost is known. One
        that was not over by its deadline counts with the time that it had.
        """
        seconds, costs = list(self._seconds), list(self._costs)
        return {
            "latency_ms": 1e3 * statistics.median(seconds) if seconds else None,
            "usd": statistics.median(costs) if costs else None,
        }

    def info(self) -> dict[str, Any]:
        """What is known of the program, as JSON-able data."""
        shared: dict[str, Any] = {"observed": self.observed()}
        if self._cache is not None:
            shared["cache"] = self._cache.stats()
        if self._flight is not None:
            shared["single_flight"] = self._flight.stats()
        return self.asked.info() | shared

    def _ask(self, inputs: Mapping[str, Any], deadline: Deadline, options: Mapping[str, Any]) -> Result:
        started = time.perf_counter()
        try:
            result: Result = self.asked.ask(inputs, deadline, **options)
        except CallTimeoutError:
            self._seconds.append(time.perf_counter() - started)
            raise
        self._observe(started, result)
        return result

    async def _aask(
        self, inputs: Mapping[str, Any], deadline: Deadline, options: Mapping[str, Any]
    ) -> Result:
        started = time.perf_counter()
        try:
            result: Result = await self.asked.aask(inputs, deadline, **options)
        except CallTimeoutError:
            self._seconds.append(time.perf_counter() - started)
            raise
        self._observe(started, result)
        return result

    def _observe(self, started: float, result: Result) -> None:
        self._seconds.append(time.perf_counter() - started)
        usage = result.usage
        if usage is not None and (usd := usage.get("usd")) is not None:
            self._costs.append(usd)

    def _key(self, inputs: Mapping[str, Any], options: Mapping[str, Any]) -> tuple[object, str] | None:
        """Equal for calls with equal inputs that ask the same LM; None: the inputs cannot be written down."""
        asks = self.asked.asks(options.get("lm"))
        try:
            return asks, json.dumps(to_wire(self.signature.inputs, inputs), sort_keys=True)
        except InputError:
            return None

    def _keep(self, key: tuple[object, str], result: Result) -> _Kept:
        kept = _Kept(result)
        if self._cache is not None:
            self._cache.put(key, kept)
        return kept


class _Kept:
    """The values of an answer for callers to come; the one who got it first may change the lists in it."""

    __slots__ = ("_values",)

    def __init__(self, result: Result) -> None:
        self._values = {name: _copied(value) for name, value in result.items()}

    def again(self, backend: str, reason: str) -> Result:
        """A result of its own, which cost nothing."""
        return Result(
            {name: _copied(value) for name, value in self._values.items()},
            route=Route(backend, reason=reason),
            usage={"requests": 0, "usd": 0.0, "lms": {}},
        )


def _copied(value: Any) -> Any:
    try:
        return copy.deepcopy(value)
    except Exception:  # what a module adds to the outputs may be anything
        return value


class AskingAdapter(LocalAdapter):
    """Base of the adapters that ask language models. Subclasses say how to `ask`.

    Args:
        config: LMs, limits and settings; a `Config` or a mapping.

    Raises:
        ConfigError: a setting that does not exist or does not fit.
    """

    kinds: ClassVar[frozenset[str]] = frozenset(KINDS) - {"embed"}
    options: ClassVar[tuple[str, ...]] = ("timeout", "lm")

    def __init__(self, config: Config | Mapping[str, Any] | None = None) -> None:
        super().__init__()
        self.config = Config.of(config)

    @abstractmethod
    def asked(self, spec: ProgramSpec, program_id: str, settings: DspySettings) -> Asked:
        """What answers calls of the program.

        Raises:
            DspexError: as `create_program` says.
        """

    @abstractmethod
    def concurrency(self, settings: DspySettings) -> int:
        """Rows of a batch that may be under way at once."""

    def build(self, spec: ProgramSpec, program_id: str) -> Runner:
        for key in ("options", "path", "program"):
            if getattr(spec, key):
                raise ConfigError(
                    f"{key!r} is for native programs",
                    field=key,
                    program=program_id,
                    hint="DSPy programs take module, state, init, tools, lm and dspy",
                )
        common = self.config.dspy.model_dump(exclude_unset=True)
        settings = DspySettings.of({**common, **spec.dspy}, at="dspy")
        asked = self.asked(spec, program_id, settings)
        kind = natural_kind(asked.signature) if spec.kind == "classify" else asked_kind(spec)
        return Program(program_id, kind, self.name, asked, settings, self.concurrency(settings))

    def execute_program(
        self, program_id: str, inputs: Mapping[str, Any], options: Mapping[str, Any] | None = None
    ) -> Result:
        if options is None:
            return super().execute_program(program_id, inputs)
        with self._calling(program_id, options) as (held, program):
            held.calls += 1
            return program.run(inputs, options)

    async def aexecute_program(
        self, program_id: str, inputs: Mapping[str, Any], options: Mapping[str, Any] | None = None
    ) -> Result:
        with self._calling(program_id, options) as (held, program):
            held.calls += 1
            return await program.arun(inputs, options or {})

    def execute_batch(
        self,
        program_id: str,
        rows: Iterable[Mapping[str, Any]],
        options: Mapping[str, Any] | None = None,
    ) -> list[Result]:
        with self._calling(program_id, options) as (held, program):
            listed = as_rows(rows, program_id)
            held.calls += len(listed)
            with self._lock:
                self._batches += 1
            return program.run_batch(listed, options or {})

    def available(self, program_id: str) -> DspexError | None:
        """Why a call of the program would be refused now, or None. Nothing is sent and nothing waits.

        Raises:
            ProgramError: no such program.
        """
        return self._program(program_id).asked.refusal()

    def observed(self, program_id: str) -> dict[str, float | None]:
        """Medians of the program's late calls: `latency_ms`, and `usd` where the cost is known.

        Raises:
            ProgramError: no such program.
        """
        return self._program(program_id).observed()

    def get_test_capabilities(self) -> Capabilities:
        self._store.require_open()
        return {
            "adapter": self.name,
            "layers": sorted(self.layers),
            "kinds": sorted(self.kinds),
            "deterministic": False,
            "uses_lm": True,
            "needs_examples": False,
            "scripted": False,
        }

    def _program(self, program_id: str) -> Program:
        runner = self._get(program_id).runner
        assert isinstance(runner, Program)
        return runner

    @contextlib.contextmanager
    def _calling(self, program_id: str, options: Mapping[str, Any] | None) -> Iterator[tuple[_Held, Program]]:
        """A program while it is called: errors are counted, and name it."""
        held = self._get(program_id)
        assert isinstance(held.runner, Program)
        with self._noting(program_id):
            if options is not None:
                check_options(options, self.options, f"the {self.name} adapter", program_id)
            yield held, held.runner

"""A DSPy program that can be asked: its module, its LM, and the context that a call runs in."""

from __future__ import annotations

import asyncio
import contextlib
import math
import threading
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from typing import Any

import dspy

from dspex.checks import check_outputs
from dspex.config import DspySettings
from dspex.dspy.calls import Call, call_settings, current_call, entered, setting
from dspex.dspy.failures import ToolFailed, translated
from dspex.dspy.lms import LMs
from dspex.dspy.loops import Loops, apart, outcome
from dspex.dspy.modules import Built
from dspex.dspy.states import predictors
from dspex.dspy.tools import guard_tools
from dspex.errors import ConfigError, DspexError, LMError, ProgramError
from dspex.protection import NEVER, Budget, Deadline
from dspex.result import Result, Route

__all__ = ["DspyProgram"]

_FORMATS: dict[str | None, Callable[[], Any]] = {
    "chat": dspy.ChatAdapter,
    "json": dspy.JSONAdapter,
    "xml": dspy.XMLAdapter,
}
#: These run no code but DSPy's between two requests to an LM.
_OF_DSPY = (dspy.Predict, dspy.ChainOfThought)
_PREDICTIONS = (dspy.Prediction, Mapping)  # what a module may return
_GRACE = 0.1  # seconds
_MOST_PIECES = 64  # of a stream that nobody has taken yet


class DspyProgram:
    """Answers calls of one program through a DSPy module; threads and tasks may share it.

    Args:
        program_id: for errors and budgets.
        built: the module and its signature; the module becomes this program's own.
        kind: the program kind, for the route.
        lms: where LMs come from.
        lm: the program's LM, see `LMs.get`.
        settings: of this program.
        loops: for requests with a deadline.

    Raises:
        ConfigError: there is no such LM.
    """

    def __init__(
        self,
        program_id: str,
        built: Built,
        kind: str,
        *,
        lms: LMs,
        lm: Any,
        settings: DspySettings,
        loops: Loops,
        budget: Budget | None = None,
    ) -> None:
        self.id = program_id
        self.module = built.module
        self.signature = built.signature
        self.kind = kind
        self.settings = settings
        self._lms = lms
        self._loops = loops
        self._budget = budget
        self._vectors = [name for name, field in self.signature.inputs.items() if field.kind == "vector"]
        self._route = Route("dspy", reason=f"DSPy program of kind {kind!r}")
        format_ = _FORMATS[settings.format]() if settings.format is not None else None
        self._settings = call_settings(format_, settings.history)
        self._read_module()
        self._lm = lm
        if lm is not None:
            self._require_use_for_lm()
            made = lms.get(lm, program_id)  # what is wrong with it is said now
            self._lm = made if isinstance(lm, Mapping) else lm

    def _read_module(self) -> None:
        cls, own = type(self.module), vars(self.module)
        self._is_async = hasattr(cls, "aforward") or "aforward" in own
        self._is_sync = hasattr(cls, "forward") or "forward" in own
        if not (self._is_async or self._is_sync):
            raise ProgramError(
                f"{cls.__name__} has neither forward nor aforward", field="module", program=self.id
            )
        self._own_code = cls not in _OF_DSPY
        # Who is to blame for outputs that do not fit: the LM, or code around it.
        self._misfit = LMError if cls.__module__.startswith("dspy.") else ProgramError
        # Nobody listens to it and nothing is put in the place of its forward.
        self._is_plain = not (self._own_code or self.module.callbacks or "forward" in own)
        if not self._own_code:
            self._settings["warn_on_type_mismatch"] = False  # the inputs are checked already
        guard_tools(self.module, raising=self.settings.on_tool_error == "raise")
        asking = predictors(self.module)
        for predictor in asking:
            if isinstance(predictor.lm, dspy.BaseLM):
                predictor.lm = self._lms.get(predictor.lm, self.id)
        #: The LM of the first predictor, where every one has its own.
        self._only_own = asking[0].lm if asking and all(each.lm is not None for each in asking) else None

    def _require_use_for_lm(self) -> None:
        if self._only_own is not None:
            raise ConfigError(
                "every predictor of the program has an LM of its own", field="lm", program=self.id
            )

    def refusal(self, lm: Any = None) -> DspexError | None:
        """Why a call would be refused now, without asking anybody; None: it would be tried."""
        if self._budget is not None:
            try:
                self._budget.check(self.id)
            except DspexError as error:
                return error
        try:
            return self._lms.refusal(self.asks(lm))
        except DspexError as error:
            return error

    def asks(self, lm: Any = None) -> Any:
        """The LM that a call asks; of several, where its predictors have their own, the first.

        Raises:
            ConfigError: there is no such LM.
        """
        if self._only_own is None:
            return self._lms.get(self._lm if lm is None else lm, self.id)
        if lm is not None:
            self._require_use_for_lm()
        return self._only_own

    def ask(self, inputs: Mapping[str, Any], deadline: Deadline = NEVER, lm: Any = None) -> Result:
        """One call, in the caller's thread if there is no deadline, or no code but DSPy's.

        Args:
            inputs: checked against the signature.
            deadline: for the whole call, all its requests and tries.
            lm: another LM for this call, see `LMs.get`.

        Raises:
            LMError, CallTimeoutError, CommunicationError, ResourceError, ConfigError: from asking the LM.
            ProgramError: from the program's own code.
        """
        call, asked = self._begin(deadline, lm)
        arguments = self._arguments(inputs)
        try:
            if self._own_code and (call.deadline is not NEVER or _on_loop()):
                prediction = self._left_behind(call, asked, arguments)
            else:
                prediction = self._run(call, asked, arguments)
        except (Exception, ToolFailed) as error:
            raise translated(error, self.id) from _cause(error)
        return self._result(prediction, call)

    def _run(self, call: Call, lm: Any, arguments: dict[str, Any]) -> Any:
        """The call in this thread."""
        if self._is_plain and not setting("callbacks"):
            # What Module.__call__ does where nobody listens is to say who calls, for histories.
            with entered(call, lm, self._settings, **(self._callers() if call.history else {})):
                return type(self.module).forward(self.module, **arguments)
        if self._is_sync:
            with entered(call, lm, self._settings):
                return self.module(**arguments)
        return asyncio.run(self._arun(call, lm, arguments))

    def _callers(self) -> dict[str, Any]:
        return {"caller_modules": [*(setting("caller_modules") or ()), self.module]}

    async def _arun(self, call: Call, lm: Any, arguments: dict[str, Any]) -> Any:
        """The call in this task."""
        async with _timeout(call.deadline, self.id):
            if not self._is_async:
                return await self._aleft_behind(call, lm, arguments)
            with entered(call, lm, self._settings):
                return await self.module.acall(**arguments)

    def _left_behind(self, call: Call, lm: Any, arguments: dict[str, Any]) -> Any:
        """The call in a thread that goes on by itself when its time is up, but can ask no LM any more."""
        call.apart = True
        try:
            return outcome(apart(self._run, call, lm, arguments), call.deadline, self.id)
        except BaseException:
            call.abandon()
            raise

    async def _aleft_behind(self, call: Call, lm: Any, arguments: dict[str, Any]) -> Any:
        call.apart = True
        try:
            return await asyncio.wrap_future(apart(self._run, call, lm, arguments))
        except BaseException:
            call.abandon()
            raise

    async def aask(self, inputs: Mapping[str, Any], deadline: Deadline = NEVER, lm: Any = None) -> Result:
        """`ask` as a task; a module without `aforward` runs on a thread."""
        call, asked = self._begin(deadline, lm)
        try:
            prediction = await self._arun(call, asked, self._arguments(inputs))
        except (Exception, ToolFailed) as error:
            raise translated(error, self.id) from _cause(error)
        return self._result(prediction, call)

    async def astream(
        self, inputs: Mapping[str, Any], deadline: Deadline = NEVER, lm: Any = None
    ) -> AsyncGenerator[tuple[str, str] | Result, None]:
        """The call's text outputs as they come, as (output, piece of text), and then the result.

        Pieces are passed on as DSPy gives them. Once one has come, nothing is tried again.

        Raises:
            As `ask`.
        """
        call, asked = self._begin(deadline, lm)
        items: asyncio.Queue[Any] = asyncio.Queue(_MOST_PIECES)
        # A task of its own: what a generator does to its context is seen by whoever takes from it.
        running = threading.Lock()
        work = asyncio.create_task(self._produce(items, call, asked, self._arguments(inputs), running))
        try:
            while (item := await items.get()) is not None:
                if isinstance(item, DspexError):
                    raise item
                yield item
        finally:
            call.abandon()
            work.cancel()
            await asyncio.wait([work])
            await _ended(running)

    async def _produce(
        self,
        items: asyncio.Queue[Any],
        call: Call,
        lm: Any,
        arguments: dict[str, Any],
        running: threading.Lock,
    ) -> None:
        """Hands over what comes, and in the end None, or the error."""
        end = None
        try:
            async with _timeout(call.deadline, self.id):
                module = self.module if self._is_async else _Watched(self.module, running)
                with entered(call, lm, self._settings):
                    stream = dspy.streamify(
                        module, stream_listeners=self._listeners(), is_async_program=self._is_async
                    )
                    async for item in stream(**arguments):
                        if isinstance(item, dspy.Prediction):
                            await items.put(self._result(item, call))
                        elif isinstance(item, dspy.streaming.StreamResponse):
                            await items.put((item.signature_field_name, item.chunk))
        except (Exception, ToolFailed) as error:
            end = translated(error, self.id)
            end.__cause__ = _cause(error)
        await items.put(end)

    def _listeners(self) -> list[Any]:
        """One for each text output that exactly one predictor gives."""
        given = [name for _, each in self.module.named_predictors() for name in each.signature.output_fields]
        texts = [name for name, field in self.signature.outputs.items() if field.kind == "text"]
        return [dspy.streaming.StreamListener(name) for name in texts if given.count(name) == 1]

    def info(self) -> dict[str, Any]:
        """What is known of the program, as JSON-able data."""
        lm = self._only_own or self._lm or self._lms.default
        return {
            "module": f"{type(self.module).__module__}.{type(self.module).__qualname__}",
            "predictors": [name for name, _ in self.module.named_predictors()],
            "lm": lm if isinstance(lm, str | None) else getattr(lm, "model", type(lm).__name__),
            "settings": self.settings.model_dump(mode="json"),
        }

    def _begin(self, deadline: Deadline, lm: Any) -> tuple[Call, Any]:
        asked = self.asks(lm)
        refusal = self._lms.refusal(asked)  # spares what DSPy does before it asks
        if refusal is not None:
            refusal.program = self.id
            raise refusal
        if self._budget is not None:
            self._budget.check(self.id)
        around = current_call().deadline  # where a tool calls another program
        if around is not NEVER and (deadline is NEVER or _left(around) < _left(deadline)):
            deadline = around
        return Call(self.id, deadline, self._budget, self._loops, history=self.settings.history), asked

    def _arguments(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        arguments = dict(inputs)
        for name in self._vectors:  # DSPy has no schema for arrays
            arguments[name] = [float(number) for number in arguments[name]]
        return arguments

    def _result(self, prediction: Any, call: Call) -> Result:
        if not isinstance(prediction, _PREDICTIONS):
            raise ProgramError(
                f"the program returned a {type(prediction).__name__}, not a dspy.Prediction", program=self.id
            )
        given = dict(prediction.items())
        declared = {name: given.pop(name) for name in self.signature.outputs if name in given}
        values = check_outputs(self.signature, declared, program=self.id, error=self._misfit)
        if given:  # what a module adds: reasoning, a trajectory
            values.update(given)
        return Result(values, route=self._route, usage=call.usage())


class _Watched(dspy.Module):  # type: ignore[misc]  # DSPy has no types
    """A module without `aforward`, and whether it runs; DSPy has it stream from a thread."""

    def __init__(self, module: Any, running: threading.Lock) -> None:
        super().__init__()
        self.module = module
        self._running = running

    def forward(self, **inputs: Any) -> Any:
        wanted = _WhileWanted(dspy.settings.send_stream, current_call())
        with self._running, dspy.context(send_stream=wanted):
            return self.module(**inputs)


class _WhileWanted:
    """A stream to the reader, which refuses when nobody reads any more."""

    def __init__(self, stream: Any, call: Call) -> None:
        self._stream = stream
        self._call = call

    @property
    def send(self) -> Any:
        self._call.require_wanted()
        return self._stream.send


async def _ended(running: threading.Lock) -> None:
    """Lets a thread that is left behind find out, on the loop that it writes to: that it would wait for ever
    for a loop that has ended keeps the interpreter from ending.
    """
    until = time.monotonic() + _GRACE
    while running.locked() and time.monotonic() < until:
        await asyncio.sleep(0.001)


@contextlib.asynccontextmanager
async def _timeout(deadline: Deadline, program: str) -> AsyncIterator[None]:
    """Cancels what is within at the deadline.

    Raises:
        CallTimeoutError: that was so.
    """
    try:
        async with asyncio.timeout(deadline.left()) as limit:
            yield
    except TimeoutError as error:
        if limit.expired() and not isinstance(error, DspexError):
            raise deadline.error(program) from error
        raise


def _left(deadline: Deadline) -> float:
    left = deadline.left()
    return math.inf if left is None else left


def _on_loop() -> bool:
    """Whether an event loop runs in this thread: here, nothing else can be awaited."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def _cause(error: BaseException) -> BaseException | None:
    """What an error of dspex was raised from; one that is passed on unchanged keeps its own cause."""
    return error.__cause__ if isinstance(error, DspexError) else error

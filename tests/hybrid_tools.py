"""What the tests of the hybrid adapter share: a DSPy backend whose answers and errors are scripted."""

from __future__ import annotations

import asyncio
import functools
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from dspex import Program, fit
from dspex.adapters import ProgramSpec
from dspex.adapters.base import Adapter, Capabilities, Spec, as_rows, unknown_program
from dspex.adapters.hybrid import HybridAdapter
from dspex.checks import check_inputs
from dspex.errors import ConfigError, DspexError
from dspex.result import Result, Route
from dspex.signature import Signature
from dspex.testing import CASES

LITERAL = next(case for case in CASES if case.name == "literal")
SPEC: dict[str, Any] = {"id": "p", "signature": LITERAL.signature, "examples": LITERAL.examples}
ROW: dict[str, Any] = LITERAL.rows()[0]
#: A text of which the program above is sure, and one that it knows no word of.
SURE = {"text": "please send my money back for this order"}
UNSURE = {"text": "zzz qqq"}
BLANK = {"text": "  "}
LM = {"lms": {"test": {"model": "test/none"}}}


def config(**routing: Any) -> dict[str, Any]:
    """A configuration with an LM."""
    return {**LM, "routing": routing}


@functools.cache
def fitted() -> Program:
    """The program of SPEC."""
    return fit(LITERAL.signature, list(LITERAL.examples))


class FakeDspy(Adapter):
    """Stands for a DSPy backend.

    Attributes:
        answer: inputs -> outputs, a value for the one output, or an error to raise.
        delay: seconds of a call.
        refusal, seen: what `available` and `observed` say.
        asked: (inputs, options) of every call and row.
        batches: their sizes.
        cancelled: tasks that were cancelled while they waited.
    """

    name = "dspy"
    kinds = HybridAdapter.kinds
    collects_errors = False

    def __init__(self, answer: Any = "limit", *, name: str = "dspy", delay: float = 0.0) -> None:
        self.backend = name
        self.answer = answer
        self.delay = delay
        self.refusal: DspexError | None = None
        self.seen: dict[str, float | None] = {"latency_ms": None, "usd": None}
        self.asked: list[tuple[dict[str, Any], dict[str, Any]]] = []
        self.batches: list[int] = []
        self.lms: list[Mapping[str, Any]] = []
        self.cancelled = 0
        self.specs: dict[str, ProgramSpec] = {}
        self.threads: set[int] = set()

    def create_program(self, spec: Spec) -> str:
        checked = ProgramSpec.of(spec)
        assert checked.id is not None
        assert checked.id not in self.specs
        self.specs[checked.id] = checked
        return checked.id

    def list_programs(self) -> list[str]:
        return list(self.specs)

    def delete_program(self, program_id: str) -> None:
        self._spec(program_id)
        del self.specs[program_id]

    def configure_lm(self, config: Mapping[str, Any]) -> None:
        self.lms.append(config)

    def get_test_capabilities(self) -> Capabilities:
        raise NotImplementedError

    def available(self, program_id: str) -> DspexError | None:
        self._spec(program_id)
        return self.refusal

    def observed(self, program_id: str) -> dict[str, float | None]:
        self._spec(program_id)
        return self.seen

    def execute_program(
        self, program_id: str, inputs: Mapping[str, Any], options: Mapping[str, Any] | None = None
    ) -> Result:
        time.sleep(self.delay)
        return self._answered(program_id, inputs, options)

    async def aexecute_program(
        self, program_id: str, inputs: Mapping[str, Any], options: Mapping[str, Any] | None = None
    ) -> Result:
        try:
            await asyncio.sleep(self.delay)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        return self._answered(program_id, inputs, options)

    def execute_batch(
        self,
        program_id: str,
        rows: Iterable[Mapping[str, Any]],
        options: Mapping[str, Any] | None = None,
    ) -> list[Any]:
        listed = as_rows(rows, program_id)
        self.batches.append(len(listed))
        given = dict(options or {})
        collect = given.pop("on_error", None) == "collect"
        outcomes: list[Any] = []
        for row, inputs in enumerate(listed):
            try:
                outcomes.append(self._answered(program_id, inputs, given))
            except DspexError as error:
                error.row = row
                if not collect:
                    raise
                outcomes.append(error)
        return outcomes

    def _answered(self, program_id: str, inputs: Mapping[str, Any], options: Any) -> Result:
        signature = self._spec(program_id).signature or Signature.of("text -> label")
        self.asked.append((dict(inputs), dict(options or {})))
        self.threads.add(threading.get_ident())
        checked = check_inputs(signature, inputs, program=program_id)
        answer = self.answer(checked) if callable(self.answer) and not _is_error(self.answer) else self.answer
        if _is_error(answer):
            raise answer if isinstance(answer, BaseException) else answer("scripted")
        values = answer if isinstance(answer, Mapping) else {next(iter(signature.outputs)): answer}
        return Result(values, route=Route(self.backend, reason="fake"), usage={"requests": 1, "usd": None})

    def _spec(self, program_id: str) -> ProgramSpec:
        if program_id not in self.specs:
            raise unknown_program(program_id, list(self.specs), self.backend)
        return self.specs[program_id]


def _is_error(value: Any) -> bool:
    return isinstance(value, BaseException) or (isinstance(value, type) and issubclass(value, BaseException))


def hybrid(
    routing: Mapping[str, Any] | None = None,
    *,
    dspy: FakeDspy | None = None,
    dspy_pool: FakeDspy | None = None,
    lm: bool = True,
    **more: Any,
) -> HybridAdapter:
    """A hybrid adapter over fakes."""
    backends: dict[str, Adapter] = {
        "dspy": dspy or FakeDspy(),
        "dspy_pool": dspy_pool or FakeDspy(name="dspy_pool"),
    }
    settings = {**(LM if lm else {}), "routing": dict(routing or {}), **more}
    return HybridAdapter(settings, backends=backends)


def once_then(*answers: Any) -> Callable[[Mapping[str, Any]], Any]:
    """Answers in turn; the last one stays."""
    left = list(answers)

    def answer(inputs: Mapping[str, Any]) -> Any:
        return left.pop(0) if len(left) > 1 else left[0]

    return answer


def outcome_of(call: Callable[[], Any]) -> Any:
    """What a call gives, or the error that it raises."""
    try:
        return call()
    except DspexError as error:
        return error


def no_lm_error() -> ConfigError:
    """What a DSPy backend says without an LM."""
    return ConfigError("no language model is configured", hint="Call configure_lm")

"""A stand-in for tests: made-up or scripted answers, delays and failures, the same every time.

It answers nothing real, so nothing in dspex ever falls back to it: it runs only where it is named.
"""

from __future__ import annotations

import asyncio
import itertools
import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

from dspex.adapters.base import Capabilities, Health, as_rows, check_options
from dspex.adapters.local import LocalAdapter
from dspex.adapters.made_up import Draw, canonical, made_up_probabilities, made_up_value
from dspex.checks import check_inputs, check_outputs
from dspex.errors import CommunicationError, ConfigError, DspexError, ProgramError, SignatureError
from dspex.result import Result, Route
from dspex.signature import Signature
from dspex.spec import ENUMERABLE, ProgramSpec, natural_kind, with_learned_classes

__all__ = ["Answers", "Delay", "MockAdapter"]

#: Scripted answers. A mapping from the input to the answer (with several inputs, from the tuple of their
#: values in the signature's order; what is not in it is made up); or a list of answers, one per call; or a
#: callable from the inputs to the answer. An answer is a mapping of the outputs, or the bare value if there
#: is only one; an exception is raised.
Answers = Mapping[Any, Any] | Sequence[Any] | Callable[[Mapping[str, Any]], Any]

#: Seconds that a call takes, or a callable from the inputs to them.
Delay = float | Callable[[Mapping[str, Any]], float]

_OPTIONS = ("answers", "delay", "error", "error_rate", "seed")
_ROUTE = Route("mock", reason="the program was created on the mock adapter")


class MockAdapter(LocalAdapter):
    """Answers from a hash of seed, program id and inputs, typed by the signature, or from a script.

    The settings hold for every program; a spec's `options` override them for one. `examples` teach it
    only the classes of `str` outputs. A spec with a `path` needs a signature as well, and the file is
    not read.

    Args:
        seed: another seed gives other answers and other failures.
        answers: scripted answers, see `Answers`.
        delay: seconds that each call takes, see `Delay`.
        error_rate: the share of calls that fail, in [0, 1]. Which ones is fixed by the seed, the
            program id and the number of the call, so that a retry can succeed.
        error: what they fail with: a DspexError class or instance.

    Raises:
        ConfigError: a setting that makes no sense.
    """

    name: ClassVar[str] = "mock"
    layers: ClassVar[frozenset[str]] = frozenset({"mock"})

    def __init__(
        self,
        *,
        seed: int = 0,
        answers: Answers | None = None,
        delay: Delay = 0.0,
        error_rate: float = 0.0,
        error: type[DspexError] | DspexError = CommunicationError,
    ) -> None:
        super().__init__()
        self._defaults: dict[str, Any] = {
            "seed": seed,
            "answers": answers,
            "delay": delay,
            "error_rate": error_rate,
            "error": error,
        }
        _check_settings(**self._defaults)

    def build(self, spec: ProgramSpec, program_id: str) -> _MockProgram:
        if spec.signature is None:
            raise SignatureError(
                "the mock does not read saved programs",
                program=program_id,
                hint="Give the signature in the spec",
            )
        check_options(spec.options, _OPTIONS, "the mock adapter", program_id)
        signature = with_learned_classes(spec).signature
        assert signature is not None
        settings = {**self._defaults, **spec.options}
        _check_settings(**settings, program=program_id)
        return _MockProgram(program_id, signature, **settings)

    def get_test_capabilities(self) -> Capabilities:
        self._store.require_open()
        return {
            "adapter": self.name,
            "layers": sorted(self.layers),
            "kinds": sorted(self.kinds),
            "deterministic": True,
            "uses_lm": False,
            "needs_examples": False,
            "scripted": True,
        }

    def health_check(self) -> Health:
        """Answers a probe twice and compares; scripts, delays and scripted failures are left alone."""
        if self.closed:
            return Health(False, "closed")
        runners = self.runners()
        try:
            probe = _MockProgram("health", Signature.of("text -> ok: bool"), **{**self._defaults, **_CALM})
            if probe.predict({"text": "probe"}) != probe.predict({"text": "probe"}):
                return Health(False, "equal calls gave different answers", len(runners))
        except Exception as error:  # whatever is wrong is the finding
            return Health(False, str(error) or type(error).__name__, len(runners))
        return Health(True, "equal calls gave equal answers", len(runners))


_CALM: dict[str, Any] = {"answers": None, "delay": 0.0, "error_rate": 0.0}


class _MockProgram:
    """One program of the mock."""

    backend = "mock"

    def __init__(
        self,
        program_id: str,
        signature: Signature,
        *,
        seed: int,
        answers: Answers | None,
        delay: Delay,
        error_rate: float,
        error: type[DspexError] | DspexError,
    ) -> None:
        self.signature = signature
        self.kind = natural_kind(signature)
        self._id = program_id
        self._seed = str(seed)
        self._delay = delay
        self._error_rate = error_rate
        self._error = error
        self._calls = itertools.count()  # its next() is atomic
        self._script = _script(answers, signature, program_id)
        if answers is None:
            self._made_up({})  # a type that cannot be made up is refused here, not at the first call

    def predict(self, inputs: Mapping[str, Any], /) -> Result:
        checked = check_inputs(self.signature, inputs, program=self._id)
        if seconds := self._seconds(checked):
            time.sleep(seconds)
        return self._answer(checked)

    async def acall(self, /, **inputs: Any) -> Result:
        checked = check_inputs(self.signature, inputs, program=self._id)
        if seconds := self._seconds(checked):
            await asyncio.sleep(seconds)
        return self._answer(checked)

    def batch(self, rows: Any, /) -> list[Result]:
        listed = as_rows(rows, self._id)
        for row, inputs in enumerate(listed):
            check_inputs(self.signature, inputs, program=self._id, row=row)
        results = []
        for row, inputs in enumerate(listed):
            try:
                results.append(self.predict(inputs))
            except DspexError as error:
                error.row = row if error.row is None else error.row
                raise
        return results

    def info(self) -> dict[str, Any]:
        return {
            "seed": int(self._seed),
            "scripted": self._script is not None,
            "delayed": self._delay != 0,
            "error_rate": self._error_rate,
        }

    def _seconds(self, inputs: Mapping[str, Any]) -> float:
        if not callable(self._delay):
            return self._delay
        return _check_delay(self._delay(inputs), self._id)

    def _answer(self, inputs: dict[str, Any]) -> Result:
        number = next(self._calls)
        if self._error_rate and Draw(self._seed, self._id).uniform("error", number) < self._error_rate:
            raise _fresh(self._error, f"scripted failure of call {number}", self._id)
        given = self._script(inputs, number) if self._script is not None else _UNSCRIPTED
        if given is _UNSCRIPTED:
            return self._made_up(inputs)
        if isinstance(given, BaseException) or (isinstance(given, type) and issubclass(given, BaseException)):
            raise _fresh(given, f"scripted failure of call {number}", self._id)
        values = check_outputs(self.signature, _as_outputs(given, self.signature), program=self._id)
        return self._result(values, self._draw(inputs))

    def _draw(self, inputs: Mapping[str, Any]) -> Draw:
        return Draw(self._seed, self._id, canonical(inputs))

    def _made_up(self, inputs: Mapping[str, Any]) -> Result:
        draw = self._draw(inputs)
        values: dict[str, Any] = {}
        for name, field in self.signature.outputs.items():
            if field.kind not in ENUMERABLE:
                values[name] = made_up_value(field, draw)
                continue
            odds = made_up_probabilities(field, draw)
            if field.kind == "multilabel":
                values[name] = [label for label, p in odds.items() if p > 0.5]
            else:
                values[name] = max(odds, key=odds.__getitem__)
        return self._result(values, draw)

    def _result(self, values: dict[str, Any], draw: Draw) -> Result:
        odds = {
            name: made_up_probabilities(field, draw, values[name])
            for name, field in self.signature.outputs.items()
            if field.kind in ENUMERABLE
        }
        tops = [_top(self.signature.outputs[name].kind, each) for name, each in odds.items()]
        return Result(values, route=_ROUTE, probabilities=odds, confidence=min(tops, default=None))


def _top(kind: str, odds: Mapping[Any, float]) -> float:
    if kind == "multilabel":  # right when every label is, taken as independent
        return math.prod(max(p, 1 - p) for p in odds.values())
    return max(odds.values())


class _Unscripted:
    """Marks an input that the script says nothing about."""


_UNSCRIPTED = _Unscripted()
_Script = Callable[[Mapping[str, Any], int], Any]


def _script(answers: Answers | None, signature: Signature, program_id: str) -> _Script | None:
    """One form for the three kinds of script: (inputs, number of the call) to the answer."""
    if answers is None:
        return None
    if isinstance(answers, Mapping):
        table = {key: _checked_ahead(answer, signature, program_id) for key, answer in answers.items()}
        return lambda inputs, number: table.get(_key(inputs, program_id), _UNSCRIPTED)
    if callable(answers):
        function = answers
        return lambda inputs, number: function(inputs)
    listed = [_checked_ahead(answer, signature, program_id) for answer in answers]

    def in_order(inputs: Mapping[str, Any], number: int) -> Any:
        if number < len(listed):
            return listed[number]
        raise ProgramError(
            f"the script has {len(listed)} answers, and this is call {number + 1}",
            program=program_id,
            hint="Script more answers, or use a mapping or a callable",
        )

    return in_order


def _checked_ahead(answer: Any, signature: Signature, program_id: str) -> Any:
    if isinstance(answer, BaseException) or (isinstance(answer, type) and issubclass(answer, BaseException)):
        return answer
    return check_outputs(signature, _as_outputs(answer, signature), program=program_id, error=ConfigError)


def _key(inputs: Mapping[str, Any], program_id: str) -> Any:
    values = tuple(inputs.values())
    key = values[0] if len(values) == 1 else values
    try:
        hash(key)
    except TypeError:
        raise ConfigError(
            "inputs of these types cannot be looked up in a mapping of answers",
            program=program_id,
            hint="Script the answers with a callable",
        ) from None
    return key


def _as_outputs(answer: Any, signature: Signature) -> Any:
    if len(signature.outputs) == 1:
        name, field = next(iter(signature.outputs.items()))
        # A bare dict is the value itself only where the one output is a dict without that key.
        if not isinstance(answer, Mapping) or (field.kind == "other" and name not in answer):
            return {name: answer}
    return answer


def _fresh(error: Any, message: str, program_id: str) -> BaseException:
    """A new exception per call: one instance raised by many threads would mix their tracebacks."""
    if isinstance(error, DspexError):
        fresh = type(error)(error.message)
        fresh.__dict__.update(error.__dict__)
        fresh.program = error.program or program_id
        return fresh
    if isinstance(error, type) and issubclass(error, DspexError):
        return error(message, program=program_id)
    if isinstance(error, type):
        return error(message)  # type: ignore[no-any-return]
    return error  # type: ignore[no-any-return]


def _check_settings(
    *, seed: Any, answers: Any, delay: Any, error_rate: Any, error: Any, program: str | None = None
) -> None:
    if not isinstance(seed, int) or isinstance(seed, bool):
        raise ConfigError(f"seed is an int, not {seed!r}", program=program)
    listed = isinstance(answers, Mapping | Sequence) and not isinstance(answers, str | bytes)
    if answers is not None and not listed and not callable(answers):
        raise ConfigError(
            f"answers are a mapping, a list or a callable, not {type(answers).__name__}", program=program
        )
    if not callable(delay):
        _check_delay(delay, program)
    if not _is_number(error_rate) or not 0 <= error_rate <= 1:
        raise ConfigError(f"error_rate is a share from 0 to 1, not {error_rate!r}", program=program)
    if not isinstance(error, DspexError) and not (isinstance(error, type) and issubclass(error, DspexError)):
        raise ConfigError(f"error is a DspexError class or instance, not {error!r}", program=program)


def _check_delay(seconds: Any, program: str | None) -> float:
    if not _is_number(seconds) or not math.isfinite(seconds) or seconds < 0:
        raise ConfigError(f"a delay is a number of seconds from 0 up, not {seconds!r}", program=program)
    return float(seconds)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)

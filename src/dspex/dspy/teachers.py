"""A DSPy module as a teacher: what it answers, what that cost, and how sure it was."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import dspy
from dspy.dsp.utils.settings import thread_local_overrides
from dspy.primitives.prediction import Completions

from dspex.checks import check_outputs
from dspex.distill.trace import Answer
from dspex.dspy.soft import from_logprobs, majority, shares
from dspex.errors import LMError
from dspex.signature import Signature

__all__ = ["CALL", "Answered", "Call", "ModuleTeacher", "Said", "outputs_of", "storable", "was_cached"]

#: Of DSPy's settings, what belongs to the caller alone: its marks, and who listens to it.
_CALLERS = frozenset(
    {"trace", "caller_modules", "caller_predict", "callbacks", "usage_tracker", "send_stream"}
    | {"stream_listeners", "_lm_stream_progress"}
)
_WARM = 0.7  # DSPy's own, for several completions of an LM without a temperature


@dataclass(slots=True)
class Call:
    """A call of a `Distilled` under way, as its teacher sees it.

    Attributes:
        module: whom to ask: a copy of a program asks its own teacher.
        kwargs: as the caller gave them.
        prediction: what the teacher said; None: it was not asked, or failed.
        error: what the teacher raised.
    """

    module: Any
    kwargs: Mapping[str, Any]
    prediction: Any = None
    error: BaseException | None = None


CALL: ContextVar[Call | None] = ContextVar("dspex_distilled_call", default=None)


@dataclass(frozen=True, slots=True)
class Said:
    """An answer with DSPy's side of it.

    Attributes:
        answer: its outputs, cost and soft labels.
        prediction: the module's.
        trace: DSPy's.
        votes: answers that said the same, most first.
        calls: of LMs that were seen.
        lost: answers that were wanted too, and failed.
    """

    answer: Answer
    prediction: Any
    trace: list[Any] = field(default_factory=list)
    votes: tuple[int, ...] = (1,)
    calls: int = 0
    lost: int = 0


class _Bill:
    """Looks like a calling module to DSPy, which so writes down here what an LM answered."""

    def __init__(self) -> None:
        self.history: list[Mapping[str, Any]] = []
        self._sees = not dspy.settings.disable_history and dspy.settings.max_history_size > 0

    def usd(self) -> float | None:
        """None where an LM does not tell; without a call of one, and from DSPy's cache, it cost nothing."""
        if not self.history and self._sees:
            return 0.0
        return _total([0.0 if was_cached(entry) else entry.get("cost") for entry in self.history])

    def tokens(self) -> int | None:
        usages = [
            {"total_tokens": 0} if was_cached(entry) else entry.get("usage") or {} for entry in self.history
        ]
        total = _total([usage.get("total_tokens") for usage in usages])
        return None if total is None else int(total)


def _total(parts: Sequence[Any]) -> float | None:
    return sum(parts) if parts and None not in parts else None


def was_cached(entry: Mapping[str, Any]) -> bool:
    return bool(entry.get("cache_hit") or getattr(entry.get("response"), "cache_hit", False))


@dataclass(frozen=True, slots=True)
class Answered:
    """What a module answered to one question, once or several times, before it is read."""

    predictions: list[Any]
    bill: _Bill
    seconds: float
    trace: list[Any] = field(default_factory=list)
    lost: int = 0


class ModuleTeacher:
    """Asks a DSPy module.

    Args:
        module: a dspy.Module that takes the signature's inputs as keywords.
        signature: inputs, and the outputs that its predictions have.
        learned: the outputs that are learned: answers are the same when these are.
        samples: answers that are asked for each call; the one that most agree with is the answer, and the
            shares are its soft labels.
    """

    def __init__(self, module: Any, signature: Signature, learned: Sequence[str], samples: int = 1) -> None:
        self.module = module
        self.signature = signature
        self.learned = tuple(learned)
        self.samples = samples
        self._settings: dict[str, Any] = {}

    @classmethod
    def of_unknown(
        cls,
        module: Any,
        inputs: Mapping[str, Any],
        infer: Callable[[Mapping[str, Any]], Signature],
        samples: int = 1,
    ) -> tuple[Signature, Answered]:
        """Asks a module that does not say what it answers; the signature comes from its first answer.

        Args:
            infer: from the outputs of the answer.

        Returns:
            the signature, and the answers, for `read` of a teacher with that signature.
        """
        teacher = cls(module, Signature.of("unknown -> unknown_too"), (), samples)
        answered = teacher._answered(inputs, module, None)
        prediction = answered.predictions[0]
        if not isinstance(prediction, dspy.Example):
            outputs_of(teacher.signature, prediction)  # says what it is
        return infer(dict(prediction.items())), answered

    def remember(self) -> None:
        """Keeps DSPy's LM, adapter and retriever of now, for questions from threads that are not its own.

        Callers with different LMs: the last one's is asked there. What a caller does not have, the last one
        that had it gives; but an LM without an adapter has DSPy's own.
        """
        own = thread_local_overrides.get()  # in a module's call they are all there
        if "lm" not in own:
            own = dspy.settings.copy()
        lm, adapter, rm, last = own["lm"], own["adapter"], own["rm"], self._settings
        if lm is None:
            lm, adapter = last.get("lm"), last.get("adapter") if adapter is None else adapter
        self._settings = {"lm": lm, "adapter": adapter, "rm": last.get("rm") if rm is None else rm}

    def later(self) -> ModuleTeacher:
        """Whom to ask about the call under way once it is over: its own module, in its caller's settings."""
        call = CALL.get()
        module = self.module if call is None else call.module
        other = ModuleTeacher(module, self.signature, self.learned, self.samples)
        other._settings = self._settings
        other.remember()
        given = {name: value for name, value in dspy.settings.copy().items() if name not in _CALLERS}
        other._settings = given | other._settings
        return other

    def ask(self, inputs: Mapping[str, Any]) -> Answer:
        """What the module says.

        Raises:
            LMError: its prediction does not fit the signature.
            Exception: whatever the module raises.
        """
        call = CALL.get()
        try:
            if call is None:
                return storable(self.said(inputs).answer, self.learned)
            return storable(self.said(call.kwargs, call.module, call).answer, self.learned)
        except Exception as error:
            if call is not None:
                call.error = error
            raise

    async def aask(self, inputs: Mapping[str, Any]) -> Answer:
        """As `ask`, for code that awaits."""
        call = CALL.get()
        asked, module = (inputs, self.module) if call is None else (call.kwargs, call.module)
        started, predictions, errors = time.perf_counter(), list[Any](), list[Exception]()
        try:
            with self._context(alone=call is None) as bill:
                for one, more in self._runs(module, alone=call is None):
                    try:
                        predictions.append(await one.acall(**asked, **more))
                    except Exception as error:
                        errors.append(error)
            if not predictions:
                raise errors[0]
            said = self.read(Answered(predictions, bill, time.perf_counter() - started), call)
        except Exception as error:
            if call is not None:
                call.error = error
            raise
        return storable(said.answer, self.learned)

    def said(self, inputs: Mapping[str, Any], module: Any = None, call: Call | None = None) -> Said:
        """As `ask`, with DSPy's side of it."""
        return self.read(self._answered(inputs, module or self.module, call), call)

    def _answered(self, inputs: Mapping[str, Any], module: Any, call: Call | None) -> Answered:
        """Of several answers, those that came: they are paid for."""
        started, predictions, errors = time.perf_counter(), list[Any](), list[Exception]()
        with self._context(alone=call is None) as bill:
            for one, more in self._runs(module, alone=call is None):
                try:
                    predictions.append(one(**inputs, **more))
                except Exception as error:
                    errors.append(error)
            trace = list(dspy.settings.trace or ()) if call is None else []
        if not predictions:
            raise errors[0]
        return Answered(predictions, bill, time.perf_counter() - started, trace, len(errors))

    @contextmanager
    def _context(self, *, alone: bool) -> Iterator[_Bill]:
        """A question of a user's call leaves its marks in DSPy as any does; others leave none."""
        bill = _Bill()
        changes: dict[str, Any] = {"caller_modules": [*(dspy.settings.caller_modules or []), bill]}
        if alone:
            changes["trace"] = []
            own = thread_local_overrides.get()
            changes |= {name: value for name, value in self._settings.items() if name not in own}
        with dspy.context(**changes):
            yield bill

    def _runs(self, module: Any, *, alone: bool) -> list[tuple[Any, dict[str, Any]]]:
        """What to run for as many answers as are wanted: modules, and keywords beside the inputs.

        DSPy asks an LM for each of several completions by itself, and one that fails takes the others with
        it; so each is a run, but in a user's call, which leaves one mark for all of them.
        """
        if self.samples == 1:
            return [(module, {})]
        if not alone and isinstance(module, dspy.Predict | dspy.ChainOfThought):
            predictor = module if isinstance(module, dspy.Predict) else module.predict
            lm = predictor.lm or dspy.settings.lm
            return [(module, {"config": {"n": self.samples, "temperature": _temperature(lm)}})]
        return [(_Rollout(module, number), {}) for number in range(self.samples)]

    def read(self, answered: Answered, call: Call | None = None) -> Said:
        """What was said.

        Raises:
            LMError: a prediction does not fit the signature, and no other does.
        """
        predictions, bill = answered.predictions, answered.bill
        if call is not None:
            call.prediction = predictions[0]
        given = [one for prediction in predictions for one in _completions(prediction)]
        each, answers = self._fitting(given)
        place, votes = majority(answers, self.learned)
        soft = shares(answers, self.signature) if len(answers) > 1 else self._soft(each[0], answers[0])
        if call is not None:
            call.prediction = each[place]
        answer = Answer(
            outputs=answers[place], soft=soft or None, usd=bill.usd(), tokens=bill.tokens(),
            seconds=answered.seconds,
        )  # fmt: skip
        lost = answered.lost + len(given) - len(each)
        return Said(answer, each[place], answered.trace, tuple(votes), len(bill.history), lost)

    def _fitting(self, predictions: Sequence[Any]) -> tuple[list[Any], list[dict[str, Any]]]:
        """The predictions that fit the signature, and their outputs."""
        good, answers, errors = list[Any](), list[dict[str, Any]](), list[LMError]()
        for one in predictions:
            try:
                answers.append(outputs_of(self.signature, one))
                good.append(one)
            except LMError as error:
                errors.append(error)
        if not good:
            raise errors[0]
        return good, answers

    def _soft(self, prediction: Any, outputs: Mapping[str, Any]) -> dict[str, dict[Any, float]]:
        logprobs = prediction.get("logprobs") if isinstance(prediction, dspy.Example) else None
        if not logprobs:
            return {}
        texts = {name: str(getattr(value, "value", value)) for name, value in outputs.items()}
        return from_logprobs(logprobs, texts, self.signature)


class _Rollout:
    """A module whose LMs are asked afresh, past DSPy's cache, with a temperature."""

    def __init__(self, module: Any, number: int) -> None:
        self._module = module.deepcopy()
        for old, new in zip(module.predictors(), self._module.predictors(), strict=True):
            new.lm = None if old.lm is None else self._afresh(old.lm, number)
        self._number = number

    @staticmethod
    def _afresh(lm: Any, number: int) -> Any:
        return lm.copy(rollout_id=number + 1, temperature=_temperature(lm))

    def _changes(self) -> dict[str, Any]:
        lm = dspy.settings.lm
        return {} if lm is None else {"lm": self._afresh(lm, self._number)}

    def __call__(self, **inputs: Any) -> Any:
        with dspy.context(**self._changes()):
            return self._module(**inputs)

    async def acall(self, **inputs: Any) -> Any:
        with dspy.context(**self._changes()):
            return await self._module.acall(**inputs)


def _temperature(lm: Any) -> float:
    own = getattr(lm, "kwargs", {}).get("temperature")
    return own if own is not None and own > 0.15 else _WARM


def _completions(prediction: Any) -> list[Any]:
    found: Completions | None = (
        getattr(prediction, "completions", None) if isinstance(prediction, dspy.Prediction) else None
    )
    if found is None or len(found) < 2:
        return [prediction]
    return [found[place] for place in range(len(found))]


def outputs_of(signature: Signature, prediction: Any, *, partial: bool = False) -> dict[str, Any]:
    """The outputs of a prediction, each in its field's own type.

    Args:
        partial: outputs may be missing.

    Raises:
        LMError: one is missing or of another type.
    """
    if not isinstance(prediction, dspy.Example | Mapping):
        raise LMError(
            f"the module answers with a {type(prediction).__name__}, not a dspy.Prediction",
            hint="Return dspy.Prediction(...) from its forward",
        )
    given = {name: prediction[name] for name in signature.outputs if name in prediction}
    try:
        return check_outputs(signature, given, error=LMError, partial=partial)
    except LMError as error:
        if error.field in given or partial:
            raise
        has = ", ".join(map(repr, prediction.keys())) or "nothing"
        raise LMError(
            f"the module's prediction has no {error.field!r}", field=error.field, hint=f"It has {has}"
        ) from None


def storable(answer: Answer, learned: Iterable[str]) -> Answer:
    """The answer without what is no plain JSON among the outputs that are not learned."""
    names = set(learned)
    kept = {name: value for name, value in answer.outputs.items() if name in names or _is_plain(value)}
    soft = {name: odds for name, odds in (answer.soft or {}).items() if name in names}
    return Answer(kept, soft or None, answer.usd, answer.tokens, answer.seconds)


def _is_plain(value: Any) -> bool:
    try:
        return bool(json.loads(json.dumps(value)) == value)
    except (TypeError, ValueError, RecursionError):
        return False

"""What the predictors of a DSPy program were asked and what they answered, as rows to learn from."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import dspy
from dspy.utils.parallelizer import ParallelExecutor

from dspex.checks import check_content, check_inputs, check_outputs
from dspex.errors import DspexError, InputError, ProgramError
from dspex.signature import Signature

__all__ = ["Lesson", "answers_of"]


@dataclass(slots=True)
class Lesson:
    """What one predictor can learn from.

    Attributes:
        rows: inputs and outputs, checked.
        left_out: calls that do not fit the signature.
        first_reason: why the first of them does not.
    """

    rows: list[dict[str, Any]] = field(default_factory=list)
    left_out: int = 0
    first_reason: str = ""


def answers_of(
    program: Any,
    predictors: Mapping[str, Any],
    trainset: Iterable[Any],
    metric: Callable[..., Any] | None,
    num_threads: int | None,
    max_errors: int | None,
) -> dict[str, Lesson]:
    """Runs a program on a trainset and collects what these of its predictors answered.

    Raises:
        InputError: there are no examples, or one is neither a dspy.Example with inputs nor a mapping.
        ProgramError: the program failed on more than `max_errors` examples.
    """
    examples = list(trainset)
    if not examples:
        raise InputError("the trainset holds no examples")
    arguments = [_arguments(example, row) for row, example in enumerate(examples)]
    errors: list[Exception] = []

    def run(row: int) -> list[Any]:
        try:
            with dspy.context(trace=[], disable_history=True):
                prediction = program(**arguments[row])
                trace = list(dspy.settings.trace)
            return trace if metric is None or metric(examples[row], prediction, trace) else []
        except Exception as error:
            errors.append(error)
            raise

    executor = ParallelExecutor(num_threads=num_threads, max_errors=max_errors, disable_progress_bar=True)
    try:
        traces = executor.execute(run, list(range(len(examples))))
    except Exception as error:
        if not errors:
            raise
        first = f"{type(errors[0]).__name__}: {errors[0]}"
        raise ProgramError(
            f"the program failed on {len(errors)} examples, at first with {first}",
            hint="Mend it, or raise max_errors",
        ) from error
    return _sorted(predictors, traces)


def _arguments(example: Any, row: int) -> dict[str, Any]:
    if isinstance(example, Mapping):
        return dict(example)
    try:
        return dict(example.inputs().toDict())
    except (AttributeError, ValueError) as error:
        raise InputError(
            f"the example's inputs are not known: {error}", row=row,
            hint="Give dspy.Example(...).with_inputs(...), or mappings of inputs",
        ) from None  # fmt: skip


def _sorted(predictors: Mapping[str, Any], traces: list[Any]) -> dict[str, Lesson]:
    names = {id(predictor): name for name, predictor in predictors.items()}
    lessons = {name: Lesson() for name in predictors}
    signatures = {name: Signature.of(predictor.signature) for name, predictor in predictors.items()}
    for trace in traces:
        for predictor, inputs, prediction in trace or ():
            name = names.get(id(predictor))
            if name is not None:
                _take(lessons[name], signatures[name], inputs, prediction)
    return lessons


def _take(lesson: Lesson, signature: Signature, inputs: Mapping[str, Any], prediction: Any) -> None:
    """Adds one call, unless it is not one of the signature: DSPy asks with missing inputs, too."""
    asked = {name: inputs[name] for name in signature.inputs if name in inputs}
    said = {name: prediction[name] for name in signature.outputs if name in prediction}
    try:
        checked = check_inputs(signature, asked)
        check_content(signature, checked)
        lesson.rows.append(checked | check_outputs(signature, said))
    except DspexError as error:
        lesson.left_out += 1
        lesson.first_reason = lesson.first_reason or error.message

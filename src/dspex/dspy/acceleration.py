"""`accelerate`: native sides for the predictors of an existing DSPy program that can have one."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import dspy
import orjson

from dspex.dspy.native_side import as_program, is_fitted
from dspex.dspy.predict import Predict, checked_threshold, converted
from dspex.dspy.teaching import Lesson, answers_of
from dspex.errors import ConfigError, DspexError, InputError, ModelFileError, SignatureError, nearest
from dspex.learning.options import FitOptions
from dspex.program import Program
from dspex.signature import Signature

__all__ = ["PredictorReport", "accelerate", "load_accelerated", "prepare", "report"]

_UNLISTED = "DSPy does not list it: its module is compiled, thus frozen, or it lies where DSPy does not look"
_ARGUMENTS = ("sample_weight", "seed", "threads", "progress", "id")  # of fit, beside its options
_REASONS = "_dspex_reasons"  # on an accelerated module: predictor -> why it has no native side


@dataclass(frozen=True, slots=True)
class PredictorReport:
    """How one predictor of a program answers.

    Attributes:
        name: as in `named_predictors`; in a module that DSPy keeps frozen, its path.
        native: whether it has a native side.
        reason: why it has none, or why the one it has stands aside here and now; else "".
        examples: what the native side learned from, in rows.
        held_out: output -> figures on rows that were left out of the learning, as in `Program.info`.
    """

    name: str
    native: bool
    reason: str
    examples: int | None = None
    held_out: Mapping[str, Mapping[str, float]] = field(default_factory=dict)


def accelerate(
    program: Any,
    trainset: Iterable[Any] | None = None,
    *,
    natives: Mapping[str, Any] | None = None,
    names: Iterable[str] | None = None,
    metric: Callable[..., Any] | None = None,
    threshold: float | None = 0.9,
    fallback: bool = False,
    min_examples: int = 50,
    num_threads: int | None = None,
    max_errors: int | None = None,
    **options: Any,
) -> Any:
    """A copy of a DSPy program whose predictors answer natively where they can; the rest is left as it is.

    Only a plain dspy.Predict (or one of dspex without a native side) is swapped, and only if its signature
    can be answered natively: subclasses have behaviour of their own, and free text is for the LM. What is
    swapped keeps its signature, demos, LM, configuration, callbacks and traces. `report` tells of each.

    Args:
        program: a dspy.Module. It stays as it is.
        trainset: dspy.Examples with their inputs set, or mappings of inputs. The program is run on them with
            its LM, and each eligible predictor's native side learns what it was asked and what it answered.
        natives: predictor -> a fitted `dspex.Program`, the path of a saved one, or examples to learn from.
        names: the predictors to look at; None: all.
        metric: metric(example, prediction, trace), as of DSPy's optimizers: only runs for which it is true
            are learned from.
        threshold, fallback: of every swapped predictor, see `Predict`.
        min_examples: a predictor with fewer answers in the trainset's runs is left.
        num_threads, max_errors: of the runs; by default those of `dspy.settings`.
        **options: further arguments of `dspex.fit`.

    Raises:
        ConfigError: a predictor or an option that does not exist; or there is nothing to learn from.
        SignatureError: no predictor can be answered natively, or one of `natives` cannot.
        InputError: examples that do not fit; or a trainset without examples.
        ProgramError: the program failed on more than `max_errors` examples.
    """
    _check(program, trainset, natives, min_examples)
    checked_threshold(threshold)
    _check_options(options, trainset, natives)
    copy = _copied(program)
    predictors = dict(copy.named_predictors())
    given = dict(natives or {})
    wanted = _wanted(predictors, names, given)
    reasons = {name: _obstacle(predictor) or "" for name, predictor in predictors.items()}
    programs = {name: _given_program(name, predictors[name], given[name], options) for name in given}
    pupils = {name: predictors[name] for name in wanted if name not in given and not reasons[name]}
    if trainset is not None and not pupils and not given:
        told = "; ".join(f"{name}: {reasons[name]}" for name in wanted)
        raise SignatureError(f"no predictor can be answered natively: {told or 'there is none'}")
    if trainset is not None and pupils:
        lessons = answers_of(copy, pupils, trainset, metric, num_threads, max_errors)
        learned = {name: _learned(pupils[name], lessons[name], min_examples, options) for name in pupils}
        programs |= {name: found for name, found in learned.items() if isinstance(found, Program)}
        reasons |= {name: found for name, found in learned.items() if isinstance(found, str)}
    for name in predictors.keys() - programs.keys() - set(wanted):
        reasons[name] = reasons[name] or "it is not among the names"
    for name, native in programs.items():
        predictor = converted(predictors[name])
        predictor.native, predictor.threshold, predictor.fallback = native, threshold, fallback
    told_later = {name: reason for name, reason in reasons.items() if reason and name not in programs}
    setattr(copy, _REASONS, told_later)
    return copy


def report(program: Any) -> list[PredictorReport]:
    """How each predictor of a DSPy program answers, whether or not `accelerate` has made it.

    Args:
        program: a dspy.Module.
    """
    named = program.named_predictors()
    told: Mapping[str, str] = getattr(program, _REASONS, {})
    lines = [_line(name, predictor, told) for name, predictor in named]
    known = {id(predictor) for _, predictor in named}
    for path, module in program.named_sub_modules(dspy.Predict):
        if id(module) not in known:
            native = isinstance(module, Predict) and module.native is not None
            lines.append(PredictorReport(path.removeprefix("self."), native, _UNLISTED))
    return lines


def load_accelerated(
    program: Any, path: str | os.PathLike[str], *, allow_unsafe_lm_state: bool = False
) -> Any:
    """A copy of a DSPy program with the JSON state that an accelerated one has saved.

    `load` alone would leave plain predictors plain. Here those that have a native side in the state get it.

    Args:
        program: a dspy.Module of the code that the accelerated one came from. It stays as it is.
        path: a .json file that `save` wrote.
        allow_unsafe_lm_state: as of DSPy's `load`.

    Raises:
        ModelFileError: the file cannot be read, or a native side in it is damaged.
    """
    copy = _copied(program)
    try:
        state = orjson.loads(Path(path).read_bytes())
    except (OSError, ValueError) as error:
        raise ModelFileError(
            f"{os.fspath(path)!r} cannot be read as the JSON state of a DSPy program: {error}",
            hint="Give a .json file that program.save wrote",
        ) from error
    prepare(copy, state)
    copy.load(path, allow_unsafe_lm_state=allow_unsafe_lm_state)
    return copy


def prepare(program: Any, state: Any) -> None:
    """Makes a program, in place, ready for `load_state` with the state of an accelerated one.

    Args:
        state: what `dump_state` gave.
    """
    for name, predictor in program.named_predictors():
        held = state.get(name) if isinstance(state, Mapping) else None
        if isinstance(held, Mapping) and held.get("native"):
            converted(predictor)


def _check(program: Any, trainset: Any, natives: Any, min_examples: Any) -> None:
    if not isinstance(program, dspy.Module):
        raise ConfigError(f"program is a {type(program).__name__}, not a dspy.Module", field="program")
    if natives is not None and not isinstance(natives, Mapping):
        raise ConfigError(f"natives is a {type(natives).__name__}, not a mapping", field="natives")
    if trainset is None and not natives:
        raise ConfigError(
            "there is nothing to learn from", hint="Give a trainset to run the program on, or natives"
        )
    if isinstance(min_examples, bool) or not isinstance(min_examples, int) or min_examples < 2:
        what = f"min_examples is {min_examples!r}"
        raise ConfigError(what, field="min_examples", hint="It takes a whole number of at least 2")


def _check_options(options: Mapping[str, Any], trainset: Any, natives: Any) -> None:
    """Whatever comes to be fitted: an option that does not exist is told before an LM is asked."""
    FitOptions.of({name: value for name, value in options.items() if name not in _ARGUMENTS})
    if options and trainset is None and all(map(is_fitted, natives.values())):
        raise ConfigError(f"a fitted program takes no options: {', '.join(sorted(options))}")


def _copied(program: Any) -> Any:
    """A deep copy that asks the same LMs; DSPy's own copy loses callbacks and copies clients."""
    copy = program.deepcopy()
    old = dict(program.named_sub_modules())
    for path, module in copy.named_sub_modules():
        if isinstance(module, dspy.Module) and path in old:
            module.callbacks = list(old[path].callbacks)
            if isinstance(module, dspy.Predict):
                module.lm = old[path].lm
    return copy


def _wanted(predictors: Mapping[str, Any], names: Any, given: Mapping[str, Any]) -> list[str]:
    if isinstance(names, str):
        raise ConfigError("names is one string", field="names", hint=f"Write [{names!r}]")
    asked = list(predictors) if names is None else list(names)
    for name in (*asked, *given):
        if name not in predictors:
            raise ConfigError(
                f"the program has no predictor {name!r}", field="names", hint=nearest(name, predictors)
            )
    return asked


def _obstacle(predictor: Any, *, needs_signature: bool = True) -> str | None:
    """Why a predictor is not to be swapped."""
    kind = type(predictor)
    if kind not in (dspy.Predict, Predict):
        return f"{kind.__name__} is a class with behaviour of its own"
    if kind is Predict and predictor.native is not None:
        return "it has a native side already"
    if predictor.fields:
        return "its decision fields read the LM's probabilities"
    if not needs_signature:
        return None
    try:
        verdict = Signature.of(predictor.signature).native_eligibility()
    except SignatureError as error:
        return error.message
    return None if verdict.ok else verdict.reason


def _given_program(name: str, predictor: Any, source: Any, options: Mapping[str, Any]) -> Program:
    obstacle = _obstacle(predictor, needs_signature=False)
    if obstacle is not None:
        raise SignatureError(f"the predictor {name!r} cannot be swapped: {obstacle}")
    try:
        return as_program(source, predictor.signature, {} if is_fitted(source) else options)
    except DspexError as error:
        error.add_note(f"for the predictor {name!r}")
        raise


def _learned(predictor: Any, lesson: Lesson, min_examples: int, options: Mapping[str, Any]) -> Program | str:
    """The native side that was learned, or why there is none."""
    if len(lesson.rows) < min_examples:
        left = f" ({lesson.left_out} left out: {lesson.first_reason})" if lesson.left_out else ""
        return f"{len(lesson.rows)} answers to learn from, fewer than {min_examples}{left}"
    try:
        return as_program(lesson.rows, predictor.signature, options)
    except InputError as error:
        return f"its answers cannot be learned: {error.message}"


def _line(name: str, predictor: Any, told: Mapping[str, str]) -> PredictorReport:
    native = predictor.native if isinstance(predictor, Predict) else None
    if native is None:
        reason = told.get(name) or _obstacle(predictor) or "it is eligible, and nothing was learned for it"
        return PredictorReport(name, False, reason)
    info = native.info()
    figures = info["calibration"]["held_out"]
    return PredictorReport(name, True, predictor.native_obstacle or "", info["data"]["rows"], figures)

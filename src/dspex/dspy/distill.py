"""`Distill`: an optimizer that puts a native program with a guarantee before a DSPy program."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import dspy
from dspy.teleprompt import Teleprompter

from dspex.config.base import Settings
from dspex.distill.agreement import Cost, Slice
from dspex.distill.settings import DistillSettings
from dspex.distill.trace import Trace
from dspex.dspy.acceleration import _copied
from dspex.dspy.distilled import Distilled
from dspex.dspy.distilling import Distilling
from dspex.dspy.labelling import Budget, Estimate
from dspex.errors import ConfigError, InputError, nearest
from dspex.learning.options import FitOptions, thread_count

__all__ = ["Distill"]

_STAGES = ("shadow", "canary", "live")
_GROUPS = ("lifecycle", "learning", "store")


class Distill(Teleprompter):  # type: ignore[misc]  # DSPy has no types
    """Learns a native program from a DSPy program's answers, and certifies which of its answers may stand.

    With a chance of at least 1 - delta over the rows that certify, at least `agreement` of the natively
    answered calls agree with the teacher (Learn-then-Test, Angelopoulos et al. 2021). All other calls are the
    teacher's.

    Args:
        agreement: in (0, 1).
        delta: in (0, 1).
        metric: metric(example, prediction, trace), as of dspy.BootstrapFewShot: of the teacher's answers to
            rows with labels, those that it refuses are not learned from. Rows that certify are a sample of
            the calls, and it leaves none of them out; so "split" only.
        budget: of labelling: US dollars, or {"usd": ..., "calls": ...}; asking stops before it is exceeded,
            but for answers under way, and when a price is not told any more. What has been paid for is a
            random part of the rows, and is learned from.
        method: "split" or "cross", see `dspex.distill.GuaranteeSettings`.
        calibration_share: of the trainset's rows, those that certify; a coin for each. With a valset those
            are the valset's.
        per_class: guarantee it within the answers of each class.
        slices: a function from inputs to a name: guarantee it within each of these.
        costs: cost(inputs, native outputs, teacher's outputs) in [0, 1]: bound the mean cost by 1 - agreement
            in place of the share of disagreements.
        tolerance: numeric output -> difference that still agrees.
        min_coverage: a certificate that covers less counts as none.
        novelty: of calls like the rows, the share with the lowest scores that is left to the teacher whatever
            is certified, because what is like none of the rows has such scores. None: 0.05, and less where
            more may disagree than 0.05: at an agreement of 0.90 the half.
        fields: the outputs to learn; None: all that can be.
        signature: of the task, for a module of one's own that does not say; None: as the module says, or from
            the first row and its answer.
        samples: answers that the teacher gives for a row; the shares are soft labels, the majority is its
            answer. Those that fail are left out.
        home: directory of the store, in which answers are kept as they come: after a crash, compile again
            with the same home. None: a temporary one; the error of a run that fails names it.
        stage: that the program and its later versions start in: "shadow", "canary" or "live". None: "live"
            without a home; with one as `settings` say, by default a first version in "shadow".
        confirm: is given an `Estimate` of the cost once the first rows are labelled; False stops there.
        settings: further settings: {"lifecycle": {...}, "learning": {...}, "store": {...}}.
        num_threads, max_errors: of labelling; None: those of `dspy.settings`.
        progress: whether a bar is shown.
        seed: of coins, of the order in which rows are labelled, and of the fit.
        threads: of the fit; None: all cores.
        **options: further options of `dspex.fit`.

    Raises:
        ConfigError: a setting out of range, or one that does not exist.
    """

    def __init__(
        self,
        agreement: float = 0.95,
        delta: float = 0.05,
        metric: Callable[..., Any] | None = None,
        budget: float | Mapping[str, Any] | None = None,
        *,
        method: str = "split",
        calibration_share: float = 0.2,
        per_class: bool = False,
        slices: Slice | str | None = None,
        costs: Cost | str | None = None,
        tolerance: Mapping[str, float] | None = None,
        min_coverage: float = 0.0,
        novelty: float | None = None,
        fields: Sequence[str] | None = None,
        signature: Any = None,
        samples: int = 1,
        home: str | os.PathLike[str] | None = None,
        stage: str | None = None,
        confirm: Callable[[Estimate], bool] | None = None,
        settings: Mapping[str, Any] | None = None,
        num_threads: int | None = None,
        max_errors: int | None = None,
        progress: bool = True,
        seed: int = 0,
        threads: int | None = None,
        **options: Any,
    ) -> None:
        super().__init__()
        self.agreement, self.delta, self.metric, self.budget = agreement, delta, metric, budget
        self.method, self.calibration_share, self.per_class = method, calibration_share, per_class
        self.slices, self.costs, self.tolerance = slices, costs, tolerance
        self.min_coverage, self.novelty = min_coverage, novelty
        self.fields, self.signature, self.samples = fields, signature, samples
        self.home, self.stage, self.confirm, self.settings = home, stage, confirm, settings
        self.num_threads, self.max_errors, self.progress = num_threads, max_errors, progress
        self.seed, self.threads, self.options = seed, threads, options
        self._check()

    def _check(self) -> None:
        self.all_settings()
        Budget.of(self.budget)
        if self.threads is not None:
            thread_count(self.threads)
        for name in self.options:
            if name not in FitOptions.__dataclass_fields__:
                known = [*self.get_params(), *FitOptions.__dataclass_fields__]
                raise ConfigError(f"Distill has no option {name!r}", field=name, hint=nearest(name, known))
        FitOptions.of(dict(self.options))
        if "gate" in self.options:
            raise ConfigError("'gate' is always on", field="gate", hint="Leave it out")
        for name in ("metric", "confirm"):
            if getattr(self, name) is not None and not callable(getattr(self, name)):
                raise ConfigError(f"{name} is {getattr(self, name)!r}, and no function", field=name)
        for name, least, most in (
            ("seed", 0, 2**63 - 1),
            ("samples", 1, None),
            ("num_threads", 1, None),
            ("max_errors", 0, None),
        ):
            if getattr(self, name) is not None or name in ("seed", "samples"):
                _require_whole(name, getattr(self, name), least, most)
        if self.metric is not None and self.method == "cross":
            raise ConfigError(
                "a metric picks what is learned from, and with 'cross' every row certifies too",
                field="metric", hint="Use method='split'",
            )  # fmt: skip

    def get_params(self) -> dict[str, Any]:
        """The arguments."""
        return dict(self.__dict__)

    def all_settings(self) -> DistillSettings:
        """The settings of guarantee, lifecycle, learning and store.

        Raises:
            ConfigError: one is out of range, or does not exist.
        """
        if self.stage is not None and self.stage not in _STAGES:
            raise ConfigError(
                f"unknown stage {self.stage!r}", field="stage", hint=nearest(str(self.stage), _STAGES)
            )
        if not isinstance(self.settings, Mapping | None):
            raise ConfigError(
                f"settings are a mapping, not {type(self.settings).__name__}", field="settings",
                hint="Give {'lifecycle': {...}, 'learning': {...}, 'store': {...}}",
            )  # fmt: skip
        given = dict(self.settings or {})
        for name in given:
            if name not in _GROUPS:
                raise ConfigError(
                    f"settings has no {name!r}", field="settings", hint=nearest(str(name), _GROUPS)
                )
        stage = "live" if self.stage is None and self.home is None else self.stage
        begins = {} if stage is None else {"start": stage, "refit_start": stage}
        lifecycle = _over(begins, given.get("lifecycle", {}))
        learning = _over({"automatic": self.home is not None}, given.get("learning", {}))
        guarantee = {
            "agreement": self.agreement,
            "delta": self.delta,
            "method": self.method,
            "calibration_share": self.calibration_share,
            "per_class": self.per_class,
            "min_coverage": self.min_coverage,
            "novelty": self.novelty,
            "slices": importable(self.slices),
            "costs": importable(self.costs),
            "tolerance": self.tolerance or {},
        }
        groups = given | {"lifecycle": lifecycle, "learning": learning, "guarantee": guarantee}
        found: DistillSettings = DistillSettings.of(groups)
        return found

    def compile(
        self,
        student: Any,
        *,
        teacher: Any = None,
        trainset: Iterable[Any] | None = None,
        valset: Iterable[Any] | None = None,
        traces: Iterable[Trace] | None = None,
    ) -> Distilled:
        """Labels what is not labelled, learns, certifies.

        Args:
            student: a dspy.Module; it stays as it is.
            teacher: whom to learn from; None: the student, or the labels when every row has them.
            trainset: dspy.Examples with or without outputs, mappings, or Traces.
            valset: the rows that certify, and nothing else.
            traces: answers that the teacher gave before, see `dspex.dspy.history_traces` and
                `dspex.distill.imports`. What is among the rows, too, is one call.

        Returns:
            a program that asks the teacher (or the student, when there is none) for what is not guaranteed:
            for everything, when the rows are too few; `report()` then says how many more would do.

        Raises:
            InputError: no rows; a row that does not fit; an example in both sets; a valset of traces that a
                gate or a metric picked; other labels than the home has.
            SignatureError: no output can be learned, with the reason for each; traces of another signature.
            ConfigError: a float to learn without a tolerance; a home that is a file; a budget that cannot be
                kept; `slices` or `costs` that cannot be imported, or slices that fail on a row.
            ProgramError: the teacher failed on more than `max_errors` rows. Its answers are kept.
            ModelFileError: the home is damaged, or of a newer version.
        """
        for name, module in (("student", student), ("teacher", teacher)):
            if not isinstance(module, dspy.Module) and not (name == "teacher" and module is None):
                raise ConfigError(f"{name} is a {type(module).__name__}, not a dspy.Module", field=name)
        train, val = list(trainset or ()), list(valset or ())
        recorded = _traces(traces)
        if not (train or recorded):
            raise InputError("there are no rows to learn from", hint="Give a trainset, or traces")
        asked = student if teacher is None else teacher
        if isinstance(asked, Distilled):
            asked = asked.teacher
        copy = _copied(asked)
        copy._compiled = False  # else DSPy would hide its predictors, and leave them out of states
        return Distilling(self, student, copy, is_taught=teacher is not None).run(train, val, recorded)


def _require_whole(name: str, value: Any, least: int, most: int | None) -> None:
    fits = isinstance(value, int) and not isinstance(value, bool) and value >= least
    if not fits or (most is not None and value > most):
        upto = "" if most is None else f" to {most}"
        raise ConfigError(
            f"{name} is {value!r}", field=name, hint=f"It takes a whole number from {least}{upto}"
        )


def _over(defaults: Mapping[str, Any], given: Any) -> Any:
    """A group of settings over the defaults; what is none is left for `DistillSettings` to refuse."""
    if isinstance(given, Settings):
        given = {name: getattr(given, name) for name in given.model_fields_set}
    return {**defaults, **given} if isinstance(given, Mapping) else given


def _traces(traces: Any) -> list[Trace]:
    found = list(traces or ())
    for row, trace in enumerate(found):
        if not isinstance(trace, Trace):
            raise InputError(
                f"this is a {type(trace).__name__}, not a Trace", row=row, field="traces",
                hint="See dspex.dspy.history_traces and dspex.distill.imports",
            )  # fmt: skip
    return found


def importable(function: Any) -> str | None:
    """The "module:name" of a function, as settings take it; None for one that cannot be imported by it."""
    if function is None or isinstance(function, str):
        return function
    if not callable(function):
        raise ConfigError(
            f"{function!r} is no function", hint='Give a function, or "package.module:function"'
        )
    module, name = getattr(function, "__module__", None), getattr(function, "__qualname__", "<")
    return None if not module or module == "__main__" or "<" in name else f"{module}:{name}"

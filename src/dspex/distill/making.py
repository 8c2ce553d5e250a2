"""Makes a version: a program taught by some rows, and a certificate from others."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from dspex.distill.agreement import Agreement, Cost, Slice, imported
from dspex.distill.boundary import boundary_pairs
from dspex.distill.figures import line, per_class, teacher_name
from dspex.distill.guarded import Guarded
from dspex.distill.judging import Judged, costs_of, groups_of, held_out, is_one_class, judge, stands_of
from dspex.distill.references import drift_label, drift_reference
from dspex.distill.settings import GuaranteeSettings
from dspex.distill.trace import Trace
from dspex.errors import ConfigError, InputError
from dspex.guarantee.binomial import rows_without_errors
from dspex.guarantee.certificate import Certificate
from dspex.guarantee.certify import certify, delta_of, grid_of, grids_of, prior_grid
from dspex.guarantee.planning import Curve, power_at
from dspex.learning.fit import fit
from dspex.program import Program
from dspex.signature import Signature

__all__ = ["Lack", "Made", "Taught", "certified", "lacking", "make", "taught"]

_CROSS_FOLDS = 10  # the more, the more the models that judge are like the one that is judged
_PICKED = ("deferred", "audit", "canary")  # by the gate: the hard ones, and twice the easy ones
_ENOUGH = 200  # rows that can stand for the calls
_TRIED = 10  # times the rows that certify if none is wrong
_POWER = 0.8  # chance of a certificate from which rows are used up for it
_MOST = 1_000_000


@dataclass(frozen=True, slots=True)
class Taught:
    """A program that has been fitted, not certified yet.

    Attributes:
        rows: that it was fitted on, in order.
        certifying: how many at the end of them are to certify it ("cross"); 0: none.
        seconds: that the fit took.
    """

    program: Program
    rows: tuple[Trace, ...]
    certifying: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Made:
    """A version that has been made.

    Attributes:
        guarded: the program with its certificate.
        figures: what a report tells of it, as JSON-able data.
    """

    guarded: Guarded
    figures: dict[str, Any]

    @property
    def program(self) -> Program:
        return self.guarded.program

    @property
    def certificate(self) -> Certificate:
        return self.guarded.certificate


def make(
    signature: Signature,
    fit_rows: Sequence[Trace],
    calibrate_rows: Sequence[Trace],
    settings: GuaranteeSettings,
    *,
    version: int | None = None,
    seed: int = 0,
    threads: int | None = None,
    slices: Slice | None = None,
    costs: Cost | None = None,
    fit_options: Mapping[str, Any] | None = None,
    id: str | None = None,
) -> Made:
    """Fits a program and certifies it.

    Args:
        signature: the task, with the outputs that are to be learned and no others.
        fit_rows: rows to learn from.
        calibrate_rows: an unbiased sample of the calls, used for no certificate so far. "split": they
            certify and nothing else. "cross": the program learns from them as well, and each is judged by a
            model of the fit that did not see it.
        settings: what is to be guaranteed.
        version: its number, where others may follow: each gets a part of delta, later ones a smaller one, so
            that all together err with a chance of at most delta. None: it is the only one.
        seed, threads, id: of the fit.
        slices, costs: in place of those that the settings name.
        fit_options: further options of `dspex.fit`.

    Raises:
        InputError: there is nothing to learn from, no row that certifies, or rows do not fit the signature.
        SignatureError: the signature cannot be answered natively.
        ConfigError: settings that do not fit the signature.
    """
    lesson = taught(
        signature,
        fit_rows,
        calibrate_rows,
        settings,
        seed=seed,
        threads=threads,
        fit_options=fit_options,
        id=id,
    )
    return certified(lesson, calibrate_rows, settings, version=version, slices=slices, costs=costs)


def taught(
    signature: Signature,
    fit_rows: Sequence[Trace],
    calibrate_rows: Sequence[Trace],
    settings: GuaranteeSettings,
    *,
    seed: int = 0,
    threads: int | None = None,
    fit_options: Mapping[str, Any] | None = None,
    id: str | None = None,
) -> Taught:
    """The first half of `make`: what calibration rows say is not looked at, but to learn from ("cross")."""
    tolerance = Agreement(signature, settings.tolerance).tolerance
    cross = settings.method == "cross"
    if cross:
        _require_held_out_answers(signature, settings)
    certifying = [trace for trace in calibrate_rows if _says_something(trace)] if cross else []
    rows = (*filter(_says_something, fit_rows), *certifying)
    started = time.perf_counter()
    program = fit(
        signature,
        [_example(trace, signature) for trace in rows],
        sample_weight=[float(trace.count) for trace in rows],
        seed=seed,
        threads=threads,
        id=id,
        gate=True,
        agree=tolerance,
        novelty=settings.novel_share,
        **_options(fit_options, cross=cross),
    )
    seconds = time.perf_counter() - started
    return Taught(program, rows, len(certifying), seconds)


def certified(
    lesson: Taught,
    calibrate_rows: Sequence[Trace],
    settings: GuaranteeSettings,
    *,
    version: int | None = None,
    slices: Slice | None = None,
    costs: Cost | None = None,
) -> Made:
    """The second half of `make`: what is certified, and the figures of it. Arguments and errors are its."""
    if not calibrate_rows:
        raise InputError("there are no rows that certify", hint="Label some calls that are not learned from")
    delta = settings.delta if version is None else delta_of(settings.delta, version)
    if lesson.certifying:
        judged = _cross_judged(lesson, calibrate_rows)
    else:
        judged = judge(lesson.program, calibrate_rows, settings)
    slices = slices or imported(settings.slices, "guarantee.slices")
    groups = groups_of(judged, calibrate_rows, settings, slices)
    certificate = certify(
        judged.scores,
        judged.wrong,
        agreement=settings.agreement,
        delta=delta,
        grid=_grid(lesson, len(calibrate_rows), settings, delta, groups is not None, slices, costs),
        method=settings.method,
        groups=groups,
        costs=costs_of(judged, calibrate_rows, settings, costs),
    )
    if certificate.covers and certificate.coverage < settings.min_coverage:
        certificate = _too_little(certificate, settings.min_coverage)
    guarded = Guarded(lesson.program, certificate, slices)
    return Made(guarded, _figures(lesson, guarded, calibrate_rows, judged))


@dataclass(frozen=True, slots=True)
class Lack:
    """Too few rows to certify anything, as far as rows tell that do not certify.

    Attributes:
        reason: a sentence.
        rows: how many more; None: no number would do.
    """

    reason: str
    rows: int | None


def lacking(
    lesson: Taught, count: int, settings: GuaranteeSettings, delta: float, *, tried: int = _TRIED
) -> Lack | None:
    """What `count` certifying rows lack to certify something with a chance of 80 %; None: nothing.

    Looks at held-out rows of the fit only. So certifying rows are not used up for nothing, and whether they
    are used does not depend on what they say. Held-out rows can be too dark a picture, of many texts that are
    nearly the same for instance: a large number of certifying rows is tried in any case.

    Args:
        count: of rows that certify.
        tried: that large number, as a multiple of the rows that certify if none is wrong.
    """
    if count >= tried * rows_without_errors(1 - settings.agreement, delta):
        return None
    seen = _like_the_calls(lesson)
    if settings.slices is not None or settings.per_class or settings.costs is not None or seen is None:
        return None if count else Lack("there are no rows that certify", None)
    curve = grid_of(seen.scores, seen.wrong, settings.agreement, delta, count).curve
    assert curve is not None
    needed = _needed(curve, count, 1 - settings.agreement, delta)
    if needed is None:
        return Lack(
            f"no answers are found that would agree with the teacher to {settings.agreement:.1%}: of "
            f"{len(seen.scores):,} answers to rows that were held out, {seen.wrong.mean():.1%} disagree, "
            "and not less of the surest ones",
            None,
        )
    if needed == count:
        return None
    more = needed - count
    return Lack(f"{needed:,} certifying rows are needed and there are {count:,}: {more:,} more", more)


def _needed(curve: Curve, count: int, rate: float, delta: float) -> int | None:
    """The least number of rows from `count` up that has the power, to a per cent; None: no number has."""

    def enough(rows: int) -> bool:
        return bool(power_at(curve, rows, rate, delta).max() >= _POWER)

    if enough(count):
        return count
    low, high = count, max(64, 2 * count)
    while not enough(high):
        low, high = high, 2 * high
        if high > _MOST:
            return None
    while high - low > max(1, high // 100):
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high


def _like_the_calls(lesson: Taught) -> Judged | None:
    """Held-out rows that do not certify; without deferred ones, which are the hard ones, where others do."""
    seen = held_out(lesson.program, lesson.rows)
    fitted = np.arange(len(lesson.rows)) < len(lesson.rows) - lesson.certifying
    usual = fitted & np.array([_is_usual(trace) for trace in lesson.rows])
    mask = usual if usual.sum() >= _ENOUGH else fitted
    if not np.isfinite(seen.scores[mask]).any():
        return None
    natives = [native for native, wanted in zip(seen.natives, mask, strict=True) if wanted]
    return Judged(natives, seen.scores[mask], seen.wrong[mask])


def _require_held_out_answers(signature: Signature, settings: GuaranteeSettings) -> None:
    looks = settings.per_class or settings.costs is not None
    if looks and not is_one_class(signature):
        raise ConfigError(
            "'cross' keeps held-out answers of one class only, and per_class and costs need them",
            field="guarantee.method",
            hint="Take method 'split'",
        )


def _options(given: Mapping[str, Any] | None, *, cross: bool) -> dict[str, Any]:
    """Options of the fit.

    Raises:
        ConfigError: one that distillation decides itself.
    """
    options = dict(given or {})
    for name in ("gate", "agree", "novelty"):
        if name in options:
            raise ConfigError(
                f"{name!r} is not for fit_options",
                field=name,
                hint="novelty and tolerance are settings of the guarantee",
            )
    return {"folds": _CROSS_FOLDS, **options} if cross else options


def _is_usual(trace: Trace) -> bool:
    """Whether a row to fit on was picked without regard to how hard it is; those that certified were."""
    return trace.role == "calibrate" or trace.source not in _PICKED


def _example(trace: Trace, signature: Signature) -> dict[str, Any]:
    """A row for `fit`: without what is not to be learned."""
    row = trace.row
    return {name: row[name] for name in (*signature.inputs, *signature.outputs) if name in row}


def _cross_judged(lesson: Taught, calibrate_rows: Sequence[Trace]) -> Judged:
    """The certifying rows as models judged them that did not see them; blank ones are never answered."""
    whole = held_out(lesson.program, lesson.rows)
    able = np.array([_says_something(trace) for trace in calibrate_rows])
    part = slice(len(lesson.rows) - lesson.certifying, None)
    answers = iter(whole.natives[part])
    scores, wrong = np.full(len(able), -np.inf), np.ones(len(able), bool)
    scores[able], wrong[able] = whole.scores[part], whole.wrong[part]
    return Judged([next(answers) if good else None for good in able], scores, wrong)


def _says_something(trace: Trace) -> bool:
    """Whether a row can be learned from: not one whose inputs are blank texts, which the teacher answers."""
    return not all(isinstance(value, str) and not value.strip() for value in trace.inputs.values())


def _grid(
    lesson: Taught,
    count: int,
    settings: GuaranteeSettings,
    delta: float,
    grouped: bool,
    slices: Slice | None,
    costs: Cost | None,
) -> Any:
    """Where testing begins, from rows that do not certify."""
    weighted = costs is not None or settings.costs is not None
    if lesson.certifying:
        return prior_grid(settings.agreement, costs=weighted)
    seen = held_out(lesson.program, lesson.rows)
    if not grouped and weighted is False:
        usual = _like_the_calls(lesson)
        if usual is None:
            return prior_grid(settings.agreement)
        return grid_of(usual.scores, usual.wrong, settings.agreement, delta, count)
    weights = costs_of(seen, lesson.rows, settings, costs)
    if not grouped:
        return grid_of(seen.scores, seen.wrong, settings.agreement, delta, count, costs=weights)
    names = groups_of(seen, lesson.rows, settings, slices)
    assert names is not None
    return grids_of(seen.scores, seen.wrong, names, settings.agreement, delta, count, costs=weights)


def _too_little(certificate: Certificate, least: float) -> Certificate:
    """A certificate that covers less than is wanted, as one that covers nothing."""
    reason = (
        f"what can be guaranteed covers {certificate.coverage:.1%} of the calls, and at least {least:.1%} "
        "are wanted (min_coverage)"
    )
    none = None if certificate.thresholds is None else dict.fromkeys(certificate.thresholds)
    return replace(
        certificate, threshold=None, thresholds=none, accepted=0, errors=0, coverage=0.0, risk=None,
        upper_bound=1.0, rows_needed=None, reason=reason,
    )  # fmt: skip


def _figures(
    lesson: Taught,
    guarded: Guarded,
    rows: Sequence[Trace],
    judged: Judged,
) -> dict[str, Any]:
    stands = stands_of(guarded, rows, judged)
    outputs = tuple(lesson.program.signature.outputs)
    return {
        "fit_seconds": lesson.seconds,
        "rows_fit": len(lesson.rows),
        "rows_certifying": len(rows),
        "line": line(len(rows), int(stands.sum()), int((stands & judged.wrong).sum())),
        "held_out": lesson.program.info()["calibration"]["held_out"],
        "per_class": per_class(
            [teacher_name(row, outputs) for row in rows], list(stands), list(judged.wrong)
        ),
        "boundary": boundary_pairs(rows, judged.natives, np.maximum(judged.scores, 0), list(stands)),
        # Of models that are not the one in service, scores would look like drift.
        "reference": None if lesson.certifying else _reference(judged, lesson.program.signature),
    }


def _reference(judged: Judged, signature: Signature) -> dict[str, Any] | None:
    """What live calls are compared with, for drift; None where no row was answered."""
    answered = [at for at, native in enumerate(judged.natives) if native is not None]
    if not answered:
        return None
    labels = [drift_label(signature, native) for native in judged.natives if native is not None]
    return drift_reference(signature, np.maximum(judged.scores[answered], 0), labels).to_dict()

"""Learning on: from the traces of a home to a new version."""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from dspex.distill.agreement import imported
from dspex.distill.comparing import compared
from dspex.distill.curriculum import Curriculum, curriculum
from dspex.distill.guarded import Guarded
from dspex.distill.judging import held_out
from dspex.distill.lifecycle import outdated
from dspex.distill.making import Made, Taught, certified, lacking, taught
from dspex.distill.settings import DistillSettings
from dspex.distill.store import Event, State, Store, VersionRecord
from dspex.distill.task import learned_signature
from dspex.distill.terms import kept_settings, terms_of, weaker
from dspex.errors import InputError
from dspex.guarantee.certificate import Certificate
from dspex.guarantee.certify import delta_of
from dspex.program import load

__all__ = ["Lesson", "keep", "learn", "waits"]

_OUTDATED = (
    "the version in service breached while this one was learned: it was certified on calls from before that, "
    "and of the calls since nothing follows"
)

Outcome = Literal["made", "refused", "kept", "outdated", "waiting"]


@dataclass(frozen=True, slots=True)
class Lesson:
    """What came of learning.

    Attributes:
        outcome: "made": a certified version is ready; "refused": one was made and nothing can be guaranteed
            of it; "kept": one was made, and the version in service covers more on the same rows; "outdated":
            one was made, and a breach that was noticed meanwhile came after rows that certified it;
            "waiting": there are too few rows, and none was used up.
        reason: a sentence.
        version: its number; None while waiting.
        rows_needed: how many more certifying rows would do; None: not known, or none is needed.
    """

    outcome: Outcome
    reason: str
    version: int | None = None
    rows_needed: int | None = None

    def to_dict(self) -> dict[str, Any]:
        """As JSON-able data."""
        return asdict(self)


def learn(
    store: Store,
    settings: DistillSettings | Mapping[str, Any] | None = None,
    *,
    seed: int = 0,
    fit_options: Mapping[str, Any] | None = None,
) -> Lesson:
    """Makes a version from the traces of a home, and stores it with its certificate in one step.

    It is fitted on the rows to fit on and on those that have certified a version before, and certified on
    those that have not: each row certifies once at most. After a breach, rows from before it certify nothing,
    and are learned from only if that helps with the rows since.

    Args:
        store: of the home.
        settings: what is to be guaranteed, and how many rows are looked at. What they do not say of the
            guarantee is as the home keeps it.
        seed, fit_options: of the fit.

    Raises:
        ResourceError: somebody learns there already. Retryable.
        SignatureError: the signature cannot be answered natively.
        ConfigError: settings that do not fit the signature.
    """
    settings = kept_settings(store, settings)
    with store.learning():
        state, number = store.state(), store.next_version()
        started = time.perf_counter()
        rows = curriculum(store, settings.learning, state)
        name = f"{store.home.name}-v{number}"
        try:
            lesson = _taught(store, rows, settings, name, seed, fit_options)
        except InputError as error:
            return waits(store, f"there is nothing to learn from yet: {error.message}")
        short = lacking(
            lesson, len(rows.fresh), settings.guarantee, delta_of(settings.guarantee.delta, number)
        )
        if short is not None:
            return waits(store, short.reason, short.rows)
        made = certified(
            lesson,
            rows.fresh,
            settings.guarantee,
            version=number,
            slices=imported(settings.guarantee.slices, "guarantee.slices"),
            costs=imported(settings.guarantee.costs, "guarantee.costs"),
        )
        return keep(store, made, rows, state, settings, time.perf_counter() - started)


def keep(
    store: Store,
    made: Made,
    rows: Curriculum,
    state: State,
    settings: DistillSettings,
    seconds: float,
    functions: Collection[str] = (),
) -> Lesson:
    """Stores a version that has been made: its file first, then all else in one transaction.

    To be called while `store.learning()` is held.

    Args:
        functions: as of `terms_of`.
    """
    number = store.next_version()
    certificate, figures = made.certificate, dict(made.figures)
    figures |= {"terms": terms_of(settings.guarantee, functions), "sampled_from": _oldest(rows)}
    outcome, reason = ("made" if certificate.covers else "refused"), certificate.reason
    running = None if rows.breach is not None else _running(store, state.version, settings)
    if running is not None:
        figures["compared"] = compared(
            figures["line"], running, rows.fresh, settings.guarantee, number=state.version or 0
        )
        if certificate.covers and (worse := _worse(figures["compared"], settings.guarantee.agreement)):
            outcome, reason = "kept", worse
    if outcome == "made" and outdated(figures, store.state()):
        outcome, reason = "outdated", _OUTDATED
    path = store.version_path(number)
    made.guarded.to_save().save(path)
    record = VersionRecord(
        number=number,
        created=time.time(),
        file=path.name,
        status={"made": "ready", "refused": "refused"}.get(outcome, "retired"),  # type: ignore[arg-type]
        parent=state.version,
        certificate=certificate.to_dict() | ({} if reason == certificate.reason else {"reason": reason}),
        figures=figures,
        rows_fit=figures["rows_fit"],
        rows_calibrate=figures["rows_certifying"],
        delta=certificate.delta,
        seconds=seconds,
    )
    store.add_version(record, [trace.id for trace in rows.fresh if trace.id is not None])
    return Lesson(outcome, reason, number, certificate.rows_needed or None)  # type: ignore[arg-type]


def _taught(
    store: Store,
    rows: Curriculum,
    settings: DistillSettings,
    name: str,
    seed: int,
    fit_options: Mapping[str, Any] | None,
) -> Taught:
    """The program that says best what the teacher says now."""

    signature = learned_signature(store)

    def attempt(fit_rows: Any) -> Taught:
        return taught(
            signature, fit_rows, rows.fresh, settings.guarantee, seed=seed,
            threads=settings.learning.threads, fit_options=fit_options, id=name,
        )  # fmt: skip

    if not rows.since_breach:
        return attempt(rows.fit_rows)
    recent: Taught | None
    try:
        recent = attempt(rows.since_breach)
    except InputError:
        return attempt(rows.fit_rows)
    whole = attempt(rows.fit_rows)
    wanted = {id(trace) for trace in rows.since_breach}
    return min((recent, whole), key=lambda each: _errors(each, wanted))


def _errors(lesson: Taught, wanted: set[int]) -> float:
    """Share of wrong held-out answers among some of the rows."""
    judged = held_out(lesson.program, lesson.rows)
    wrong = [bool(bad) for trace, bad in zip(lesson.rows, judged.wrong, strict=True) if id(trace) in wanted]
    return sum(wrong) / max(1, len(wrong))


def _running(store: Store, number: int | None, settings: DistillSettings) -> Guarded | None:
    """The version in service, if it guarantees what is wanted."""
    if number is None or weaker(record := store.version(number), settings.guarantee):
        return None
    slices = imported(settings.guarantee.slices, "guarantee.slices")
    return Guarded(load(store.version_file(number)), Certificate.from_dict(record.certificate), slices)


def _oldest(rows: Curriculum) -> float | None:
    """When the oldest of the rows that certify was asked."""
    return min((trace.at for trace in rows.fresh), default=None)


def _worse(found: Mapping[str, Any], agreement: float) -> str | None:
    """Why the running version stays: it is still good on these rows, and covers more of them."""
    new, running = found["new"], found["running"]
    if running["agreement"] is None or running["agreement"] < agreement:
        return None
    if running["coverage"] <= new["coverage"]:
        return None
    return (
        f"version {found['version']} covers {running['coverage']:.1%} of the same rows at an agreement of "
        f"{running['agreement']:.1%}, this one {new['coverage']:.1%}"
    )


def waits(store: Store, reason: str, needed: int | None = None) -> Lesson:
    """Notes that there are too few rows, and how many more would do."""
    after = {} if needed is None else {"rows_needed": needed}
    store.record(Event(time.time(), "learning waits", "learner", reason, {}, after))
    return Lesson("waiting", reason, None, needed)

"""One run of `Distill.compile`."""

from __future__ import annotations

import dataclasses
import os
import random
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from dspex.distill import lifecycle
from dspex.distill.agreement import Agreement, imported
from dspex.distill.curriculum import Curriculum, curriculum
from dspex.distill.guarded import Guarded
from dspex.distill.learner import keep, waits
from dspex.distill.making import Lack, Made, Taught, certified, lacking, taught
from dspex.distill.store import Event, Store
from dspex.distill.task import with_outputs
from dspex.distill.terms import terms_of, weaker
from dspex.distill.trace import Answer, Trace
from dspex.distill.tutor import STARTED
from dspex.dspy.calls_given import CallsGiven, read_given
from dspex.dspy.distilled import Distilled
from dspex.dspy.labelling import Budget, Labelled, label
from dspex.dspy.native_part import bound
from dspex.dspy.outlook import DistillReport
from dspex.dspy.rows import Row, input_key, raw_inputs
from dspex.dspy.samples import LABELS, Given, add_recorded, missing, unrepeated
from dspex.dspy.screening import hopeless
from dspex.dspy.soft import self_consistency
from dspex.dspy.stored import leave
from dspex.dspy.tasks import Task, inferred, signature_of, task_of
from dspex.dspy.teachers import Answered, ModuleTeacher, Said
from dspex.errors import ConfigError, InputError
from dspex.guarantee.binomial import rows_without_errors
from dspex.guarantee.certificate import Certificate
from dspex.guarantee.certify import delta_of
from dspex.program import load
from dspex.signature import Signature

if TYPE_CHECKING:
    from dspex.dspy.distill import Distill

__all__ = ["Distilling"]

_LABELS, _TRACES, _TEACHER = "labels", "traces", "teacher"
_BY = "user:Distill"
_STAGES = {
    "teacher": "the teacher answers every call",
    "shadow": "the teacher answers every call, and native answers are only compared with it",
    "canary": "of the calls that the gate lets through, a share is answered natively",
}


@dataclass(frozen=True, slots=True)
class _Version:
    """What came of making one: see `dspex.distill.learner.Lesson`; `lost` as of `hopeless`."""

    made: Made | None = None
    reason: str = ""
    needed: int | None = None
    number: int | None = None
    lost: Mapping[str, str] = field(default_factory=dict)


class Distilling:
    """Goes from rows to a `Distilled`.

    Args:
        options: the optimizer.
        student: as given.
        module: whom to ask: a copy of the teacher, or of the student.
        is_taught: whether a teacher was given, whose answers then go before labels.
    """

    def __init__(self, options: Distill, student: Any, module: Any, *, is_taught: bool) -> None:
        self.options = options
        self.student = student
        self.module = module
        self.is_taught = is_taught
        self.settings = options.all_settings()
        self.taught_by: set[str] = set()
        self.notes: list[str] = []
        self._first: tuple[Any, Answered] | None = None  # an example, and the answers that told the task

    def run(self, train: list[Any], val: list[Any], traces: Sequence[Trace] = ()) -> Distilled:
        functions = [self._function(name) for name in ("slices", "costs")]  # or an error, before any question
        task = self._task([*train, *traces, *val])
        Agreement(with_outputs(task.signature, task.candidates), self.options.tolerance)
        given = read_given(
            task, train, traces, val, self.settings.guarantee, seed=self.options.seed, slices=functions[0]
        )
        store = Store.open(
            self.options.home, with_outputs(task.signature, task.candidates), self.settings.store
        )
        try:
            teacher = ModuleTeacher(self.module, task.signature, task.candidates, self.options.samples)
            done = self._answered(given, teacher, store, task)
            return self._made(task, teacher, store, done)
        except BaseException as error:
            leave(store, error, has_home=self.options.home is not None)
            raise

    # --- what the task is ---

    def _task(self, given: Sequence[Any]) -> Task:
        signature = signature_of(self.student, self.options.signature) or signature_of(self.module)
        signature = signature or self._stored() or self._found_out(given[0])
        labels: dict[str, list[Any]] = {name: [] for name in signature.outputs}
        for one in given:
            said = one.answer.outputs if isinstance(one, Trace) else one
            for name in labels:
                if hasattr(said, "get") and said.get(name) is not None:
                    labels[name].append(said.get(name))
        return task_of(signature, self.options.fields, labels)

    def _stored(self) -> Signature | None:
        """That of a home which is there already: nobody is asked twice for it."""
        home = self.options.home
        if home is None or not os.path.exists(os.path.join(home, "store.sqlite3")):
            return None
        with Store.open(home, create=False) as store:
            return store.signature

    def _found_out(self, first: Any) -> Signature:
        """From the first row's outputs, or else from the answer to it."""
        inputs = raw_inputs(first, 0)
        if isinstance(first, Trace):
            return inferred(self.module, inputs, first.answer.outputs)
        outputs = dict(first.labels().items())
        if outputs:
            return inferred(self.module, inputs, outputs)
        budget = Budget.of(self.options.budget)
        if 0 in (budget.usd, budget.calls):
            raise ConfigError(
                "the budget is 0, and the module has to be asked once to know its outputs", field="budget",
                hint="Give Distill a signature",
            )  # fmt: skip
        signature, answered = ModuleTeacher.of_unknown(
            self.module, inputs, lambda said: inferred(self.module, inputs, said), self.options.samples
        )
        self._first = first, answered
        return signature

    # --- answers ---

    def _answered(self, given: CallsGiven, teacher: ModuleTeacher, store: Any, task: Task) -> Labelled:
        """Puts an answer to every row in the store: its own, or else the teacher's."""
        plain = [(row, role) for row, role in given.rows if row.trace is None]
        among = [(row, role) for row, role in given.rows if row.trace is not None]
        numbers = Counter(row.key for row, _ in plain)
        known = sum(add_recorded(unrepeated(each, numbers), store) for each in (among, given.traces))
        left, stored = missing(plain, store, lambda row: self._is_labelled(row, task))
        labelled = [one for one in left if self._is_labelled(one[0], task)]
        store.add(
            Trace(row.inputs, Answer(dict(row.labels)), role, LABELS, time.time()) for row, role in labelled
        )
        self.taught_by = {_TRACES for _ in (*among, *given.traces)} | {
            _LABELS if self._is_labelled(row, task) else _TEACHER for row, _ in plain
        }
        asked = [one for one in left if not self._is_labelled(one[0], task)]
        options = self.options
        done = label(
            asked, teacher, store,
            metric=options.metric, budget=Budget.of(options.budget), confirm=options.confirm,
            num_threads=options.num_threads, max_errors=options.max_errors, progress=options.progress,
            seed=options.seed, first=self._first_said(asked, teacher),
        )  # fmt: skip
        done.known += known + stored
        return done

    def _first_said(self, asked: Sequence[Given], teacher: ModuleTeacher) -> tuple[Row, Said] | None:
        """The row by whose answer the task was found out, and the answer; it is not asked again."""
        if self._first is None:
            return None
        example, answered = self._first
        row = next((row for row, _ in asked if row.example is example), None)
        return None if row is None else (row, teacher.read(answered))

    def _is_labelled(self, row: Row, task: Task) -> bool:
        return not self.is_taught and all(name in row.labels for name in task.candidates)

    # --- the version ---

    def _made(self, task: Task, teacher: ModuleTeacher, store: Store, done: Labelled) -> Distilled:
        with store.learning(wait=True):  # another one's lesson uses rows up
            rows = self._in_order(curriculum(store, self.settings.learning, store.state()))
            made = self._version(task, store, rows)
        guarded = None if made.made is None else made.made.guarded
        number = made.number
        if guarded is None or not guarded.certificate.covers or number is None:
            guarded, number = self._earlier(store) or (guarded, None)
        left = [name for name in task.candidates if name not in made.lost]
        learned = left if number is None or guarded is None else list(guarded.program.signature.outputs)
        terms = terms_of(self.settings.guarantee, self._unnamed())
        store.keep_guarantee(terms, learned, by=_BY)  # for whoever serves or learns there later
        self._adopt(store, made.number)
        self._note(done, store, number)
        report = self._report(task, guarded, made, rows, done, store, number)
        distilled = Distilled(self.module, signature=task.signature, slices=self._function("slices"))
        part = distilled._native
        part.report = report
        if guarded is not None:
            part.guarded = Guarded(bound(guarded.program, task.signature), guarded.certificate, part.slices)
        self._serve(distilled, store, teacher)
        return distilled

    def _in_order(self, rows: Curriculum) -> Curriculum:
        """The same, whichever answers came first: the same seed gives the same program."""

        def shuffled(traces: Sequence[Trace]) -> list[Trace]:
            found = sorted(traces, key=lambda each: (input_key(each.inputs), input_key(each.answer.outputs)))
            random.Random(self.options.seed).shuffle(found)
            return found

        return dataclasses.replace(
            rows, fit_rows=shuffled(rows.fit_rows), fresh=shuffled(rows.fresh), since_breach=[]
        )

    def _version(self, task: Task, store: Store, rows: Curriculum) -> _Version:
        """A new version, kept in the store; or why there is none."""
        options, guarantee = self.options, self.settings.guarantee
        if not rows.fresh and store.versions():
            return _Version(reason="there are no new rows to certify with")
        number, started = store.next_version(), time.perf_counter()
        if self._unwatched() is None:
            count = {"rows": store.counts()["rows"]}
            store.record(Event(time.time(), STARTED, _BY, "a program is compiled", {}, count))
        try:
            signature = with_outputs(task.signature, task.candidates)
            lost = hopeless(signature, rows.fit_rows or rows.fresh, guarantee, options)
            lesson = taught(
                with_outputs(signature, [name for name in task.candidates if name not in lost]),
                rows.fit_rows, rows.fresh, guarantee, seed=options.seed, threads=options.threads,
                fit_options=options.options,
            )  # fmt: skip
        except InputError as error:
            return self._waiting(store, f"nothing can be learned from these rows: {error.message}")
        if lost and not rows.fit_rows:
            self.notes.append("Which outputs are learned was decided on the rows that certify, too.")
        short = self._lacking(lesson, len(rows.fresh), number)
        if short is not None:
            return self._waiting(store, short.reason, short.rows, lost)
        made = certified(
            lesson, rows.fresh, guarantee, version=number, slices=self._function("slices"),
            costs=self._function("costs"),
        )  # fmt: skip
        kept = keep(
            store, made, rows, store.state(), self.settings, time.perf_counter() - started, self._unnamed()
        )
        return _Version(made, kept.reason, kept.rows_needed, number if kept.outcome == "made" else None, lost)

    def _waiting(
        self, store: Store, reason: str, needed: int | None = None, lost: Mapping[str, str] | None = None
    ) -> _Version:
        if self._unwatched() is None:
            waits(store, reason, needed)
        return _Version(reason=reason, needed=needed, lost=lost or {})

    def _lacking(self, lesson: Taught, count: int, number: int) -> Lack | None:
        """Why the rows that certify are not used up: without one error they would be too few."""
        guarantee = self.settings.guarantee
        if guarantee.costs or self.options.costs:
            return None
        delta = delta_of(guarantee.delta, number)
        if count >= rows_without_errors(1 - guarantee.agreement, delta):
            return None
        few = "there are too few rows that certify"
        return lacking(lesson, count, guarantee, delta) or Lack(few, None)

    def _earlier(self, store: Store) -> tuple[Guarded, int] | None:
        """The version in service, unless a newer certified one is to follow; without one, the newest.

        Only one that guarantees at least what is asked for. Of functions without a name nothing can be said.
        """
        if self._unnamed():
            return None
        state = store.state()
        stays = state.held or lifecycle.newer_version(store, state, self.settings.guarantee) is None
        wanted = state.version if stays else None
        for record in reversed(store.versions()):
            if record.status != "ready" or wanted not in (None, record.number):
                continue
            lack = weaker(record, self.settings.guarantee)
            if lack is not None:
                self.notes.append(f"Version {record.number} does not answer: {lack}.")
            else:
                program = load(store.version_file(record.number))
                certificate = Certificate.from_dict(record.certificate)
                return Guarded(program, certificate, self._function("slices")), record.number
        return None

    def _function(self, name: str) -> Any:
        """`slices` or `costs`."""
        given = getattr(self.options, name)
        return imported(given, name) if isinstance(given, str) else given

    # --- what is told ---

    def _note(self, done: Labelled, store: Store, number: int | None) -> None:
        if done.failed:
            self.notes.append(
                f"The teacher failed on {done.failed} rows; what is guaranteed is of calls that it answers."
            )
        if done.short:
            self.notes.append(
                f"{done.short} rows have fewer than {self.options.samples} samples, because some failed."
            )
        if done.stopped:
            self.notes.append(f"Labelling stopped, because {done.stopped}; {done.left} rows have no answer.")
        unwatched = self._unwatched()
        stage = store.state().stage
        if unwatched is not None:
            self.notes.append(unwatched)
        elif number is not None and stage != "live":
            self.notes.append(f"It starts in stage {stage!r}: {_STAGES[stage]}.")

    def _report(
        self, task: Task, guarded: Guarded | None, made: _Version, rows: Curriculum, done: Labelled,
        store: Store, number: int | None,
    ) -> DistillReport:  # fmt: skip
        certificate = None if guarded is None else guarded.certificate
        covers = certificate is not None and certificate.covers
        figures = dict(made.made.figures) if made.made is not None and made.made.guarded is guarded else {}
        if number is not None and not figures:
            figures = dict(store.version(number).figures)
        figures.pop("reference", None)  # of drift: the program's, not a reader's
        noise = self_consistency([t.extra["votes"] for t in store.traces() if "votes" in t.extra])
        guarantee, home = self.settings.guarantee, self.options.home
        return DistillReport(
            covers=covers,
            reason=certificate.reason if covers and certificate is not None else made.reason,
            agreement=guarantee.agreement if certificate is None else certificate.agreement,
            delta=guarantee.delta if certificate is None else certificate.delta,
            method=guarantee.method if certificate is None else certificate.method,
            taught_by=" and ".join(sorted(self.taught_by, reverse=True)) or _TEACHER,
            learned=tuple(guarded.program.signature.outputs) if covers and guarded is not None else (),
            left={**task.left, **made.lost},
            rows={
                "fit": len(rows.fit_rows), "calibrate": len(rows.fresh), "rejected": done.rejected,
                "failed": done.failed, "unlabelled": done.left,
            },
            rows_needed=None if covers else made.needed,
            cost={
                "asked": done.asked, "known": done.known, "usd": done.usd, "seconds": done.seconds,
                "estimate": None if done.estimate is None else dataclasses.asdict(done.estimate),
            },
            certificate=None if certificate is None else certificate.to_dict(),
            figures=figures,
            self_consistency=None if noise is None else {"pairs": noise[0], "majority": noise[1]},
            sliced=self.options.slices is not None,
            samples=self.options.samples,
            notes=tuple(self.notes),
            asked={name: getattr(guarantee, name) for name in ("agreement", "delta", "method")},
            version=number,
            home=None if home is None else os.fspath(home),
        )  # fmt: skip

    def _adopt(self, store: Store, made: int | None) -> None:
        """Puts a newer version in service that this run has made, or that the rules would; never while held.

        One that was in service before stays where it was put: this may be a service that starts again.
        """
        state, settings = store.state(), self.settings.lifecycle
        if self._unwatched() is not None or state.held:
            return
        newer = lifecycle.newer_version(store, state)
        if newer is not None and (newer.number == made or settings.automatic):
            lifecycle.adopt(store, newer.number, _BY, "it was compiled", settings=settings)

    def _serve(self, distilled: Distilled, store: Any, teacher: ModuleTeacher) -> None:
        """Begins to serve, or closes the store where nothing could watch."""
        if self._unwatched() is not None:
            store.close()
            return
        teacher.module = distilled.teacher
        distilled._serving.serve(store, teacher, self.settings)

    def _unwatched(self) -> str | None:
        """Why the program is served by its certificate alone; None: it is watched."""
        if self.taught_by == {_LABELS}:
            return (
                "Labels taught it, and they do not come from the module behind it: so nobody compares native "
                "answers with that, and no home records calls."
            )
        for name in self._unnamed():
            return f"`{name}` cannot be imported by a name, so no process could go on with it: not watched."
        return None

    def _unnamed(self) -> list[str]:
        """Of `slices` and `costs`, those given as a function that cannot be imported by a name."""
        guarantee = self.settings.guarantee
        return [
            name for name in ("slices", "costs")
            if getattr(self.options, name) is not None and getattr(guarantee, name) is None
        ]  # fmt: skip

"""A teacher answers rows, each answer being kept durably as it comes."""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import dspy
from dspy.utils.parallelizer import ParallelExecutor

from dspex.distill.trace import REJECTED, Answer, Trace
from dspex.dspy.rows import Row
from dspex.dspy.samples import TRAINSET, Given, unpaid
from dspex.dspy.stored import Stored
from dspex.dspy.teachers import ModuleTeacher, Said, storable
from dspex.errors import ConfigError, ProgramError

__all__ = ["Budget", "Estimate", "Labelled", "label"]

_log = logging.getLogger("dspex.dspy")
_PILOT = 8  # rows that tell what the others will cost
_GRACE = 30.0  # seconds to wait for answers under way when labelling fails


@dataclass(frozen=True, slots=True)
class Estimate:
    """What the rest of the rows will cost, as the first ones tell.

    Attributes:
        rows: still to be asked.
        usd: US dollars; None where the LM tells no price.
        seconds: of wall time, with the threads that ask.
        asked: rows that it was estimated from.
    """

    rows: int
    usd: float | None
    seconds: float
    asked: int

    def __str__(self) -> str:
        price = "at an unknown price" if self.usd is None else f"for about {self.usd:.4g} USD"
        return (
            f"{self.rows} more rows to label, {price}, in about {self.seconds:.3g} s (from {self.asked} rows)"
        )


@dataclass(frozen=True, slots=True)
class Budget:
    """What labelling may cost.

    Attributes:
        usd: US dollars; None: no limit.
        calls: rows that are asked; None: no limit.
    """

    usd: float | None = None
    calls: int | None = None

    @classmethod
    def of(cls, given: Any) -> Budget:
        """A budget from a number of US dollars, {"usd": ..., "calls": ...}, or None.

        Raises:
            ConfigError: it is none of these.
        """
        if given is None:
            return cls()
        values = dict(given) if isinstance(given, Mapping) else {"usd": given}
        for name, value in values.items():
            wanted = (int,) if name == "calls" else (int, float)
            bad = isinstance(value, bool) or not isinstance(value, wanted) or not value >= 0
            if name not in ("usd", "calls") or bad:
                raise ConfigError(
                    f"the budget is {given!r}", field="budget",
                    hint='It takes US dollars, or {"usd": ..., "calls": ...}, from 0',
                )  # fmt: skip
        return cls(**values)


@dataclass(slots=True)
class Labelled:
    """What came of it.

    Attributes:
        asked: answers that the teacher gave now; rows to fit on with equal inputs share one.
        known: rows whose answer was in the store already.
        rejected: answers that the metric refused.
        failed: questions on which the teacher failed; as `asked`.
        left: rows that were not asked, and `stopped` why.
        short: answers that stand for fewer samples than were wanted, because some failed.
        usd, seconds: of the answers that came now; usd is None where not known.
        estimate: as it was told ahead.
        votes: of rows with several answers, those that agreed.
    """

    asked: int = 0
    known: int = 0
    rejected: int = 0
    failed: int = 0
    left: int = 0
    stopped: str = ""
    short: int = 0
    usd: float | None = 0.0
    seconds: float = 0.0
    estimate: Estimate | None = None
    votes: list[tuple[int, ...]] = field(default_factory=list)


def label(
    given: Iterable[Given],
    teacher: ModuleTeacher,
    store: Any,
    *,
    metric: Callable[..., Any] | None = None,
    budget: Budget = Budget(),
    confirm: Callable[[Estimate], bool] | None = None,
    num_threads: int | None = None,
    max_errors: int | None = None,
    progress: bool = True,
    seed: int = 0,
    first: tuple[Row, Said] | None = None,
) -> Labelled:
    """Stores rows with the teacher's answers, and asks for those that the store does not have.

    In a random order: what has an answer when asking stops is a sample of the rows; so are the first ones,
    which tell what the others will cost. A row that certifies is asked for itself, as a call in service is.

    Args:
        given: rows that are not stored yet, see `dspex.dspy.samples.missing`. Rows to fit on with equal
            inputs are asked for once, and each is stored: it is a call.
        metric: metric(example, prediction, trace) of rows that teach and have labels: what it refuses is kept
            and not learned from. Rows that certify are a sample of the calls, and none of them is left out.
        budget: asking stops before a row that would exceed it.
        confirm: is given the estimate after the first rows; False stops.
        num_threads, max_errors: by default those of `dspy.settings`.
        seed: of the order.
        first: one of the rows, and the answer to it, which came before.

    Raises:
        ConfigError: a budget in US dollars, and no LM tells a price.
        ProgramError: the teacher failed on more than `max_errors` rows. What has been answered is kept.
    """
    asker = _Asker(teacher, store, metric, budget)
    known, todo = _questions(given, store, seed, first)
    run = _runner(asker, num_threads, max_errors)
    if known:
        run(known, False)
    if not todo:
        return asker.done
    pilot = todo[: _PILOT if len(todo) > 2 * _PILOT else len(todo)]
    rest = todo[len(pilot) :]
    asker.tries = bool(rest)
    started = time.perf_counter()
    run(pilot, progress and not rest)
    asker.tries = False
    if rest and not asker.stopped:
        _tell_ahead(asker, rest, time.perf_counter() - started, confirm)
    if rest and not asker.stopped:
        run(rest, progress)
    done = asker.done
    done.seconds = time.perf_counter() - started
    done.left, done.stopped = sum(len(each.rows) for each in todo) - asker.through, asker.stopped
    if done.stopped:
        _log.warning("labelling stopped, %d rows are not labelled: %s", done.left, done.stopped)
    return done


def _questions(
    given: Iterable[Given], store: Any, seed: int, first: tuple[Row, Said] | None
) -> tuple[list[_Question], list[_Question]]:
    """Those whose answer the store knows, and those to ask, in a random order but for an answer that came."""
    groups: dict[str, list[Given]] = {}
    alone: list[list[Given]] = []
    for row, role in given:
        if role == "fit":
            groups.setdefault(row.key, []).append((row, role))
        else:
            alone.append([(row, role)])
    stored = Stored(store, [group[0][0] for group in groups.values()])
    known: list[_Question] = []
    todo = [_Question(rows) for rows in alone]
    for group in groups.values():
        answer = stored.answer(group[0][0])
        (todo if answer is None else known).append(_Question(group, answer))
    random.Random(f"labelling {seed}").shuffle(todo)  # apart from the coins, which are of the seed alone
    if first is not None:
        row, said = first
        todo = [replace(each, said=said) if each.is_of(row) else each for each in todo]
        todo.sort(key=lambda each: each.said is None)
    return known, todo


def _tell_ahead(asker: _Asker, rest: Sequence[Any], seconds: float, confirm: Any) -> None:
    done, limit = asker.done, asker.budget.usd
    if limit is not None and done.asked and not asker.priced:
        raise ConfigError(
            "the LM tells no price, so a budget in US dollars cannot be kept", field="budget",
            hint='Limit the calls: budget={"calls": ...}',
        )  # fmt: skip
    share = len(rest) / max(done.asked, 1)
    done.estimate = Estimate(
        len(rest), None if done.usd is None else done.usd * share, seconds * share, done.asked
    )
    _log.info("%s", done.estimate)
    if confirm is not None and not confirm(done.estimate):
        asker.stopped = "it was not confirmed"


def _runner(asker: _Asker, num_threads: int | None, max_errors: int | None) -> Callable[[Any, bool], None]:
    def run(items: Sequence[_Question], progress: bool) -> None:
        # No second question for one that is slow: it would be paid twice.
        executor = ParallelExecutor(
            num_threads=num_threads, max_errors=max_errors, disable_progress_bar=not progress, timeout=0
        )
        try:
            executor.execute(asker, list(items))
        except Exception as error:
            asker.settle()
            if not asker.errors:
                raise
            first = f"{type(asker.errors[0]).__name__}: {asker.errors[0]}"
            raise ProgramError(
                f"the teacher failed on {len(asker.errors)} rows, at first with {first}",
                hint=f"Mend it, or raise max_errors. {asker.done.asked} answers are kept",
            ) from error

    return run


@dataclass(frozen=True, slots=True)
class _Question:
    """Rows with equal inputs that share an answer.

    Attributes:
        answer: where it was paid for before.
        said: where the teacher has said it already, in this run.
    """

    rows: list[Given]
    answer: Answer | None = None
    said: Said | None = None

    @property
    def inputs(self) -> Mapping[str, Any]:
        return self.rows[0][0].inputs

    def is_of(self, row: Row) -> bool:
        return any(row is each for each, _ in self.rows)


class _Turns:
    """Has the first question with some inputs answered before others: a cache then answers those."""

    def __init__(self) -> None:
        self._first: dict[str, threading.Event] = {}
        self._lock = threading.Lock()

    @contextmanager
    def of(self, key: str) -> Iterator[None]:
        with self._lock:
            is_first = key not in self._first
            answered = self._first.setdefault(key, threading.Event())
        if not is_first:
            answered.wait()
        try:
            yield
        finally:
            answered.set()


class _Asker:
    """Asks a question and keeps the answer; threads share it.

    Attributes:
        tries: whether these are the first rows, which tell what the others will cost.
        stopped: why nothing more is asked.
        priced: answers by an LM that told its price.
        through: rows that have been asked for.
    """

    def __init__(self, teacher: ModuleTeacher, store: Any, metric: Any, budget: Budget) -> None:
        self.teacher = teacher
        self.store = store
        self.metric = metric
        self.budget = budget
        self.done = Labelled()
        self.errors: list[Exception] = []
        self.tries = False
        self.stopped = ""
        self.priced = 0
        self.through = 0
        self._under_way = 0
        self._turns = _Turns()
        self._lock = threading.Condition()

    def __call__(self, question: _Question) -> bool:
        rows, answer = question.rows, question.answer
        if answer is not None:
            return self._known(rows, answer)
        with self._turns.of(rows[0][0].key):
            if not self._may_ask():
                return False
            try:
                self._asked(rows, question.said or self.teacher.said(question.inputs))
            except Exception as error:
                with self._lock:
                    self.errors.append(error)
                    self.done.failed += 1
                raise
            finally:
                with self._lock:
                    self.through += len(rows)
                    self._under_way -= 1
                    self._lock.notify_all()
        return True

    def settle(self) -> None:
        """Asks nothing more, and waits for answers under way: they are paid for."""
        with self._lock:
            self.stopped = self.stopped or "the teacher failed too often"
            self._lock.wait_for(lambda: self._under_way == 0, _GRACE)

    def _known(self, rows: Sequence[Given], answer: Answer) -> bool:
        """Stores further rows with an answer that was paid for before."""
        with self._lock:
            self.done.known += len(rows)
        try:
            self._store(rows, Said(unpaid(answer), dspy.Prediction(**answer.outputs)))
        except Exception as error:
            with self._lock:
                self.errors.append(error)
            raise
        return True

    def _asked(self, rows: Sequence[Given], said: Said) -> None:
        try:
            self._store(rows, said)
        finally:
            usd = said.answer.usd
            with self._lock:
                self.done.asked += 1
                self.done.usd = None if usd is None or self.done.usd is None else self.done.usd + usd
                self.done.short += said.lost > 0
                self.priced += said.calls > 0 and usd is not None
                if sum(said.votes) > 1:
                    self.done.votes.append(said.votes)

    def _store(self, rows: Sequence[Given], said: Said) -> None:
        """Stores rows with their answer, all in one step; what was paid for also when the metric fails."""
        good = [role == "calibrate" or self.metric is None or not row.labels for row, role in rows]
        try:
            for at, (row, _) in enumerate(rows):
                if not good[at]:
                    assert self.metric is not None
                    good[at] = bool(self.metric(row.example, said.prediction, said.trace))
        finally:
            self.store.add(self._traces(rows, said, good))
            with self._lock:
                self.done.rejected += len(good) - sum(good)

    def _traces(self, rows: Sequence[Given], said: Said, good: Sequence[bool]) -> list[Trace]:
        """One for each row. What the answer cost, and its votes, are told by the first."""
        answer = storable(said.answer, self.teacher.learned)
        extra: dict[str, Any] = {"votes": list(said.votes)} if sum(said.votes) > 1 else {}
        traces: list[Trace] = []
        for (row, role), kept in zip(rows, good, strict=True):
            source = TRAINSET if kept else REJECTED
            traces.append(Trace(row.inputs, answer, role, source, time.time(), extra=extra))
            answer, extra = unpaid(answer), {}
        return traces

    def _may_ask(self) -> bool:
        with self._lock:
            if self.stopped:
                return False
            done, budget, more = self.done, self.budget, self._under_way + 1
            if budget.calls is not None and done.asked + done.failed + more > budget.calls:
                self.stopped = f"the budget of {budget.calls} calls is used up"
            elif budget.usd is not None and done.usd is None and not self.tries:
                self.stopped = f"a row told no price, and so the budget of {budget.usd} USD cannot be kept"
            elif budget.usd is not None and done.usd is not None:
                each = done.usd / done.asked if done.asked else 0.0
                if done.usd + each * more > budget.usd:
                    self.stopped = f"the budget of {budget.usd} USD is used up"
            if self.stopped:
                return False
            self._under_way += 1
            return True

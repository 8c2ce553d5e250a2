"""A teacher answers rows, each answer being kept durably as it comes."""

from __future__ import annotations

import dataclasses
import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from dspy.utils.parallelizer import ParallelExecutor

from dspex.distill.trace import REJECTED, Answer, Role, Trace
from dspex.dspy.rows import Row, input_key
from dspex.dspy.teachers import ModuleTeacher, Said, storable
from dspex.errors import ConfigError, ProgramError

__all__ = ["Budget", "Estimate", "Labelled", "label", "stored_rows"]

_log = logging.getLogger("dspex.dspy")
#: Rows with equal inputs.
Group = list[tuple[Row, Role]]

_PILOT = 8  # rows that tell what the others will cost


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
        asked: rows that the teacher was asked for, now.
        known: rows whose answer was in the store already.
        rejected: answers that the metric refused.
        failed: rows on which the teacher failed.
        left: rows that were not asked, and `stopped` why.
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
    usd: float | None = 0.0
    seconds: float = 0.0
    estimate: Estimate | None = None
    votes: list[tuple[int, ...]] = field(default_factory=list)


def label(
    rows: Sequence[Row],
    roles: Sequence[Role],
    teacher: ModuleTeacher,
    store: Any,
    *,
    metric: Callable[..., Any] | None = None,
    budget: Budget = Budget(),
    confirm: Callable[[Estimate], bool] | None = None,
    num_threads: int | None = None,
    max_errors: int | None = None,
    progress: bool = True,
) -> Labelled:
    """Asks the teacher for the rows whose answer the store does not have.

    Args:
        rows: those with equal inputs are asked once, and each is stored, as each is a call.
        roles: of each row.
        metric: metric(example, prediction, trace) of rows that teach and have labels: what it refuses is kept
            and not learned from. Rows that certify are a sample of the calls, and none of them is left out.
        budget: asking stops before a row that would exceed it.
        confirm: is given the estimate after the first rows; False stops.
        num_threads, max_errors: by default those of `dspy.settings`.

    Raises:
        ConfigError: a budget in US dollars, and the LM tells no price.
        ProgramError: the teacher failed on more than `max_errors` rows. What has been answered is kept.
    """
    asker = _Asker(teacher, store, metric, budget)
    todo = _unanswered(rows, roles, asker)
    if not todo:
        return asker.done
    run = _runner(asker, num_threads, max_errors)
    first = todo[: _PILOT if len(todo) > 2 * _PILOT else len(todo)]
    started = time.perf_counter()
    run(first, False if len(first) < len(todo) else progress)
    rest = todo[len(first) :]
    if rest and not asker.stopped:
        _tell_ahead(asker, rest, time.perf_counter() - started, confirm)
    if rest and not asker.stopped:
        run(rest, progress)
    done = asker.done
    done.seconds = time.perf_counter() - started
    done.left, done.stopped = len(todo) - done.asked - done.failed, asker.stopped
    if done.stopped:
        _log.warning("labelling stopped, %d rows are not labelled: %s", done.left, done.stopped)
    return done


def _unanswered(rows: Sequence[Row], roles: Sequence[Role], asker: _Asker) -> list[Group]:
    """The rows to ask for, equal inputs together. Rows whose answer is known are stored with it."""
    groups: dict[str, Group] = {}
    for row, role in zip(rows, roles, strict=True):
        groups.setdefault(row.key, []).append((row, role))
    stored, todo = stored_rows(asker.store), []
    for key, group in groups.items():
        answer = asker.store.has_answer(group[0][0].inputs)
        if answer is None:
            todo.append(group)
            continue
        asker.done.known += len(group)
        more = group[stored.get(key, 0) :]
        asker.store.add([_trace(row, role, _free(answer), "trainset") for row, role in more])
    return todo


def stored_rows(store: Any) -> dict[str, int]:
    """Key of the inputs -> the calls with these inputs that a store has."""
    found: dict[str, int] = {}
    for trace in store.traces():
        key = input_key(trace.inputs)
        found[key] = found.get(key, 0) + trace.count
    return found


def _free(answer: Answer) -> Answer:
    """The same answer to a further call, which cost nothing."""
    return dataclasses.replace(answer, usd=None, tokens=None, seconds=None)


def _trace(
    row: Row, role: Role, answer: Answer, source: str, extra: Mapping[str, Any] | None = None
) -> Trace:
    return Trace(row.inputs, answer, role, source, time.time(), extra=extra or {})


def _tell_ahead(asker: _Asker, rest: Sequence[Any], seconds: float, confirm: Any) -> None:
    done = asker.done
    if done.usd is None and asker.budget.usd is not None:
        raise ConfigError(
            "the LM tells no price, so a budget in US dollars cannot be kept", field="budget",
            hint='Limit the calls: budget={"calls": ...}. The answers so far are kept',
        )  # fmt: skip
    share = len(rest) / max(done.asked, 1)
    done.estimate = Estimate(
        len(rest), None if done.usd is None else done.usd * share, seconds * share, done.asked
    )
    _log.info("%s", done.estimate)
    if confirm is not None and not confirm(done.estimate):
        asker.stopped = "it was not confirmed"


def _runner(asker: _Asker, num_threads: int | None, max_errors: int | None) -> Callable[[Any, bool], None]:
    def run(items: Sequence[Group], progress: bool) -> None:
        # No second question for one that is slow: it would be paid twice.
        executor = ParallelExecutor(
            num_threads=num_threads, max_errors=max_errors, disable_progress_bar=not progress, timeout=0
        )
        try:
            executor.execute(asker, list(items))
        except Exception as error:
            if not asker.errors:
                raise
            first = f"{type(asker.errors[0]).__name__}: {asker.errors[0]}"
            raise ProgramError(
                f"the teacher failed on {len(asker.errors)} rows, at first with {first}",
                hint=f"Mend it, or raise max_errors. {asker.done.asked} answers are kept in the home",
            ) from error

    return run


class _Asker:
    """Asks for one row and keeps the answer; threads share it."""

    def __init__(self, teacher: ModuleTeacher, store: Any, metric: Any, budget: Budget) -> None:
        self.teacher = teacher
        self.store = store
        self.metric = metric
        self.budget = budget
        self.done = Labelled()
        self.errors: list[Exception] = []
        self.stopped = ""
        self._under_way = 0
        self._lock = threading.Lock()

    def __call__(self, group: Group) -> bool:
        if not self._may_ask():
            return False
        try:
            said = self.teacher.said(group[0][0].inputs)
            self._judged(group, said)
        except Exception as error:
            with self._lock:
                self.errors.append(error)
                self.done.failed += 1
            raise
        finally:
            with self._lock:
                self._under_way -= 1
        return True

    def _judged(self, group: Group, said: Said) -> None:
        """Keeps what was paid for, also when the metric fails."""
        kept = [role == "calibrate" or self.metric is None or not row.labels for row, role in group]
        try:
            for at, (row, _) in enumerate(group):
                if not kept[at]:
                    assert self.metric is not None
                    kept[at] = bool(self.metric(row.example, said.prediction, said.trace))
        finally:
            self._keep(group, said, kept)

    def _may_ask(self) -> bool:
        with self._lock:
            if self.stopped:
                return False
            done, budget, more = self.done, self.budget, self._under_way + 1
            if budget.calls is not None and done.asked + done.failed + more > budget.calls:
                self.stopped = f"the budget of {budget.calls} calls is used up"
            elif budget.usd is not None and done.usd is not None:
                each = done.usd / done.asked if done.asked else 0.0
                if done.usd + each * more > budget.usd:
                    self.stopped = f"the budget of {budget.usd} USD is used up"
            if self.stopped:
                return False
            self._under_way += 1
            return True

    def _keep(self, group: Group, said: Said, kept: Sequence[bool]) -> None:
        extra: dict[str, Any] = {"votes": list(said.votes)} if sum(said.votes) > 1 else {}
        answer = storable(said.answer, self.teacher.learned)
        self.store.add(
            [
                _trace(
                    row, role, answer if at == 0 else _free(answer), "trainset" if good else REJECTED, extra
                )
                for at, ((row, role), good) in enumerate(zip(group, kept, strict=True))
            ]
        )
        usd = said.answer.usd
        with self._lock:
            self.done.asked += 1
            self.done.rejected += len(kept) - sum(kept)
            self.done.usd = None if usd is None or self.done.usd is None else self.done.usd + usd
            if sum(said.votes) > 1:
                self.done.votes.append(said.votes)

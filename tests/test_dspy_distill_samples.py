"""What certifies is a sample of the calls: no call counts twice, and each is asked as a call is."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dspy
import pytest

from dspex.distill.store import Store
from dspex.distill.trace import REJECTED, Answer, Role, Trace
from dspex.dspy import history_traces
from dspex.dspy.labelling import Budget, label
from dspex.dspy.rows import read_rows
from dspex.dspy.samples import add_recorded, missing
from dspex.dspy.teachers import ModuleTeacher
from dspex.errors import InputError
from dspex.signature import Signature
from dspex.testing import LMServer
from dspy_distill_tools import COUNT, SURE, TASK, compiled, label_of, labelled, rows, teaching

SIGNATURE = Signature.of(TASK)


@pytest.fixture
def server() -> Iterator[LMServer]:
    with teaching() as running:
        yield running


@pytest.fixture
def store() -> Iterator[Store]:
    with Store.open(None, SIGNATURE) as opened:
        yield opened


def trace(text: str, role: Role = "fit", source: str = "jsonl", said: str = "", **more: Any) -> Trace:
    return Trace({"text": text}, Answer({"label": said or label_of(text)}), role, source, **more)


def given_of(traces: list[Trace], role: Role = "calibrate") -> list[Any]:
    return [(row, role) for row in read_rows(SIGNATURE, traces, ["label"])]


def taught_and_certifying(home: Path) -> tuple[Counter[str], Counter[str]]:
    with Store.open(home) as store:
        both: dict[str, Counter[str]] = {"fit": Counter(), "calibrate": Counter()}
        for one in store.traces():
            both[one.role][one.inputs["text"]] += one.count
    return both["fit"], both["calibrate"]


# --- recorded calls ---


def test_the_history_of_a_trainset_is_the_trainset(server: LMServer, tmp_path: Path) -> None:
    """Its calls have been learned from, or have certified: none of them is a new one."""
    compiled(tmp_path, rows())
    before = taught_and_certifying(tmp_path)
    report = compiled(tmp_path, traces=history_traces(dspy.settings.lm, TASK))
    assert taught_and_certifying(tmp_path) == before
    assert report.cost["known"] == COUNT
    assert report.version == 1


def test_a_call_that_is_given_twice_is_one(server: LMServer, tmp_path: Path) -> None:
    student = dspy.Predict(TASK)
    for example in rows():
        student(text=example.text)
    recorded = history_traces(student, TASK)
    for name, trainset in (("rows", rows()), ("traces", recorded)):
        report = compiled(tmp_path / name, trainset, traces=recorded)
        fitted, certifying = taught_and_certifying(tmp_path / name)
        assert fitted.total() + certifying.total() == COUNT
        assert not fitted.keys() & certifying.keys()
        assert report.cost["asked"] == 0
    assert server.count == COUNT


@pytest.mark.parametrize("source", ["trainset", "teacher", "shadow", "deferred", "canary", "audit", "mlflow"])
@pytest.mark.parametrize("at", [0.0, 1.8e9])
def test_a_call_is_known_from_anywhere(store: Store, source: str, at: float) -> None:
    """Up to the number of times that it is there; an answer of its own makes it another call."""
    store.add([trace(SURE, source=source)] * 3)
    recorded = [trace(SURE, source="history", at=at and at + n) for n in range(5)]
    assert add_recorded(given_of([*recorded, trace(SURE, source="history", said="hours")]), store) == 3
    found = Counter((one.source, one.answer.outputs["label"]) for one in store.traces("calibrate"))
    assert found == {("history", "card_lost"): 2, ("history", "hours"): 1}
    assert add_recorded(given_of(recorded), store) == 5


def test_one_call_in_two_records(store: Store) -> None:
    """As MLflow wrote it down and as DSPy did: once for each time that either has it."""
    both = [trace(SURE, source="history")] * 4 + [
        trace(SURE, source="mlflow", at=1.8e9 + n) for n in range(6)
    ]
    add_recorded(given_of(both), store)
    assert store.counts()["by_source"] == {"history": 4, "mlflow": 2}


def test_a_deferred_call_among_the_rows_is_one(server: LMServer, tmp_path: Path) -> None:
    """It would teach, and the row certify. The row stands, with its coin: a sample has hard calls, too."""
    deferred = [trace(e.text, source="deferred") for e in labelled()[:60]] + [trace(SURE, source="deferred")]
    compiled(tmp_path, rows(), traces=deferred)
    fitted, certifying = taught_and_certifying(tmp_path)
    assert not fitted.keys() & certifying.keys()
    assert fitted.total() + certifying.total() == COUNT + 1
    assert fitted[SURE] == 1
    assert len(certifying.keys() & {e.text for e in labelled()[:60]}) > 10


@pytest.mark.parametrize("source", ["deferred", "canary", "audit", REJECTED])
def test_a_valset_of_picked_traces(server: LMServer, tmp_path: Path, source: str) -> None:
    valset = [trace("open at night"), trace(SURE, source=source)]
    with pytest.raises(InputError, match=source) as caught:
        compiled(tmp_path, rows(30), valset=valset)
    assert (caught.value.row, caught.value.field) == (1, "valset")
    assert server.count == 0


def test_a_valset_of_traces_that_a_coin_drew(server: LMServer, tmp_path: Path) -> None:
    compiled(tmp_path, rows(30), valset=[trace(SURE, "calibrate", "deferred"), trace(UNLIKE, source="desk")])
    assert taught_and_certifying(tmp_path)[1] == {SURE: 1, UNLIKE: 1}


UNLIKE = "open on the moon"


# --- each row is asked as a call is ---


def noisy(seed: int = 1) -> Any:
    dice = random.Random(seed)
    return lambda request: {"label": dice.choice(["refund", "card_lost", "hours"])}


def test_a_noisy_teacher_does_not_agree_with_itself(tmp_path: Path) -> None:
    """One answer copied to all rows of a text would say that it always does."""
    given = [dspy.Example(text=e.text).with_inputs("text") for e in rows(10) for _ in range(40)]
    with teaching(noisy()) as server:
        report = compiled(tmp_path, given)
        with Store.open(tmp_path) as store:
            said = [(t.inputs["text"], t.answer.outputs["label"]) for t in store.traces("calibrate")]
        assert server.count == report.cost["asked"] == len(said) + 10
    assert not report.covers
    assert len(set(said)) > 20


def test_with_a_cache_repeats_cost_nothing(tmp_path: Path) -> None:
    """They are asked after the first of them."""
    text = f"my card was stolen {time.time_ns()}"  # not in the cache of an earlier run
    given = [dspy.Example(text=text).with_inputs("text")] * 40
    with teaching(cache=True) as server:
        server.delay = 0.05
        report = compiled(tmp_path, given, num_threads=8)
        assert server.count == 1
    assert report.cost["asked"] == sum(taught_and_certifying(tmp_path)[1].values()) + 1 > 8


def test_an_answer_that_certifies_teaches_no_other_row(store: Store) -> None:
    store.add([trace(SURE, "calibrate", "trainset", said="hours")])
    assert asked(store, [dspy.Example(text=SURE).with_inputs("text")] * 2, "fit") == 1
    labels = [(t.role, t.answer.outputs["label"]) for t in store.traces()]
    assert labels == [("calibrate", "hours"), ("fit", "card_lost")]


def asked(store: Store, examples: list[Any], role: Role, **options: Any) -> int:
    """How many were asked; rows that the store has are left out by the caller."""
    given: list[Any] = [(row, role) for row in read_rows(SIGNATURE, examples, ["label"])]
    with teaching() as server:
        teacher = ModuleTeacher(dspy.Predict(TASK), SIGNATURE, ["label"])
        label(given, teacher, store, progress=False, num_threads=1, **options)
        return server.count


def test_a_run_that_was_cut_short_goes_on_with_the_same_roles(store: Store) -> None:
    """Of equal rows those are missing whose role is not there."""
    read = read_rows(SIGNATURE, rows(1) * 4, ["label"])
    given: list[Any] = list(zip(read, ["fit", "calibrate", "fit", "calibrate"], strict=True))
    store.add([Trace(read[0].inputs, Answer({"label": "hours"}), "calibrate", "trainset")] * 2)
    assert missing(given, store) == ([given[0], given[2]], 2)


# --- a random part, when asking stops ---


def test_a_stop_leaves_a_sample(store: Store) -> None:
    """Of rows in the order of their labels, and not the first ones."""
    given = sorted(rows(300), key=lambda e: label_of(e.text))
    assert asked(store, given, "calibrate", budget=Budget(calls=100)) == 100
    whole = Counter(label_of(e.text) for e in given)
    part = Counter(t.answer.outputs["label"] for t in store.traces())
    for name, count in whole.items():
        assert part[name] == pytest.approx(count / 3, abs=16)  # three standard deviations


def test_the_order_is_that_of_the_seed() -> None:
    def order(seed: int) -> list[str]:
        with Store.open(None, SIGNATURE) as store:
            asked(store, rows(60), "calibrate", seed=seed, budget=Budget(calls=20))
            return [one.inputs["text"] for one in store.traces()]

    assert order(0) == order(0)
    assert order(0) != order(1)
    assert order(0) != [example.text for example in rows(60)][:20]


def test_a_longer_budget_goes_on(server: LMServer, tmp_path: Path) -> None:
    for calls, total in ((40, 40), (50, 90), (1000, COUNT)):
        report = compiled(tmp_path, rows(), budget={"calls": calls})
        assert server.count == total
        assert report.rows["unlabelled"] == COUNT - total


# --- corrected labels ---


def test_corrected_labels_need_a_new_home(server: LMServer, tmp_path: Path) -> None:
    def wrong(example: Any) -> Any:
        return dspy.Example(text=example.text, label="hours").with_inputs("text")

    given = labelled()
    corrected = sum(label_of(example.text) != "hours" for example in given)
    compiled(tmp_path, [wrong(example) for example in given])
    with pytest.raises(InputError, match=f"other answers to {corrected} labelled rows") as caught:
        compiled(tmp_path, given)
    assert "new home" in str(caught.value.hint)
    with Store.open(tmp_path) as store:
        assert store.counts()["rows"] == COUNT


def test_labels_in_the_place_of_a_teachers_answers(server: LMServer, tmp_path: Path) -> None:
    compiled(tmp_path, rows(30))
    compiled(tmp_path, labelled(30))  # they say the same
    other = [dspy.Example(text=e.text, label="refund").with_inputs("text") for e in rows(30)]
    with pytest.raises(InputError, match="labelled rows"):
        compiled(tmp_path, other)


def test_rows_whose_labels_differ_are_rows(server: LMServer, tmp_path: Path) -> None:
    """People label one text in two ways: these are two rows, and stay two."""
    given = [
        dspy.Example(text=e.text, label=said).with_inputs("text")
        for e in rows(20)
        for said in ("refund", "hours")
    ]
    for several in (given, given[::-1], [*given, given[0]]):
        compiled(tmp_path, several)
    fitted, certifying = taught_and_certifying(tmp_path)
    assert fitted.total() + certifying.total() == 41


def test_an_older_call_is_a_call_of_its_own(store: Store) -> None:
    """A history that comes after a newer one; and again, which is none."""
    answer = Answer({"label": "card_lost"})
    older, call = [Trace({"text": SURE}, answer, source="history", at=at) for at in (10.0, 40.0)]

    def add(traces: list[Trace], role: Role) -> int:
        return add_recorded([(row, role) for row in read_rows(SIGNATURE, traces, ("label",))], store)

    assert add([call], "fit") == 0
    assert add([older], "calibrate") == 0
    assert (store.counts()["answers"], store.counts()["calibrate"]) == (2, 1)
    assert add([call, older], "fit") == 2
    assert store.counts()["answers"] == 2

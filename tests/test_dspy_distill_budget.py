"""What labelling may cost: nothing is asked in vain or beyond the budget, and nothing paid is lost."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dspy
import pytest

from dspex.distill.store import Store
from dspex.dspy import Distill
from dspex.errors import ConfigError, LMError, ProgramError
from dspex.testing import LMServer, Status
from dspy_adapter_tools import wait_until
from dspy_distill_tools import COUNT, FAST, TASK, Counting, Own, answers, label_of, rows, teaching


@pytest.fixture
def server() -> Iterator[LMServer]:
    with teaching() as running:
        yield running


@pytest.fixture
def homes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where temporary homes are made."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    return tmp_path


def compiled(student: Any = None, trainset: Any = None, **options: Any) -> Any:
    """The report of a run."""
    fast = Distill(**{**FAST, **options}).compile(
        student or dspy.Predict(TASK), trainset=rows() if trainset is None else trainset
    )
    fast.close()
    return fast.report()


# --- before anything is asked ---


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("seed", "a"),
        ("seed", -1),
        ("seed", None),
        ("gate", True),
        ("metric", 5),
        ("confirm", "yes"),
        ("num_threads", 0),
        ("num_threads", 1.5),
        ("max_errors", -1),
        ("max_errors", True),
        ("settings", 5),
    ],
)
def test_options_are_checked_at_once(name: str, value: Any) -> None:
    with pytest.raises(ConfigError) as caught:
        Distill(**{name: value})
    assert caught.value.field == name


def test_options_that_are_fine() -> None:
    Distill(max_errors=0, num_threads=1, seed=2**63 - 1, metric=print, confirm=bool)


def only_some(inputs: Any) -> str:
    return "a" if "today" in inputs["text"] else str(inputs["tone"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"slices": "no.module:f"}, "cannot be imported"),
        ({"costs": "no.module:f"}, "cannot be imported"),
        ({"slices": only_some}, "slices fails on the row's inputs with KeyError: 'tone'"),
    ],
)
def test_functions_are_tried_before_the_teacher_is_asked(
    server: LMServer, options: Any, message: str
) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        compiled(**options)
    assert caught.value.field in options
    assert server.count == 0


# --- what was paid for is not lost ---


def failing(after: int) -> Any:
    turn = Counting()
    return lambda request: answers(request) if turn(0) <= after else Status(400)


def test_without_a_home_answers_are_kept_when_labelling_fails(homes: Path) -> None:
    with teaching(failing(60)), pytest.raises(ProgramError, match="60 answers are kept") as caught:
        compiled(max_errors=3, num_threads=1)
    (home,) = homes.iterdir()
    assert f"home={str(home)!r}" in str(caught.value.hint)
    with teaching() as server:
        report = compiled(home=home)
        assert server.count == COUNT - 60
    assert (report.cost["known"], report.covers) == (60, True)
    shutil.rmtree(home)


def test_answers_under_way_are_kept_too(homes: Path) -> None:
    """A thread that still waits for its answer when the others have failed."""
    begun = threading.Event()

    def says(request: Any) -> Any:
        if "today" not in request.fields["text"]:
            return answers(request)
        if not begun.is_set():
            begun.set()
            threading.Event().wait(1.0)
            return answers(request)
        return Status(400)

    given = [row for row in rows() if "today" in row.text][:4]
    with teaching(says) as server, pytest.raises(ProgramError):
        compiled(trainset=given, max_errors=1, num_threads=2)
    (home,) = homes.iterdir()
    with Store.open(home) as store:
        assert store.counts()["rows"] == 1
    assert server.count == 2


def test_an_error_of_another_kind_says_where_they_are(server: LMServer, homes: Path) -> None:
    def confirm(estimate: Any) -> bool:
        raise KeyError("nobody there")

    with pytest.raises(KeyError) as caught:
        compiled(confirm=confirm)
    (home,) = homes.iterdir()
    assert caught.value.__notes__ == [f"With home={str(home)!r} nothing that was answered is asked again"]
    compiled(home=home)
    assert server.count == COUNT


CHILD = """
import sys, dspy
from dspex.dspy import Distill
from dspy_distill_tools import TASK, rows
lm = dspy.LM("openai/test-model", api_base=sys.argv[1], api_key="test", cache=False)
with dspy.context(lm=lm, num_threads=2):
    Distill(progress=False).compile(dspy.Predict(TASK), trainset=rows())
"""


def test_interrupted_by_hand(tmp_path: Path) -> None:
    """Without a home, by Ctrl-C: the traceback says where the answers are."""
    with LMServer(answers, delay=0.03) as server:
        child = subprocess.Popen(
            [sys.executable, "-c", CHILD, server.url], cwd=Path(__file__).parent, text=True,
            stderr=subprocess.PIPE,
            env={**os.environ, "LITELLM_LOCAL_MODEL_COST_MAP": "true", "TMPDIR": str(tmp_path)},
        )  # fmt: skip
        wait_until(lambda: server.count >= 20 or child.poll() is not None, 60)
        child.send_signal(signal.SIGINT)
        told = child.communicate(timeout=60)[1]
    (home,) = tmp_path.glob("dspex-store-*")
    assert f"With home={str(home)!r} nothing that was answered is asked again" in told
    with Store.open(home) as store:
        kept = store.counts()["rows"]
    with teaching() as server:
        assert compiled(home=home).cost["known"] == kept >= 16
        assert server.count == COUNT - kept


def test_a_home_that_was_given_keeps_them_anyway(tmp_path: Path) -> None:
    with teaching(failing(20)), pytest.raises(ProgramError, match="20 answers are kept") as caught:
        compiled(max_errors=1, num_threads=1, home=tmp_path)
    assert "home=" not in str(caught.value.hint)
    with Store.open(tmp_path) as store:
        assert store.counts()["rows"] == 20


def test_nothing_is_left_where_nothing_was_paid(homes: Path) -> None:
    with teaching(failing(0)), pytest.raises(ProgramError) as caught:
        compiled(max_errors=1)
    assert "home=" not in str(caught.value.hint)
    assert list(homes.iterdir()) == []


def test_nothing_is_left_by_a_run_that_went_well(server: LMServer, homes: Path) -> None:
    compiled()
    assert list(homes.iterdir()) == []


# --- several samples ---


@pytest.mark.parametrize("student", [dspy.Predict(TASK), dspy.ChainOfThought(TASK), Own()])
@pytest.mark.parametrize("bad", [Status(400), "no fields at all"])
def test_a_sample_that_fails_leaves_the_others(student: Any, bad: Any, tmp_path: Path) -> None:
    turn = Counting()

    def says(request: Any) -> Any:
        second = turn(request.fields["text"]) == 2 and "today" in request.fields["text"]
        return bad if second else answers(request)

    with teaching(says):
        report = compiled(student, samples=3, max_errors=1, home=tmp_path, num_threads=1)
    short = sum("today" in row.text for row in rows())
    if bad == Status(400):  # DSPy asks once more, by JSON, for an answer that it cannot read
        assert f"{short} rows have fewer than 3 samples, because some failed." in report.notes
    with Store.open(tmp_path) as store:
        votes = [sum(t.extra["votes"]) for t in store.traces()]
        assert {t.answer.outputs["label"] == label_of(t.inputs["text"]) for t in store.traces()} == {True}
    assert len(votes) == COUNT
    assert set(votes) <= {2, 3}


def test_no_sample_at_all_is_a_failure() -> None:
    with teaching(failing(0)), pytest.raises(ProgramError, match="failed on 1 rows"):
        compiled(samples=3, max_errors=1, num_threads=1)


# --- dollars ---


class Rule(dspy.Module):
    """Answers some rows by a rule, without an LM."""

    signature = dspy.Signature(TASK)

    def __init__(self, word: str) -> None:
        super().__init__()
        self.word, self.inner = word, dspy.Predict(TASK)

    def forward(self, text: str) -> Any:
        return dspy.Prediction(label=label_of(text)) if self.word in text else self.inner(text=text)


@pytest.fixture
def prices(monkeypatch: pytest.MonkeyPatch) -> list[float | None]:
    """What the answers to come cost, the last of them for ever; as LMs with a price list tell it."""
    told: list[float | None] = [0.25]
    original = dspy.LM.update_history

    def priced(self: Any, entry: Any) -> None:
        original(self, entry | {"cost": told.pop(0) if len(told) > 1 else told[0]})

    monkeypatch.setattr(dspy.LM, "update_history", priced)
    return told


def test_a_row_without_a_call_costs_nothing(server: LMServer, prices: Any) -> None:
    report = compiled(Rule("today"), budget=5.0, num_threads=1)
    assert 18 <= server.count <= 20
    assert report.cost["usd"] == server.count * 0.25
    assert "5.0 USD is used up" in str(report)


@pytest.mark.parametrize("after", [3, 12])
def test_a_price_that_is_not_told_any_more_stops(server: LMServer, prices: Any, after: int) -> None:
    """Among the first rows, which tell what the others cost, or later."""
    prices[:] = [0.25] * after + [None] + [0.25] * 200
    report = compiled(budget=20.0, num_threads=1)
    assert server.count == max(8, after + 1)
    assert any("told no price" in note for note in report.notes)
    assert report.cost["usd"] is None


def test_dollars_need_an_lm_that_is_seen(server: LMServer, prices: Any, homes: Path) -> None:
    """A module that asks past DSPy would spend without end."""
    with pytest.raises(ConfigError, match="tells no price"):
        compiled(Rule(""), budget=5.0)
    with pytest.raises(ConfigError, match="tells no price"), dspy.context(disable_history=True):
        compiled(budget=5.0)


# --- a module that does not say what it answers ---


@pytest.mark.parametrize("budget", [0, {"calls": 0}])
def test_no_budget_for_the_first_answer(server: LMServer, budget: Any) -> None:
    with pytest.raises(ConfigError, match="asked once") as caught:
        compiled(Own(), budget=budget)
    assert caught.value.field == "budget"
    assert server.count == 0


def test_the_first_answer_counts(server: LMServer, prices: Any, tmp_path: Path) -> None:
    report = compiled(Own(), budget={"calls": 30}, home=tmp_path)
    assert server.count == report.cost["asked"] == 30
    assert report.cost["usd"] == 7.5
    with Store.open(tmp_path) as store:
        assert rows()[0].text in {one.inputs["text"] for one in store.traces()}


def test_the_first_answer_has_as_many_samples(server: LMServer, tmp_path: Path) -> None:
    compiled(Own(), samples=3, home=tmp_path)
    with Store.open(tmp_path) as store:
        assert [sum(one.extra["votes"]) for one in store.traces()] == [3] * COUNT
    assert server.count == 3 * COUNT


def test_a_first_answer_that_is_none(server: LMServer) -> None:
    class Odd(dspy.Module):
        def forward(self, text: str) -> Any:
            return 3

    with pytest.raises(LMError, match="not a dspy"):
        compiled(Odd(), samples=2)

"""A teacher labels rows: concurrently, within a budget, once for each, and nothing that was paid is lost."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dspy
import pytest

from dspex.distill.store import Store
from dspex.distill.trace import REJECTED
from dspex.dspy import Distill, route
from dspex.dspy.labelling import Budget, Estimate, Labelled, label
from dspex.dspy.rows import read_rows
from dspex.dspy.samples import missing
from dspex.dspy.teachers import ModuleTeacher
from dspex.errors import ConfigError, ProgramError
from dspex.signature import Signature
from dspex.testing import LMServer, Status
from dspy_adapter_tools import wait_until
from dspy_distill_tools import COUNT, FAST, SURE, TASK, Counting, answers, label_of, labelled, rows, teaching

SIGNATURE = Signature.of(TASK)


@pytest.fixture
def store() -> Iterator[Store]:
    with Store.open(None, SIGNATURE) as opened:
        yield opened


def run(store: Store, given: list[Any], role: Any = "fit", **options: Any) -> Labelled:
    read = read_rows(SIGNATURE, given, ["label"])
    teacher = ModuleTeacher(dspy.Predict(TASK), SIGNATURE, ["label"], options.pop("samples", 1))
    given, known = missing([(row, role) for row in read], store)
    done = label(given, teacher, store, progress=False, **options)
    done.known += known
    return done


def test_every_row_is_asked_once_and_kept(store: Store) -> None:
    given = rows(40)
    with teaching() as server:
        server.delay = 0.01
        done = run(store, [*given, given[0]])
        again = run(store, given)
        assert server.count == 40
        assert 1 < server.max_in_flight <= 4
    assert (done.asked, done.known, done.left, done.stopped) == (40, 0, 0, "")
    assert (again.asked, again.known) == (0, 40)
    kept = list(store.traces())
    assert {t.inputs["text"]: t.answer.outputs["label"] for t in kept} == {
        e.text: label_of(e.text) for e in given
    }
    assert {t.source for t in kept} == {"trainset"}
    assert all(t.answer.tokens and t.answer.seconds and t.answer.usd is None for t in kept)


def priced(monkeypatch: pytest.MonkeyPatch, usd: float) -> None:
    """The LM tells what an answer cost, as those with a price list do."""
    original = dspy.LM.update_history

    def told(self: Any, entry: Any) -> None:
        original(self, entry | {"cost": usd})

    monkeypatch.setattr(dspy.LM, "update_history", told)


def test_the_cost_is_shown_ahead(
    store: Store, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    priced(monkeypatch, 0.25)
    seen: list[Estimate] = []
    with teaching() as server, caplog.at_level(logging.INFO, "dspex.dspy"):
        done = run(store, rows(40), confirm=lambda estimate: bool(seen.append(estimate)))
        assert server.count == 8
    assert seen[0].rows == 32
    assert seen[0].usd == pytest.approx(8.0)
    assert seen[0].seconds > 0
    assert "32 more rows to label, for about 8 USD" in caplog.text
    assert done.stopped == "it was not confirmed"
    assert (done.asked, done.left, done.usd) == (8, 32, 2.0)


def test_a_budget_of_dollars(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    priced(monkeypatch, 0.25)
    with teaching() as server:
        done = run(store, rows(60), budget=Budget.of(5.0))
        assert server.count == done.asked == 20
    assert done.usd == 5.0
    assert "5.0 USD is used up" in done.stopped
    assert store.counts()["usd"] == 5.0


def test_a_budget_of_calls(store: Store) -> None:
    with teaching() as server:
        done = run(store, rows(60), budget=Budget.of({"calls": 25}))
        assert server.count == done.asked == 25
    assert done.left == 35


def test_dollars_need_a_price(store: Store) -> None:
    with teaching() as server, pytest.raises(ConfigError, match="tells no price"):
        run(store, rows(60), budget=Budget.of(5.0))
    assert server.count == 8
    assert store.counts()["rows"] == 8


@pytest.mark.parametrize("given", [-1, True, "5", {"usd": -1}, {"calls": 1.5}, {"euro": 1}])
def test_no_budget(given: Any) -> None:
    with pytest.raises(ConfigError, match="budget"):
        Budget.of(given)


def test_what_the_metric_refuses_is_kept_and_not_learned(store: Store) -> None:
    def wrong(request: Any) -> Any:
        return {"label": "hours"}

    traces: list[Any] = []

    def metric(example: Any, prediction: Any, trace: Any) -> bool:
        traces.append(trace)
        return bool(example.label == prediction.label)

    given = labelled(30)
    right = sum(example.label == "hours" for example in given)
    with teaching(wrong):
        done = run(store, given, metric=metric)
        assert done.rejected == 30 - right
        assert sum(t.source == REJECTED for t in store.traces()) == 30 - right
        assert all(len(trace) == 1 for trace in traces)
        # Rows that certify are a sample of the calls, and rows without labels have nothing to compare with.
        assert run(store, labelled(30, seed=1), "calibrate", metric=metric).rejected == 0
        assert run(store, rows(30, seed=2), metric=metric).rejected == 0


def test_a_failing_metric_loses_nothing(store: Store) -> None:
    def metric(*_: Any) -> bool:
        raise KeyError("gold")

    with teaching(), pytest.raises(ProgramError, match="KeyError"):
        run(store, labelled(12), metric=metric, max_errors=1, num_threads=1)
    assert store.counts()["rows"] == 1


def test_a_few_failures(store: Store) -> None:
    seen = iter(range(100))

    def says(request: Any) -> Any:
        return Status(400) if next(seen) % 10 == 3 else answers(request)

    with teaching(says):
        done = run(store, rows(30), num_threads=1)
    assert (done.asked, done.failed, done.left) == (27, 3, 0)


def test_too_many_failures_keep_what_came(store: Store) -> None:
    seen = iter(range(100))

    def says(request: Any) -> Any:
        return answers(request) if next(seen) < 5 else Status(400)

    with teaching(says), pytest.raises(ProgramError, match=r"failed on 3 rows.*5 answers are kept"):
        run(store, rows(30), num_threads=1, max_errors=3)
    assert store.counts()["rows"] == 5


def test_samples_make_soft_labels(store: Store) -> None:
    turn = Counting()

    def says(request: Any) -> Any:
        assert request.body["temperature"] == 0.7
        return {"label": "hours" if turn(request.fields["text"]) == 2 else "refund"}

    with teaching(says) as server:
        done = run(store, rows(5), samples=4)
        assert server.count == 20  # DSPy asks for each completion by itself
    assert done.votes == [(3, 1)] * 5
    trace = next(store.traces())
    assert trace.answer.outputs == {"label": "refund"}
    assert trace.answer.soft == {"label": {"refund": 0.75, "hours": 0.25}}
    assert trace.extra == {"votes": [3, 1]}


class Own(dspy.Module):
    """A module of one's own, with an LM bound to its predictor."""

    def __init__(self, lm: Any) -> None:
        super().__init__()
        self.inner = dspy.Predict(TASK)
        self.inner.lm = lm

    def forward(self, text: str) -> Any:
        return dspy.Prediction(label=self.inner(text=text).label)


def test_samples_of_a_module_of_ones_own() -> None:
    given = iter(["refund", "hours", "hours"])
    with teaching(lambda request: {"label": next(given)}) as server:
        lm = dspy.LM(**server.lm_config())  # with DSPy's cache, past which each sample has to go
        said = ModuleTeacher(Own(lm), SIGNATURE, ["label"], 3).said({"text": "hello there"})
        assert server.count == 3
        assert server.requests[0].request.body["temperature"] == 0.7
    assert said.votes == (2, 1)
    assert said.answer.outputs == {"label": "hours"}


CHILD = """
import sys, dspy
from dspex.dspy import Distill
from dspy_distill_tools import COUNT, TASK, rows
lm = dspy.LM("openai/test-model", api_base=sys.argv[1], api_key="test", cache=False)
with dspy.context(lm=lm, num_threads=3):
    Distill(home=sys.argv[2], progress=False).compile(dspy.Predict(TASK), trainset=rows(COUNT))
"""


def test_killed_while_it_labels(tmp_path: Path) -> None:
    """The process is killed; the next one asks for what is missing, and for what was under way."""
    home = tmp_path / "home"
    with LMServer(answers, delay=0.02) as server:
        child = subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(CHILD), server.url, str(home)],
            cwd=Path(__file__).parent,
            env={**os.environ, "LITELLM_LOCAL_MODEL_COST_MAP": "true"},
        )
        wait_until(lambda: server.count >= 25 or child.poll() is not None, 60)
        child.send_signal(signal.SIGKILL)
        assert child.wait() == -signal.SIGKILL
        server.wait_idle()
        before = server.count
    with Store.open(home, SIGNATURE) as store:
        kept = store.counts()["rows"]
    assert before - 3 <= kept <= before
    with teaching() as server:
        fast = Distill(home=home, **FAST).compile(dspy.Predict(TASK), trainset=rows())
        try:
            assert server.count == COUNT - kept
            assert fast.report().cost["known"] == kept
            assert fast.report().covers
            assert route(fast(text=SURE)) == "native"
        finally:
            fast.close()
    with Store.open(home, SIGNATURE) as store:
        assert store.counts()["answers"] == COUNT


def test_equal_calls_to_fit_on_share_an_answer_and_others_are_asked_each(tmp_path: Path) -> None:
    """A text that is a third of the calls weighs a third of the certificate, and not as one row."""
    home = tmp_path / "home"
    often = dspy.Example(text=SURE).with_inputs("text")
    given = [one for row in rows() for one in (row, row, often)]
    with teaching() as server:
        fast = Distill(home=home, **FAST).compile(dspy.Predict(TASK), trainset=given)
        fast.close()
        with Store.open(home) as store:
            counts = store.counts()
            calls = sum(trace.count for trace in store.traces())
            taught = {trace.inputs["text"] for trace in store.traces("fit")}
            same = [trace for trace in store.traces("calibrate") if trace.inputs["text"] == SURE]
        assert calls == len(given)
        assert server.count == len(taught) + counts["calibrate"] == fast.report().cost["asked"]
        assert counts["calibrate"] == pytest.approx(0.4 * len(given), rel=0.25)
        assert len(same) == pytest.approx(0.4 * COUNT, rel=0.35)  # each with a coin of its own
        assert fast.report().rows["calibrate"] == counts["calibrate"]
        again = Distill(home=home, **FAST).compile(dspy.Predict(TASK), trainset=given)
        again.close()
        assert server.count == fast.report().cost["asked"]
        assert again.report().cost["known"] == len(given)
        with Store.open(home) as store:
            assert sum(trace.count for trace in store.traces()) == len(given)


def test_a_row_that_has_certified_only_teaches_in_another_home(tmp_path: Path) -> None:
    with teaching():
        Distill(home=tmp_path / "a", **FAST).compile(dspy.Predict(TASK), trainset=rows()).close()
        with Store.open(tmp_path / "a") as store:
            traces = list(store.traces())
        used = sum(trace.used_by is not None for trace in traces)
        assert used > 0
        second = Distill(home=tmp_path / "b", **FAST).compile(dspy.Predict(TASK), traces=traces)
        second.close()
        with Store.open(tmp_path / "b") as store:
            certifying = {trace.inputs["text"] for trace in store.traces("calibrate")}
        assert not certifying & {trace.inputs["text"] for trace in traces if trace.used_by is not None}


def test_a_weaker_guarantee_is_not_told_as_the_one_that_was_asked_for(tmp_path: Path) -> None:
    with teaching():
        weak = Distill(home=tmp_path, **{**FAST, "agreement": 0.7}).compile(
            dspy.Predict(TASK), trainset=rows()
        )
        weak.close()
        assert weak.report().covers
        strict = Distill(home=tmp_path, **{**FAST, "agreement": 0.999}).compile(
            dspy.Predict(TASK), trainset=rows()
        )
        strict.close()
        assert not strict.report().covers
        assert route(strict(text=SURE)) == "dspy"

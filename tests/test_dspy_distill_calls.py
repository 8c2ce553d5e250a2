"""Every row is a call: equal ones certify each, none comes twice, and a picked one never certifies."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dspy
import pytest

from dspex.distill.settings import GuaranteeSettings
from dspex.distill.store import Store
from dspex.distill.trace import REJECTED, Answer, Role, Trace
from dspex.dspy.rows import read_rows
from dspex.dspy.samples import add_recorded, missing, roles_of, single
from dspex.errors import InputError
from dspex.signature import Signature
from dspex.testing import LMServer
from dspy_distill_tools import COUNT, SURE, TASK, compiled, label_of, labelled, rows, teaching

SIGNATURE = Signature.of(TASK)
GUARANTEE = GuaranteeSettings(calibration_share=0.4)


@pytest.fixture
def server() -> Iterator[LMServer]:
    with teaching() as running:
        yield running


@pytest.fixture
def store() -> Iterator[Store]:
    with Store.open(None, SIGNATURE) as opened:
        yield opened


def kept(home: Path, text: str = SURE) -> Counter[str]:
    """Calls with a text by their role."""
    found: Counter[str] = Counter()
    with Store.open(home) as store:
        for trace in store.traces():
            if trace.inputs["text"] == text:
                found[trace.role] += trace.count
    return found


def often(example: Any, given: list[Any], times: int) -> list[Any]:
    return [*given, *[example] * times]


def test_labelled_rows(server: LMServer, tmp_path: Path) -> None:
    given = often(dspy.Example(text=SURE, label="card_lost").with_inputs("text"), labelled(), 60)
    for _ in range(2):
        compiled(tmp_path, given)
        found = kept(tmp_path)
        assert found.total() == 60
        assert found["calibrate"] == pytest.approx(24, abs=10)


def test_a_valset(server: LMServer, tmp_path: Path) -> None:
    valset = often(dspy.Example(text=SURE).with_inputs("text"), rows(90, seed=5), 30)
    taken = {one.text for one in valset}
    report = compiled(tmp_path, [one for one in rows() if one.text not in taken], valset=valset)
    assert kept(tmp_path) == {"calibrate": 30}
    assert report.rows["calibrate"] == 120


@pytest.mark.parametrize("at", [0.0, 1.8e9])
def test_recorded_calls(server: LMServer, tmp_path: Path, at: float) -> None:
    """Given again they are known; what has come since is not, by its time or by its number."""
    given = [trace(e.text, at=at and at + n) for n, e in enumerate(labelled())]
    given += [trace(SURE, at=at and at + 1000 + n) for n in range(60)]
    for _ in range(2):
        compiled(tmp_path, traces=given)
        found = kept(tmp_path)
        assert found.total() == 60
        assert found["calibrate"] == pytest.approx(24, abs=10)
    newer = [trace(SURE, at=at and at + 2000 + n) for n in range(20)]
    compiled(tmp_path, traces=newer if at else [*given, *newer])
    assert kept(tmp_path).total() == 80


def test_examples_and_recorded_calls_of_the_same_text(server: LMServer, tmp_path: Path) -> None:
    """A call that is in both is one; those beyond them are calls of their own."""
    example = dspy.Example(text=SURE).with_inputs("text")
    report = compiled(tmp_path, often(example, rows(), 10), traces=[trace(SURE)] * 5)
    assert kept(tmp_path).total() == 10
    assert report.cost["known"] + server.count == COUNT + 10
    assert server.count < COUNT + 5


def test_what_a_service_learned_from_takes_no_row_away(server: LMServer, tmp_path: Path) -> None:
    """Texts that were deferred are the hard ones: without them the sample would be of the easy calls."""
    with Store.open(tmp_path, SIGNATURE) as store:
        store.add([dataclasses.replace(trace(SURE), source="deferred")] * 40)
    compiled(tmp_path, often(dspy.Example(text=SURE).with_inputs("text"), rows(), 30))
    found = kept(tmp_path)
    assert found.total() == 70
    assert found["calibrate"] >= 4
    assert server.count == COUNT + found["calibrate"]  # what is learned from has an answer, which is there


def test_only_the_first_of_calls_that_share_an_answer_has_a_price(server: LMServer, tmp_path: Path) -> None:
    compiled(tmp_path, often(dspy.Example(text=SURE).with_inputs("text"), rows(), 30))
    asked = [one.request for one in server.requests if one.request.fields["text"] == SURE]
    with Store.open(tmp_path) as store:
        tokens = [t.answer.tokens for t in store.traces() if t.inputs["text"] == SURE]
        per_call = next(t.answer.tokens for t in store.traces("calibrate") if t.inputs["text"] == SURE)
    assert sum(each or 0 for each in tokens) == len(asked) * per_call


def test_a_longer_list_adds_what_is_new(server: LMServer, tmp_path: Path) -> None:
    example = dspy.Example(text=SURE).with_inputs("text")
    compiled(tmp_path, often(example, rows(), 10))
    compiled(tmp_path, often(example, rows(), 25))
    assert kept(tmp_path).total() == 25
    assert server.count == COUNT + 1 + kept(tmp_path)["calibrate"]


def test_a_metric_judges_each_of_equal_calls(server: LMServer, tmp_path: Path) -> None:
    """Their labels may differ; also where the answer is known already."""
    server.answers = {"label": "hours"}
    texts = [f"{n} when you open" for n in range(30)]

    def example(text: str, label: str) -> Any:
        return dspy.Example(text=text, label=label).with_inputs("text")

    given = [example(text, label) for text in texts for label in ("hours", "refund")]
    options = {
        "metric": lambda example, said, trace: example.label == said.label,
        "calibration_share": 1e-9,
        "teacher": dspy.Predict(TASK),
    }
    assert compiled(tmp_path, given, **options).rows["rejected"] == 30
    more = [*given, *(example(text, "card_lost") for text in texts)]
    assert compiled(tmp_path, more, **options).rows["rejected"] == 30
    with Store.open(tmp_path) as store:
        by_source: Counter[str] = Counter()
        for one in store.traces():
            by_source[one.source] += one.count
    assert by_source == {"trainset": 30, REJECTED: 60}
    assert server.count == 30


def trace(text: str, role: Role = "fit", source: str = "jsonl", **more: Any) -> Trace:
    return Trace({"text": text}, Answer({"label": label_of(text)}, usd=0.5), role, source, **more)


def roles(*traces: Trace, **options: Any) -> list[str]:
    read = single(read_rows(SIGNATURE, traces, ["label"]))
    return list(roles_of(read, GUARANTEE.model_copy(update=options), 0, has_valset=False))


@pytest.mark.parametrize("source", ["deferred", "canary", "teacher", "audit", REJECTED])
def test_what_was_picked_only_teaches(source: str) -> None:
    given = [trace(f"{n} when you open", source=source) for n in range(50)]
    assert set(roles(*given)) == set(roles(*given, method="cross")) == {"fit"}


def test_what_has_certified_only_teaches() -> None:
    given = [trace(f"{n} when you open", role, used_by=3) for n in range(50) for role in ("fit", "calibrate")]
    assert set(roles(*given)) == {"fit"}


@pytest.mark.parametrize("source", ["deferred", "jsonl"])
def test_what_a_coin_picked_certifies(source: str) -> None:
    assert set(roles(*[trace(f"{n} open", "calibrate", source) for n in range(50)])) == {"calibrate"}


@pytest.mark.parametrize("source", ["jsonl", "mlflow", "otel", "history", "trainset", "desk"])
def test_a_coin_for_each_call_of_the_others(source: str) -> None:
    (one,) = {tuple(roles(trace(SURE, source=source, count=100)))}
    assert len(one) == 100
    assert one.count("calibrate") == pytest.approx(40, abs=16)


def test_the_calls_of_one_trace_cost_what_it_cost(store: Store) -> None:
    read = single(read_rows(SIGNATURE, [trace(SURE, count=8)], ["label"]))
    add_recorded([(row, "calibrate") for row in read], store)
    assert store.counts() | {"by_source": {}} == store.counts() | {"by_source": {}, "rows": 8, "usd": 0.5}


def test_rows_are_told_apart_by_their_number(store: Store) -> None:
    read = read_rows(SIGNATURE, labelled(3) * 2, ["label"])
    given: list[Any] = [(row, "fit") for row in read]
    assert missing(given, store) == (given, 0)
    store.add([Trace(row.inputs, Answer(row.labels), source="labels") for row in read[:4]])
    left, known = missing(given, store)
    assert (left, known) == (given[4:], 4)


def test_an_example_in_both_sets(server: LMServer, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="take it out of the trainset"):
        compiled(tmp_path, rows(20), valset=rows(20)[7:8])

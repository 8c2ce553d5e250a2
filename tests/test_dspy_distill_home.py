"""The home of a distilled program: compiled again, opened again, watched, and its guarantees per group."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import dspy
import pytest

from dspex.distill.store import Store
from dspex.dspy import Distill, Distilled, DistillReport, route
from dspex.errors import ConfigError, InputError, ModelFileError, SignatureError
from dspex.testing import LMServer
from dspy_adapter_tools import wait_until
from dspy_distill_tools import COUNT, FAST, SURE, TASK, UNSURE, Own, labelled, rows, teaching


@pytest.fixture
def server() -> Iterator[LMServer]:
    with teaching() as running:
        yield running


def in_home(home: Any, trainset: Any = None, **options: Any) -> Distilled:
    optimizer = Distill(home=home, **{**FAST, "settings": {"learning": {"automatic": False}}, **options})
    return optimizer.compile(dspy.Predict(TASK), trainset=rows() if trainset is None else trainset)


def test_compiled_again_nothing_is_asked_twice(server: LMServer, tmp_path: Path) -> None:
    first = in_home(tmp_path / "home")
    first.close()
    assert server.count == COUNT
    again = in_home(tmp_path / "home")
    try:
        assert server.count == COUNT
        assert again.report().cost["known"] == COUNT
        assert again.report().version == 1
        assert again.certificate == first.certificate
        assert again.report().coverage == first.report().coverage
        assert again.report().figures["per_class"] == first.report().figures["per_class"]
        assert route(again(text=SURE)) == "native"
    finally:
        again.close()


def test_more_rows_make_a_second_version(server: LMServer, tmp_path: Path) -> None:
    in_home(tmp_path / "home").close()
    more = in_home(tmp_path / "home", rows(500))
    try:
        assert server.count == len({row.text for row in [*rows(), *rows(500)]})
        assert more.report().version == 2
        assert more.certificate.delta < 0.05 / 2
        assert more.live.status()["version"] == 2
    finally:
        more.close()


def test_what_is_not_certified_leaves_the_earlier_version(server: LMServer, tmp_path: Path) -> None:
    in_home(tmp_path / "home").close()
    few = in_home(tmp_path / "home", rows(160))
    try:
        assert few.report().version == 1
        assert few.report().covers
        assert few.live.status()["version"] == 1
        assert route(few(text=SURE)) == "native"
    finally:
        few.close()


def test_opened_in_another_process(server: LMServer, tmp_path: Path) -> None:
    fast = in_home(tmp_path / "home")
    fast.save(tmp_path / "fast.json")
    fast.close()
    fast.close()
    assert fast.live is None
    assert route(fast(text=SURE)) == "native"
    again = Distilled(dspy.Predict(TASK))
    again.load(tmp_path / "fast.json")
    quiet = {"lifecycle": {"audit_share": 1e-9}}  # an audit would be one more row
    again.open(tmp_path / "home", {"learning": {"automatic": False}, **quiet})
    try:
        assert again.live.status()["stage"] == "live"
        assert route(again(text=SURE)) == "native"
        before = again.live.store.counts()["rows"]
        again(text=UNSURE)
        assert again.live.store.counts()["rows"] == before + 1  # deferred calls are learned from
    finally:
        again.close()
    with pytest.raises(ModelFileError):
        again.open(tmp_path / "nowhere")


def test_stages(server: LMServer, tmp_path: Path) -> None:
    fast = in_home(tmp_path / "home", stage="shadow")
    try:
        server.clear()
        answer = fast(text=SURE)
        assert route(answer) == "dspy"
        assert server.count == 1
        fast.live.promote("by hand", "live")
        assert route(fast(text=SURE)) == "native"
        fast.live.demote("by hand")
        assert route(fast(text=SURE)) == "dspy"
    finally:
        fast.close()


def test_audits_ask_in_the_background(server: LMServer, tmp_path: Path) -> None:
    """In a thread that knows nothing of dspy.context."""
    fast = in_home(
        tmp_path / "home", settings={"lifecycle": {"audit_share": 0.999}, "learning": {"automatic": False}}
    )
    try:
        server.clear()
        assert route(fast(text=SURE)) == "native"
        wait_until(lambda: server.count == 1, 30)
        fast.live.flush()
        audits = list(fast.live.store.audits(1))
        assert [audit.wrong for audit in audits] == [False]
    finally:
        fast.close()


def test_an_llm_that_fails(server: LMServer, tmp_path: Path) -> None:
    fast = in_home(tmp_path / "home")
    try:
        with dspy.context(lm=None):
            assert route(fast(text=SURE)) == "native"
            with pytest.raises(ValueError, match="No LM is loaded"):
                fast(text=UNSURE)
    finally:
        fast.close()


def test_other_homes(server: LMServer, tmp_path: Path) -> None:
    in_home(tmp_path / "home", labelled()).close()
    with pytest.raises(SignatureError):
        Distill(home=tmp_path / "home", **FAST).compile(dspy.Predict("text -> x: bool"), trainset=rows())
    (tmp_path / "file").write_text("x")
    with pytest.raises(ConfigError):
        in_home(tmp_path / "file")
    (tmp_path / "home" / "store.sqlite3").write_bytes(b"SQLite format 3\0" + bytes(COUNT))
    with pytest.raises(ModelFileError):
        in_home(tmp_path / "home")
    assert server.count == 0


@pytest.mark.parametrize("other", ["text -> label: bool", "text -> label: Literal['x', 'y']"])
def test_a_home_of_other_classes_is_not_opened(server: LMServer, tmp_path: Path, other: str) -> None:
    in_home(tmp_path / "home").close()
    with pytest.raises(SignatureError, match="'label' is another field there"):
        Distilled(dspy.Predict(other)).open(tmp_path / "home")
    again = Distilled(dspy.Predict(TASK)).open(tmp_path / "home")
    try:
        assert route(again(text=SURE)) == "native"
    finally:
        again.close()


def test_labels_are_stored_once(server: LMServer, tmp_path: Path) -> None:
    for _ in range(2):
        in_home(tmp_path / "home", labelled()).close()
    with Store.open(tmp_path / "home") as store:
        assert store.counts()["rows"] == COUNT
        assert store.state().stage == "teacher"


def length(inputs: Mapping[str, Any]) -> str:
    return "short" if len(inputs["text"]) < 30 else "long"


def test_slices(server: LMServer, tmp_path: Path) -> None:
    fast = in_home(tmp_path / "home", rows(500), slices=length, agreement=0.8)
    try:
        assert set(fast.thresholds) == {"short", "long"}
        assert fast.live is not None
        assert route(fast(text=SURE)) == "native"
        fast.save(tmp_path / "fast.json")
    finally:
        fast.close()
    again = Distilled(dspy.Predict(TASK))
    again.load(tmp_path / "fast.json")
    assert "slices" in route(again(text=SURE)).reason
    again = Distilled(dspy.Predict(TASK), slices=length)
    again.load(tmp_path / "fast.json")
    assert route(again(text=SURE)) == "native"


def test_functions_without_a_name_are_not_watched(server: LMServer, tmp_path: Path) -> None:
    fast = in_home(tmp_path / "home", rows(500), slices=lambda inputs: length(inputs), agreement=0.8)
    assert fast.live is None
    assert any("slices" in note for note in fast.report().notes)
    assert route(fast(text=SURE)) == "native"


def test_per_class(server: LMServer) -> None:
    fast = in_home(None, rows(500), per_class=True, agreement=0.8)
    try:
        assert set(fast.thresholds) == {"refund", "card_lost", "hours"}
        assert route(fast(text=SURE)) == "native"
    finally:
        fast.close()


def cost(inputs: Any, native: Any, teacher: Any) -> float:
    return 0.0 if native["label"] == teacher["label"] else 0.5


def test_costs(server: LMServer) -> None:
    fast = in_home(None, costs=cost)
    try:
        assert fast.report().covers
        assert fast.live is not None
    finally:
        fast.close()


def test_numbers(server: LMServer) -> None:
    server.answers = lambda request: {"stars": 1.0 if "card" in request.fields["text"] else 4.0}
    fast = Distill(**{**FAST, "tolerance": {"stars": 0.5}}).compile(
        dspy.Predict("text -> stars: float"), trainset=rows(300)
    )
    try:
        assert fast.report().covers
        assert abs(fast(text=SURE).stars - 1) <= 0.5
    finally:
        fast.close()


def test_a_teacher_that_answers_what_does_not_fit(server: LMServer) -> None:
    class Odd(dspy.Module):
        def forward(self, text: str) -> Any:
            return dspy.Prediction(label="none of them" if text == UNSURE else "hours")

    fast = in_home(None)
    try:
        fast.teacher = Odd()
        answer = fast(text=UNSURE)  # as DSPy would give it
        assert answer.label == "none of them"
    finally:
        fast.close()
    with pytest.raises(InputError, match="text"):
        in_home(None, [dspy.Example(text=3).with_inputs("text")])


def test_a_home_knows_the_signature(server: LMServer, tmp_path: Path) -> None:
    for _ in range(2):
        optimizer = Distill(home=tmp_path / "home", **FAST)
        fast = optimizer.compile(Own(), trainset=rows())
        fast.close()
    assert server.count == COUNT
    assert fast.report().covers


def test_the_same_seed_gives_the_same_program(server: LMServer) -> None:
    """Whichever answer comes first."""
    answers = []
    for delay in (0.0, 0.002):
        server.delay = delay
        fast = in_home(None, rows(), num_threads=7)
        answers.append([fast.native.predict({"text": row.text}).score for row in rows(20, seed=8)])
        fast.close()
    assert answers[0] == answers[1]


def test_reports(server: LMServer) -> None:
    report = in_home(None, labelled()).report()
    assert json.loads(json.dumps(report.to_dict())) == report.to_dict()
    assert DistillReport.from_dict(json.loads(json.dumps(report.to_dict()))) == report
    text = str(report)
    assert "at least 0.9 agree with the labels, with confidence 0.97" in text
    assert text.count("Assumption:") >= 3
    assert "  card_lost: " in text
    for damage in (None, {}, report.to_dict() | {"more": 1}):
        with pytest.raises(ModelFileError):
            DistillReport.from_dict(damage)

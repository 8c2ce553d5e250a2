"""Distill from rows to a program that serves: labelled, certified, in DSPy like any module."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Iterator
from typing import Any

import dspy
import pytest

from dspex.distill.imports import read_jsonl
from dspex.distill.trace import Answer, Trace
from dspex.dspy import Distill, Distilled, history_traces, native_mode, native_result, route
from dspex.errors import ConfigError, InputError, SignatureError
from dspex.signature import Signature
from dspex.testing import LMServer
from dspy_distill_tools import (
    COUNT,
    FAST,
    LABELS,
    SURE,
    TASK,
    UNSURE,
    Counting,
    answers,
    label_of,
    labelled,
    rows,
    teaching,
)


@pytest.fixture
def server() -> Iterator[LMServer]:
    with teaching() as running:
        yield running


made: list[Distilled] = []


@pytest.fixture(autouse=True)
def _closed() -> Iterator[None]:
    yield
    while made:
        made.pop().close()


def distil(student: Any = None, trainset: Any = None, *, to: Any = None, **options: Any) -> Distilled:
    """One that is closed after the test."""
    inputs = {k: to[k] for k in to} if to else {}
    given = rows() if trainset is None and "traces" not in inputs else trainset
    fast = Distill(**{**FAST, **options}).compile(student or dspy.Predict(TASK), trainset=given, **inputs)
    made.append(fast)
    return fast


def test_label_certify_serve(server: LMServer) -> None:
    student = dspy.Predict(TASK)
    fast = distil(student)
    assert isinstance(fast, Distilled)
    assert server.count == COUNT
    report = fast.report()
    assert report.covers
    assert report.taught_by == "teacher"
    assert report.coverage > 0.9
    assert report.rows["fit"] + report.rows["calibrate"] == COUNT
    server.clear()
    answer = fast(text=SURE)
    assert answer.label == "card_lost"
    assert route(answer) == "native"
    assert native_result(answer).label == "card_lost"
    assert server.count == 0
    unsure = fast(text=UNSURE)
    assert (unsure.label, route(unsure)) == ("hours", "dspy")
    assert server.count == 1
    assert fast.live.status()["stage"] == "live"
    assert fast.threshold == fast.certificate.threshold


def test_it_agrees_as_often_as_promised(server: LMServer) -> None:
    fast = distil()
    fresh = labelled(300, seed=9)
    said = [(example, fast(text=example.text)) for example in fresh]
    native = [(example, one) for example, one in said if route(one) == "native"]
    assert len(native) > 200
    assert sum(example.label == one.label for example, one in native) / len(native) >= 0.9
    assert all(example.label == one.label for example, one in said if route(one) == "dspy")


def test_the_student_stays_as_it_is(server: LMServer) -> None:
    student = dspy.Predict(TASK)
    student.demos = [dspy.Example(text="x", label="hours")]
    fast = distil(student)
    assert fast.teacher is not student
    assert fast.teacher.demos == student.demos
    assert [name for name, _ in fast.named_predictors()] == ["teacher"]


def test_labels_teach_when_there_is_no_teacher(server: LMServer) -> None:
    fast = distil(trainset=labelled())
    assert server.count == 0
    assert fast.report().taught_by == "labels"
    assert fast.live is None
    assert any("do not come from the module" in note for note in fast.report().notes)
    assert route(fast(text=SURE)) == "native"
    assert route(fast(text=UNSURE)) == "dspy"
    assert server.count == 1


def test_a_teacher_goes_before_labels(server: LMServer) -> None:
    teacher = dspy.ChainOfThought(TASK)
    fast = distil(trainset=labelled(), to={"teacher": teacher})
    assert server.count == COUNT
    assert fast.report().taught_by == "teacher"
    assert isinstance(fast.teacher, dspy.ChainOfThought)


def test_mixed_rows(server: LMServer) -> None:
    fast = distil(trainset=[*labelled(100), *rows(COUNT, seed=3)[100:]])
    assert server.count <= 100
    assert fast.report().taught_by == "teacher and labels"


def test_from_a_history_alone(server: LMServer) -> None:
    student = dspy.Predict(TASK)
    for example in rows():
        student(text=example.text)
    server.clear()
    fast = distil(student, to={"traces": history_traces(student, TASK)})
    assert server.count == 0
    assert fast.report().taught_by == "traces"
    assert fast.report().covers
    assert route(fast(text=SURE)) == "native"
    assert fast.live is not None


def test_from_a_file_alone(server: LMServer) -> None:
    lines = [json.dumps({"input": {"text": e.text}, "teacher": {"label": e.label}}) for e in labelled()]
    fast = distil(to={"traces": read_jsonl(lines, Signature.of(TASK))})
    assert (server.count, fast.report().taught_by, fast.report().covers) == (0, "traces", True)


def test_a_trace_that_stands_for_several_calls(server: LMServer) -> None:
    """Each of them certifies; among those that teach it is one row with its weight."""
    given = [
        Trace({"text": e.text}, Answer({"label": e.label}), role, count=2)
        for role, e in zip(["fit", "fit", "calibrate"] * 40, labelled(120), strict=True)
    ]
    fast = distil(to={"traces": given}, calibration_share=1e-9)
    assert (fast.report().rows["fit"], fast.report().rows["calibrate"]) == (80, 80)
    assert fast.live.store.counts()["answers"] == 240


def test_a_valset_certifies(server: LMServer) -> None:
    fast = distil(
        trainset=rows(150), to={"valset": [e for e in rows(300, seed=5) if e not in rows(150)][:90]}
    )
    assert fast.report().rows == {"fit": 150, "calibrate": 90, "rejected": 0, "failed": 0, "unlabelled": 0}


def test_cross_uses_every_row(server: LMServer) -> None:
    fast = distil(method="cross")
    report = fast.report()
    assert (report.rows["fit"], report.rows["calibrate"]) == (0, COUNT)
    assert report.covers
    assert report.certificate["method"] == "cross"
    assert route(fast(text=SURE)) == "native"


def test_chain_of_thought(server: LMServer) -> None:
    fast = distil(dspy.ChainOfThought(TASK))
    assert [name for name, _ in fast.named_predictors()] == ["teacher.predict"]
    server.clear()
    answer = fast(text=SURE)
    assert answer.toDict() == {"label": "card_lost"}
    assert (route(answer), server.count) == ("native", 0)
    assert answer.reasoning == "it says so"
    assert server.count == 1
    assert fast(text=UNSURE).reasoning == "it says so"


class Own(dspy.Module):
    """A module that says nothing of its signature."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = dspy.ChainOfThought(TASK)

    def forward(self, text: str) -> Any:
        return dspy.Prediction(label=self.inner(text=text).label)


@pytest.mark.parametrize("signature", [None, TASK])
def test_a_module_of_ones_own(server: LMServer, signature: Any) -> None:
    fast = distil(Own(), signature=signature)
    assert server.count == COUNT
    assert (
        fast.signature.output_fields["label"].annotation
        == dspy.Signature(TASK).output_fields["label"].annotation
    )
    assert route(fast(text=SURE)) == "native"
    assert fast(text=UNSURE).label == "hours"


def test_free_text_stays_with_the_teacher(server: LMServer) -> None:
    fast = distil(dspy.Predict(f"{TASK}, reply"))
    report = fast.report()
    assert report.learned == ("label",)
    assert "text" in report.left["reply"]
    server.clear()
    answer = fast(text=SURE)
    assert answer.label == "card_lost"
    assert "reply" in answer
    assert answer.keys() == ["label", "reply"]
    assert "not asked for yet: reply" in repr(answer)
    assert server.count == 0
    assert answer.reply == f"re: {SURE}"
    assert answer["reply"] == answer.get("reply") == answer.toDict()["reply"]
    assert server.count == 1
    assert route(answer) == "native"
    assert "reply" in str(report)


def test_fields_restrict(server: LMServer) -> None:
    fast = distil(dspy.Predict(f"{TASK}, urgent: bool"), fields=["urgent"])
    assert fast.report().learned == ("urgent",)
    assert fast(text=SURE).urgent is True
    with pytest.raises(ConfigError, match="no output 'labels'"):
        distil(dspy.Predict(TASK), fields=["labels"])


def test_an_output_that_cannot_be_guaranteed(server: LMServer) -> None:
    """Whether it is urgent is said at random."""

    def says(request: Any) -> Any:
        return answers(request) | {
            "urgent": bool(hashlib.sha256(request.fields["text"].encode()).digest()[0] % 2)
        }

    server.answers = says
    fast = distil(dspy.Predict(f"{TASK}, urgent: bool"))
    report = fast.report()
    assert report.learned == ("label",)
    assert "nothing can be guaranteed of it" in report.left["urgent"]
    assert route(fast(text=SURE)) == "native"


def test_text_that_is_labels(server: LMServer) -> None:
    with pytest.raises(SignatureError, match=r"no output can be learned: label: .*type str"):
        distil(dspy.Predict("text -> label"))
    assert server.count == 0
    assert distil(dspy.Predict("text -> label"), fields=["label"]).report().covers
    assert distil(dspy.Predict("text -> label"), labelled()).report().covers


def test_nothing_to_learn(server: LMServer) -> None:
    with pytest.raises(SignatureError, match=r"reply: it is of type str.*; more: .*dict"):
        distil(dspy.Predict("text -> reply, more: dict[str, int]"))
    with pytest.raises(SignatureError, match="image"):
        distil(dspy.Predict("image: dspy.Image -> ok: bool"), rows())
    assert server.count == 0


def test_too_few_rows(server: LMServer) -> None:
    fast = distil(trainset=rows(30))
    report = fast.report()
    assert not report.covers
    assert report.rows_needed > 0
    assert "more" in report.reason
    assert "every call goes to the teacher" in str(report)
    answer = fast(text=SURE)
    assert (answer.label, route(answer)) == ("card_lost", "dspy")


def test_one_class_only(server: LMServer) -> None:
    server.answers = {"label": "hours"}
    fast = distil(trainset=rows(40))
    assert "nothing can be learned from these rows" in fast.report().reason
    assert route(fast(text=SURE)) == "dspy"


def test_modes(server: LMServer) -> None:
    fast = distil()
    server.clear()
    with native_mode("off"):
        assert route(fast(text=SURE)) == "dspy"
    with native_mode("only"):
        assert route(fast(text=UNSURE)) == "native"
    fast.native_mode = "off"
    assert fast.native_obstacle == "native_mode is 'off'"
    assert route(fast(text=SURE)) == "dspy"
    assert server.count == 2
    with pytest.raises(ConfigError, match="unknown mode"):
        fast.native_mode = "on"


def test_what_asks_for_the_teacher(server: LMServer) -> None:
    fast = distil()
    for more in ({"config": {"temperature": 0.5}}, {"lm": dspy.settings.lm}):
        assert route(fast(text=SURE, **more)).reason.startswith("the call asks for the teacher by its")
    with dspy.context(lm=dspy.settings.lm.copy(rollout_id=3, temperature=1.0)):
        assert "samples" in route(fast(text=SURE)).reason
    with pytest.raises(ValueError, match="keyword"):
        fast(SURE)


async def acall(fast: Distilled) -> None:
    assert route(await fast.acall(text=SURE)) == "native"
    answer = await fast.acall(text=UNSURE)
    assert (answer.label, route(answer)) == ("hours", "dspy")


def test_async(server: LMServer) -> None:
    fast = distil()
    asyncio.run(acall(fast))
    fast.close()
    asyncio.run(acall(fast))


def test_noisy_teachers(server: LMServer) -> None:
    turn = Counting()

    def says(request: Any) -> Any:
        text = request.fields["text"]
        return {"label": "hours" if turn(text) == 1 and len(text) % 3 == 0 else label_of(text)}

    server.answers = says
    fast = distil(samples=3)
    noise = fast.report().self_consistency
    assert 0.6 < noise["pairs"] < noise["majority"] < 1
    assert f"{noise['pairs']:.3f}" in str(fast.report())
    assert fast.report().covers


BAD = {
    "agreement": [0.0, 1.0, 1.5, "x"],
    "delta": [0.0, 1.0, -1],
    "method": ["both"],
    "calibration_share": [0.0, 1.0],
    "samples": [0, True, 1.5],
    "stage": ["teacher", "on"],
    "budget": [-1],
    "settings": [{"guarantee": {}}, {"lifecycle": {"canary": 1}}],
    "slices": [3],
    "max_epochs": [0],
    "agrement": [0.9],
}


@pytest.mark.parametrize(
    ("name", "value"), [(name, value) for name, values in BAD.items() for value in values]
)
def test_settings_out_of_range(name: str, value: Any) -> None:
    with pytest.raises(ConfigError):
        Distill(**{name: value})


def test_a_teleprompter() -> None:
    optimizer = Distill(agreement=0.9, max_n=4)
    assert isinstance(optimizer, dspy.teleprompt.Teleprompter)
    assert optimizer.get_params()["agreement"] == 0.9
    assert optimizer.get_params()["options"] == {"max_n": 4}


def test_bad_rows(server: LMServer) -> None:
    with pytest.raises(InputError, match="no rows to learn from"):
        distil(trainset=[])
    with pytest.raises(InputError, match="row 1"):
        distil(trainset=[rows()[0], dspy.Example(txt="x").with_inputs("txt")])
    with pytest.raises(InputError, match="'label'"):
        distil(trainset=[dspy.Example(text="a", label="none of these").with_inputs("text")])
    with pytest.raises(InputError, match="in the trainset too"):
        distil(trainset=rows(20), to={"valset": rows(20)[7:8]})
    with pytest.raises(InputError, match="row 0"):
        distil(trainset=[3])
    with pytest.raises(InputError, match="not a Trace"):
        distil(to={"traces": rows(2)})
    with pytest.raises(SignatureError, match="of another signature"):
        distil(dspy.Predict(f"text, tone -> label: {LABELS}"), to={"traces": [trace()]})
    with pytest.raises(SignatureError, match="of another signature"):
        distil(dspy.Predict(f"text -> tag: {LABELS}"), to={"traces": [trace()]})
    with pytest.raises(ConfigError, match="student"):
        distil("text -> label")
    with pytest.raises(ConfigError, match=r"tolerance.*float|float.*tolerance"):
        distil(dspy.Predict("text -> price: float"))
    with pytest.raises(ConfigError, match="metric"):
        distil(metric=lambda *_: True, method="cross")
    assert server.count == 0


def trace() -> Trace:
    return Trace({"text": "hello"}, Answer({"label": "hours"}))

"""A distilled program inside DSPy: evaluation, larger programs, optimizers, copies, states, pickles."""

from __future__ import annotations

import copy
import json
import pickle
from collections.abc import Callable, Iterator
from enum import Enum
from pathlib import Path
from typing import Any

import dspy
import pytest

from dspex.dspy import Distill, Distilled, route
from dspex.errors import ModelFileError, ProgramError, SignatureError
from dspex.testing import LMServer
from dspy_distill_tools import FAST, SURE, TASK, UNSURE, label_of, labelled, rows, teaching


@pytest.fixture(scope="module")
def original() -> Iterator[Distilled]:
    with teaching():
        # No audit comes between: the calls of the teacher are counted.
        settings = {"lifecycle": {"audit_share": 1e-9}}
        fast = Distill(**FAST, settings=settings).compile(dspy.Predict(TASK), trainset=rows())
    yield fast
    fast.close()


@pytest.fixture
def server() -> Iterator[LMServer]:
    with teaching() as running:
        yield running


class Desk(dspy.Module):
    """A larger program."""

    def __init__(self, sort: Any) -> None:
        super().__init__()
        self.sort = sort
        self.write = dspy.ChainOfThought("text, label -> reply")

    def forward(self, text: str) -> Any:
        label = self.sort(text=text).label
        return dspy.Prediction(label=label, reply=self.write(text=text, label=label).reply)


def right(gold: Any, said: Any, trace: Any = None, *_: Any) -> bool:
    return bool(gold.label == said.label)


def test_evaluate(original: Distilled, server: LMServer) -> None:
    evaluate = dspy.Evaluate(
        devset=labelled(100, seed=4), metric=right, num_threads=4, display_progress=False
    )
    assert evaluate(original).score == 100.0
    assert server.count < 30


def test_a_larger_program(original: Distilled, server: LMServer) -> None:
    desk = Desk(original)
    names = [name for name, _ in desk.named_predictors()]
    assert names == ["sort.teacher", "write.predict"]
    with dspy.context(trace=[]):
        assert desk(text=SURE).reply == f"re: {SURE}"
        (first, inputs, answer), _ = dspy.settings.trace
    assert first is original
    assert (inputs, answer.label) == ({"text": SURE}, "card_lost")
    assert first.signature.equals(dspy.Signature(TASK))
    assert server.count == 1
    with dspy.context(trace=[]):
        desk(text=UNSURE)
        assert dspy.settings.trace[0][0] is original.teacher
    with dspy.context(trace=[]):
        original(text=SURE, _trace=False)
        assert dspy.settings.trace == []
    with dspy.context(trace=None):
        assert original(text=SURE).label == "card_lost"


def test_usage_is_tracked(original: Distilled, server: LMServer) -> None:
    with dspy.context(track_usage=True):
        assert original(text=SURE).get_lm_usage() == {}
        assert "openai/test-model" in original(text=UNSURE).get_lm_usage()
    assert len(original.teacher.history) >= 1


def test_callbacks(original: Distilled, server: LMServer) -> None:
    from dspy.utils.callback import BaseCallback

    seen: list[str] = []

    class Log(BaseCallback):
        def on_module_start(self, call_id: str, instance: Any, inputs: Any) -> None:
            seen.append(type(instance).__name__)

    with dspy.context(callbacks=[Log()]):
        original(text=SURE)
        original(text=UNSURE)
    assert seen == ["Distilled", "Distilled", "Predict"]


def test_batch_and_parallel(original: Distilled, server: LMServer) -> None:
    answers = original.batch(rows(40, seed=6), num_threads=3, disable_progress_bar=True)
    assert [answer.label for answer in answers] == [label_of(row.text) for row in rows(40, seed=6)]


def test_bootstrap_few_shot_sees_the_teacher(original: Distilled, server: LMServer) -> None:
    desk = Desk(original)
    optimizer = dspy.BootstrapFewShot(metric=right, max_bootstrapped_demos=3, max_labeled_demos=0)
    best = optimizer.compile(desk, trainset=labelled(20, seed=7))
    assert server.count >= 6
    assert len(best.sort.teacher.demos) == 3
    assert original.teacher.demos == []
    server.clear()
    assert route(best.sort(text=SURE)) == "native"
    assert server.count == 0
    # Its own teacher, not that of the original, which has no demos.
    assert route(best.sort(text=UNSURE)) == "dspy"
    assert server.requests[-1].request.text.count("[[ ## label ## ]]") > 3
    assert best.sort.live is original.live


def test_a_program_that_an_optimizer_has_compiled(server: LMServer) -> None:
    optimizer = dspy.BootstrapFewShot(metric=right, max_bootstrapped_demos=2, max_labeled_demos=0)
    student = optimizer.compile(dspy.Predict(TASK), trainset=labelled(10))
    fast = Distill(**FAST).compile(student, trainset=rows())
    try:
        assert [name for name, _ in fast.named_predictors()] == ["teacher"]
        assert len(fast.dump_state()["teacher"]["demos"]) == 2
        assert student._compiled
    finally:
        fast.close()


COPIES: dict[str, Callable[[Distilled], Distilled]] = {
    "deepcopy": lambda fast: fast.deepcopy(),
    "copy": copy.deepcopy,
    "reset": lambda fast: fast.reset_copy(),
}


@pytest.mark.parametrize("how", COPIES)
def test_copies(original: Distilled, server: LMServer, how: str) -> None:
    twin = COPIES[how](original)
    assert twin is not original
    assert twin.teacher is not original.teacher
    assert twin.native is original.native
    assert twin.live is original.live
    assert route(twin(text=SURE)) == "native"
    twin.native_mode = "off"
    assert original.native_mode == "auto"


def check_loaded(fast: Distilled, original: Distilled) -> None:
    assert fast.live is None
    assert fast.certificate == original.certificate
    assert str(fast.report()) == str(original.report())
    assert route(fast(text=SURE)) == "native"
    unsure = route(fast(text=UNSURE))
    assert unsure == "dspy"
    assert "below" in unsure.reason
    fast.teacher.demos = []


@pytest.mark.parametrize("kind", ["json", "pkl"])
def test_states(original: Distilled, server: LMServer, tmp_path: Path, kind: str) -> None:
    original.save(tmp_path / f"fast.{kind}")
    fast = Distilled(dspy.Predict(TASK))
    with pytest.raises(ProgramError, match="no report"):
        fast.report()
    assert route(fast(text=SURE)).reason == "nothing was learned"
    fast.load(tmp_path / f"fast.{kind}", allow_pickle=True)
    check_loaded(fast, original)


def test_states_of_larger_programs(original: Distilled, server: LMServer, tmp_path: Path) -> None:
    Desk(original).save(tmp_path / "desk.json")
    desk = Desk(Distilled(dspy.Predict(TASK)))
    desk.load(tmp_path / "desk.json")
    check_loaded(desk.sort, original)


def test_whole_programs(original: Distilled, server: LMServer, tmp_path: Path) -> None:
    Desk(original).save(tmp_path / "desk", save_program=True)
    desk = dspy.load(str(tmp_path / "desk"), allow_pickle=True)
    check_loaded(desk.sort, original)


def test_a_state_of_another_task(original: Distilled, server: LMServer, tmp_path: Path) -> None:
    original.save(tmp_path / "fast.json")
    other = Distilled(dspy.Predict("text -> label: Literal['a', 'b']"))
    with pytest.raises(SignatureError):
        other.load(tmp_path / "fast.json")
    assert other.native is None


def _set(*path: str, to: Any) -> Callable[[Any], None]:
    def change(state: Any) -> None:
        for key in path[:-1]:
            state = state[key]
        state[path[-1]] = to

    return change


DAMAGE = {
    "format": _set("format", to=2),
    "mode": _set("mode", to="x"),
    "missing": lambda state: state.pop("report"),
    "model": _set("model", "zlib", to="*"),
    "certificate": _set("certificate", to={"agreement": 0.9}),
    "no certificate": _set("certificate", to=None),
    "report": _set("report", to={"covers": True}),
    "signature": _set("signature", to={"inputs": []}),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_damaged_states_change_nothing(original: Distilled, tmp_path: Path, name: str) -> None:
    original.save(tmp_path / "fast.json")
    state = json.loads((tmp_path / "fast.json").read_text())
    state["teacher"]["demos"] = [{"text": "x", "label": "hours"}]
    DAMAGE[name](state["_native"])
    (tmp_path / "bad.json").write_text(json.dumps(state))
    fast = Distilled(dspy.Predict(TASK))
    with pytest.raises(ModelFileError):
        fast.load(tmp_path / "bad.json")
    assert fast.teacher.demos == []
    assert fast.native is None


class Label(Enum):
    REFUND = "refund"
    CARD_LOST = "card_lost"
    HOURS = "hours"


class Sort(dspy.Signature):
    """Sort by intent."""

    text: str = dspy.InputField()
    label: Label = dspy.OutputField()


def test_enums(server: LMServer, tmp_path: Path) -> None:
    fast = Distill(**FAST).compile(dspy.Predict(Sort), trainset=rows())
    try:
        assert fast(text=SURE).label is Label.CARD_LOST
        assert fast(text=UNSURE).label is Label.HOURS
        fast.save(tmp_path / "fast.json")
    finally:
        fast.close()
    assert fast(text=SURE).label is Label.CARD_LOST
    again = Distilled(dspy.Predict(Sort))
    again.load(tmp_path / "fast.json")
    assert again(text=SURE).label is Label.CARD_LOST
    assert route(again(text=SURE)) == "native"


def test_predictions_travel(server: LMServer) -> None:
    fast = Distill(**FAST).compile(dspy.Predict(f"{TASK}, reply"), trainset=rows())
    try:
        answer = fast(text=SURE)
        assert copy.deepcopy(answer).reply == f"re: {SURE}"
        sent = pickle.loads(pickle.dumps(fast(text=SURE)))
        assert sent.label == "card_lost"
        with pytest.raises(AttributeError, match="reply"):
            sent.reply  # noqa: B018  # its teacher stayed behind
    finally:
        fast.close()


async def completed(fast: Distilled) -> Any:
    answer = await fast.acall(text=SURE)
    return await answer.acomplete()


def test_complete_awaits_the_teacher(server: LMServer) -> None:
    import asyncio

    quiet = {"lifecycle": {"audit_share": 1e-9}}  # an audit would be one more question
    fast = Distill(**FAST, settings=quiet).compile(dspy.Predict(f"{TASK}, reply"), trainset=rows())
    try:
        server.clear()
        answer = asyncio.run(completed(fast))
        assert answer.toDict() == {"label": "card_lost", "reply": f"re: {SURE}"}
        assert server.count == 1
    finally:
        fast.close()

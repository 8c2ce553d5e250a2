"""dspex.dspy.Predict inside DSPy: copies, batches, evaluation, callbacks, histories, streams."""

from __future__ import annotations

import asyncio
import copy
import io
from typing import Any

import dspy
import pytest
from dspy.utils.callback import BaseCallback

import dspex
from dspex.dspy import Predict, native_mode, route
from dspy_embed_tools import TASK, Engine, examples, lm_of, program

SURE, UNSURE = "I lost my card", "something else entirely"


@pytest.fixture(scope="module")
def native() -> dspex.Program:
    return program()


@pytest.fixture
def engine() -> Engine:
    return Engine({"label": "hours", "answer": "wait"})


@pytest.fixture(autouse=True)
def _lm(engine: Engine) -> Any:
    with dspy.context(lm=lm_of(engine), trace=[]):
        yield


class Desk(dspy.Module):
    """A program with a native step and one for the LM."""

    def __init__(self, native: dspex.Program | None) -> None:
        super().__init__()
        self.sort = Predict(TASK, native)
        self.reply = dspy.ChainOfThought("text, label -> answer")

    def forward(self, text: str) -> Any:
        label = self.sort(text=text).label
        return dspy.Prediction(label=label)


def test_it_counts_as_a_predictor(native: dspex.Program) -> None:
    desk = Desk(native)
    assert [name for name, _ in desk.named_predictors()] == ["sort", "reply.predict"]
    assert isinstance(desk.predictors()[0], Predict)
    assert [name for name, _ in Predict(TASK, native).named_predictors()] == ["self"]


def test_compiled_ones_stay_in_the_outer_state(native: dspex.Program) -> None:
    desk = Desk(native)
    desk.sort._compiled = True  # as an optimizer marks what it returns
    assert "sort" in desk.dump_state()


def test_the_trace_is_written(native: dspex.Program) -> None:
    desk = Desk(native)
    desk(text=SURE)
    desk(text=UNSURE)
    (first, inputs, answer), (second, _, other) = dspy.settings.trace
    assert first is desk.sort is second
    assert (inputs, answer.label) == ({"text": SURE}, "card_lost")
    assert other.label == "hours"
    desk.sort(text=SURE, _trace=False)
    assert len(dspy.settings.trace) == 2
    with dspy.context(trace=None):
        assert desk(text=SURE).label == "card_lost"


def test_copies_share_the_weights(native: dspex.Program) -> None:
    desk = Desk(native)
    desk.sort.threshold = 0.7
    for twin in (desk.deepcopy(), copy.deepcopy(desk), desk.reset_copy()):
        assert twin.sort is not desk.sort
        assert twin.sort.native is native
        assert twin.sort.threshold == 0.7
        assert route(twin.sort(text=SURE)) == "native"
    twin.sort.native = None
    assert desk.sort.native is native
    desk.sort.reset()
    assert desk.sort.native is native


def test_batch_and_parallel(native: dspex.Program, engine: Engine) -> None:
    desk = Desk(native)
    answers = desk.batch(examples(), num_threads=2, disable_progress_bar=True)
    assert [answer.label for answer in answers] == [row.label for row in examples()]
    assert engine.calls == 0
    pairs = [(desk.sort, row.inputs()) for row in examples()]
    answers = dspy.Parallel(num_threads=2, disable_progress_bar=True)(pairs)
    assert {route(answer) for answer in answers} == {"native"}


def test_evaluate(native: dspex.Program, engine: Engine) -> None:
    evaluate = dspy.Evaluate(
        devset=examples(), metric=lambda gold, said, trace=None: gold.label == said.label, num_threads=2
    )
    assert evaluate(Desk(native)).score == 100.0
    assert engine.calls == 0
    with native_mode("off"):  # which reaches the threads of the evaluation
        assert evaluate(Desk(native)).score == pytest.approx(100 / 3, abs=0.1)
    assert engine.calls == 90


class Log(BaseCallback):
    def __init__(self) -> None:
        self.seen: list[Any] = []

    def on_module_start(self, call_id: str, instance: Any, inputs: Any) -> None:
        self.seen.append((type(instance).__name__, inputs["kwargs"]))

    def on_module_end(self, call_id: str, outputs: Any, exception: Any = None) -> None:
        self.seen.append(outputs.label)

    def on_lm_start(self, call_id: str, instance: Any, inputs: Any) -> None:
        self.seen.append("lm")


def test_callbacks(native: dspex.Program) -> None:
    own, every = Log(), Log()
    predictor = Predict(TASK, native, callbacks=[own])
    with dspy.context(callbacks=[every]):
        predictor(text=SURE)
        asyncio.run(predictor.acall(text=SURE))
    assert own.seen == every.seen == [("Predict", {"text": SURE}), "card_lost"] * 2
    with dspy.context(callbacks=[every]):
        predictor(text=UNSURE)
    assert every.seen[4:] == [("Predict", {"text": UNSURE}), "lm", "hours"]


def test_history_holds_what_the_lm_was_asked(native: dspex.Program) -> None:
    desk = Desk(native)
    desk(text=SURE)
    assert (desk.history, desk.sort.history) == ([], [])
    desk(text=UNSURE)
    assert len(desk.history) == len(desk.sort.history) == 1
    out = io.StringIO()
    desk.inspect_history(file=out)
    assert UNSURE in out.getvalue()


def test_usage(native: dspex.Program) -> None:
    desk = Desk(native)
    with dspy.context(track_usage=True):
        assert desk(text=SURE).get_lm_usage() == {}
        assert desk(text=UNSURE).get_lm_usage()["scripted/lm"]["prompt_tokens"] == 1
        assert asyncio.run(desk.sort.acall(text=SURE)).get_lm_usage() == {}


def test_streams_end_with_the_native_prediction(native: dspex.Program) -> None:
    async def items(**settings: Any) -> list[Any]:
        return [item async for item in dspy.streamify(Desk(native), **settings)(text=SURE)]

    listener = dspy.streaming.StreamListener(signature_field_name="answer")
    for settings in ({}, {"stream_listeners": [listener]}):
        (only,) = asyncio.run(items(**settings))
        assert only.label == "card_lost"


def test_asyncified(native: dspex.Program) -> None:
    assert asyncio.run(dspy.asyncify(Desk(native))(text=SURE)).label == "card_lost"


def test_best_of_n_gets_samples(native: dspex.Program, engine: Engine) -> None:
    best = dspy.BestOfN(Predict(TASK, native), N=3, reward_fn=lambda args, said: 0.0, threshold=1.0)
    assert best(text=SURE).label == "hours"
    assert engine.calls == 3


def test_a_loaded_program_is_one_parameter_for_the_optimizers(native: dspex.Program) -> None:
    """Nothing of the native side shows up where DSPy looks for parameters."""
    predictor = Predict(TASK, native)
    assert [name for name, _ in predictor.named_sub_modules()] == ["self"]
    assert repr(predictor).startswith("Predict(")
    assert predictor.get_config() == {}

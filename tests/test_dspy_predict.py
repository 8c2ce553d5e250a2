"""dspex.dspy.Predict on its own: when the native side answers, and when the LM does."""

from __future__ import annotations

import asyncio
import logging
import subprocess
import sys
from enum import Enum
from typing import Any

import dspy
import pytest

import dspex
from dspex.dspy import Predict, native_mode, native_result, route
from dspex.errors import ConfigError, InputError, ModelFileError, ProgramError, SignatureError
from dspy_embed_tools import TASK, Engine, examples, lm_of, program, rows

SURE, UNSURE = "I lost my card", "something else entirely"


@pytest.fixture(scope="module")
def native() -> dspex.Program:
    return program(id="cards")


@pytest.fixture
def engine() -> Engine:
    return Engine({"label": "hours"})


@pytest.fixture(autouse=True)
def _lm(engine: Engine) -> Any:
    with dspy.context(lm=lm_of(engine), trace=[], disable_history=True):
        yield


def by_lm(predictor: Any, engine: Engine, **call: Any) -> str:
    """Makes a call that has to reach the LM, and returns why it did."""
    before = engine.calls
    prediction = predictor(**call)
    assert engine.calls == before + 1
    assert route(prediction) == "dspy"
    assert native_result(prediction) is None
    return route(prediction).reason


def test_sure_answers_need_no_lm(native: dspex.Program, engine: Engine) -> None:
    with dspy.context(lm=None):
        prediction = Predict(TASK, native)(text=SURE)
    assert type(prediction) is dspy.Prediction
    assert prediction.toDict() == {"label": "card_lost"}
    assert prediction.completions.label == ["card_lost"]
    assert route(prediction) == "native"
    assert native_result(prediction).confidence > 0.9
    assert native_result(prediction).probabilities("label")["card_lost"] > 0.9
    assert engine.calls == 0


def test_unsure_answers_are_the_lms(native: dspex.Program, engine: Engine) -> None:
    predictor = Predict(TASK, native)
    assert by_lm(predictor, engine, text=UNSURE).startswith("confidence 0.")
    assert predictor(text=UNSURE).label == "hours"
    predictor.threshold = None
    assert route(predictor(text=UNSURE)) == "native"
    predictor.threshold = 1
    assert "below 1.0" in by_lm(predictor, engine, text=SURE)


def test_without_a_native_side_it_is_a_predict(engine: Engine) -> None:
    assert by_lm(Predict(TASK), engine, text=SURE) == "there is no native side"


def test_fit_learns_the_native_side() -> None:
    predictor = Predict(TASK)
    assert predictor.fit(examples(), threads=1, id="learned") is predictor
    assert predictor.native.id == "learned"
    assert predictor(text=SURE).label == "card_lost"


def test_a_saved_program_can_be_given_by_its_path(native: dspex.Program, tmp_path: Any) -> None:
    native.save(tmp_path / "cards.dspex")
    predictor = Predict(TASK, tmp_path / "cards.dspex")
    assert route(predictor(text=SURE)) == "native"
    predictor.native = None
    assert predictor.native is None
    with pytest.raises(ModelFileError):
        predictor.native = "nowhere.dspex"
    with pytest.raises(ConfigError, match=r"native is a list.*fit\(examples\)"):
        predictor.native = rows()


@pytest.mark.parametrize(
    "asks",
    [
        {"config": {"temperature": 0.5}},
        {"config": {"rollout_id": 1, "temperature": 1.0}},
        {"demos": []},
        {"signature": TASK},
        {"lm": None},
    ],
    ids=lambda asks: next(iter(asks)),
)
def test_a_call_can_ask_for_the_lm(native: dspex.Program, engine: Engine, asks: dict[str, Any]) -> None:
    reason = by_lm(Predict(TASK, native), engine, text=SURE, **asks)
    assert reason == f"the call asks for the LM by its {next(iter(asks))}"


def test_an_lm_in_the_call_is_asked(native: dspex.Program, engine: Engine) -> None:
    other = Engine({"label": "refund"})
    assert Predict(TASK, native)(text=SURE, lm=lm_of(other)).label == "refund"
    assert (other.calls, engine.calls) == (1, 0)


def test_a_bound_lm_is_no_wish_for_it(native: dspex.Program, engine: Engine) -> None:
    predictor = Predict(TASK, native)
    predictor.set_lm(lm_of(engine))
    assert route(predictor(text=SURE)) == "native"


def test_samples_are_the_lms(native: dspex.Program, engine: Engine) -> None:
    several = Predict(TASK, native, n=3)
    assert len(several(text=SURE).completions) == 3
    assert engine.calls == 3
    predictor = Predict(TASK, native)
    predictor.set_lm(lm_of(engine).copy(rollout_id=0, temperature=1.0))  # as BestOfN and Refine do
    assert "samples" in by_lm(predictor, engine, text=SURE)
    predictor.lm = None
    with dspy.context(lm=dspy.settings.lm.copy(rollout_id=2, temperature=1.0)):
        assert "samples" in by_lm(predictor, engine, text=SURE)
    assert route(Predict(TASK, native, temperature=0.7)(text=SURE)) == "native"


def test_inputs_that_are_not_its_own_go_to_the_lm(native: dspex.Program, engine: Engine) -> None:
    predictor = Predict(TASK, native)
    assert "is missing" in by_lm(predictor, engine)
    assert "no input 'mood'" in by_lm(predictor, engine, text=SURE, mood="bad")
    assert "of type int" in by_lm(predictor, engine, text=3)
    assert "empty" in by_lm(predictor, engine, text=" ")
    with pytest.raises(ValueError, match="Positional"):
        predictor(SURE)


def test_modes(native: dspex.Program, engine: Engine) -> None:
    predictor = Predict(TASK, native)
    with native_mode("off"):
        assert by_lm(predictor, engine, text=SURE) == "native_mode is 'off'"
        assert predictor.native_obstacle == "native_mode is 'off'"
    with native_mode("only"), dspy.context(lm=None):
        assert route(predictor(text=UNSURE)) == "native"
        with pytest.raises(InputError, match="'text' is missing"):
            predictor()
        with pytest.raises(ProgramError, match="'only', and there is no native side"):
            Predict(TASK)(text=SURE)
        with native_mode("auto"), pytest.raises(ValueError, match="No LM is loaded"):
            predictor(text=UNSURE)
    predictor.native_mode = "off"
    assert by_lm(predictor, engine, text=SURE) == "native_mode is 'off'"
    with native_mode("auto"):
        assert predictor.native_obstacle is None
    with pytest.raises(ConfigError, match="Did you mean 'off'"), native_mode("of"):
        pass
    with pytest.raises(ConfigError, match="native_mode"):
        predictor.native_mode = "sometimes"


def test_fallback(native: dspex.Program, caplog: pytest.LogCaptureFixture) -> None:
    def down(prompt: str) -> Any:
        raise ConnectionError("no route")

    with dspy.context(lm=lm_of(Engine(down))):
        with pytest.raises(dspy.LMError):
            Predict(TASK, native)(text=UNSURE)
        prediction = Predict(TASK, native, fallback=True)(text=UNSURE)
        assert asyncio.run(Predict(TASK, native, fallback=True).acall(text=UNSURE)) == prediction
        with pytest.raises(dspy.LMError):  # nothing to fall back to
            Predict(TASK, native, fallback=True)(text="")
    assert route(prediction) == "native"
    assert route(prediction).degraded
    assert "no route" in route(prediction).reason
    assert native_result(prediction).confidence < 0.9
    assert "unsure native answer stands" in caplog.text
    with dspy.context(lm=None):
        assert route(Predict(TASK, native, fallback=True)(text=UNSURE)).degraded


def test_new_instructions_keep_the_native_side(native: dspex.Program) -> None:
    predictor = Predict(TASK, native)
    predictor.signature = predictor.signature.with_instructions("Be kind.")
    predictor.signature = predictor.signature.with_updated_fields("label", desc="the intent", prefix="So:")
    assert route(predictor(text=SURE)) == "native"


def test_other_fields_detach_it(
    native: dspex.Program, engine: Engine, caplog: pytest.LogCaptureFixture
) -> None:
    predictor = Predict(TASK, native)
    before = predictor.signature
    predictor.signature = before.append("urgent", dspy.OutputField(), bool)
    engine.says = lambda _: {"label": "hours", "urgent": True}
    with caplog.at_level(logging.WARNING, "dspex.dspy"):
        assert "another signature" in by_lm(predictor, engine, text=SURE)
        by_lm(predictor, engine, text=SURE)
    assert caplog.text.count("stands aside") == 1
    predictor.signature = before.with_updated_fields("text", type_=int)
    assert predictor.native_obstacle is not None
    predictor.signature = before
    assert predictor.native_obstacle is None


def test_a_program_of_another_task_is_refused(native: dspex.Program) -> None:
    with pytest.raises(SignatureError, match="signature is"):
        Predict("text -> label: Literal['a', 'b']", native)
    with pytest.raises(SignatureError, match="keyword 'config' for itself"):
        Predict("config -> label: bool").fit(
            [{"config": "a b", "label": True}, {"config": "c", "label": False}]
        )


@pytest.mark.parametrize("threshold", [1.5, -0.1, "0.9", True])
def test_bad_thresholds(threshold: Any) -> None:
    with pytest.raises(ConfigError, match="threshold"):
        Predict(TASK, threshold=threshold)


class Colour(Enum):
    RED = "red"
    BLUE = "blue"


class Sort(dspy.Signature):
    """Sort it."""

    text: str = dspy.InputField()
    size: float = dspy.InputField()
    colour: Colour = dspy.OutputField()
    big: bool = dspy.OutputField()
    tags: list[str] = dspy.OutputField()


def test_values_have_the_types_of_dspy(tmp_path: Any) -> None:
    data = [
        {
            "text": f"{'red' if i % 2 else 'blue'} thing {i}",
            "size": float(i),
            "colour": Colour.RED if i % 2 else Colour.BLUE,
            "big": i > 30,
            "tags": ["warm"] if i % 2 else ["cold", "calm"],
        }
        for i in range(60)
    ]
    predictor = Predict(Sort, threshold=None).fit(data, threads=1)
    answer = predictor(text="a red thing", size=55.0)
    assert answer.toDict() == {"colour": Colour.RED, "big": True, "tags": ["warm"]}
    predictor.native.save(tmp_path / "sort.dspex")  # whose file knows no Enum
    assert Predict(Sort, tmp_path / "sort.dspex", None)(text="a red thing", size=55.0).colour is Colour.RED


def test_numbers_have_no_confidence_and_stand(engine: Engine) -> None:
    data = [{"text": f"{'cheap' if i % 2 else 'dear'} number {i}", "price": 1.0 + i % 2} for i in range(40)]
    predictor = Predict("text -> price: float", threshold=1.0).fit(data, threads=1)
    answer = predictor(text="cheap")
    assert native_result(answer).confidence is None
    assert isinstance(answer.price, float)
    assert engine.calls == 0


def test_signatures_of_dspex(native: dspex.Program) -> None:
    mapping = {"inputs": {"text": "str"}, "outputs": {"label": ["refund", "card_lost", "hours"]}}
    for signature in (native.signature, mapping):
        assert Predict(signature, native)(text=SURE).label == "card_lost"


def test_acall(native: dspex.Program, engine: Engine) -> None:
    predictor = Predict(TASK, native)

    async def ask() -> list[Any]:
        return await asyncio.gather(*(predictor.acall(text=text) for text in (SURE, UNSURE, "", SURE * 500)))

    sure, unsure, empty, long = asyncio.run(ask())
    assert [route(p) for p in (sure, unsure, empty, long)] == ["native", "dspy", "dspy", "native"]
    assert (sure.label, unsure.label) == ("card_lost", "hours")
    assert engine.calls == 2
    with native_mode("off"):
        assert route(asyncio.run(predictor.acall(text=SURE))) == "dspy"


def test_decision_fields_read_the_lms_probabilities(native: dspex.Program) -> None:
    predictor = Predict(TASK, native)
    predictor.fields = {"label": {"weights": {"hours": 2.0}}}
    assert "decision fields" in (predictor.native_obstacle or "")


def test_what_other_modules_made_is_dspys() -> None:
    assert route(dspy.Prediction(label="x")) == "dspy"
    assert native_result(dspy.Prediction(label="x")) is None


def test_names_come_when_they_are_asked_for() -> None:
    code = "import sys, dspex.dspy; assert 'dspy' not in sys.modules; print(dir(dspex.dspy))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "accelerate" in done.stdout
    with pytest.raises(AttributeError, match="no attribute 'Predikt'"):
        dspex.dspy.Predikt  # noqa: B018


def test_rows_are_told_apart() -> None:
    """The task of these tests is one that the native engine learns."""
    assert program().info()["calibration"]["held_out"]["label"]["accuracy"] == 1.0
    assert len(rows()) == 90

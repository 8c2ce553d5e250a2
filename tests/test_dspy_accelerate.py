"""dspex.dspy.accelerate: the eligible predictors of a program get native sides, the rest is left."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import dspy
import pytest

import dspex
from dspex.dspy import Predict, PredictorReport, accelerate, load_accelerated, report, route
from dspex.errors import ConfigError, InputError, ModelFileError, ProgramError, SignatureError
from dspy_embed_tools import LABELS, TASK, Engine, examples, lm_of, program, rows

ANSWERS = {row["text"]: row["label"] for row in rows()}


def says(prompt: str) -> dict[str, Any]:
    text = re.findall(r"\[\[ ## text ## \]\]\n(.*)\n", prompt)[-1]
    label = ANSWERS.get(text, "hours")
    wanted = re.findall(r"`\[\[ ## (\w+) ## \]\]`", prompt)[:-1]
    said = {"label": label, "urgent": label == "card_lost", "reply": f"About {label}.", "reasoning": "Hm."}
    return {name: said[name] for name in wanted}


class Inner(dspy.Module):
    def __init__(self) -> None:
        super().__init__()
        self.urgent = dspy.Predict("text, label -> urgent: bool")

    def forward(self, **inputs: Any) -> Any:
        return self.urgent(**inputs)


class Own(dspy.Predict):
    """A user's class with behaviour of its own."""


class Desk(dspy.Module):
    def __init__(self) -> None:
        super().__init__()
        self.sort = dspy.Predict(TASK, temperature=0.3)
        self.steps = [Inner()]
        self.write = dspy.ChainOfThought("text, label, urgent: bool -> reply")
        self.own = Own(TASK)

    def forward(self, text: str) -> Any:
        label = self.sort(text=text).label
        urgent = self.steps[0](text=text, label=label).urgent
        return self.write(text=text, label=label, urgent=urgent)


@pytest.fixture
def engine() -> Engine:
    return Engine(says)


@pytest.fixture(autouse=True)
def _lm(engine: Engine) -> Iterator[None]:
    with dspy.context(lm=lm_of(engine), num_threads=2):
        yield


def lines(program: Any) -> dict[str, PredictorReport]:
    return {line.name: line for line in report(program)}


SETTINGS: dict[str, Any] = {"threads": 1}


def test_it_learns_from_the_answers_of_the_lm(engine: Engine) -> None:
    desk = Desk()
    fast = accelerate(desk, examples(), **SETTINGS)
    assert engine.calls == 3 * 90
    assert dspy.settings.lm.history == []
    assert type(desk.sort) is dspy.Predict
    assert [type(p) for p in fast.predictors()] == [Predict, Predict, dspy.Predict, Own]
    assert fast(text="I lost my card").reply == "About hours."  # the one text the engine does not know
    assert engine.calls == 3 * 90 + 1
    told = lines(fast)
    assert told["sort"].native
    assert told["sort"].reason == ""
    assert told["sort"].examples == 90
    assert told["sort"].held_out["label"]["accuracy"] == 1.0
    assert told["steps[0].urgent"].native
    assert "free text" in told["write.predict"].reason
    assert told["own"].reason == "Own is a class with behaviour of its own"


def test_what_is_swapped_keeps_what_it_had(engine: Engine) -> None:
    desk = Desk()
    callback, lm = dspy.utils.callback.BaseCallback(), lm_of(engine)
    for module in (desk, desk.sort, desk.steps[0]):
        module.callbacks.append(callback)
    desk.sort.demos = [dspy.Example(text="x", label="hours")]
    desk.sort.traces, desk.sort.train = [1], [2]
    desk.sort.signature = desk.sort.signature.with_instructions("Sort it.")
    desk.sort.lm = desk.write.predict.lm = lm
    fast = accelerate(desk, natives={"sort": program()}, threshold=0.7, fallback=True)
    sort = fast.sort
    assert (sort.demos, sort.traces, sort.train) == (desk.sort.demos, [1], [2])
    assert sort.demos is not desk.sort.demos
    assert sort.config == {"temperature": 0.3}
    assert sort.signature.instructions == "Sort it."
    assert sort.lm is lm is fast.write.predict.lm
    assert [m.callbacks for m in (fast, sort, fast.steps[0], fast.own)] == [[callback]] * 3 + [[]]
    assert (sort.threshold, sort.fallback, sort.native_mode) == (0.7, True, "auto")
    assert sort.stage == desk.sort.stage


def test_all_who_hold_a_predictor_keep_it() -> None:
    class Shared(dspy.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one = dspy.Predict(TASK)
            self.nested = [[self.one]]
            self.also = self.one

        def forward(self, text: str) -> Any:
            return self.nested[0][0](text=text)

    fast = accelerate(Shared(), natives={"one": program()})
    assert fast.one is fast.also is fast.nested[0][0]
    assert route(fast(text="I lost my card")) == "native"


def test_natives_from_everywhere(tmp_path: Any) -> None:
    native = program(id="cards")
    native.save(tmp_path / "cards.dspex")
    for source in (native, tmp_path / "cards.dspex", str(tmp_path / "cards.dspex"), rows(), examples()):
        fast = accelerate(Desk(), natives={"sort": source})
        assert route(fast.sort(text="I lost my card")) == "native"
        assert not lines(fast)["steps[0].urgent"].native
    free = accelerate(dspy.Predict("text -> label"), natives={"self": rows()}, id="free", **SETTINGS)
    assert type(free) is Predict
    assert free.native.id == "free"
    assert free(text="I lost my card").label == "card_lost"


def test_natives_beside_a_trainset(engine: Engine) -> None:
    native = program(id="cards")
    fast = accelerate(Desk(), examples(), natives={"sort": native}, **SETTINGS)
    assert fast.sort.native.id == "cards"
    assert fast.steps[0].urgent.native is not None
    before = engine.calls
    accelerate(Desk(), examples(), natives={"sort": native}, names=["sort"])
    assert engine.calls == before  # nothing is left to be taught


def test_names_choose() -> None:
    fast = accelerate(Desk(), examples(), names=["steps[0].urgent"], **SETTINGS)
    told = lines(fast)
    assert told["steps[0].urgent"].native
    assert told["sort"].reason == "it is not among the names"


def test_too_few_answers_leave_a_predictor(engine: Engine) -> None:
    fast = accelerate(Desk(), examples()[::2], **SETTINGS)
    assert lines(fast)["sort"].reason == "45 answers to learn from, fewer than 50"
    fast = accelerate(Desk(), examples()[::2], min_examples=45, **SETTINGS)
    assert lines(fast)["sort"].examples == 45
    fast = accelerate(Desk(), [*examples()[::2], {"text": " "}], **SETTINGS)
    assert "(1 left out: the text is empty)" in lines(fast)["sort"].reason


def test_a_metric_says_what_is_learned_from() -> None:
    def metric(gold: Any, said: Any, trace: Any) -> bool:
        assert len(trace) == 3
        return gold.label != "hours"

    fast = accelerate(Desk(), examples(), metric=metric, **SETTINGS)
    told = lines(fast)
    assert told["sort"].examples == 60
    assert fast.sort(text="I lost my card").label == "card_lost"


def test_answers_that_are_all_the_same_cannot_be_learned() -> None:
    same = [row for row in examples() if row.label == "hours"] * 2
    fast = accelerate(Desk(), same, **SETTINGS)
    assert "every example has the class 'hours'" in lines(fast)["sort"].reason


def test_one_that_is_native_already_is_left() -> None:
    fast = accelerate(Desk(), natives={"sort": program(id="first")})
    faster = accelerate(fast, examples(), **SETTINGS)
    assert faster.sort.native.id == "first"
    assert lines(faster)["sort"].native
    with pytest.raises(SignatureError, match="'sort' cannot be swapped: it has a native side already"):
        accelerate(fast, natives={"sort": program()})
    fast.sort.native = None
    assert accelerate(fast, natives={"sort": program(id="next")}).sort.native.id == "next"


def test_frozen_modules_are_left() -> None:
    desk = Desk()
    desk.steps[0]._compiled = True
    fast = accelerate(desk, examples(), **SETTINGS)
    told = lines(fast)
    assert type(fast.steps[0].urgent) is dspy.Predict
    assert not told["steps[0].urgent"].native
    assert "frozen" in told["steps[0].urgent"].reason
    assert fast._compiled is False


def test_saved_and_loaded(engine: Engine, tmp_path: Any) -> None:
    fast = accelerate(Desk(), examples(), threshold=0.8, **SETTINGS)
    fast.sort.demos = [dspy.Example(text="x", label="hours")]
    fast.save(tmp_path / "desk.json")
    desk = Desk()
    again = load_accelerated(desk, tmp_path / "desk.json")
    assert type(desk.sort) is dspy.Predict
    assert [type(p) for p in again.predictors()] == [Predict, Predict, dspy.Predict, Own]
    assert (again.sort.threshold, len(again.sort.demos)) == (0.8, 1)
    before = engine.calls
    assert route(again.sort(text="I lost my card")) == "native"
    assert engine.calls == before
    with pytest.raises(ModelFileError, match="cannot be read"):
        load_accelerated(desk, tmp_path / "nowhere.json")
    (tmp_path / "no.json").write_text("{")
    with pytest.raises(ModelFileError, match="cannot be read"):
        load_accelerated(desk, tmp_path / "no.json")


def test_report_of_a_program_as_it_is() -> None:
    told = lines(Desk())
    assert told["sort"].reason == "it is eligible, and nothing was learned for it"
    fast = accelerate(Desk(), natives={"sort": program()})
    fast.sort.native_mode = "off"
    assert (lines(fast)["sort"].native, lines(fast)["sort"].reason) == (True, "native_mode is 'off'")
    weighed = dspy.Predict(TASK)
    weighed.fields = {"label": {"weights": {}}}
    assert "decision fields" in lines(weighed)["self"].reason


def test_failures(engine: Engine) -> None:
    def down(prompt: str) -> Any:
        raise ConnectionError("no route")

    engine.says = down
    with pytest.raises(ProgramError, match=r"failed on .* examples, at first with .*no route"):
        accelerate(Desk(), examples(), max_errors=2, **SETTINGS)


def test_nothing_eligible_costs_nothing(engine: Engine) -> None:
    with pytest.raises(SignatureError, match=r"no predictor can be answered natively: predict: .*free text"):
        accelerate(dspy.ChainOfThought(TASK), examples())
    with pytest.raises(SignatureError, match="there is none"):
        accelerate(dspy.Module(), examples())
    assert engine.calls == 0


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({}, ConfigError, "nothing to learn from"),
        ({"trainset": []}, InputError, "no examples"),
        ({"trainset": [dspy.Example(text="x")]}, InputError, "inputs are not known.*row 0"),
        ({"trainset": [3]}, InputError, "inputs are not known"),
        ({"natives": {"sorts": []}}, ConfigError, "no predictor 'sorts'.*Did you mean 'sort'"),
        ({"natives": [1]}, ConfigError, "natives is a list"),
        ({"natives": {"own": rows()}}, SignatureError, "'own' cannot be swapped: Own is a class"),
        ({"natives": {"sort": "nowhere.dspex"}}, ModelFileError, "nowhere"),
        ({"natives": {"steps[0].urgent": rows()}}, InputError, "missing"),
        ({"trainset": examples(), "names": ["x"]}, ConfigError, "no predictor 'x'"),
        ({"trainset": examples(), "names": "sort"}, ConfigError, "names is one string"),
        ({"trainset": examples(), "min_examples": 1}, ConfigError, "min_examples is 1"),
        ({"trainset": examples(), "threshold": 2}, ConfigError, "threshold is 2"),
        ({"natives": {"sort": rows()}, "fold": 2}, ConfigError, "Did you mean 'folds'"),
        ({"trainset": examples(), "fold": 2}, ConfigError, "Did you mean 'folds'"),
        ({"natives": {"sort": "x.dspex"}, "folds": 2}, ConfigError, "a fitted program takes no options"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_bad_calls(settings: dict[str, Any], error: Any, message: str) -> None:
    with pytest.raises(error, match=message):
        accelerate(Desk(), **settings)


def test_a_program_of_another_task_is_refused() -> None:
    other = dspex.fit(f"body -> label: {LABELS}", [{"body": r["text"], "label": r["label"]} for r in rows()])
    with pytest.raises(SignatureError, match="differs") as caught:
        accelerate(Desk(), natives={"sort": other})
    assert caught.value.__notes__ == ["for the predictor 'sort'"]
    with pytest.raises(ConfigError, match=r"not a dspy\.Module"):
        accelerate("desk", examples())

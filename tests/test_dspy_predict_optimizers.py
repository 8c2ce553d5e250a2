"""DSPy's optimizers over a program that holds a dspex.dspy.Predict see the LM, and leave the native side.

The scripted LM labels rightly only when the instructions say "CAREFULLY" or a demo is there. The native side
is always right, so an optimizer that saw its answers would find nothing to improve.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from typing import Any

import dspy
import pytest
from dspy.experimental import ReAnchor

import dspex
from dspex.dspy import Predict, native_mode, route
from dspex.dspy.compiling import compiling_thread, is_compiling
from dspy_embed_tools import TASK, Engine, examples, lm_of, program, rows

LABELS = {row["text"]: row["label"] for row in rows()}
ASKED = re.compile(r"\[\[ ## text ## \]\]\n(.*)\n\nRespond with")


def says(prompt: str) -> dict[str, str]:
    """The label, or a better instruction for whatever output an optimizer's own prompts ask."""
    question = ASKED.search(prompt)
    if question is None:
        wanted = re.findall(r"`(?:\[\[ ## )?(\w+)(?: ## \]\])?`", prompt.split("Respond with")[-1])
        return {name: "Label CAREFULLY." for name in wanted if name != "completed"}
    taught = "CAREFULLY" in prompt or prompt.count("[[ ## label ## ]]") > 2
    return {"label": LABELS[question[1]] if taught else "hours"}


class Desk(dspy.Module):
    def __init__(self, native: dspex.Program) -> None:
        super().__init__()
        self.sort = Predict(TASK, native)

    def forward(self, text: str) -> Any:
        return self.sort(text=text)


def right(gold: Any, said: Any, trace: Any = None, *_: Any) -> float:
    return float(gold.label == said.label)


def label_calls(engine: Engine) -> int:
    return sum(1 for prompt in engine.prompts if ASKED.search(prompt))


@pytest.fixture(scope="module")
def native() -> dspex.Program:
    return program()


@pytest.fixture
def engine() -> Engine:
    return Engine(says)


@pytest.fixture(autouse=True)
def _lm(engine: Engine) -> Iterator[None]:
    with dspy.context(lm=lm_of(engine), num_threads=2, disable_history=True):
        yield


@pytest.fixture
def desk(native: dspex.Program) -> Desk:
    return Desk(native)


TRAIN = examples()[::9]


def check_back_at_work(best: Any, desk: Desk, engine: Engine) -> None:
    """After the compile the native side answers again, in this thread and in others."""
    before = engine.calls
    assert best is not desk
    assert best.sort.native is desk.sort.native
    found: list[Any] = []
    thread = threading.Thread(target=lambda: found.append(route(best(text="I lost my card"))))
    thread.start()
    thread.join()
    assert [*found, route(best(text="I lost my card"))] == ["native", "native"]
    assert route(desk(text="I lost my card")) == "native"
    assert engine.calls == before


def test_bootstrap_few_shot(desk: Desk, engine: Engine) -> None:
    optimizer = dspy.BootstrapFewShot(metric=right, max_bootstrapped_demos=2, max_labeled_demos=2)
    best = optimizer.compile(desk, trainset=TRAIN)
    assert label_calls(engine) >= 2
    assert len(best.sort.demos) == 2
    check_back_at_work(best, desk, engine)


def test_random_search(desk: Desk, engine: Engine) -> None:
    optimizer = dspy.BootstrapFewShotWithRandomSearch(
        metric=right, max_bootstrapped_demos=1, max_labeled_demos=1, num_candidate_programs=1
    )
    best = optimizer.compile(desk, trainset=TRAIN, valset=TRAIN)
    scores = [each["score"] for each in best.candidate_programs]
    assert min(scores) < max(scores) == 100.0  # natively all would have 100
    check_back_at_work(best, desk, engine)


@pytest.mark.filterwarnings("ignore")  # Optuna's own, depending on its version
def test_miprov2(desk: Desk, engine: Engine) -> None:
    pytest.importorskip("optuna")
    optimizer = dspy.MIPROv2(
        metric=right, auto=None, num_candidates=2, max_bootstrapped_demos=0, max_labeled_demos=0, seed=1
    )
    best = optimizer.compile(
        desk, trainset=TRAIN, valset=TRAIN, num_trials=3, minibatch=False, program_aware_proposer=False
    )
    assert "CAREFULLY" in best.sort.signature.instructions
    assert label_calls(engine) >= 2 * len(TRAIN)
    check_back_at_work(best, desk, engine)


@pytest.mark.filterwarnings("ignore:.*:DeprecationWarning")
def test_gepa(desk: Desk, engine: Engine) -> None:
    optimizer = dspy.GEPA(
        metric=right, reflection_lm=lm_of(engine), max_metric_calls=40, reflection_minibatch_size=3, seed=0
    )
    best = optimizer.compile(desk, trainset=TRAIN, valset=TRAIN)
    assert "CAREFULLY" in best.sort.signature.instructions
    assert label_calls(engine) > len(TRAIN)
    check_back_at_work(best, desk, engine)


def test_reanchor(desk: Desk, engine: Engine) -> None:
    """It reads the LM's probabilities, here those that a native decision client gives."""
    with dspy.context(lm=dspex.dspy.NativeDecisions(desk.sort.native)):
        signature = desk.sort.signature.with_updated_fields("label", desc="the intent")
        desk.sort.signature = signature
        best = ReAnchor(right).compile(desk, trainset=TRAIN)
        assert best(text="I lost my card").label == "card_lost"
    assert best.sort.native is desk.sort.native


def test_a_judge_in_the_metric_stays_native(desk: Desk, native: dspex.Program, engine: Engine) -> None:
    judge = Predict(TASK, native)
    routes: list[Any] = []

    def metric(gold: Any, said: Any, trace: Any = None) -> bool:
        routes.append((route(judge(text=gold.text)), route(said)))
        return True

    dspy.BootstrapFewShot(metric=metric, max_bootstrapped_demos=1).compile(desk, trainset=TRAIN)
    assert set(routes) == {("native", "dspy")}


def test_only_is_only(desk: Desk, engine: Engine) -> None:
    with native_mode("only"):
        dspy.BootstrapFewShot(metric=right, max_bootstrapped_demos=2).compile(desk, trainset=TRAIN)
    assert engine.calls == 0


class Probe(dspy.BootstrapFewShot):
    """An optimizer that only looks."""

    def compile(self, student: Any, *, trainset: Any = (), **kwargs: Any) -> Any:
        self.thread = compiling_thread()
        self.copy = student.deepcopy()
        self.inside = self.copy.sort.native_obstacle
        self.again = self.copy.deepcopy().sort.native_obstacle
        self.original = student.sort.native_obstacle
        self.seen: list[Any] = []
        other = threading.Thread(target=self.look)
        other.start()
        other.join()
        return self.copy

    def look(self) -> None:
        """In another thread, where nothing of DSPy's says that an optimizer is at work."""
        self.seen += [each.sort.native_obstacle for each in (self.copy, self.copy.deepcopy())]


def test_copies_of_an_optimizer_know_it(desk: Desk) -> None:
    probe = Probe(metric=right)
    copy = probe.compile(desk)
    assert probe.thread == threading.get_ident()
    assert [probe.inside, probe.again, *probe.seen] == ["an optimizer compiles"] * 4
    assert probe.original is None
    assert copy.sort.native_obstacle is None
    assert compiling_thread() is None
    assert not is_compiling(threading.get_ident())
    assert desk.deepcopy().sort.native_obstacle is None


def test_one_wrapper_is_around_every_optimizer() -> None:
    """What `is_compiling` looks for on a stack."""
    optimizers = (dspy.GEPA, dspy.MIPROv2, dspy.COPRO, dspy.SIMBA, dspy.BetterTogether, Probe)
    assert {cls.compile.__code__ for cls in optimizers} == {dspy.BootstrapFewShot.compile.__code__}


def test_a_compile_in_another_thread_does_not_disturb(desk: Desk) -> None:
    begun, over = threading.Event(), threading.Event()

    class Slow(Probe):
        def compile(self, student: Any, **kwargs: Any) -> Any:
            super().compile(student)
            begun.set()
            over.wait(10)
            return self.copy

    slow = Slow(metric=right)
    thread = threading.Thread(target=lambda: slow.compile(desk))
    thread.start()
    assert begun.wait(10)
    assert slow.copy.sort.native_obstacle == "an optimizer compiles"
    assert desk.deepcopy().sort.native_obstacle is None
    assert route(desk(text="I lost my card")) == "native"
    over.set()
    thread.join()
    assert slow.copy.sort.native_obstacle is None

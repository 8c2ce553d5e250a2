"""A distilled program in service: whom its audits ask, and what becomes of its calls."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import dspy
import pytest

from dspex.distill.live import LiveProgram
from dspex.distill.making import _is_usual
from dspex.distill.settings import GuaranteeSettings
from dspex.distill.terms import terms_of
from dspex.dspy import Distill, Distilled, route
from dspex.testing import LMServer
from dspy_distill_tools import FAST, SURE, TASK, label_of, rows, teaching
from live_tools import CLASSES, Planted, add_version, home, settings
from live_tools import rows as calls

OTHER = "hours"
ALL = {"lifecycle": {"audit_share": 0.999}, "learning": {"automatic": False}}


class Said(dspy.Module):  # type: ignore[misc]  # DSPy has no types
    """A teacher without an LM; of another mind it says one class only."""

    def __init__(self, seen: Counter[str], mind: str = "first") -> None:
        super().__init__()
        self.seen, self.mind = seen, mind
        self.signature = dspy.Signature(TASK)

    def forward(self, text: str) -> Any:
        self.seen[self.mind] += 1
        return dspy.Prediction(label=label_of(text) if self.mind == "first" else OTHER)

    def __deepcopy__(self, memo: dict[int, Any]) -> Said:
        return Said(self.seen, self.mind)


def distil(module: Any, given: Any = None, **options: Any) -> Distilled:
    return Distill(**{**FAST, "settings": ALL if given is None else given, **options}).compile(
        module, trainset=rows()
    )


def usage(fast: Distilled) -> dict[str, Any]:
    assert fast.live.flush()
    found: dict[str, Any] = fast.live.status()["usage"]
    return found


def sure(count: int) -> list[str]:
    return [f"hello lost my card thanks {number}" for number in range(count)]


@pytest.fixture
def seen() -> Counter[str]:
    return Counter()


def test_calls_without_an_lm_are_audited_by_the_last_one() -> None:
    with teaching():
        fast = distil(dspy.Predict(TASK))
        try:
            with dspy.context(lm=None):
                for text in sure(20):
                    assert route(fast(text=text)) == "native"
                found = usage(fast)
            assert found["compared"] >= 15
            assert "audit_errors" not in found
        finally:
            fast.close()


def test_an_audit_asks_by_the_lm_of_its_call() -> None:
    with teaching() as first:
        fast = distil(dspy.Predict(TASK))
        first.clear()
        try:
            with LMServer(lambda request: {"label": OTHER}) as second:
                with dspy.context(lm=dspy.LM(**second.lm_config(), cache=False)):
                    assert route(fast(text=SURE)) == "native"
                fast(text=SURE)  # by the first again, before the audit of the one before may be done
                usage(fast)
                assert (first.count, second.count) == (1, 1)
        finally:
            fast.close()


def test_audits_that_keep_failing_are_an_event(tmp_path: Path) -> None:
    with home(tmp_path) as store:
        add_version(store)
        teacher = Planted()
        with LiveProgram(store, teacher, settings(audit_share=0.999), seed=1) as live:
            live.promote("test", "live")
            told = []
            live.on("audits fail", told.append)
            teacher.fails = RuntimeError("gone")
            for call in calls(60, seed=1, hard=0.0):
                live.predict(call)
                assert live.flush()
            assert len(told) == 1
            assert "gone" in told[0].reason
            teacher.fails = None
            for call in calls(5, seed=2, hard=0.0):
                live.predict(call)
            assert live.flush()
            assert live.status()["usage"]["compared"] >= 3
            teacher.fails = RuntimeError("gone again")
            for call in calls(40, seed=3, hard=0.0):
                live.predict(call)
                assert live.flush()
            assert len(told) == 2


def test_audits_ask_the_teacher_of_the_copy_that_answered(seen: Counter[str]) -> None:
    fast = distil(Said(seen))
    try:
        copy = fast.deepcopy()
        copy.teacher = Said(seen, "second")
        seen.clear()
        natives = 0
        for text in sure(200):
            if route(copy(text=text)) == "dspy":
                break  # the watch has seen another teacher
            natives += 1
        found = usage(fast)
        assert fast.live.status()["stage"] == "shadow"
        assert seen["first"] == 0
        assert seen["second"] > 0.8 * natives
        assert found["disagreed"] == found["compared"]
    finally:
        fast.close()


@pytest.fixture
def sliced(tmp_path: Path) -> Iterator[LiveProgram]:
    with home(tmp_path) as store:
        add_version(
            store, slices="test_dspy_distill_serving:by_number", thresholds={"x": 0.5}, threshold=None
        )
        given = {**settings(), "guarantee": {"slices": "test_dspy_distill_serving:by_number"}}
        with LiveProgram(store, Planted(), given, seed=1) as live:
            live.promote("test", "live")
            yield live


def by_number(inputs: Any) -> str:
    if "no slice" in inputs["text"]:
        raise KeyError("nothing")
    return "x"


def test_a_call_whose_slice_is_not_known_goes_to_the_teacher(sliced: LiveProgram) -> None:
    assert sliced.predict({"text": "the tall apple"}).route == "native"
    result = sliced.predict({"text": "no slice for this apple"})
    assert (result.route, result.label) == ("dspy", "apple")
    assert "KeyError" in result.route.reason
    sliced.close()
    assert sliced.store.usage()[-1].counts["deferred"] == 1


@pytest.mark.parametrize("watched", [True, False])
def test_a_slice_that_is_not_known_is_no_error_of_the_program(seen: Counter[str], watched: bool) -> None:
    fast = distil(Said(seen), slices=by_number)
    try:
        if not watched:
            fast.close()
        assert route(fast(text=SURE)) == "native"
        said = fast(text=f"{SURE} no slice")
        assert (route(said), said.label) == ("dspy", "card_lost")
        assert "KeyError" in route(said).reason
    finally:
        fast.close()


def test_in_shadow_rows_are_no_deferred_ones(tmp_path: Path) -> None:
    with home(tmp_path) as store:
        add_version(store)
        with LiveProgram(store, Planted(), settings(shadow_checks=10_000), seed=1) as live:
            assert live.flush()
            for call in calls(40, seed=1):
                live.predict(call)
            assert live.flush()
            assert store.counts()["by_source"] == {"shadow": 40}
            live.promote("test", "live")
            for call in calls(40, seed=2, hard=1.0):
                live.predict(call)
        assert set(store.counts()["by_source"]) == {"shadow", "deferred"}


def test_in_canary_rows_are_told_apart_by_the_gate(tmp_path: Path) -> None:
    with home(tmp_path) as store:
        add_version(store)
        with LiveProgram(store, Planted(), settings(canary_share=0.3, canary_checks=10_000), seed=1) as live:
            live.promote("test", "canary")
            for call in calls(60, seed=1, hard=0.0):
                live.predict(call)
            assert live.flush()
            assert store.counts()["by_source"].keys() == {"canary", "audit"}
            for call in calls(20, seed=2, hard=1.0):
                assert live.predict(call).route == "dspy"
        sources: dict[bool, set[str]] = {True: set(), False: set()}
        for trace in store.traces():
            sources[any(name in trace.inputs["text"] for name in CLASSES)].add(trace.source)
            assert _is_usual(trace) is (trace.role == "calibrate"), "the others are picked"
        assert sources == {True: {"canary", "audit"}, False: {"deferred"}}


class Looking(Said):
    """A teacher that needs a retriever, and notes the adapter and the retriever that it has."""

    noted: ClassVar[list[tuple[Any, Any, Any]]] = []

    def forward(self, text: str) -> Any:
        found = dspy.settings
        found.rm(text)
        self.noted.append((found.adapter, found.rm, found.get("of_mine")))
        return super().forward(text=text)

    def __deepcopy__(self, memo: dict[int, Any]) -> Looking:
        return Looking(self.seen, self.mind)


def test_an_audit_has_the_settings_of_its_call(seen: Counter[str]) -> None:
    first, second = dspy.JSONAdapter(), dspy.ChatAdapter()
    with dspy.context(adapter=first, rm=str.upper):
        fast = distil(Looking(seen))
    Looking.noted.clear()
    try:
        with dspy.context(adapter=second, rm=str.lower, of_mine=1, trace=[]):
            assert route(fast(text=SURE)) == "native"
            usage(fast)
            assert dspy.settings.trace[0][0] is fast
            assert len(dspy.settings.trace) == 1  # an audit leaves no mark there
        assert route(fast(text=SURE)) == "native"  # as the last one that had any
        usage(fast)
        assert Looking.noted == [(second, str.lower, 1), (second, str.lower, None)]
    finally:
        fast.close()


def broken(*_: Any) -> float:
    raise ValueError("no cost")


def test_comparisons_that_keep_failing_are_an_event(tmp_path: Path) -> None:
    guarantee = {"agreement": 0.95, "costs": "test_dspy_distill_serving:broken"}
    with home(tmp_path) as store:
        add_version(store, figures={"terms": terms_of(GuaranteeSettings.of(guarantee))})
        teacher = Planted()
        given = {**settings(audit_share=0.999), "guarantee": guarantee}
        with LiveProgram(store, teacher, given, seed=1) as live:
            live.promote("test", "live")
            teacher.shift = 1.0  # equal answers cost nothing, so nobody asks what they cost
            for call in calls(40, seed=1, hard=0.0):
                live.predict(call)
            assert live.flush()
            told = [event.reason for event in store.events() if event.kind == "audits fail"]
            assert len(told) == 1
            assert "no cost" in told[0]

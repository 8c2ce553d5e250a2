"""A distilled program in service: whom its audits ask, and what answers once it is closed."""

from __future__ import annotations

import pickle
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dspy
import pytest

from dspex.distill.live import LiveProgram
from dspex.dspy import Distill, Distilled, route
from dspex.testing import LMServer
from dspy_distill_tools import FAST, SURE, TASK, label_of, rows, teaching
from live_tools import Planted, add_version, home, settings
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


def test_what_was_moved_back_does_not_answer_once_it_is_closed(seen: Counter[str], tmp_path: Path) -> None:
    fast = distil(Said(seen), home=tmp_path / "home")
    fast.live.demote("bad answers")
    fast.close()
    assert "bad answers" in pickle.loads(pickle.dumps(fast._serving)).moved_back
    for each in (fast, fast.deepcopy()):
        assert route(each(text=SURE)) == "dspy"
        assert "bad answers" in each.native_obstacle
    fast.save(tmp_path / "fast.json")
    again = Distilled(Said(seen))
    again.load(tmp_path / "fast.json")
    assert route(again(text=SURE)) == "dspy"
    again.native_mode = "auto"  # by hand
    assert route(again(text=SURE)) == "native"
    fast.open(tmp_path / "home", ALL)
    fast.live.promote("good again", "live")
    fast.close()
    assert route(fast(text=SURE)) == "native"


def test_a_breach_is_not_forgotten_by_closing(seen: Counter[str]) -> None:
    fast = distil(Said(seen), {**ALL, "lifecycle": {"audit_share": 0.999, "audit_delta": 0.2}})
    fast.teacher.mind = "second"
    for text in sure(200):
        if route(fast(text=text)) != "native":
            break
        usage(fast)
    assert fast.live.status()["stage"] == "shadow"
    fast.close()
    assert route(fast(text=SURE)) == "dspy"
    assert "breach" in fast.native_obstacle


def test_the_version_in_service_answers_after_the_end(seen: Counter[str], tmp_path: Path) -> None:
    distil(Said(seen), home=tmp_path / "home").close()
    fast = Distill(**{**FAST, "settings": ALL, "home": tmp_path / "home", "seed": 1}).compile(
        Said(seen), trainset=rows(500)
    )
    assert fast.live.version == 2
    fast.live.rollback("the first was better")
    first = fast.certificate
    fast.close()
    assert fast.certificate == first
    assert route(fast(text=SURE)) == "native"
    fast.save(tmp_path / "fast.json")
    again = Distilled(Said(seen))
    again.load(tmp_path / "fast.json")
    assert again.certificate == first
    assert again.report().version == fast.report().version == 1


def test_closing_beside_calls(seen: Counter[str]) -> None:
    fast = distil(Said(seen))
    stop, errors = threading.Event(), []

    def call() -> None:
        while not stop.is_set():
            try:
                fast(text=SURE)
            except Exception as error:
                errors.append(error)

    threads = [threading.Thread(target=call) for _ in range(4)]
    for thread in threads:
        thread.start()
    fast.close()
    stop.set()
    for thread in threads:
        thread.join()
    assert errors == []


def test_a_close_between_two_looks(seen: Counter[str], monkeypatch: pytest.MonkeyPatch) -> None:
    fast = distil(Said(seen))
    real = Distilled._mode

    def closing(self: Distilled) -> str:
        if self.live is not None:
            self.close()
        return real(self)

    live = fast.live
    monkeypatch.setattr(Distilled, "_checked", lambda self, args, kwargs: None)
    monkeypatch.setattr(Distilled, "_mode", closing)
    assert fast(text=SURE).label == "card_lost"
    assert fast.live is None
    assert live is not None


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

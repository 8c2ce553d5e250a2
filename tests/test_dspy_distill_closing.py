"""A distilled program that is closed, or saved: it answers as the state of its home says."""

from __future__ import annotations

import pickle
import threading
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from dspex.dspy import Distill, Distilled, route
from dspy_distill_tools import FAST, SURE, rows
from test_dspy_distill_serving import ALL, Said, distil, sure, usage


@pytest.fixture
def seen() -> Counter[str]:
    return Counter()


def loaded(fast: Distilled, path: Path, seen: Counter[str]) -> Distilled:
    fast.save(path / "fast.json")
    again = Distilled(Said(seen))
    again.load(path / "fast.json")
    return again


def test_what_was_moved_back_does_not_answer_once_it_is_closed(seen: Counter[str], tmp_path: Path) -> None:
    fast = distil(Said(seen), home=tmp_path / "home")
    fast.live.demote("bad answers")
    fast.close()
    assert "bad answers" in pickle.loads(pickle.dumps(fast._serving)).withheld
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


@pytest.mark.parametrize("stage", ["shadow", "canary"])
def test_a_closed_program_stays_in_its_stage(seen: Counter[str], tmp_path: Path, stage: str) -> None:
    fast = distil(Said(seen), {**ALL, "lifecycle": {"audit_share": 0.5}}, home=tmp_path / "home", stage=stage)
    open_obstacle, saved_open = fast.native_obstacle, loaded(fast, tmp_path, seen)
    travelled = pickle.loads(pickle.dumps(fast._native))
    fast.close()
    for each in (fast, fast.deepcopy(), saved_open, loaded(fast, tmp_path, seen)):
        assert route(each(text=SURE)) == ("dspy" if stage == "shadow" else "native")
        assert each.native_obstacle == open_obstacle == travelled.obstacle()
    assert (open_obstacle is None) is (stage == "canary")
    if stage == "shadow":
        assert "in shadow" in fast.native_obstacle
        assert "in shadow" in route(fast(text=SURE)).reason


def test_a_program_that_is_saved_while_it_serves_is_of_the_version_in_service(
    seen: Counter[str], tmp_path: Path
) -> None:
    distil(Said(seen), home=tmp_path / "home").close()
    fast = Distill(**{**FAST, "settings": ALL, "home": tmp_path / "home", "seed": 1}).compile(
        Said(seen), trainset=rows(500)
    )
    try:
        fast.live.rollback("the first was better")
        again = loaded(fast, tmp_path, seen)
        assert again.certificate == fast.certificate
        assert again.report().version == fast.report().version == 1
        assert route(again(text=SURE)) == "native"
        fast.live.demote("bad answers")
        assert "bad answers" in loaded(fast, tmp_path, seen).native_obstacle
    finally:
        fast.close()


def test_putting_a_copy_on_puts_on_nothing_else(seen: Counter[str]) -> None:
    fast = distil(Said(seen))
    state = fast.dump_state()
    fast.live.demote("bad answers")
    fast.close()
    by_hand, from_state = fast.deepcopy(), fast.deepcopy()
    by_hand.native_mode = "off"
    assert "bad answers" in by_hand._native.obstacle()
    by_hand.native_mode = "auto"
    from_state.load_state(state)
    assert [route(each(text=SURE)) for each in (by_hand, from_state, fast)] == ["native", "native", "dspy"]


class Waiting(Said):
    """A teacher that changes its mind, and does not answer while it is held."""

    go = threading.Event()

    def forward(self, text: str) -> Any:
        assert self.go.wait(20)
        return super().forward(text=text)

    def __deepcopy__(self, memo: dict[int, Any]) -> Waiting:
        return Waiting(self.seen, self.mind)


def test_what_the_last_audits_say_counts(seen: Counter[str]) -> None:
    Waiting.go.set()
    fast = distil(Waiting(seen))
    fast.teacher.mind = "second"
    Waiting.go.clear()
    assert {route(fast(text=text)) for text in sure(60)} == {"native"}
    closing = threading.Thread(target=fast.close)
    closing.start()
    while fast.live is not None:
        closing.join(0.01)
    Waiting.go.set()  # only now do the audits find out
    closing.join(20)
    assert "breach" in fast.native_obstacle
    assert route(fast(text=SURE)) == "dspy"

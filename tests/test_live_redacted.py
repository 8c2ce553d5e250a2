"""Native answers over a store that redacts: from what is kept, as it was certified."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from dspex.distill.live import LiveProgram
from dspex.distill.store import Store
from dspex.errors import InputError
from live_tools import Planted, add_version, home, settings

APPLE, BIRCH = "an apple here", "an apple, private birch birch"


def kept(inputs: Mapping[str, Any]) -> dict[str, Any] | None:
    """Nothing of secrets, and nothing from the word "private" on."""
    text = inputs["text"]
    return None if "secret" in text else {"text": text.split("private")[0]}


def apples(inputs: Mapping[str, Any]) -> str:
    """A slice."""
    assert "private" not in inputs["text"]
    return "apples"


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with home(tmp_path, redact=kept) as opened:
        yield opened


@pytest.fixture
def live(store: Store) -> Iterator[LiveProgram]:
    add_version(store, threshold=0.0)
    with LiveProgram(store, Planted(), settings(audit_share=0.01), seed=1) as program:
        program.promote("test", "live")
        yield program


def test_what_is_served_is_the_answer_to_what_is_kept(live: LiveProgram) -> None:
    whole, part = live.predict({"text": BIRCH}), live.predict({"text": kept({"text": BIRCH})["text"]})  # type: ignore[index]
    assert whole.route == part.route == "native"
    assert (whole.label, whole.gate_score) == (part.label, part.gate_score)
    assert live.batch([{"text": BIRCH}])[0].gate_score == part.gate_score
    assert asyncio.run(live.acall(text=BIRCH)).gate_score == part.gate_score
    assert live.predict({"text": BIRCH.replace("private", "and a")}).gate_score != part.gate_score


def test_what_is_not_kept_is_the_teachers_and_it_sees_all(live: LiveProgram) -> None:
    for text in ("a secret apple", "private apple"):  # nothing is kept; a blank text is
        assert live.predict({"text": text}).route == "dspy"
    answers = live.batch([{"text": "a secret apple"}, {"text": APPLE}])
    assert [each.route for each in answers] == ["dspy", "native"]
    teacher: Any = live._engine._teacher
    assert teacher.asked == ["a secret apple", "private apple", "a secret apple"]


def test_wrong_inputs_are_still_refused(live: LiveProgram) -> None:
    with pytest.raises(InputError, match="txt"):
        live.predict({"txt": APPLE})
    assert isinstance(live.batch([{"text": 7}], on_error="collect")[0], InputError)


def test_slices_are_of_what_is_kept(store: Store) -> None:
    add_version(store, threshold=None, thresholds={"apples": 0.0}, slices="test_live_redacted:apples")
    given = settings() | {"guarantee": {"slices": "test_live_redacted:apples"}}
    with LiveProgram(store, Planted(), given, seed=1) as live:
        live.promote("test", "live")
        assert live.predict({"text": BIRCH}).route == "native"

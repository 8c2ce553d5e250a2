"""Batches of the hybrid adapter: native rows in one go, the others as one batch of DSPy's, in order."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dspex.adapters.hybrid import HybridAdapter
from dspex.errors import ConfigError, DspexError, InputError, LMError, ProgramError
from dspex.result import Result
from hybrid_tools import BLANK, SPEC, SURE, UNSURE, FakeDspy, fitted, hybrid, outcome_of

WRONG = {"text": 3}
COLLECT = {"on_error": "collect"}


def ready(routing: dict[str, Any] | None = None, **more: Any) -> tuple[HybridAdapter, FakeDspy]:
    dspy = FakeDspy(more.pop("answer", "limit"))
    dspy.collects_errors = more.pop("collects", False)
    adapter = hybrid(routing, dspy=dspy, **more)
    adapter.create_program(SPEC)
    return adapter, dspy


def routes(outcomes: list[Any]) -> list[str]:
    return [
        type(each).__name__ if isinstance(each, DspexError) else str(each.route) + "!" * each.route.degraded
        for each in outcomes
    ]


def test_unsure_rows_go_to_dspy_as_one_batch() -> None:
    adapter, dspy = ready()
    rows = [SURE, UNSURE, SURE, BLANK, UNSURE, SURE]
    results = adapter.execute_batch("p", iter(rows))
    assert routes(results) == ["native", "dspy", "native", "dspy", "dspy", "native"]
    assert [result.label for result in results] == ["refund", "limit", "refund", "limit", "limit", "refund"]
    assert "is below 0.9" in results[1].route.reason
    assert results[3].route.reason == "the text is empty"
    assert dspy.batches == [3]
    assert [inputs for inputs, _ in dspy.asked] == [UNSURE, BLANK, UNSURE]
    stats = adapter.get_stats()
    assert (stats["calls"], stats["batches"], stats["routing"]["routes"]) == (6, 1, {"native": 3, "dspy": 3})
    assert (stats["routing"]["deferred"], stats["routing"]["coverage"]) == (3, 0.5)


def test_no_rows_and_sure_rows_ask_nobody() -> None:
    adapter, dspy = ready()
    assert adapter.execute_batch("p", []) == []
    assert routes(adapter.execute_batch("p", [SURE] * 5)) == ["native"] * 5
    assert dspy.batches == []


def test_a_wrong_row_ends_the_batch_before_dspy_is_asked() -> None:
    adapter, dspy = ready()
    with pytest.raises(InputError) as caught:
        adapter.execute_batch("p", [SURE, UNSURE, WRONG, UNSURE])
    assert (caught.value.row, caught.value.program, caught.value.field) == (2, "p", "text")
    assert dspy.batches == []
    assert adapter.get_stats()["routing"]["routes"] == {}


def test_collected_errors_stand_in_their_rows_places() -> None:
    adapter, dspy = ready()
    outcomes = adapter.execute_batch("p", [SURE, WRONG, UNSURE, {}, BLANK], COLLECT)
    assert routes(outcomes) == ["native", "InputError", "dspy", "InputError", "dspy"]
    assert [each.row for each in outcomes if isinstance(each, DspexError)] == [1, 3]
    assert dspy.batches == [2]
    stats = adapter.get_stats()
    assert stats["routing"]["routes"] == {"native": 1, "dspy": 2}
    plain, _ = ready(lm=False)
    assert routes(plain.execute_batch("p", [SURE, BLANK, WRONG], COLLECT)) == [
        "native",
        "InputError",
        "InputError",
    ]
    for bad in ("colect", 3):
        with pytest.raises(ConfigError, match="on_error"):
            adapter.execute_batch("p", [SURE], {"on_error": bad})


def test_errors_of_dspy_name_the_row_of_the_whole_batch() -> None:
    error = ProgramError("a tool raised")
    adapter, _ = ready(answer=lambda inputs: error if "bad" in inputs["text"] else "limit")
    with pytest.raises(ProgramError) as caught:
        adapter.execute_batch("p", [SURE, UNSURE, {"text": "zzz bad"}, UNSURE])
    assert caught.value.row == 2


@pytest.mark.parametrize("collects", [True, False], ids=["row by row", "as a whole"])
def test_native_answers_stand_in_for_failed_rows(collects: bool) -> None:
    """A backend that can say which rows failed keeps the answers of the others."""
    adapter, _ = ready(answer=lambda i: LMError("down") if "bad" in i["text"] else "limit", collects=collects)
    rows = [UNSURE, SURE, {"text": "zzz bad"}, UNSURE]
    outcomes = adapter.execute_batch("p", rows)
    others = "dspy" if collects else "native!"
    assert routes(outcomes) == [others, "native", "native!", others]
    assert "but dspy failed: [lm] down" in outcomes[2].route.reason
    assert outcomes[2].label == fitted().predict(rows[2]).label
    assert adapter.get_stats()["routing"]["fallbacks"] == (1 if collects else 3)


@pytest.mark.parametrize("collects", [True, False])
def test_what_cannot_fall_back_is_an_error_of_its_row(collects: bool) -> None:
    adapter, _ = ready(answer=LMError("down"), collects=collects)
    outcomes = adapter.execute_batch("p", [SURE, UNSURE, BLANK], COLLECT)
    assert routes(outcomes) == ["native", "native!", "LMError"]
    assert outcomes[2].row == 2  # type: ignore[attr-defined]
    with pytest.raises(LMError) as caught:
        adapter.execute_batch("p", [SURE, UNSURE, BLANK])
    assert (caught.value.row, caught.value.program) == (2, "p")
    strict, _ = ready({"fallback": False}, answer=LMError("down"), collects=collects)
    with pytest.raises(LMError) as caught:
        strict.execute_batch("p", [SURE, SURE, UNSURE])
    assert caught.value.row == 2
    assert routes(strict.execute_batch("p", [SURE, UNSURE, BLANK], COLLECT)) == [
        "native",
        "LMError",
        "LMError",
    ]


def test_dspy_that_would_refuse_is_asked_only_for_what_has_no_other_way() -> None:
    adapter, dspy = ready()
    dspy.refusal = LMError("the circuit is open")
    assert routes(adapter.execute_batch("p", [SURE, UNSURE, BLANK])) == ["native", "native!", "dspy"]
    assert [inputs for inputs, _ in dspy.asked] == [BLANK]


def test_dspy_first_and_native_for_the_rows_that_fail() -> None:
    adapter, dspy = ready(
        {"prefer": "dspy"}, answer=lambda i: LMError("down") if "bad" in i["text"] else "limit", collects=True
    )
    rows = [SURE, {"text": "bad refund"}, SURE]
    assert routes(adapter.execute_batch("p", rows)) == ["dspy", "native!", "dspy"]
    assert dspy.batches == [3]
    dspy.refusal = LMError("open")
    assert routes(adapter.execute_batch("p", rows)) == ["native!"] * 3
    assert dspy.batches == [3]
    with pytest.raises(InputError) as caught:
        adapter.execute_batch("p", [SURE, WRONG])
    assert caught.value.row == 1


def test_a_batch_of_a_dspy_program() -> None:
    adapter, dspy = ready()
    adapter.create_program({"id": "open", "signature": "question -> answer"})
    rows = [{"question": str(number)} for number in range(5)]
    dspy.answer = lambda inputs: "re " + inputs["question"]
    results = adapter.execute_batch("open", rows)
    assert [result.answer for result in results] == [f"re {number}" for number in range(5)]
    assert adapter.get_program_info("open")["routing"]["routes"] == {"dspy": 5}


_KINDS = {"sure": SURE, "unsure": UNSURE, "blank": BLANK, "wrong": WRONG, "failing": {"text": "zzz bad"}}


@given(
    st.lists(st.sampled_from(sorted(_KINDS)), max_size=8),
    st.booleans(),
    st.booleans(),
    st.sampled_from([None, "dspy"]),
)
def test_collected_outcomes_are_those_of_single_calls(
    kinds: list[str], collects: bool, fallback: bool, prefer: str | None
) -> None:
    adapter, _ = ready(
        {"fallback": fallback, "prefer": prefer},
        answer=lambda i: LMError("down") if "bad" in i["text"] else "limit",
        collects=True,
    )
    rows: list[Any] = [_KINDS[kind] for kind in kinds]
    outcomes = adapter.execute_batch("p", rows, COLLECT)
    assert len(outcomes) == len(rows)
    for place, (row, outcome) in enumerate(zip(rows, outcomes, strict=True)):
        single = outcome_of(lambda row=row: adapter.execute_program("p", row))
        assert type(outcome) is type(single)
        if isinstance(outcome, DspexError):
            assert outcome.row == place
        else:
            assert outcome == single
            assert routes([outcome]) == routes([single])
    counted = adapter.get_stats()["routing"]["routes"]
    answers = [each for each in outcomes if isinstance(each, Result)]
    assert sum(counted.values()) == 2 * len(answers)
    for route, group in itertools.groupby(sorted(str(each.route) for each in answers)):
        assert counted[route] == 2 * len(list(group))

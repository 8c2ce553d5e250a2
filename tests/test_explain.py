"""Explanations: the reasons are those of the answer, named, and their weights sum to its logit."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dspex import Program
from dspex.errors import InputError
from fit_tools import LABEL, MIXED, inputs_of, mixed, quick, topical
from test_reference import calls

ROWS = mixed(90)
EVERYTHING = quick(MIXED, ROWS)
MANY = quick(
    "text -> label: str", [{"text": f"word{i % 20} x{i}", "label": f"c{i % 20}"} for i in range(100)]
)
SIMPLE = quick(LABEL, topical(120))


def total(reasons: list[Any]) -> float:
    return math.fsum(reason.weight for reason in reasons)


def expected(program: Program, inputs: dict[str, Any]) -> dict[str, float]:
    """Of each output: the logit of what was answered, or the number."""
    result, logits, at = program.predict(inputs), program._logits(inputs), 0
    found = {}
    for head in program._meta["heads"]:
        own = logits[at : at + head["columns"]]
        at += head["columns"]
        if head["kind"] == "multilabel":
            classes = list(result.probabilities(head["name"]))
            picked = [own[classes.index(label)] for label in result[head["name"]]] or [max(own)]
            found[head["name"]] = math.fsum(picked)
        elif head["kind"] == "number":
            found[head["name"]] = head["offset"] + head["scale"] * own[0]
        else:
            found[head["name"]] = max(own)
    return found


@settings(deadline=None, max_examples=60)
@given(data=st.data(), program=st.sampled_from([SIMPLE, MANY, EVERYTHING]))
def test_weights_sum_to_the_logit_of_the_answer(data: st.DataObject, program: Program) -> None:
    inputs = data.draw(calls(program))
    explained = program.explain(**inputs)
    assert list(explained) == list(program.signature.outputs)
    for name, logit in expected(program, inputs).items():
        loudest = max(abs(reason.weight) for reason in explained[name])
        assert total(explained[name]) == pytest.approx(logit, abs=1e-4 * (1 + loudest))


def test_the_weights_say_what_the_probability_says() -> None:
    for row in topical(9, seed=4):
        result, reasons = SIMPLE(text=row["text"]), SIMPLE.explain(text=row["text"])["label"]
        others = [z for z in SIMPLE._logits({"text": row["text"]}) if abs(z - total(reasons)) > 1e-4]
        share = 1 / (1 + sum(math.exp(z - total(reasons)) for z in others))
        assert result.confidence == pytest.approx(share, rel=1e-3)
    inputs = inputs_of(EVERYTHING, ROWS[5])
    result, explained = EVERYTHING.predict(inputs), EVERYTHING.explain(**inputs)
    assert total(explained["price"]) == pytest.approx(result.price, rel=1e-4)
    assert round(total(explained["stars"])) == result.stars
    yes = 1 / (1 + math.exp(-total(explained["urgent"])))
    assert result.probabilities("urgent")[True] == pytest.approx(yes, abs=1e-4)


def test_the_reasons_are_the_words_that_decide() -> None:
    reasons = SIMPLE.explain(text="Hello, please REFUND the refund!")["label"]
    assert reasons[0].feature == "refund"
    assert [abs(reason.weight) for reason in reasons] == sorted(
        (abs(r.weight) for r in reasons), reverse=True
    )
    by_feature = {(reason.feature, reason.kind): reason for reason in reasons}
    assert by_feature["refund", "word"].field == "text"
    assert by_feature["refund", "word"].weight > 0
    assert ("hello", "word") in by_feature
    assert by_feature["(bias)", "bias"].field == ""
    assert len(by_feature) == len(reasons)  # what occurs twice is one reason


def test_unknown_words_are_spelled() -> None:
    reasons = SIMPLE.explain(text="refundable")["label"]
    spelled = [reason.feature for reason in reasons if reason.kind == "ngram"]
    assert {"refu", "fund", " re"} <= set(spelled)
    assert not any(reason.kind == "word" for reason in reasons)
    assert SIMPLE(text="refundable").label == "refund"


def test_pairs_and_skipgrams_are_named_in_full() -> None:
    program = quick(LABEL, topical(60), skipgrams=True)
    kinds = {reason.kind: reason for reason in program.explain(text="cannot find my card")["label"]}
    assert set(kinds) == {"word", "bigram", "skipgram", "bias"}
    assert len(kinds["bigram"].feature.split(" ")) == 2
    assert kinds["skipgram"].feature.split(" ")[1] == "*"


def test_numbers_are_reasons_by_their_names_and_fields_are_kept_apart() -> None:
    row = {**inputs_of(EVERYTHING, ROWS[0]), "subject": "urgent now", "body": "urgent now"}
    reasons = EVERYTHING.explain(**row)["price"]
    numbers = {reason.feature: reason for reason in reasons if reason.kind == "number"}
    assert sorted(numbers) == ["amount", "items", "place", "vip"]
    assert all(reason.field == reason.feature for reason in numbers.values())
    assert reasons[0].feature == "(bias)" or reasons[0].feature == "amount"
    assert {reason.field for reason in reasons if reason.kind == "word"} >= {"subject"}
    higher = EVERYTHING.explain(**(row | {"amount": 480.0}))["price"]
    lower = EVERYTHING.explain(**(row | {"amount": 2.0}))["price"]
    assert total(higher) > total(lower)


def test_no_label_given_explains_the_likeliest() -> None:
    inputs = {**inputs_of(EVERYTHING, ROWS[0]), "body": "nothing of note"}
    result = EVERYTHING.predict(inputs)
    assert result.tags == []
    best = max(EVERYTHING._logits(inputs)[-3:])
    assert total(EVERYTHING.explain(**inputs)["tags"]) == pytest.approx(best, abs=1e-3)


@pytest.mark.parametrize("inputs", [{}, {"text": 3}, {"text": "a", "more": "b"}, {"text": "  "}])
def test_bad_inputs_are_refused_as_in_a_call(inputs: dict[str, Any]) -> None:
    with pytest.raises(InputError) as called:
        SIMPLE.predict(inputs)
    with pytest.raises(InputError) as explained:
        SIMPLE.explain(**inputs)
    assert explained.value.to_dict() == called.value.to_dict()

"""Parity of the finished model: what the compiled core answers is what the oracle answers."""

from __future__ import annotations

import unicodedata
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from dspex import Program, reference
from dspex.reference import Model, tokens
from fit_tools import LABEL, MIXED, inputs_of, mixed, quick, topical
from reference_tools import (
    assert_same_features,
    assert_same_logits,
    compiled,
    hashes_of,
    model_of,
    text_inputs,
    text_options,
)
from test_text import anything

# Of every layout: float rows of 2, 4, 8 and 16 numbers, int8 rows of 32 bytes and up, sums off the stack.
COLUMNS = [1, 2, 3, 4, 7, 8, 15, 16, 24, 25, 56, 57, 77, 150, 1100]
finite = st.floats(-1e4, 1e4, width=32)


# ------------------------------------------------------------------------------------- models made by hand


@settings(deadline=None, max_examples=150)
@given(
    texts=st.lists(anything, min_size=1, max_size=3),
    columns=st.sampled_from(COLUMNS),
    share=st.floats(0, 1),
    weights=st.tuples(*[st.sampled_from([0.0, 0.35, 1.0, 2.5])] * 4, st.sampled_from([0.0, 0.5, 1.0])),
    seed=st.integers(0, 100),
)
def test_any_texts_score_as_defined(
    texts: list[str], columns: int, share: float, weights: tuple[float, ...], seed: int
) -> None:
    names = ("word_weight", "bigram_weight", "skip_weight", "char_weight", "char_power")
    options = text_options(**dict(zip(names, weights, strict=True)))
    hashes = hashes_of(enumerate(texts), options) + hashes_of(enumerate(texts), options, known=False)
    # Some units are known, the words among the others are spelled, with n-grams some of which are known.
    known = np.random.default_rng(seed).permutation(hashes)[: round(share * len(hashes))]
    fields = [f"t{i}" for i in range(len(texts))]
    model = model_of(
        [int(h) for h in known], columns=columns, options=options, inputs=text_inputs(*fields), seed=seed
    )
    assert_same_logits(model, dict(zip(fields, texts, strict=True)))
    for field, text in enumerate(texts):
        assert_same_features(model, text, field)


@settings(deadline=None, max_examples=100)
@given(
    number=st.floats(-1e30, 1e30),
    count=st.integers(-(2**62), 2**62),
    flag=st.booleans(),
    vector=st.lists(finite, min_size=3, max_size=3),
    columns=st.sampled_from(COLUMNS),
    seed=st.integers(0, 100),
)
def test_any_numbers_score_as_defined(
    number: float, count: int, flag: bool, vector: list[float], columns: int, seed: int
) -> None:
    kinds = [("x", "float", 1), ("text", "text", 0), ("n", "int", 1), ("b", "bool", 1), ("v", "vector", 3)]
    model = model_of(hashes_of([(0, "some text")], text_options()), columns=columns, inputs=kinds, seed=seed)
    inputs = {"x": number, "text": "some text", "n": count, "b": flag, "v": vector}
    predictor = compiled(model)
    z, truth = reference.dense_values(model, inputs), reference.logits(model, inputs)
    np.testing.assert_allclose(predictor._dense_values(inputs), z, rtol=1e-4, atol=1e-4)
    tolerance = 1e-6 * np.abs(truth).max() + 1e-3
    np.testing.assert_allclose(predictor._logits(inputs), truth, rtol=1e-4, atol=tolerance)
    for array in (
        np.array(vector, np.float32),
        np.array(vector, np.float64),
        np.array(vector, ">f8"),
        tuple(vector),
    ):
        assert predictor._logits(inputs | {"v": array}) == predictor._logits(inputs)


def test_the_same_text_in_another_field_is_another_feature() -> None:
    options = text_options()
    model = model_of(hashes_of([(0, "lost card")], options), options=options, inputs=text_inputs("a", "b"))
    predictor = compiled(model)
    assert [each[1] for each in predictor._contributions("lost card", 0)] == ["lost", "card", "lost card"]
    assert predictor._contributions("lost card", 1) == []
    assert predictor._logits({"a": "lost card", "b": ""}) != predictor._logits({"a": "", "b": "lost card"})


def test_words_bigrams_skipgrams_and_ngrams_of_the_same_letters_are_different_features() -> None:
    spans = {
        reference.hash_span(b"ab", reference.field_salt(kind, field))
        for kind in reference.SALTS
        for field in range(9)
    }
    assert len(spans) == 4 * 9
    first, second = 123456789, 987654321
    pairs = {
        reference.hash_pair(*pair, kind)
        for pair in ((first, second), (second, first))
        for kind in reference.SALTS
    }
    assert len(pairs) == 2 * 4


@given(st.binary(min_size=1, max_size=80), st.integers(0, 79), st.integers(0, 7))
def test_hashes_see_every_bit(data: bytes, at: int, bit: int) -> None:
    salt = reference.field_salt("word", 0)
    changed = bytearray(data)
    changed[at % len(data)] ^= 1 << bit
    assert reference.hash_span(data, salt) != reference.hash_span(bytes(changed), salt)
    assert reference.hash_span(data, salt) != reference.hash_span(data + b"\0", salt)


# -------------------------------------------------------------------------------------------- to answers

HEADS: list[dict[str, Any]] = [
    {"name": "many", "kind": "choice", "columns": 5, "classes": tuple("abcde")},
    {"name": "two", "kind": "binary", "columns": 1, "classes": (False, True), "threshold": 0.5},
    {"name": "some", "kind": "multilabel", "columns": 3, "classes": tuple("xyz"), "threshold": 0.3},
    {"name": "real", "kind": "number", "columns": 1, "scale": 2.5, "offset": 1.7e9},
    {"name": "whole", "kind": "number", "columns": 1, "integer": True, "scale": 1.0, "offset": 0.0},
]
logit = st.one_of(st.floats(-12, 12, width=32), st.sampled_from([0.0, 1e4, -1e4, 1e30, -1e30]))


@settings(deadline=None, max_examples=200)
@given(st.lists(logit, min_size=11, max_size=11))
@example([0.0] * 11)
@example([1e30] * 11)
def test_logits_become_the_answers_defined(bias: list[float]) -> None:
    model = model_of([], columns=11, heads=HEADS)
    model.arrays["bias"][:] = bias
    result = compiled(model).predict({"text": "unknown"})
    truth, confidence = reference.answers(model, np.asarray(model.arrays["bias"], np.float64))
    assert result.confidence == pytest.approx(confidence, rel=2e-5, abs=1e-6)
    for head in HEADS[:3]:
        given_probabilities = result.probabilities(head["name"])
        assert tuple(given_probabilities) == head["classes"]
        np.testing.assert_allclose(
            list(given_probabilities.values()), truth[head["name"]], rtol=2e-5, atol=1e-6
        )
    assert result["many"] == "abcde"[int(np.argmax(bias[:5]))]
    assert result["two"] is (result.probabilities("two")[True] >= 0.5)
    assert result["some"] == [
        label for label, p in result.probabilities("some").items() if p >= np.float32(0.3)
    ]
    assert result["real"] == truth["real"] == 1.7e9 + 2.5 * float(np.float32(bias[9]))
    if abs(bias[10]) < 1e9:
        assert result["whole"] == round(float(np.float32(bias[10])))


# ---------------------------------------------------------------------------------------- trained models


@pytest.fixture(scope="module", params=["float rows", "int8 rows", "mixed inputs and outputs"])
def trained(request: pytest.FixtureRequest) -> Program:
    if request.param == "float rows":
        return quick()
    if request.param == "int8 rows":
        rows = [
            {"text": row["text"], "label": f"{row['label']}{i // 3 % 7}"}
            for i, row in enumerate(topical(210))
        ]
        return quick("text -> label: str", rows)
    return quick(MIXED, mixed(60), skipgrams=True)


VOCABULARY = sorted({word for row in topical(90) for word in row["text"].split()})
likely = (
    st.lists(st.one_of(st.sampled_from(VOCABULARY), st.sampled_from(VOCABULARY), anything), max_size=8)
    .map(" ".join)
    .filter(tokens)
)


@st.composite
def calls(draw: st.DrawFn, program: Program) -> dict[str, Any]:
    by_kind = {"text": likely, "float": finite, "int": st.integers(-99, 99), "bool": st.booleans()}
    return {
        name: draw(st.lists(finite, min_size=width, max_size=width) if kind == "vector" else by_kind[kind])
        for name, kind, width in program._meta["inputs"]
    }


@settings(deadline=None, max_examples=60)
@given(data=st.data())
def test_a_trained_program_answers_as_the_oracle(trained: Program, data: st.DataObject) -> None:
    inputs = data.draw(calls(trained))
    model = Model.of(trained)
    truth = reference.logits(model, inputs)
    tolerance = 1e-4 * (1 + np.abs(truth).max())
    np.testing.assert_allclose(trained._logits(inputs), truth, rtol=1e-4, atol=tolerance)
    answers, confidence = reference.answers(model, np.asarray(trained._logits(inputs)))
    result = trained.predict(inputs)
    assert result.confidence == pytest.approx(confidence, rel=1e-4, abs=1e-6)
    for head in model.heads:
        if head["kind"] == "number":
            assert result[head["name"]] == pytest.approx(
                answers[head["name"]], abs=0.5 * head["integer"] + 1e-6
            )
        else:
            own = list(result.probabilities(head["name"]).values())
            np.testing.assert_allclose(own, answers[head["name"]], rtol=1e-4, atol=1e-6)


@settings(deadline=None, max_examples=60)
@given(likely.map(lambda text: text.translate(dict.fromkeys(map(ord, "ıŉ\u0345\u0ddd\u0dda\u09cb")))))
def test_normal_forms_and_case_give_the_same_answer(text: str) -> None:
    program = NORMAL
    truth = program._logits({"text": text})
    for form in ("NFC", "NFD", "NFKC", "NFKD"):
        assert program._logits({"text": unicodedata.normalize(form, text)}) == truth
    assert program._logits({"text": text.upper()}) == truth
    assert program._logits({"text": text.lower()}) == truth


FOREIGN = ["Straße", "café naïve", "카드", "カード", "ปัญหา", "हिन्दी क़लम", "ΣΑΣ", "İx"]
NORMAL = quick(
    LABEL,
    [row | {"text": f"{row['text']} {FOREIGN[i % 8]}"} for i, row in enumerate(topical(40))],
)


def test_a_trained_index_is_the_one_defined(trained: Program) -> None:
    arrays = trained._arrays
    hashes = [int(h) for h in arrays["hashes"]]
    assert len(set(hashes)) == len(hashes)
    norm2, weights = reference.unpack_rows(arrays["rows"], len(arrays["bias"]))
    again = reference.pack(hashes, norm2, weights)
    np.testing.assert_array_equal(again["index"], arrays["index"])
    # Packing what was unpacked gives the same bytes, but for a scale's last bit.
    differ = (again["rows"] != arrays["rows"]).mean()
    assert differ == 0 if len(arrays["bias"]) <= reference.MAX_FLOAT_COLUMNS else differ < 0.01
    np.testing.assert_allclose(
        reference.unpack_rows(again["rows"], len(arrays["bias"]))[1], weights, rtol=1e-6
    )


def test_examples_are_made_of_what_the_program_knows(trained: Program) -> None:
    model = Model.of(trained)
    rows = (
        mixed(60)
        if len(trained.signature.inputs) > 1
        else topical(90 if trained._arrays["bias"].size < 16 else 210)
    )
    for row in rows[:20]:
        for field, name in enumerate(n for n, kind, _ in model.inputs if kind == "text"):
            truth = list(reference.units(row[name], field, model.text))
            assert [c[1] for c in trained._contributions(row[name], field)] == [unit.text for unit in truth]
        assert_same = trained._logits(inputs_of(trained, row))
        np.testing.assert_allclose(
            assert_same, reference.logits(model, inputs_of(trained, row)), rtol=1e-3, atol=1e-3
        )

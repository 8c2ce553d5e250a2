"""Parity of the gate: the compiled core sees and says what the oracle does, and so does the fit."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from dspex import Program, _fit, reference, reference_gate
from dspex._meta import GATE_FEATURES
from dspex.reference import Model
from fit_tools import MIXED, inputs_of, mixed, quick, topical
from reference_tools import choice, compiled, hashes_of, model_of, text_inputs, text_options
from test_text import anything

COLUMNS = [2, 3, 8, 15, 16, 40, 77, 150]
AGREE = {"price": 20.0, "stars": 0}


def with_gate(model: Model, seed: int) -> Model:
    rng = np.random.default_rng(seed)
    low, high = np.sort(rng.normal(size=(2, len(model.heads), len(GATE_FEATURES))) * 5, axis=0)
    weights = rng.normal(size=low.shape)
    table = np.stack([weights, low, high], 1).reshape(-1, len(GATE_FEATURES)).astype(np.float32)
    return Model(model.inputs, model.heads, dict(model.arrays) | {"gate": table}, model.text)


def assert_same_gate(model: Model, predictor: Any, inputs: dict[str, Any]) -> None:
    truth = reference_gate.features(model, inputs)
    # Where two answers are as good as each other, 32 bits may pick another than 64.
    at = 0
    for head in model.heads:
        own = reference.logits(model, inputs)[at : at + head["columns"]]
        at += head["columns"]
        assume(head["kind"] == "number" or reference_gate.standing(head, own).margin > 1e-2)
        if head["kind"] == "multilabel":
            assume(len(own) < 2 or float(np.diff(np.sort(own)[-2:])[0]) > 1e-2)
    ours = predictor._gate_features(inputs)
    for mine, yours in zip(ours, truth, strict=True):
        steady = np.array([name not in ("positives", "positive_share") for name in GATE_FEATURES])
        np.testing.assert_allclose(np.array(mine)[steady], yours[steady], rtol=5e-3, atol=5e-3)
        # A weight of nearly nothing may count on either side.
        np.testing.assert_allclose(mine, yours, rtol=0.05, atol=0.3)
    said = predictor.predict(inputs).gate_score
    assert said == pytest.approx(reference_gate.score(model, [np.array(each) for each in ours]), abs=2e-5)


@settings(deadline=None, max_examples=120)
@given(
    texts=st.lists(anything, min_size=1, max_size=2),
    columns=st.sampled_from(COLUMNS),
    share=st.floats(0, 1),
    seed=st.integers(0, 100),
)
def test_any_text_is_seen_as_defined(texts: list[str], columns: int, share: float, seed: int) -> None:
    options = text_options(skip_weight=0.5)
    hashes = hashes_of(enumerate(texts), options) + hashes_of(enumerate(texts), options, known=False)
    known = np.random.default_rng(seed).permutation(hashes)[: round(share * len(hashes))]
    fields = [f"t{i}" for i in range(len(texts))]
    model = with_gate(
        model_of(
            [int(h) for h in known], columns=columns, options=options, inputs=text_inputs(*fields), seed=seed
        ),
        seed,
    )
    inputs = dict(zip(fields, texts, strict=True))
    assume(reference.has_content(model, inputs))
    assert_same_gate(model, compiled(model), inputs)


@pytest.mark.parametrize("columns", [3, 40])
@pytest.mark.parametrize("words", [60, 127, 128, 129, 700])
def test_of_a_long_text_the_first_rows_are_looked_at(columns: int, words: int) -> None:
    rng = np.random.default_rng(words)
    vocabulary = [f"word{i}" for i in range(200)]
    text = " ".join(rng.choice(vocabulary, words))
    options = text_options()
    hashes = hashes_of([(0, text)], options)
    unknown = hashes_of([(0, "word7 word8")], options, known=False)
    known = [h for h in hashes if h % 5] + [g for g in unknown if g not in hashes]
    model = with_gate(model_of(known, columns=columns, options=options, seed=words), words)
    inputs = {"text": text}
    ours, truth = compiled(model)._gate_features(inputs)[0], reference_gate.features(model, inputs)[0]
    np.testing.assert_allclose(ours, truth, rtol=5e-3, atol=5e-3)


@settings(deadline=None, max_examples=300)
@given(st.lists(st.floats(-9, 9, width=32), min_size=5, max_size=5), st.integers(0, 9))
def test_every_kind_of_head_is_seen_as_defined(bias: list[float], seed: int) -> None:
    heads: list[dict[str, Any]] = [
        {"name": "two", "kind": "binary", "columns": 1, "classes": (False, True), "threshold": 0.5},
        {"name": "some", "kind": "multilabel", "columns": 3, "classes": tuple("xyz"), "threshold": 0.3},
        {"name": "real", "kind": "number", "columns": 1, "scale": 2.5, "offset": 1.0},
    ]
    text = "a lost card"
    model = model_of(hashes_of([(0, text)], text_options()), columns=5, heads=heads, seed=seed)
    model.arrays["bias"][:] = bias
    gated = with_gate(model, seed)
    assert_same_gate(gated, compiled(gated), {"text": text})


@given(st.floats(0, float(np.float32(1e38)), width=32))
def test_logarithms_are_those_of_the_library(x: float) -> None:
    evidence = np.zeros((1, 9), np.float32)
    evidence[0, 7] = x  # known pairs, whose logarithm is a feature
    seen = _fit.gate_features(choice(3)[0], np.zeros((1, 3), np.float32), evidence)[0]
    truth = float(np.log(np.float32(1) + np.float32(x)))
    assert seen[GATE_FEATURES.index("known_pairs")] == pytest.approx(truth, rel=3e-7, abs=2e-7)


# ---------------------------------------------------------------------------------------- trained models


@pytest.fixture(scope="module", params=["choice", "mixed"])
def trained(request: pytest.FixtureRequest) -> Program:
    if request.param == "mixed":
        return quick(MIXED, mixed(60), gate=True, agree=AGREE)
    rows = [
        {"text": row["text"], "label": f"{row['label']}{i // 3 % 7}"} for i, row in enumerate(topical(210))
    ]
    return quick("text -> label: str", rows, gate=True)


def test_a_trained_program_scores_as_the_oracle(trained: Program) -> None:
    model = Model.of(trained)
    floor = trained.info()["gate"]["floor"]
    rows = mixed(80, seed=5) if len(trained.signature.inputs) > 1 else topical(80, seed=5)
    checked = 0
    for row in rows:
        inputs = inputs_of(trained, row)
        seen = reference_gate.features(model, inputs)
        own = reference.logits(model, inputs)
        at, steady = 0, True
        for head in model.heads:
            steady &= head["kind"] == "number" or (
                reference_gate.standing(head, own[at : at + head["columns"]]).margin > 1e-2
            )
            at += head["columns"]
        if steady:
            checked += 1
            assert trained.predict(inputs).gate_score == pytest.approx(
                reference_gate.score(model, seen, floor), abs=0.02
            )
    assert checked > 40


def test_the_fit_sees_rows_as_a_call_does() -> None:
    """A fold that is in the examples twice is known: then held-out features are those of a call."""
    program = quick(gate=True)
    head = program._meta["heads"][0]
    inputs = [{"text": row["text"]} for row in topical(30)]
    logits = np.array([program._logits(each) for each in inputs], np.float32)
    seen = np.array([program._gate_features(each)[0] for each in inputs])
    # What needs no rows: the fit's own function gives the same from the same logits.
    made = _fit.gate_features(head, logits, np.zeros((30, 9), np.float32))
    for name in ("one", "log_odds", "surprise", "margin", "top"):
        at = GATE_FEATURES.index(name)
        np.testing.assert_array_equal(made[:, at], seen[:, at].astype(np.float32))


def test_evidence_has_to_fit_the_head() -> None:
    head = choice(3)[0]
    for logits, evidence in (((4, 2), (4, 9)), ((4, 3), (4, 8)), ((4, 3), (3, 9))):
        with pytest.raises(ValueError, match="do not fit the head"):
            _fit.gate_features(head, np.zeros(logits, np.float32), np.zeros(evidence, np.float32))

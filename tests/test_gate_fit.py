"""`fit(gate=True)`: what the score is learned from, and what it is good for."""

from __future__ import annotations

import os
import pickle
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import dspex
from dspex import Program, demo, reference
from dspex._meta import GATE_FEATURES
from dspex.errors import ConfigError, ModelFileError
from dspex.learning.gate import HeldOut, held_out
from dspex.learning.gate_folds import near_copies
from dspex.learning.gate_regression import regress
from dspex.modelfile import write_model
from fit_tools import MIXED, inputs_of, mixed, quick, topical

AGREE = {"price": 20.0, "stars": 0}


@pytest.fixture(scope="module")
def program() -> Program:
    return dspex.fit("text -> label", demo.split()[0], gate=True)


# ------------------------------------------------------------------------------------------- what it says


def test_the_score_ranks_unseen_answers_at_least_as_well_as_the_confidence() -> None:
    train, unseen = demo.split()
    program = dspex.fit("text -> label", train, gate=True, novelty=0.0)
    answers = program.batch([{"text": row["text"]} for row in unseen])
    right = np.array([a.label == row["label"] for a, row in zip(answers, unseen, strict=True)])
    loss = {}
    for name in ("confidence", "score"):
        value = np.array([getattr(a, name) for a in answers])
        loss[name] = -np.where(right, np.log(value), np.log(1 - value)).mean()
    assert loss["score"] <= loss["confidence"] + 0.02


def test_texts_of_no_class_score_low(program: Program) -> None:
    foreign = [
        "the quarterly dividend of the bank was announced by its chairwoman",
        "violins and cellos opened the second movement softly",
        "a recipe for lentil soup with cumin and lemon",
        "photosynthesis turns light into sugar in the leaves",
        "the parliament adjourned after a vote on fisheries",
    ]
    unseen = [a.score for a in program.batch([{"text": row["text"]} for row in demo.split()[1]])]
    strange = [program(text=text).score for text in foreign]
    assert max(strange) < np.median(unseen)
    assert np.mean(strange) < 0.5


def test_without_a_gate_the_score_is_the_confidence() -> None:
    plain = quick()
    assert not plain.has_gate
    assert plain.info()["gate"] is None
    assert plain._gate_features({"text": "lost my card"}) == []
    result = plain(text="lost my card today")
    assert result.score == result.gate_score == result.confidence
    number = quick(
        "text -> n: float", [{"text": r["text"], "n": float(i)} for i, r in enumerate(topical(40))]
    )
    assert number(text="lost my card").score is None


def test_an_output_called_score_keeps_its_name() -> None:
    rows = [{"text": row["text"], "score": row["label"]} for row in topical(90)]
    named = quick("text -> score: Literal['refund', 'card_lost', 'limit']", rows, gate=True)
    result = named(text="somebody: card was stolen")
    assert result.score == result["score"] == "card_lost"
    assert 0 < result.gate_score < 1
    assert pickle.loads(pickle.dumps(result)).gate_score == result.gate_score


def test_results_made_by_hand() -> None:
    route = dspex.Route("x")
    assert dspex.Result({"a": 1}, route=route, confidence=0.3).score == 0.3
    assert dspex.Result({"a": 1}, route=route, confidence=0.3, score=0.7).gate_score == 0.7
    assert dspex.Result({"a": 1}, route=route, confidence=0.3, score=None).score is None
    assert dspex.Result({"score": 9}, route=route, score=0.7).score == 9


def test_the_score_survives_pickles_batches_and_the_pool(program: Program) -> None:
    rows = [{"text": row["text"]} for row in demo.split()[1]] * 4
    singles = [program.predict(row).score for row in rows]
    assert [a.score for a in program.batch(rows)] == singles
    assert [pickle.loads(pickle.dumps(program.predict(row))).score for row in rows[:5]] == singles[:5]
    with dspex.Pool(size=2, capacity=100) as pool:
        assert [a.score for a in program.batch(rows, pool=pool)] == singles
        assert pool.submit(program, rows[0]).result().score == singles[0]


# ------------------------------------------------------------------------------------- what it is made from


def test_the_same_arguments_give_the_same_gate_whatever_the_threads() -> None:
    one, two = (dspex.fit("text -> label", demo.load()[:400], gate=True, threads=n) for n in (1, 3))
    for name, array in one._arrays.items():
        np.testing.assert_array_equal(array, two._arrays[name])
    for a, b in zip(held_out(one), held_out(two), strict=True):
        np.testing.assert_array_equal(a, b)


def test_processes_with_other_hashes_of_strings_fit_the_same_gate() -> None:
    code = (
        "import dspex, hashlib; from dspex import demo\n"
        "p = dspex.fit('text -> label', demo.load()[:300], gate=True, threads=1)\n"
        "print(hashlib.sha256(b''.join(a.tobytes() for a in p._arrays.values())).hexdigest())"
    )
    found = {
        subprocess.run(
            [sys.executable, "-c", code],
            env=os.environ | {"PYTHONHASHSEED": str(seed)},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in (1, 2)
    }
    assert len(found) == 1


def test_a_gate_leaves_the_model_as_it_is() -> None:
    rows = topical(90)
    plain, gated = quick(examples=rows, folds=3), quick(examples=rows, folds=3, gate=True)
    assert set(gated._arrays) - set(plain._arrays) == {"gate"}
    np.testing.assert_array_equal(plain._arrays["hashes"], gated._arrays["hashes"])
    texts = [row["text"] for row in topical(30, seed=9)]
    assert [plain(text=t).label for t in texts] == [gated(text=t).label for t in texts]


def test_held_out_rows_are_those_of_the_examples_in_order(program: Program) -> None:
    rows = demo.split()[0]
    held = held_out(program)
    assert isinstance(held, HeldOut)
    assert [len(each) for each in held] == [len(rows)] * 4
    classes = program.signature.outputs["label"].classes or ()
    wrong = [classes[pick] != row["label"] for pick, row in zip(held.picked, rows, strict=True)]
    assert wrong == held.wrong.tolist()
    assert held.scores.dtype == np.float32
    assert held.scores[~held.wrong].mean() > held.scores[held.wrong].mean() + 0.2
    record = program.info()["gate"]
    assert record["held_out"]["agreement"] == pytest.approx(1 - held.wrong.mean())
    assert record["novelty"] is True
    assert abs(held.scores.mean() - record["held_out"]["agreement"]) < 0.1


def test_only_the_fresh_program_has_held_out_scores(program: Program, tmp_path: Any) -> None:
    program.save(tmp_path / "x.dspex")
    for other in (
        dspex.load(tmp_path / "x.dspex"),
        pickle.loads(pickle.dumps(program)),
        program.with_route(dspex.Route("native")),
        quick(),
    ):
        with pytest.raises(ConfigError, match="no held-out scores"):
            held_out(other)


def test_words_of_the_held_out_fold_count_as_unknown() -> None:
    """Every row has a word of its own: it is unknown to whoever has not seen the row."""
    rows = [{"text": f"{row['text']} only{i}", "label": row["label"]} for i, row in enumerate(topical(90))]
    seen: dict[str, Any] = {}
    from dspex import _fit

    train = _fit.train
    try:
        _fit.train = lambda *a: seen.setdefault("out", train(*a))  # type: ignore[assignment]
        quick(examples=rows, gate=True)
    finally:
        _fit.train = train
    evidence = seen["out"][2]["evidence"][0]["held_out"]
    counts = evidence[:, 5:9]
    options = seen["out"][0] is not None and quick(examples=rows)._meta["text"]
    for row, (known, unknown, pairs, new_pairs) in zip(rows, counts, strict=True):
        units = list(reference.units(row["text"], 0, options))
        words = sum(unit.kind == "word" for unit in units)
        assert (known + unknown, pairs + new_pairs) == (words, len(units) - words)
        assert unknown >= 1
        assert new_pairs >= 1
    assert (evidence[:, 0] >= evidence[:, 1]).all()  # all that speaks for the answer, and the most of it
    assert (evidence[:, 4] >= evidence[:, 3]).all()


def test_many_classes_are_left_out_in_turn_and_few_are_not() -> None:
    assert quick(gate=True).info()["gate"]["novelty"] is False
    rows = [{"text": f"topic{i % 12} about {i}", "label": f"c{i % 12}"} for i in range(240)]
    assert quick("text -> label: str", rows, gate=True).info()["gate"]["novelty"] is True


@pytest.mark.parametrize(
    ("signature", "rows", "options"),
    [
        (MIXED, mixed(60), {"agree": AGREE}),
        ("text -> yes: bool", [{"text": r["text"], "yes": r["label"] == "limit"} for r in topical(60)], {}),
        (
            "text -> n: int",
            [{"text": r["text"], "n": i % 5} for i, r in enumerate(topical(60))],
            {"agree": {"n": 1}},
        ),
        (
            "text -> tags: list[Literal['a', 'b']]",
            [{"text": r["text"], "tags": ["a"] if "card" in r["text"] else ["b"]} for r in topical(60)],
            {},
        ),
        ("x: float -> yes: bool", [{"x": float(i), "yes": i > 30} for i in range(60)], {}),
        ("text -> label: str", topical(4), {}),
    ],
    ids=["mixed", "bool", "int", "labels", "numbers alone", "four rows"],
)
def test_every_kind_of_output_and_little_data(signature: str, rows: Any, options: Any) -> None:
    program = quick(signature, rows, gate=True, **options)
    assert program.has_gate
    scores = [program.predict(inputs_of(program, row)).gate_score for row in rows]
    assert all(score is not None and 0 <= score <= 1 for score in scores)
    assert sum(score > 0 for score in scores) >= len(scores) / 2
    assert len(held_out(program).scores) == len(rows)
    table = program._arrays["gate"]
    assert table.shape == (3 * len(program.signature.outputs), len(GATE_FEATURES))
    assert np.isfinite(table).all()


def test_numbers_agree_within_their_tolerance() -> None:
    rows = [{"text": r["text"], "n": float(i % 7)} for i, r in enumerate(topical(80))]
    wrong = [
        held_out(quick("text -> n: float", rows, gate=True, agree={"n": within})).wrong.mean()
        for within in (0, 1.0, 2.5, 7.0)
    ]
    assert wrong[0] == 1
    assert wrong[-1] == 0
    assert wrong == sorted(wrong, reverse=True)


def test_large_numbers_agree_no_sooner_than_small_ones() -> None:
    found = []
    for base in (0, 3_000_000, 10**12):
        rows = [{"text": r["text"], "n": base + i % 7} for i, r in enumerate(topical(80))]
        found.append(held_out(quick("text -> n: int", rows, gate=True, agree={"n": 0})).wrong)
    assert 0.5 < found[0].mean() < 1
    assert (found[0] == found[1]).all()
    assert (found[0] == found[2]).mean() > 0.9  # a sum of such numbers has fewer digits left


def test_rows_of_no_weight_teach_the_gate_nothing() -> None:
    rows = topical(90)
    noise = [{"text": row["text"] + " zzz", "label": "limit"} for row in topical(30, seed=4)]
    weights = [1.0] * 90 + [0.0] * 30
    program = quick(examples=rows + noise, gate=True, sample_weight=weights)
    assert program.info()["gate"]["held_out"]["rows"] == 90


# ------------------------------------------------------------------------------------------------ refusals


@pytest.mark.parametrize(
    ("signature", "options", "message"),
    [
        (LABELS := "text -> label: str", {"gate": 1}, "'gate' is 1"),
        (LABELS, {"agree": {"label": 1}}, "agree is for a gate"),
        (LABELS, {"gate": True, "agree": {"label": 1}}, "'label', which is no numeric output"),
        (LABELS, {"gate": True, "agree": [1]}, "agree is a list"),
        ("text -> label: str, n: float", {"gate": True}, "'n' has no tolerance"),
        ("text -> label: str, n: float", {"gate": True, "agree": {"n": -1}}, "is -1"),
        ("text -> label: str, n: float", {"gate": True, "agree": {"n": float("nan")}}, "is nan"),
        ("text -> label: str, n: float", {"gate": True, "agree": {"n": True}}, "is True"),
    ],
)
def test_bad_options(signature: str, options: dict[str, Any], message: str) -> None:
    rows = [row | {"n": float(i)} for i, row in enumerate(topical(30))]
    wanted = {name.split(":")[0].strip() for name in signature.replace("->", ",").split(",")}
    with pytest.raises(ConfigError, match=message):
        quick(signature, [{k: v for k, v in row.items() if k in wanted} for row in rows], **options)


# ------------------------------------------------------------------------------------------------- parts


def test_near_copies_are_found_within_a_class_and_no_group_takes_more_than_a_fold() -> None:
    rng = random.Random(0)
    words = [f"w{i}" for i in range(400)]
    bases = [rng.sample(words, 12) for _ in range(20)]
    rows = [" ".join([*base[:11], rng.choice(words)]) for base in bases for _ in range(4)]
    strata = np.repeat(np.arange(2), 40)
    groups = near_copies([rows], strata, 5, 0)
    together = np.mean([groups[4 * i + j] == groups[4 * i] for i in range(20) for j in range(1, 4)])
    assert together > 0.8
    assert all((strata[groups == g] == strata[g]).all() for g in np.unique(groups))
    same = near_copies([["the very same words"] * 40], np.zeros(40, np.int64), 5, 0)
    assert np.bincount(same).max() == 8
    np.testing.assert_array_equal(near_copies([], strata, 5, 0), np.arange(80))
    np.testing.assert_array_equal(near_copies([["", " "]], np.zeros(2, np.int64), 5, 0), np.arange(2))


def test_few_rows_give_back_the_confidence_and_many_what_they_say() -> None:
    rng = np.random.default_rng(0)
    for count, slope in ((6, 1.0), (20_000, 0.4)):
        log_odds = rng.normal(size=count) * 2 + 1
        right = rng.random(count) < 1 / (1 + np.exp(-0.4 * log_odds))
        features = np.zeros((count, len(GATE_FEATURES)), np.float32)
        features[:, 0], features[:, 1] = 1, log_odds
        found = regress(features, right, np.ones(count))
        assert found.weights[1] == pytest.approx(slope, abs=0.5 if count < 10 else 0.05)
        assert not found.weights[2:].any()
        beyond = features.copy()
        beyond[:, 1] = 1e9
        assert found.log_odds(beyond).max() <= found.log_odds(features).max()


def test_what_is_unlike_the_examples_has_a_score_of_0() -> None:
    train, unseen = demo.split()
    by_share = {}
    for share in (0.0, 0.05, 0.3):
        program = dspex.fit("text -> label", train, gate=True, novelty=share)
        floor = program.info()["gate"]["floor"]
        answers = program.batch([{"text": row["text"]} for row in unseen])
        for answer in answers:
            novel = floor is not None and answer.gate_familiarity < floor
            assert (answer.gate_score == 0) == novel
        by_share[share] = float(np.mean([answer.gate_score == 0 for answer in answers]))
        held = held_out(program)
        assert np.mean(held.scores == 0) == pytest.approx(share, abs=0.01)
    assert by_share[0.0] == 0
    assert 0 < by_share[0.05] < 0.15
    assert 0.2 < by_share[0.3] < 0.4
    with pytest.raises(ConfigError, match="novelty"):
        dspex.fit("text -> label", train, gate=True, novelty=0.9)
    again = pickle.loads(pickle.dumps(answers[0]))
    assert again.gate_familiarity == answers[0].gate_familiarity


@pytest.mark.parametrize("floor", ["low", True, 1e40])
def test_a_floor_that_no_fit_gives_is_refused(tmp_path: Path, floor: Any) -> None:
    program = dspex.fit("text -> label", demo.split()[0], gate=True)
    meta = program._meta | {"gate": program._meta["gate"] | {"floor": floor}}
    write_model(tmp_path / "a.dspex", program._arrays, meta | {"signature": program.signature.to_dict()})
    with pytest.raises(ModelFileError, match="floor"):
        dspex.load(tmp_path / "a.dspex")

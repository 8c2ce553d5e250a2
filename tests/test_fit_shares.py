"""How much an example says: soft labels, weights, balance; and how sure the program then is."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest

from dspex.errors import InputError
from fit_tools import LABEL, TOPICS, accuracy, quick, topical

TRAIN, UNSEEN = topical(90, seed=1), topical(60, seed=2)


def test_soft_labels_are_learned_as_shares() -> None:
    rng = random.Random(3)
    kinds = {"sunny": 0.9, "cloudy": 0.5, "stormy": 0.1}
    rows = [
        {"text": f"{word} day {rng.randrange(10)}", "label": {"go": share, "stay": 1 - share}}
        for word, share in kinds.items()
        for _ in range(40)
    ]
    program = quick("text -> label: Literal['go', 'stay']", rows)
    for word, share in kinds.items():
        assert program(text=f"{word} day").probabilities("label")["go"] == pytest.approx(share, abs=0.08)


def test_a_soft_label_says_what_the_same_rows_with_hard_labels_say() -> None:
    spec = "text -> label: Literal['a', 'b', 'c']"
    soft = [{"text": f"word {i % 20}", "label": {"a": 0.5, "b": 0.25, "c": 0.25}} for i in range(40)]
    hard = [{"text": f"word {i % 20}", "label": "aabc"[i // 20]} for i in range(80)]
    ours, theirs = (quick(spec, rows)(text="word 3").probabilities("label") for rows in (soft, hard))
    assert list(ours.values()) == pytest.approx(list(theirs.values()), abs=0.1)


def test_soft_labels_of_bools_and_of_several_labels() -> None:
    rows = [{"text": f"word {i % 9}", "yes": {True: 0.8, False: 0.2}} for i in range(30)]
    rows += [{"text": f"other {i % 9}", "yes": False} for i in range(30)]
    result = quick("text -> yes: bool", rows)(text="word 1")
    assert result.probabilities("yes")[True] == pytest.approx(0.8, abs=0.12)
    tags: list[dict[str, Any]] = [{"text": f"word {i % 9}", "tags": {"x": 0.9, "y": 0.2}} for i in range(30)]
    tags += [{"text": f"other {i % 9}", "tags": ["y"]} for i in range(30)]
    found = quick("text -> tags: list[Literal['x', 'y']]", tags)(text="word 2").probabilities("tags")
    assert found["x"] > 0.7
    assert found["y"] < 0.5


def test_a_weight_counts_like_that_many_rows() -> None:
    rows = [{"text": f"word {i % 10}", "label": "ab"[i // 10 % 2]} for i in range(40)]
    weights = [3.0 if row["label"] == "a" else 1.0 for row in rows]
    repeated = [row for row, weight in zip(rows, weights, strict=True) for _ in range(int(weight))]
    spec = "text -> label: Literal['a', 'b']"
    weighted = quick(spec, rows, sample_weight=weights)(text="word 4").probabilities("label")["a"]
    assert weighted == pytest.approx(0.75, abs=0.06)
    assert weighted == pytest.approx(
        quick(spec, repeated)(text="word 4").probabilities("label")["a"], abs=0.05
    )


def test_a_row_of_weight_zero_is_left_out() -> None:
    wrong = [row | {"label": "refund"} for row in topical(60, seed=5) if row["label"] != "refund"]
    rows, weights = TRAIN + wrong, [1.0] * len(TRAIN) + [0.0] * len(wrong)
    ours, clean = quick(LABEL, rows, sample_weight=weights), quick(LABEL, TRAIN)
    assert accuracy(ours, UNSEEN) >= accuracy(clean, UNSEEN) - 0.02 > accuracy(quick(LABEL, rows), UNSEEN)
    only_one = [1.0 if row["label"] == "refund" else 0.0 for row in TRAIN]
    with pytest.raises(InputError, match="every example has the class 'refund'"):
        quick(LABEL, TRAIN, sample_weight=only_one)


def test_weights_may_be_any_numbers_in_a_row() -> None:
    weights = [0.5 + i % 3 for i in range(len(TRAIN))]
    arrays = [
        quick(LABEL, TRAIN, sample_weight=form)._arrays["rows"]
        for form in (weights, np.array(weights), np.array(weights, np.float32), iter(weights))
    ]
    for other in arrays[1:]:
        np.testing.assert_array_equal(other, arrays[0])
    assert not np.array_equal(arrays[0], quick(LABEL, TRAIN)._arrays["rows"])


def test_balanced_classes_raise_the_rare_one() -> None:
    rows = [{"text": f"word {i % 20}", "label": "rare" if i < 20 else "common"} for i in range(200)]
    spec = "text -> label: Literal['common', 'rare']"
    plain, balanced = (quick(spec, rows, class_weight=w)(text="word") for w in (None, "balanced"))
    assert plain.probabilities("label")["rare"] == pytest.approx(0.1, abs=0.06)
    assert balanced.probabilities("label")["rare"] == pytest.approx(0.5, abs=0.1)


# ------------------------------------------------------------------------------------ honest probabilities


def coin_texts(count: int, seed: int) -> list[dict[str, Any]]:
    """Texts whose words say nothing about the label."""
    rng = random.Random(seed)
    return [
        {
            "text": " ".join(f"w{rng.randrange(200)}" for _ in range(8)),
            "label": rng.choice(["a", "b", "c", "d"]),
        }
        for _ in range(count)
    ]


def test_noise_is_answered_with_doubt() -> None:
    program = quick("text -> label", coin_texts(300, 0))
    confidences = [program(text=row["text"]).confidence for row in coin_texts(100, 1)]
    assert np.mean(confidences) < 0.45
    held_out = program.info()["calibration"]["held_out"]["label"]
    assert held_out["accuracy"] < 0.4


def test_copies_of_a_row_are_held_out_together() -> None:
    program = quick("text -> label", coin_texts(80, 0) * 5)
    held_out = program.info()["calibration"]["held_out"]["label"]
    assert held_out["accuracy"] < 0.5
    assert np.mean([program(text=row["text"]).confidence for row in coin_texts(60, 1)]) < 0.6


def test_confidence_is_the_share_of_right_answers() -> None:
    rng = random.Random(9)

    def noisy(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return [row | {"label": rng.choice(list(TOPICS))} if rng.random() < 0.3 else row for row in rows]

    program, unseen = quick(LABEL, noisy(topical(600))), noisy(topical(600, seed=3))
    confidence = np.mean([program(text=row["text"]).confidence for row in unseen])
    assert confidence == pytest.approx(accuracy(program, unseen), abs=0.12)
    assert program.info()["calibration"]["held_out"]["label"]["ece"] < 0.15


def test_very_few_examples() -> None:
    rows = [{"text": "lost card", "label": "x"}, {"text": "refund", "label": "y"}]
    program = quick("text -> label", rows)
    assert [program(text=row["text"]).label for row in rows] == ["x", "y"]


def test_of_noise_the_share_is_learned() -> None:
    for seed in range(12):
        rng = random.Random(seed)

        def words(rng: random.Random = rng) -> str:
            return " ".join(f"w{rng.randrange(60)}" for _ in range(6))

        rows = [{"text": words(), "yes": rng.random() < 0.2} for _ in range(60)]
        program = quick("text -> yes: bool", rows)
        mean = np.mean([program(text=words()).probabilities("yes")[True] for _ in range(100)])
        assert mean == pytest.approx(np.mean([row["yes"] for row in rows]), abs=0.05)


def test_a_few_right_answers_are_no_certainty() -> None:
    """Ninety rows that are easily told apart do not make a text of unknown words a sure case."""
    for spec, rows in (
        (LABEL, TRAIN),
        ("text -> yes: bool", [{"text": row["text"], "yes": row["label"] == "limit"} for row in TRAIN]),
    ):
        assert quick(spec, rows)(text="zebra quantum giraffe").confidence < 0.95

"""What fit learns: every kind of output and input, in every form, and the extremes."""

from __future__ import annotations

import random
from enum import Enum
from typing import Any, Literal

import numpy as np
import pytest

import dspex
from dspex import Program
from fit_tools import LABEL, MIXED, TOPICS, accuracy, inputs_of, mixed, quick, topical

TRAIN, UNSEEN = topical(90, seed=1), topical(60, seed=2)


def relabelled(
    rows: list[dict[str, Any]], classes: dict[str, Any], name: str = "label"
) -> list[dict[str, Any]]:
    return [{"text": row["text"], name: classes[row["label"]]} for row in rows]


# ----------------------------------------------------------------------------------------- kinds of outputs


class Tone(Enum):
    CALM = "calm tone"
    ANGRY = "angry tone"
    COLD = 3


@pytest.mark.parametrize(
    ("spec", "classes"),
    [
        (LABEL, {topic: topic for topic in TOPICS}),
        ("text -> label", {"refund": "b", "card_lost": "a", "limit": "ß ünïcode"}),
        ("text -> label: Literal[1, '1', None]", {"refund": 1, "card_lost": "1", "limit": None}),
        ("text -> label: Literal['yes', None]", {"refund": "yes", "card_lost": None, "limit": None}),
        ("text -> label: bool", {"refund": True, "card_lost": False, "limit": False}),
        ({"inputs": {"text": "str"}, "outputs": {"label": Tone}}, dict(zip(TOPICS, Tone, strict=True))),
    ],
    ids=["literal", "str", "literal of mixed types", "two classes", "bool", "enum"],
)
def test_classes_are_learned_and_given_back_as_themselves(spec: Any, classes: dict[str, Any]) -> None:
    program = quick(spec, relabelled(TRAIN, classes))
    unseen = relabelled(UNSEEN, classes)
    assert accuracy(program, unseen) >= 0.95
    declared = list(dict.fromkeys(classes.values()))
    for row in unseen[:5]:
        result = program(text=row["text"])
        assert any(
            result.label is each or (result.label == each and type(result.label) is type(each))
            for each in declared
        )
        found = result.probabilities("label")
        assert sum(found.values()) == pytest.approx(1, abs=1e-5)
        assert result.confidence == pytest.approx(max(found.values()), abs=1e-6)
        assert result.label in found
    assert program.kind == "classify"
    assert program.backend == "native"


def test_classes_of_a_str_output_come_from_the_examples_sorted() -> None:
    program = quick("text -> label", relabelled(TRAIN, {"refund": "z", "card_lost": "a", "limit": "m"}))
    assert program.signature.outputs["label"].classes == ("a", "m", "z")
    assert list(program(text="refund").probabilities("label")) == ["a", "m", "z"]


def test_enum_members_and_their_values_are_the_same_label() -> None:
    spec = {"inputs": {"text": "str"}, "outputs": {"label": Tone}}
    members = quick(spec, relabelled(TRAIN, dict(zip(TOPICS, Tone, strict=True))))
    values = quick(spec, relabelled(TRAIN, {t: tone.value for t, tone in zip(TOPICS, Tone, strict=True)}))
    np.testing.assert_array_equal(members._arrays["rows"], values._arrays["rows"])
    assert values(text="refund my money back").label is Tone.CALM


@pytest.mark.parametrize("kind", ["float", "int"])
def test_numbers_are_learned(kind: str) -> None:
    values = {"refund": -250, "card_lost": 40, "limit": 1000}
    program = quick(f"text -> score: {kind}", relabelled(TRAIN, values, "score"))
    answers = [program(text=row["text"]).score for row in UNSEEN]
    truth = [values[row["label"]] for row in UNSEEN]
    assert float(np.abs(np.subtract(answers, truth)).mean()) < 0.3 * float(np.std(truth))
    assert all(type(answer) is (int if kind == "int" else float) for answer in answers)
    result = program(text="refund")
    assert result.confidence is None
    assert program.kind == "predict"
    with pytest.raises(KeyError):
        result.probabilities("score")


@pytest.mark.parametrize("declared", ["list[Literal['web', 'shop', 'phone']]", "list[str]"])
def test_several_labels_at_once(declared: str) -> None:
    rows = [{"text": row["body"], "tags": row["tags"]} for row in mixed(240)]
    program = quick(f"text -> tags: {declared}", rows[:180])
    results = [program(text=row["text"]) for row in rows[180:]]
    right = [set(result.tags) == set(row["tags"]) for result, row in zip(results, rows[180:], strict=True)]
    assert np.mean(right) > 0.9
    classes = list(program.signature.outputs["tags"].classes or ())
    assert sorted(classes) == ["phone", "shop", "web"]
    for result in results:
        assert result.tags == [c for c in classes if c in result.tags]  # in the order of the classes
        assert all(0 <= p <= 1 for p in result.probabilities("tags").values())
    assert any(result.tags == [] for result in results)


def test_every_kind_of_input_and_output_at_once() -> None:
    program, unseen = quick(MIXED, mixed(300)), mixed(90, seed=7)
    assert accuracy(program, unseen, "label") > 0.95
    assert accuracy(program, unseen, "urgent") > 0.95
    results = program.batch([inputs_of(program, row) for row in unseen])
    right = [set(r["tags"]) == set(row["tags"]) for r, row in zip(results, unseen, strict=True)]
    assert np.mean(right) > 0.85
    for name, share in (("price", 0.25), ("stars", 0.5)):
        truth = np.array([row[name] for row in unseen], float)
        error = np.abs(np.array([r[name] for r in results]) - truth).mean()
        assert error < share * truth.std(), name
    assert list(results[0]) == ["label", "urgent", "price", "stars", "tags"]
    first = results[0]
    assert first.confidence <= first.probabilities("label")[first.label]
    assert first.confidence <= first.probabilities("urgent")[first.urgent]
    assert program.kind == "predict"


def test_outputs_of_very_different_size_do_not_disturb_each_other() -> None:
    """Twenty classes share int8 rows with a number in the hundred thousands."""
    rng = random.Random(2)
    classes = [f"c{i}" for i in range(20)]

    def example() -> dict[str, Any]:
        c, dear = rng.randrange(20), rng.random() < 0.5
        words = [f"w{(c * 15 + rng.randrange(20)) % 300}" for _ in range(6)]
        text = " ".join([*words, "dear" if dear else "cheap"])
        return {"text": text, "label": classes[c], "price": (9e5 if dear else 1e4) + 1000 * c}

    rows = [example() for _ in range(1000)]
    spec = f"text -> label: {Literal[tuple(classes)]}".replace("typing.", "")
    alone = accuracy(quick(spec, rows[:800]), rows[800:])
    both = quick(f"{spec}, price: float", rows[:800])
    assert alone > 0.9
    assert accuracy(both, rows[800:]) >= alone - 0.02
    error = [abs(both(text=row["text"]).price - row["price"]) for row in rows[800:]]
    assert np.mean(error) < 0.1 * np.std([row["price"] for row in rows])


@pytest.mark.parametrize(
    "start",
    [
        pytest.param(2000.0, id="years"),
        pytest.param(1.7e9, id="seconds"),
    ],
)
def test_numbers_far_from_zero_keep_their_digits(start: float) -> None:
    values = {"refund": start, "card_lost": start + 10, "limit": start + 20}
    program = quick("text -> when: float", relabelled(TRAIN, values, "when"))
    answers = np.array([program(text=row["text"]).when for row in UNSEEN])
    assert np.abs(answers - [values[row["label"]] for row in UNSEEN]).mean() < 3


# ------------------------------------------------------------------------------------------ kinds of inputs


def test_text_fields_are_kept_apart() -> None:
    """Which field holds the word decides; the words are the same."""
    rng = random.Random(0)

    def example() -> dict[str, Any]:
        first, second = rng.sample(["alarm", "calm", "river", "stone", "cloud"], 2)
        return {"a": first, "b": second, "label": first < second}

    rows = [example() for _ in range(120)]
    assert accuracy(quick("a, b -> label: bool", rows), rows) > 0.9
    joined = [{"text": " ".join(sorted((row["a"], row["b"]))), "label": row["label"]} for row in rows]
    assert accuracy(quick("text -> label: bool", joined), joined) < 0.8


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        ("float", lambda yes, rng: rng.gauss(1e6 if yes else -1e6, 1e5)),
        ("float", lambda yes, rng: rng.gauss(1000.001 if yes else 1000.0, 1e-4)),
        ("int", lambda yes, rng: rng.randrange(5, 9) if yes else rng.randrange(0, 4)),
        ("bool", lambda yes, rng: yes),
        ("list[float]", lambda yes, rng: [rng.gauss(0, 1), 3.0 * yes + rng.gauss(0, 0.1), 7.0]),
    ],
    ids=["large", "close", "int", "bool", "vector"],
)
def test_numbers_alone_decide(kind: str, value: Any) -> None:
    rng = random.Random(4)
    rows = [{"x": value(i % 2 == 0, rng), "label": i % 2 == 0} for i in range(120)]
    program = quick(f"x: {kind} -> label: bool", rows[:80])
    assert accuracy(program, rows[80:]) >= 0.97
    assert program._meta["calibration"]["held_out"]["label"]["accuracy"] >= 0.95


def test_numbers_decide_beside_a_text_that_says_nothing() -> None:
    rows = [{"text": "same words", "x": float(i % 10), "label": i % 10 > 4} for i in range(100)]
    program = quick("text, x: float -> label: bool", rows)
    assert accuracy(program, rows) == 1.0
    # The same text with other numbers is another example: it is held out, and told apart.
    assert program._meta["calibration"]["held_out"]["label"]["accuracy"] >= 0.9


def test_numpy_vectors_and_columns_are_examples_like_lists() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(60, 4))
    label = x[:, 2] > 0
    as_rows = [{"x": list(map(float, v)), "label": bool(y)} for v, y in zip(x, label, strict=True)]
    spec = "x: list[float] -> label: bool"
    programs = [
        quick(spec, as_rows),
        quick(spec, {"x": x, "label": label}),
        quick(spec, {"x": list(x), "label": list(label)}),
    ]
    for program in programs[1:]:
        for name, array in programs[0]._arrays.items():
            np.testing.assert_array_equal(program._arrays[name], array)


def test_examples_in_any_form_give_the_same_program() -> None:
    class Example:  # as dspy.Example
        def __init__(self, row: dict[str, Any]) -> None:
            self.row = row

        def toDict(self) -> dict[str, Any]:
            return self.row

    columns = {name: [row[name] for row in TRAIN] for name in ("text", "label")}
    extra = [row | {"note": i} for i, row in enumerate(TRAIN)]
    forms: list[Any] = [TRAIN, tuple(TRAIN), iter(TRAIN), [Example(row) for row in TRAIN], columns, extra]
    forms.append({name: np.array(column) for name, column in columns.items()})
    prints = {quick(LABEL, form).info()["data"]["fingerprint"] for form in forms}
    assert len(prints) == 1
    assert quick(LABEL, TRAIN[1:]).info()["data"]["fingerprint"] not in prints


# ---------------------------------------------------------------------------------------------- extremes


def test_a_class_that_was_never_seen_is_a_class() -> None:
    rows = [{"text": "lost card", "label": "x"}, {"text": "refund", "label": "y"}]
    result = quick("text -> label: Literal['x', 'y', 'z']", rows)(text="lost card")
    assert result.label == "x"
    assert list(result.probabilities("label")) == ["x", "y", "z"]


def test_very_many_text_fields() -> None:
    fields = [f"f{i}" for i in range(300)]
    rows = [
        dict.fromkeys(fields, "") | {"f0": "x", "f299": word, "label": word}
        for word in ("alphabet", "zimbabwe")
        for _ in range(6)
    ]
    program = quick(f"{', '.join(fields)} -> label", rows)
    assert program._contributions("alphabetical", 299)
    assert not program._contributions("alphabetical", 299 - 256)


def test_many_classes() -> None:
    rows = [{"text": f"topic{i} word{i % 7}", "label": f"class {i}"} for i in range(300) for _ in range(2)]
    program = quick("text -> label", rows, max_epochs=5)
    assert accuracy(program, rows) > 0.95
    assert len(program(text="topic3").probabilities("label")) == 300


def test_text_of_every_script_is_learned() -> None:
    lost = ["我丢了银行卡", "カードを失くした", "บัตรหาย", "카드를 잃어버렸어요", "ضاعت بطاقتي", "😭💳"]
    refund = ["我要退款", "返金してください", "ขอเงินคืน", "환불해 주세요", "أريد استرداد المال", "💸🙏"]
    rows = [
        {"text": f"{text} {i}", "label": label}
        for i in range(8)
        for label, texts in (("lost", lost), ("refund", refund))
        for text in texts
    ]
    program = quick("text -> label", rows)
    for text in ("银行卡丢了", "カード失くした", "บัตรหาย!", "카드 잃어", "بطاقتي ضاعت", "💳😭"):
        assert program(text=text).label == "lost"
    for text in ("退款吧", "返金して", "เงินคืน", "환불", "استرداد", "🙏💸"):
        assert program(text=text).label == "refund"


def test_the_options_of_features_have_an_effect() -> None:
    plain = quick(LABEL, TRAIN)
    changes: tuple[dict[str, Any], ...] = (
        {"bigrams": False, "skipgrams": True, "min_n": 3, "max_n": 3, "min_pair_df": 3, "max_units": 50},
        {"char_weight": 0.1, "char_power": 0.0, "c": 0.1, "folds": 5},
    )
    for options in [{name: value} for change in changes for name, value in change.items()]:
        other = quick(LABEL, TRAIN, **options)
        same = all(np.array_equal(other._arrays[k], v) for k, v in plain._arrays.items())
        assert not same, options
        assert other.info()["options"] | options == other.info()["options"]
    assert len(quick(LABEL, TRAIN, max_units=50)._arrays["index"]) <= len(plain._arrays["index"])
    assert quick(LABEL, TRAIN, max_units=50).info()["units"] == 50


def test_a_program_knows_what_it_was_fitted_on() -> None:
    program = quick(LABEL, TRAIN, id="mine", seed=3, c=2.0)
    info = program.info()
    assert (info["id"], program.id) == ("mine", "mine")
    assert info["data"]["rows"] == len(TRAIN)
    assert (info["options"]["seed"], info["options"]["c"]) == (3, 2.0)
    assert quick(LABEL, TRAIN).id == quick(LABEL, TRAIN).id != quick(LABEL, TRAIN[1:]).id
    assert isinstance(program, Program)
    assert isinstance(dspex.fit(LABEL, TRAIN, threads=1), dspex.Program)

"""partial_fit: a new program that has also learned from a few more examples."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import dspex
from dspex.errors import ConfigError, InputError

WORDS = {"refund": "money back please", "lost": "my card is gone", "limit": "raise the limit"}
ROWS = [{"text": f"{text} {i}", "label": label} for i in range(20) for label, text in WORDS.items()]
NEW = [{"text": "zorb the frobnicator", "label": "lost"}]


@pytest.fixture(scope="module")
def program() -> dspex.Program:
    return dspex.fit("text -> label", ROWS, threads=1)


def share(program: dspex.Program, text: str, label: str) -> float:
    return float(program(text=text).probabilities("label")[label])


def test_new_words_are_learned_and_the_rest_stays(program: dspex.Program) -> None:
    before = {name: np.array(array) for name, array in program._arrays.items()}
    more = program.partial_fit(NEW)
    assert more(text="zorb the frobnicator").label == "lost"
    assert share(more, "frobnicator", "lost") > share(program, "frobnicator", "lost") + 0.1
    assert all(np.array_equal(before[name], array) for name, array in program._arrays.items())
    for label, text in WORDS.items():
        assert more(text=text).label == label
        assert abs(share(more, text, label) - share(program, text, label)) < 0.1


def test_the_whole_example_is_explained_by_its_words(program: dspex.Program) -> None:
    reasons = program.partial_fit(NEW).explain(text="zorb")["label"]
    assert [r.kind for r in reasons if r.feature == "zorb"] == ["word"]


def test_c_says_how_far_an_example_moves_the_program(program: dspex.Program) -> None:
    shares = [share(program.partial_fit(NEW, c=c), "zorb the frobnicator", "lost") for c in (0.01, 0.3, 10.0)]
    assert shares == sorted(shares)
    assert shares[2] > shares[0] + 0.2


def test_weight_0_teaches_nothing(program: dspex.Program) -> None:
    both = [*NEW, {"text": "zorb the frobnicator", "label": "refund"}]
    more = program.partial_fit(both, sample_weight=[1, 0])
    assert share(more, "zorb the frobnicator", "lost") > share(more, "zorb the frobnicator", "refund")


def test_soft_labels_are_met_in_part(program: dspex.Program) -> None:
    soft = [{"text": "zorb", "label": {"lost": 0.6, "limit": 0.4}}] * 20
    more = program.partial_fit(soft, c=100.0)
    assert share(more, "zorb", "lost") == pytest.approx(0.6, abs=0.12)
    assert share(more, "zorb", "limit") == pytest.approx(0.4, abs=0.12)


def test_the_same_examples_give_the_same_program(program: dspex.Program, tmp_path: Path) -> None:
    program.partial_fit(NEW).save(tmp_path / "a")
    program.partial_fit(NEW).save(tmp_path / "b")
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    loaded = dspex.load(tmp_path / "a")
    taught = program.partial_fit(NEW)
    assert loaded(text="zorb").probabilities("label") == taught(text="zorb").probabilities("label")
    again = loaded.partial_fit([{"text": "quux", "label": "limit"}])
    assert again(text="quux").label == "limit"
    assert again.info()["data"]["rows"] == len(ROWS) + 2


def test_every_kind_of_output_and_input_takes_part() -> None:
    rows = [
        {"text": f"{w} {i}", "size": i % 5, "label": w, "hot": w == "red", "tags": [w, "x"], "score": i / 4}
        for i in range(8)
        for w in ("red", "green", "blue")
    ]
    many = dspex.fit("text, size: float -> label, hot: bool, tags: list[str], score: float", rows, threads=1)
    new: dict[str, Any] = {"text": "vermilion", "size": 2.0}
    answer = {"label": "red", "hot": True, "tags": ["red"], "score": 40.0}
    taught = many.partial_fit([{**new, **answer}] * 3, c=30.0)
    result = taught.predict(new)
    assert (result.label, result.hot, result.tags) == ("red", True, ["red"])
    assert result.score > many.predict(new).score + 1
    assert result.score <= 40.0


@pytest.mark.parametrize(
    ("examples", "field"),
    [
        ([{"text": "a", "label": "unheard of"}], "label"),
        ([{"text": "a"}], "label"),
        ([{"text": 3, "label": "lost"}], "text"),
        ([{"text": "", "label": "lost"}], "text"),
        ([], None),
    ],
)
def test_bad_examples_are_refused(program: dspex.Program, examples: Any, field: str | None) -> None:
    with pytest.raises(InputError) as caught:
        program.partial_fit(examples)
    assert caught.value.field == field
    assert caught.value.row == (0 if examples else None)


@pytest.mark.parametrize("c", [0, -1.0, float("nan"), float("inf"), "3", True])
def test_c_must_be_a_number_above_0(program: dspex.Program, c: Any) -> None:
    with pytest.raises(ConfigError) as caught:
        program.partial_fit(NEW, c=c)
    assert caught.value.field == "c"


def test_a_vector_of_another_width_is_refused() -> None:
    rows = [{"v": [float(i), 1.0], "label": "ab"[i % 2]} for i in range(8)]
    program = dspex.fit("v: list[float] -> label", rows, threads=1)
    with pytest.raises(InputError) as caught:
        program.partial_fit([{"v": [1.0, 2.0, 3.0], "label": "a"}])
    assert caught.value.field == "v"


def test_numbers_stay_within_the_range_of_the_examples() -> None:
    rows = [{"text": " ".join(["good"] * i + ["bad"] * (5 - i)), "stars": i} for i in range(1, 6)] * 4
    program = dspex.fit("text -> stars: int", rows, threads=1)
    assert program(text="good " * 40).stars <= 5
    assert program(text="bad " * 40).stars >= 1

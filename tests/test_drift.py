"""Drift of the inputs: references, alarms, reports, states, refusals."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from scipy.stats import beta

from dspex.errors import ConfigError, InputError
from dspex.guarantee.drift import DriftReference, DriftWatch, credit

CLASSES = ("billing", "delivery", "other", "returns")
Call = tuple[float, str, float]


def calls(n: int, seed: int = 0, *, new: float = 0.0, p: Any = (0.3, 0.3, 0.1, 0.3)) -> Iterator[Call]:
    """Scores, classes and shares of unknown words; ``new``: the share of calls of a new kind."""
    rng = np.random.default_rng(seed)
    for _ in range(n):
        strange = rng.random() < new
        score = rng.beta(2, 2) if strange else rng.beta(8, 1)
        # Texts are short: most have no unknown word at all, so that the shares have many equal values.
        unknown = rng.binomial(8, 0.5 if strange else 0.02) / 8
        yield float(score), CLASSES[rng.choice(4, p=p)], float(unknown)


def reference(n: int = 2000, seed: int = 100) -> DriftReference:
    scores, labels, unknown = zip(*calls(n, seed), strict=True)
    return DriftReference.of(scores, labels, unknown, classes=CLASSES)


def until_alarm(watch: DriftWatch, stream: Iterator[Call]) -> int | None:
    return next((n for n, call in enumerate(stream, 1) if watch.update(*call)), None)


def test_a_reference_keeps_counts_and_order_statistics() -> None:
    scores = np.linspace(0, 1, 1001)
    made = DriftReference.of(scores, ["a"] * 1000 + ["b"], classes=["c", "a"])
    assert (made.rows, made.counts, made.unknown) == (1001, {"a": 1000, "b": 1, "c": 0}, None)
    for rank, value, below, above in made.scores:
        assert value == scores[rank - 1]
        assert (below, above) == (rank - 1, 1001 - rank)
    equal = DriftReference.of([0.0, 0.0, 0.5, 0.5, 0.5, 1.0], None)
    assert {line[1:] for line in equal.scores} == {(0.0, 0, 4), (0.5, 2, 1), (1.0, 5, 0)}
    again = DriftReference.from_dict(json.loads(json.dumps(made.to_dict())))
    assert again.to_dict() == made.to_dict()
    assert again.events() == made.events()


def test_what_a_reference_leaves_open_is_exact() -> None:
    made = reference()
    for events in made.events().values():
        for level in (0.3, 1e-4):
            bounds = made.open_shares(events, level)
            seen = np.array([event.seen for event in events])
            assert bounds == pytest.approx(beta.ppf(1 - level, seen + 1, made.rows - seen), rel=1e-9)


def test_an_order_statistic_with_equal_values_keeps_its_promise() -> None:
    # Of a coarse distribution, what is "below" the k-th value is at most, and "above" it too, what is said.
    rng = np.random.default_rng(3)
    worse, times, level = 0, 400, 0.1
    grid = np.arange(4) / 4
    for _ in range(times):
        values = rng.integers(0, 4, 60) / 4
        made = DriftReference.of(values, None)
        events = made.events()["score"]
        truth = np.array([np.mean(grid < e.limit if e.side == "below" else grid > e.limit) for e in events])
        worse += int((truth > made.open_shares(events, level)).sum())
    assert worse / times / len(events) <= level


def test_a_credit_is_an_e_value() -> None:
    p = (np.arange(200_000) + 0.5) / 200_000
    assert np.mean([credit(float(x)) for x in p]) <= 1.0
    assert credit(1.0) == 0.5
    assert credit(1e-9) > credit(1e-3) > credit(0.1) > credit(0.9) > 0.5


def test_calls_like_the_reference_raise_no_alarm() -> None:
    watch = DriftWatch(reference(), 0.05)
    assert until_alarm(watch, calls(5000)) is None
    report = watch.report()
    assert (report["alarm"], report["n"], report["since"], report["limit"]) == (False, 5000, None, 20)
    assert "No drift shown in 5000 calls" in report["text"]
    assert all(report[group]["moved"] == [] for group in ("score", "classes", "unknown"))
    was, lately = report["classes"]["shares"]["billing"]
    assert abs(was - 0.3) < 0.05
    assert abs(lately - 0.3) < 0.1
    json.dumps(report)


def test_calls_of_a_new_kind_are_told_by_scores_and_unknown_words() -> None:
    watch = DriftWatch(reference(), 0.05)
    assert until_alarm(watch, calls(1000)) is None
    delay = until_alarm(watch, calls(1000, 1, new=0.25))
    assert delay is not None
    assert delay < 200
    report = watch.report()
    assert report["alarmed_at"] == 1000 + delay
    assert 800 <= report["since"] <= 1000 + delay
    moved = report["score"]["moved"] + report["unknown"]["moved"]
    assert moved
    assert report["classes"]["moved"] == []
    for move in moved:
        assert move["direction"] == "rose"
        assert move["reference"] < move["at_most"] < 1
        assert move["text"] in report["text"]
    assert {move["what"].split()[0] for move in moved} <= {"scores", "shares"}
    json.dumps(report)


@pytest.mark.parametrize(
    ("p", "what", "direction"),
    [((0.2, 0.2, 0.4, 0.2), "class 'other'", "rose"), ((0.0, 0.45, 0.1, 0.45), "class 'billing'", "fell")],
)
def test_a_class_that_moves_is_named(p: tuple[float, ...], what: str, direction: str) -> None:
    watch = DriftWatch(reference(), 0.05)
    assert until_alarm(watch, calls(1000, 2, p=p)) is not None
    move = watch.report()["classes"]["moved"][0]
    assert (move["what"], move["direction"]) == (what, direction)
    assert (move["lately"] > move["reference"]) == (direction == "rose")
    bound = move["at_most"] if direction == "rose" else move["at_least"]
    assert (bound > move["reference"]) == (direction == "rose")
    assert f"{what} {direction} from" in watch.report()["text"]


def test_a_label_that_the_reference_lacks_is_drift() -> None:
    watch = DriftWatch(reference(), 0.05)
    odd = ((s, "complaints" if n % 5 == 0 else label, u) for n, (s, label, u) in enumerate(calls(500)))
    assert until_alarm(watch, odd) is not None
    assert watch.report()["classes"]["moved"][0]["what"] == "classes unknown to the reference"


def test_the_alarm_stays_and_calls_are_still_counted() -> None:
    watch = DriftWatch(reference(), 0.05)
    at = until_alarm(watch, calls(1000, 1, new=0.5))
    evidence = watch.evidence
    assert all(watch.update(*call) for call in calls(400, 2))
    assert (watch.alarmed_at, watch.evidence, watch.n) == (at, evidence, (at or 0) + 400)
    assert watch.report()["score"]["moved"][0]["lately"] < 0.9


def test_a_tolerance_lets_small_moves_pass() -> None:
    small = {"p": (0.23, 0.3, 0.17, 0.3)}
    assert until_alarm(DriftWatch(reference(), 0.05), calls(3000, 5, **small)) is not None
    assert until_alarm(DriftWatch(reference(), 0.05, tolerance=0.08), calls(3000, 5, **small)) is None
    large = {"p": (0.05, 0.3, 0.35, 0.3)}
    assert until_alarm(DriftWatch(reference(), 0.05, tolerance=0.08), calls(3000, 5, **large)) is not None


def test_a_small_reference_is_slower_and_tiny_ones_are_silent() -> None:
    large, small = (DriftWatch(reference(rows), 0.05) for rows in (4000, 400))
    assert until_alarm(large, calls(1000, 7, new=0.05)) is not None
    assert until_alarm(small, calls(1000, 7, new=0.05)) is None
    assert until_alarm(small, calls(1000, 8, new=0.3)) is not None
    for rows in (1, 2, 5):
        watch = DriftWatch(reference(rows), 0.05)
        assert until_alarm(watch, calls(200)) is None
        watch.report()


def test_a_program_without_classes_or_shares() -> None:
    scores = [score for score, _, _ in calls(1000, 100)]
    watch = DriftWatch(DriftReference.of(scores, None), 0.05)
    assert not any(watch.update(score, None) for score, _, _ in calls(500))
    assert set(watch.report()) & {"score", "classes", "unknown"} == {"score"}
    for values in ((0.5, "a"), (0.5, None, 0.1)):
        with pytest.raises(InputError, match="the reference has no"):
            watch.update(*values)  # type: ignore[arg-type]


@pytest.mark.parametrize("new", [0.0, 0.3])
def test_a_kept_watch_goes_on_bit_by_bit(new: float) -> None:
    past = reference()
    straight, kept = DriftWatch(past, 0.05), DriftWatch(past, 0.05)
    for n, call in enumerate(calls(300, 1, new=new)):
        if n % 50 == 0:
            kept = DriftWatch.from_state(
                DriftReference.from_dict(json.loads(json.dumps(past.to_dict()))),
                json.loads(json.dumps(kept.state())),
            )
        assert straight.update(*call) == kept.update(*call)
        assert straight.evidence == kept.evidence
    assert straight.state() == kept.state()
    assert straight.report() == kept.report()
    assert straight.alarmed == (new > 0)


def test_settings_and_calls_outside_their_range_are_refused() -> None:
    past = reference(100)
    for settings in ({"delta": 0.0}, {"delta": 0.05, "tolerance": 1.0}, {"delta": 0.05, "tolerance": -0.1}):
        with pytest.raises(ConfigError):
            DriftWatch(past, **settings)
    watch = DriftWatch(past, 0.05)
    for call in ((1.5, "other", 0.0), (float("nan"), "other", 0.0), (0.5, 3, 0.0), (0.5, "other", -1.0),
                 (0.5, None, 0.0), (0.5, "other", None), (True, "other", 0.0)):  # fmt: skip
        with pytest.raises(InputError):
            watch.update(*call)  # type: ignore[arg-type]
    assert watch.n == 0


def test_rows_that_make_no_reference_are_refused() -> None:
    for scores, labels, unknown in (([], [], None), ([0.5, 1.1], ["a", "b"], None), ([0.5], ["a", "b"], None),
                                    ([0.5], [1], None), ([0.5], ["a"], [0.1, 0.2])):  # fmt: skip
        with pytest.raises(InputError):
            DriftReference.of(scores, labels, unknown)  # type: ignore[arg-type]
    with pytest.raises(InputError) as caught:
        DriftReference.of([0.5, float("nan")], None)
    assert caught.value.row == 1
    good = reference(100).to_dict()
    for change in ({"format": "x"}, {"rows": 99}, {"counts": []}, {"counts": {"a": -1}}, {"scores": []},
                   {"scores": [[1000, 0.5, 2, 3]]},
                   {"scores": [[1, 2.0, 0, 3]]}, {"unknown": [[1]]}):  # fmt: skip
        with pytest.raises(InputError):
            DriftReference.from_dict(good | change)


def test_a_state_that_does_not_fit_is_refused() -> None:
    past = reference(100)
    watch = DriftWatch(past, 0.05)
    state = watch.state()
    with pytest.raises(ConfigError):
        DriftWatch(past, 0.1, state=state)
    with pytest.raises(InputError, match="another reference"):
        DriftWatch(reference(101), 0.05, state=state)
    banks = state["banks"]
    short = banks["score"]["stakes"][:16]
    for bank in ({"stakes": "!"}, {"stakes": short}, {"stakes": None}, {"run": [1.0]}, {"n": -1}):
        with pytest.raises(InputError):
            DriftWatch(past, 0.05, state=state | {"banks": banks | {"score": banks["score"] | bank}})
    for change in ({"n": "1"}, {"banks": {}}, {"format": None}, {"alarmed_at": -1}):
        with pytest.raises(InputError):
            DriftWatch(past, 0.05, state=state | change)

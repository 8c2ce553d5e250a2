"""The watch: alarms, states, refusals."""

from __future__ import annotations

import itertools
import json
import math
import random

import numpy as np
import pytest

from dspex.errors import ConfigError, InputError
from dspex.guarantee.betting import AT_ONCE, FACTORS, MIXED, Forecast, odds_times, unstaked
from dspex.guarantee.watch import ConfidenceSequence, Watch


def outcomes(rate: float, n: int, seed: int = 0) -> list[bool]:
    rng = random.Random(seed)
    return [rng.random() < rate for _ in range(n)]


def test_a_bet_is_fair_at_the_bound_and_worse_below_it() -> None:
    for bound in (0.001, 0.05, 0.5, 0.9):
        for factor in FACTORS:
            rate = odds_times(bound, factor)
            assert bound < rate < 1
            assert rate / (1 - rate) == pytest.approx(factor * bound / (1 - bound))
            for truth in (bound, bound / 2):
                mean = truth * rate / bound + (1 - truth) * (1 - rate) / (1 - bound)
                assert mean <= 1 + 1e-12


@pytest.mark.parametrize("agreement", [0.5, 0.95, 0.999])
def test_the_evidence_is_a_fair_game_at_the_bound(agreement: float) -> None:
    # Of all streams of 8 answers, weighted by their chance at the bound, the mean evidence is 1.
    bound, total = 1 - agreement, 0.0
    for code in range(256):
        watch, chance = Watch(agreement, 1e-12), 1.0
        for bit in range(8):
            wrong = bool(code >> bit & 1)
            watch.update(wrong)
            chance *= bound if wrong else 1 - bound
        total += chance * watch.evidence
    assert total == pytest.approx(1, abs=1e-9)


def test_all_capital_is_staked_once() -> None:
    assert unstaked(0) == pytest.approx(1 - AT_ONCE)
    left = [unstaked(n) for n in range(0, 10**7, 10**5)]
    assert all(a > b > 0 for a, b in itertools.pairwise(left))
    assert 0 < MIXED < 1


def test_a_breach_raises_the_alarm_and_good_answers_do_not() -> None:
    watch = Watch(0.95, 0.05)
    assert not any(watch.update(wrong) for wrong in outcomes(0.02, 5000))
    assert (watch.n, watch.alarmed, watch.alarmed_at) == (5000, False, None)
    assert watch.errors == sum(outcomes(0.02, 5000))
    later = [watch.update(wrong) for wrong in outcomes(0.15, 400, seed=1)]
    assert watch.alarmed
    assert later.index(True) + 5001 == watch.alarmed_at
    assert 4900 <= watch.since < watch.alarmed_at
    assert watch.evidence >= 20
    assert watch.capital == math.log(watch.evidence)
    assert f"alarm at answer {watch.alarmed_at}" in str(watch)


def test_the_alarm_stays_and_its_evidence_with_it() -> None:
    watch = Watch(0.95, 0.05)
    while not watch.update(True):
        pass
    at, evidence = watch.alarmed_at, watch.evidence
    assert at is not None
    assert at <= 3
    assert all(watch.update(False) for _ in range(1000))
    assert (watch.alarmed_at, watch.evidence, watch.n) == (at, evidence, at + 1000)


def test_a_late_break_is_seen_within_a_few_answers() -> None:
    watch = Watch(0.95, 0.05)
    for wrong in outcomes(0.01, 30_000):
        watch.update(wrong)
    answers = 0
    while not watch.update(True):
        answers += 1
    assert answers < 10


def test_nothing_overflows_or_vanishes_in_ten_million_answers() -> None:
    # The shortest way to ten million: the stakes' extremes are all right answers, and what is left to stake.
    state = Watch(0.95, 1e-3).state() | {"n": 10**7, "stakes": [1e-300, 0.0, 0.0, 0.0, 1e-200]}
    watch = Watch.from_state(state)
    for _ in range(2000):
        watch.update(False)
    assert 0 < watch.evidence < 1
    assert all(math.isfinite(stake) for stake in watch.state()["stakes"])
    assert min(watch.state()["stakes"][:-1]) > 0
    answers = 0
    while not watch.update(True):
        answers += 1
    assert answers < 20


@pytest.mark.parametrize("rate", [0.02, 0.08])
def test_a_kept_watch_goes_on_bit_by_bit(rate: float) -> None:
    straight, kept = Watch(0.95, 0.01), Watch(0.95, 0.01)
    for n, wrong in enumerate(outcomes(rate, 3000)):
        if n % 37 == 0:
            kept = Watch(0.95, 0.01, json.loads(json.dumps(kept.state())))
        assert straight.update(wrong) == kept.update(wrong)
        assert straight.evidence == kept.evidence
    assert straight.state() == kept.state() == Watch.from_state(kept.state()).state()
    assert straight.alarmed == (rate > 0.05)


@pytest.mark.parametrize(
    ("agreement", "delta", "field"),
    [(1.0, 0.05, "agreement"), (0, 0.05, "agreement"), (0.95, 0, "delta"), (0.95, 1, "delta"),
     (True, 0.05, "agreement"), ("0.95", 0.05, "agreement"), (float("nan"), 0.05, "agreement"),
     (1e-17, 0.05, "1 - agreement")],
)  # fmt: skip
def test_settings_outside_their_range_are_refused(agreement: object, delta: object, field: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Watch(agreement, delta)  # type: ignore[arg-type]
    assert caught.value.field == field


@pytest.mark.parametrize("wrong", [1, 0.0, None, "yes"])
def test_only_a_bool_is_an_outcome(wrong: object) -> None:
    watch = Watch(0.95, 0.05)
    with pytest.raises(InputError, match="True or False"):
        watch.update(wrong)  # type: ignore[arg-type]
    assert watch.n == 0
    watch.update(np.True_)  # type: ignore[arg-type]
    assert (watch.n, watch.errors) == (1, 1)


@pytest.mark.parametrize(
    "change",
    [{"format": "watch/2"}, {"n": -1}, {"n": 1.5}, {"errors": 99}, {"since": 99}, {"alarmed_at": 99},
     {"stakes": [1.0]}, {"stakes": None}, {"shares": [float("nan")] * 9}, {"evidence": float("inf")},
     {"evidence": "1"}, {"run": -1.0}],
)  # fmt: skip
def test_a_damaged_state_is_refused(change: dict[str, object]) -> None:
    with pytest.raises(InputError):
        Watch(0.95, 0.05, Watch(0.95, 0.05).state() | change)


def test_a_state_of_other_settings_is_refused() -> None:
    state = Watch(0.95, 0.05).state()
    with pytest.raises(ConfigError, match="of a watch with agreement"):
        Watch(0.9, 0.05, state)
    with pytest.raises(ConfigError, match="delta"):
        Watch(0.95, 0.1, state)
    with pytest.raises(InputError):
        Watch.from_state([])  # type: ignore[arg-type]


def test_the_forecast_follows_the_rate() -> None:
    forecast = Forecast(0.05)
    for wrong in outcomes(0.01, 2000):
        forecast.next()
        forecast.learn(wrong)
    assert forecast.next() < 0.02
    for wrong in outcomes(0.3, 100, seed=1):
        forecast.next()
        forecast.learn(wrong)
    assert 0.2 < forecast.next() < 0.4
    assert sum(forecast.shares) == pytest.approx(1)


def test_the_confidence_sequence_narrows_around_the_rate() -> None:
    sequence = ConfidenceSequence(0.05, expected=0.05)
    assert sequence.interval() == (0, 1)
    widths = []
    for n, wrong in enumerate(outcomes(0.04, 10_000), 1):
        sequence.update(wrong)
        if n in (100, 1000, 10_000):
            low, high = sequence.interval()
            assert low < 0.04 < high
            widths.append(high - low)
    assert widths[0] > 1.5 * widths[1] > 3 * widths[2]
    assert widths[2] < 0.016
    kept = ConfidenceSequence.from_state(json.loads(json.dumps(sequence.state())))
    assert kept.interval() == sequence.interval()


@pytest.mark.parametrize("outcome", [False, True])
def test_the_confidence_sequence_of_equal_outcomes(outcome: bool) -> None:
    sequence = ConfidenceSequence(0.05, expected=0.05)
    for _ in range(500):
        sequence.update(outcome)
    low, high = sequence.interval()
    assert (low == 0 and 0 < high < 0.02) if not outcome else (high == 1 and 0.8 < low < 1)


def test_the_edges_are_where_the_evidence_is_enough() -> None:
    sequence = ConfidenceSequence(0.1, expected=0.2)
    for wrong in outcomes(0.3, 300):
        sequence.update(wrong)
    for edge, out in zip(sequence.interval(), (-1e-6, 1e-6), strict=True):
        assert sequence.evidence(edge + out) > math.log(10) > sequence.evidence(edge - out)


def test_the_confidence_sequence_refuses_what_it_cannot_use() -> None:
    for settings in ({"delta": 0, "expected": 0.1}, {"delta": 0.1, "expected": 1.0}):
        with pytest.raises(ConfigError):
            ConfidenceSequence(**settings)  # type: ignore[arg-type]
    state = ConfidenceSequence(0.05, expected=0.1).state()
    with pytest.raises(ConfigError):
        ConfidenceSequence(0.1, expected=0.1, state=state)
    for change in ({"errors": 3}, {"n": None}, {"format": None}):
        with pytest.raises(InputError):
            ConfidenceSequence(0.05, expected=0.1, state=state | change)
    with pytest.raises(InputError):
        ConfidenceSequence(0.05, expected=0.1).update(1)  # type: ignore[arg-type]

"""Coins of calls: their shares, their independence, and that no two calls get the same one."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from dspex.distill.coins import CALIBRATE, NATIVE, SAMPLE, Coins
from dspex.distill.settings import DistillSettings

N = 200_000


def taken(coins: Coins, n: int) -> np.ndarray:
    return np.array([coins.next() for _ in range(n)], np.uint8)


@pytest.mark.parametrize(("bit", "share"), [(CALIBRATE, 0.02), (NATIVE, 0.1), (SAMPLE, 1 / 16)])
def test_share_of_each_bit(bit: int, share: float) -> None:
    drawn = taken(Coins(0.02, 0.1, 1 / 16, seed=3), N)
    deviation = np.sqrt(share * (1 - share) / N)
    assert abs(((drawn & bit) > 0).mean() - share) < 4 * deviation


def test_bits_are_independent_of_each_other_and_of_the_coin_before() -> None:
    drawn = taken(Coins(0.3, 0.4, 0.5, seed=4), N)
    bits = np.stack([(drawn & bit) > 0 for bit in (CALIBRATE, NATIVE, SAMPLE)]).astype(float)
    pairs = np.corrcoef(np.concatenate([bits[:, 1:], bits[:, :-1]]))
    assert np.abs(pairs - np.eye(6)).max() < 4 / np.sqrt(N)


def test_gaps_between_audits_are_geometric() -> None:
    share = 0.05
    at = np.flatnonzero(taken(Coins(share, 0, 0, seed=5), N) & CALIBRATE)
    gaps = np.diff(at)
    for k in range(1, 40):
        expected = (1 - share) ** k
        deviation = np.sqrt(expected * (1 - expected) / len(gaps))
        assert abs((gaps > k).mean() - expected) < 4.5 * deviation, k


def test_never_and_always() -> None:
    drawn = taken(Coins(0.0, 1.0, 0.0, seed=0), 10_000)
    assert set(drawn.tolist()) == {NATIVE}


def test_a_seed_fixes_them_and_none_does_not() -> None:
    assert (taken(Coins(0.5, 0, 0, seed=1), 9000) == taken(Coins(0.5, 0, 0, seed=1), 9000)).all()
    assert (taken(Coins(0.5, 0, 0), 9000) != taken(Coins(0.5, 0, 0), 9000)).any()


def test_threads_take_each_coin_once() -> None:
    coins, each, threads = Coins(0.1, 0.2, 0.3, seed=6), 40_000, 8
    found: list[np.ndarray] = []

    def take() -> None:
        mine = bytearray()
        for _ in range(each):
            try:
                mine.append(next(coins.drawn))  # as a call does it
            except StopIteration:
                mine.append(coins.next())
        found.append(np.frombuffer(bytes(mine), np.uint8))

    workers = [threading.Thread(target=take) for _ in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert coins.taken == each * threads
    alone = np.sort(taken(Coins(0.1, 0.2, 0.3, seed=6), each * threads))
    assert (np.sort(np.concatenate(found)) == alone).all()


def test_with_cross_half_of_the_calls_certify_before_live():
    assert DistillSettings.of({"guarantee": {"method": "cross"}}).guarantee.before_live == 0.5
    most = DistillSettings.of({"guarantee": {"method": "cross", "calibration_share": 0.7}})
    assert most.guarantee.before_live == 0.7
    assert DistillSettings.of({"guarantee": {"calibration_share": 0.3}}).guarantee.before_live == 0.3

"""Rows that nearly repeat each other, so that none is held out from a model that has seen the other."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

__all__ = ["near_copies"]

# Of min-hashes. Rows that share 8 of 10 words meet 96 times of 100, rows that share 6 of 10 half of the time.
_BANDS, _WIDE = 8, 5
_PRIME = (1 << 31) - 1


def near_copies(
    texts: Sequence[Sequence[str]], strata: NDArray[np.int64], folds: int, seed: int
) -> NDArray[np.int64]:
    """[rows] first row of the group that each row is in: rows of one stratum with mostly the same words.

    Pairs are found by min-hashes of the sets of words (Broder, 1997). A group has at most a fold's share of
    its stratum, so that every fold is left with examples of all.

    Args:
        texts: one sequence a text field.
        strata: [rows].
        folds: that rows will be dealt to.
        seed: of the hashes.
    """
    rows = len(strata)
    leader = np.arange(rows)
    if not texts:
        return leader
    signatures = _min_hashes(texts, seed)
    most = np.bincount(strata - strata.min()) // folds
    size = np.ones(rows, np.int64)
    for band in range(_BANDS):
        keys = np.column_stack([strata, signatures[:, band * _WIDE : (band + 1) * _WIDE]])
        order = np.lexsort(keys.T[::-1])
        same = (keys[order][1:] == keys[order][:-1]).all(1)
        for at in np.flatnonzero(same):
            a, b = _root(leader, int(order[at])), _root(leader, int(order[at + 1]))
            if a != b and size[a] + size[b] <= most[strata[a] - strata.min()]:
                first, last = min(a, b), max(a, b)
                leader[last] = first
                size[first] += size[last]
    return np.array([_root(leader, row) for row in range(rows)])


def _root(leader: NDArray[np.int64], row: int) -> int:
    while leader[row] != row:
        leader[row] = leader[leader[row]]
        row = int(leader[row])
    return row


def _min_hashes(texts: Sequence[Sequence[str]], seed: int) -> NDArray[np.int64]:
    """[rows, bands * wide] smallest hash of a row's words under each of so many hash functions."""
    ids: dict[str, int] = {}
    words: list[int] = []
    begins: list[int] = []
    for row in zip(*texts, strict=True):
        begins.append(len(words))
        words += [
            ids.setdefault(word, len(ids)) for text in row for word in dict.fromkeys(text.casefold().split())
        ] or [-1]
    random = np.random.default_rng(seed)
    table = random.integers(0, _PRIME, (len(ids) + 1, _BANDS * _WIDE))
    return np.minimum.reduceat(table[np.array(words)], np.array(begins), axis=0)

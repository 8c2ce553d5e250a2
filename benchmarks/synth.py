"""As many AG-News-like rows as are asked for, made from the real ones, the same for the same seed.

Words follow each other as they do in the real rows (bigrams, with jumps to unigrams): partly in those of
the row's label, partly in those of all labels, so that some rows are hard to tell, as real ones are. A bigram
sampler alone would never say a new word, while a real corpus keeps doing so (Heaps' law), so some words are
swapped for made-up ones, drawn from a stock that grows with the number of rows so far.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.datasets import Row

Ints = NDArray[np.int64]
BLOCK = 10_000
JUMP = 0.1
"""Share of words drawn from unigrams in place of bigrams."""
OWN_SHARE = (3.0, 1.0)
"""Beta distribution over rows of the share of words that follow the row's label. With `NOISE`, chosen so that
a linear model is about as right as on AG News: 0.86 from 4,560 rows, 0.9 from 30,000."""
NOISE = 0.06
"""Share of rows whose label is drawn anew."""
MADE_UP = 0.08
"""Share of words swapped for made-up ones: of AG News, 11 % of the words of `dev` are not in `train`."""


class Chain:
    """The bigrams of some rows: for each word, the words seen after it."""

    def __init__(self, rows: list[Ints], words: int) -> None:
        self.unigrams = np.concatenate(rows)
        before = np.concatenate([row[:-1] for row in rows])
        order = np.argsort(before, kind="stable")
        self.after = np.concatenate([row[1:] for row in rows])[order]
        self.count = np.bincount(before, minlength=words)
        self.start = np.concatenate([[0], np.cumsum(self.count)[:-1]])

    def next_words(self, rng: np.random.Generator, last: Ints) -> Ints:
        """A word after each of these; now and then, or where none is known, any word."""
        jump = (rng.random(len(last)) < JUMP) | (self.count[last] == 0)
        place = self.start[last] + (rng.random(len(last)) * self.count[last]).astype(np.int64)
        known = self.after[np.minimum(place, len(self.after) - 1)]
        return np.where(jump, rng.choice(self.unigrams, len(last)), known)


class Sampler:
    """Learns from real rows; `blocks` yields columns of texts and labels."""

    def __init__(self, rows: list[Row], seed: int = 0) -> None:
        self.rng = np.random.default_rng(seed)
        split = [row["text"].split() for row in rows]
        self.vocabulary = sorted({word for words in split for word in words})
        number = {word: i for i, word in enumerate(self.vocabulary)}
        coded = [np.array([number[word] for word in words]) for words in split]
        self.labels = sorted({row["label"] for row in rows})
        self.lengths = np.array([len(words) for words in split])
        self.shared = Chain(coded, len(number))
        self.chains = [
            Chain([c for c, row in zip(coded, rows, strict=True) if row["label"] == label], len(number))
            for label in self.labels
        ]

    def columns(self, rows: int) -> dict[str, list[Any]]:
        """`{"text": [...], "label": [...]}` with this many rows, labels mixed."""
        texts: list[str] = []
        labels: list[str] = []
        for more_texts, more_labels in self._blocks(rows):
            texts += more_texts
            labels += more_labels
        return {"text": texts, "label": labels}

    def _blocks(self, rows: int) -> Iterator[tuple[list[str], list[str]]]:
        for begin in range(0, rows, BLOCK):
            size = min(BLOCK, rows - begin)
            label = self.rng.integers(0, len(self.labels), size)
            length = self.rng.choice(self.lengths, size)
            codes = np.empty((size, int(length.max())), dtype=np.int64)
            for k, chain in enumerate(self.chains):
                mine = np.flatnonzero(label == k)
                codes[mine] = self._sample(chain, len(mine), codes.shape[1])
            self._swap(codes, begin + size)
            texts = [self._text(row[:n]) for row, n in zip(codes.tolist(), length.tolist(), strict=True)]
            noise = self.rng.random(size) < NOISE
            label[noise] = self.rng.integers(0, len(self.labels), int(noise.sum()))
            yield texts, [self.labels[k] for k in label]

    def _sample(self, chain: Chain, rows: int, length: int) -> Ints:
        """Word numbers (rows, length), each row with a share of its own of words that follow its label."""
        rng = self.rng
        share = rng.beta(*OWN_SHARE, rows)
        found = np.empty((rows, length), dtype=np.int64)
        last = rng.choice(self.shared.unigrams, rows)
        for i in range(length):
            own, shared = chain.next_words(rng, last), self.shared.next_words(rng, last)
            last = found[:, i] = np.where(rng.random(rows) < share, own, shared)
        return found

    def _swap(self, codes: Ints, rows_so_far: int) -> None:
        """Put made-up words, numbered from below zero, in place of some; early ones are used most."""
        stock = 60.0 * rows_so_far**0.7
        chosen = self.rng.random(codes.shape) < MADE_UP
        codes[chosen] = -1 - (stock * self.rng.random(int(chosen.sum())) ** 2).astype(np.int64)

    def _text(self, codes: list[int]) -> str:
        return " ".join([self.vocabulary[code] if code >= 0 else self._made_up(code) for code in codes])

    def _made_up(self, code: int) -> str:
        """The front of one real word and the back of another, always the same for one number."""
        size = len(self.vocabulary)
        front = self.vocabulary[(-code * 7919) % size]
        back = self.vocabulary[(-code * 104_729 + 13 - code // size) % size]
        return front[: max(2, len(front) // 2 + 1)] + back[len(back) // 2 :]

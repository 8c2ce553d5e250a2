"""How steady one call is: time against length, and the tail over texts of one length.

    python -m benchmarks.steady [--set NAME]

Texts of one length are cut from the words of a data set. p99 over p50 says something on an idle machine
only, and so the best of several rounds is shown beside the median.
"""

from __future__ import annotations

import argparse

import numpy as np

from benchmarks import datasets, timing
from benchmarks.peers.dspex_peer import Dspex

LENGTHS = (16, 32, 64, 128, 256, 512, 1024, 4096, 16_384, 131_072, 1_048_576)
CHARACTERS = 4_000_000
"""About how many each length gets in a round."""


def of_length(words: list[str], characters: int, count: int) -> list[str]:
    """Distinct texts of exactly this many characters."""
    rng = np.random.default_rng(characters)
    need = characters // 3 + 2
    picks = rng.integers(0, len(words), (count, need))
    return [" ".join([words[i] for i in row])[:characters].ljust(characters, "x") for row in picks.tolist()]


def measure(peer: Dspex, texts: list[str], rounds: int) -> list[tuple[float, float]]:
    """p50 and p99 in microseconds, per round."""
    rows = [{"text": text} for text in texts]
    found = []
    for _ in range(rounds):
        calls = (timing.time_calls(peer.caller(), rows) - timing.clock_ns()) / 1000
        found.append((float(np.percentile(calls, 50)), float(np.percentile(calls, 99))))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--set", default="banking77")
    parser.add_argument("--rounds", type=int, default=timing.ROUNDS)
    options = parser.parse_args()
    data = datasets.load(options.set)
    peer = Dspex(data.task, data.classes)
    peer.fit(data.train)
    words = [word for text in data.dev_texts for word in text.split()]
    print("| characters | p50 µs | ns a character | p99 / p50, median | p99 / p50, best |")
    print("|---:|---:|---:|---:|---:|")
    with timing.one_core(), timing.quiet():
        for length in LENGTHS:
            texts = of_length(words, length, min(1000, max(5, CHARACTERS // length)))
            measure(peer, texts, 1)
            found = measure(peer, texts, options.rounds)
            p50 = timing.spread([pair[0] for pair in found])[0]
            tails = timing.spread([p99 / p50 for p50, p99 in found])
            print(f"| {length:,} | {p50:.2f} | {p50 * 1000 / length:.1f} | {tails[0]:.2f} | {tails[1]:.2f} |")


if __name__ == "__main__":
    main()

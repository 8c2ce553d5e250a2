"""Boundary examples: rows that were just answered beside like ones that were just deferred."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from dspex.distill.trace import Trace
from dspex.routing.gate import label_group

__all__ = ["boundary_pairs"]

_PAIRS = 12
_DEFERRED = 100  # rows below the threshold that are looked at, nearest first
_ANSWERED = 1000  # rows above it


def boundary_pairs(
    traces: Sequence[Trace],
    natives: Sequence[Mapping[str, Any] | None],
    scores: Any,
    stands: Sequence[bool],
) -> list[dict[str, Any]]:
    """Pairs of a deferred row and the answered row that is most like it, by the words they share.

    Returns:
        at most 12 of {"likeness": share of common words (Jaccard), "deferred": row, "answered": row}, where a
        row is {"inputs", "native", "teacher", "score"}; likest first, and no row twice.
    """
    known = np.flatnonzero([native is not None for native in natives])
    order = known[np.argsort(np.asarray(scores)[known], kind="stable")]
    deferred = [int(row) for row in order if not stands[row]][-_DEFERRED:]
    answered = [int(row) for row in order if stands[row]][:_ANSWERED]
    words = {row: _words(traces[row].inputs) for row in (*deferred, *answered)}
    found = [
        max(((_likeness(words[row], words[other]), row, other) for other in answered), default=None)
        for row in deferred
    ]
    pairs: list[dict[str, Any]] = []
    taken: set[int] = set()
    for likeness, row, other in sorted((pair for pair in found if pair and pair[0] > 0), reverse=True):
        if other in taken or len(pairs) == _PAIRS:
            continue
        taken.add(other)
        shown = {
            name: _shown(traces[at], natives[at], float(scores[at]))
            for name, at in (("deferred", row), ("answered", other))
        }
        pairs.append({"likeness": likeness, **shown})
    return pairs


def _words(inputs: Mapping[str, Any]) -> frozenset[str]:
    return frozenset(word for value in inputs.values() for word in str(value).casefold().split())


def _likeness(one: frozenset[str], other: frozenset[str]) -> float:
    union = len(one | other)
    return len(one & other) / union if union else 0.0


def _shown(trace: Trace, native: Mapping[str, Any] | None, score: float) -> dict[str, Any]:
    assert native is not None
    return {
        "inputs": {name: _plain(value) for name, value in trace.inputs.items()},
        "native": label_group(native),
        "teacher": label_group({name: trace.answer.outputs[name] for name in native}),
        "score": score,
    }


def _plain(value: Any) -> Any:
    return value if isinstance(value, str | int | float | bool) else str(value)

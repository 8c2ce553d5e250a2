"""False alarms and delays of the drift watch, over many streams; longer with DSPEX_STRESS."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
pytest.importorskip("benchmarks.distill", reason="a checkout holds the benchmarks")

from benchmarks.distill import monitor_drift
from benchmarks.distill.monitor_drift import calls, drift_delay, drift_false, references, watches

from dspex.guarantee.drift import DriftReference, DriftWatch

STRESS = max(1, int(os.environ.get("DSPEX_STRESS", "1")))


def test_many_streams_are_as_many_drift_watches() -> None:
    rng = np.random.default_rng(0)
    rows = references(rng, 3)
    streams = watches(rows)
    each = [
        DriftWatch(DriftReference.of(s, [str(c) for c in classes], u), monitor_drift.DELTA)
        for s, classes, u in rows
    ]
    for n in range(300):
        scores, classes, unknown = calls(rng, 3, new=0.0 if n < 200 else 0.05)
        streams.update(scores, classes, unknown)
        for at, watch in enumerate(each):
            watch.update(float(scores[at]), str(classes[at]), float(unknown[at]))
        # scipy's quantiles and the library's differ in the last digits.
        assert streams.evidence == pytest.approx([watch.evidence for watch in each], rel=1e-8)


@pytest.mark.parametrize("rows", [200, 1000])
def test_false_alarms_are_at_most_delta_with_small_references(
    rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The fewer the rows, the more a test that took the reference for the truth would cry drift.
    monkeypatch.setattr(monitor_drift, "ROWS", rows)
    monkeypatch.setattr(monitor_drift, "SHARES", np.full(10, 0.1))
    monkeypatch.setattr(monitor_drift, "LENGTHS", (300 * STRESS,))
    (table,) = drift_false(100 * STRESS, 300 * STRESS)
    within = table.lines[0][1]
    assert within <= monitor_drift.DELTA


def test_drift_is_seen_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(monitor_drift, "WINDOWS", (250,))
    watch, best, windows = (float(cell.replace(",", "")) for cell in drift_delay({"new": 0.1}, 0, 40))
    assert best < watch < 250
    assert watch <= windows

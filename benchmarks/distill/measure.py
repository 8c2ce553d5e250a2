"""What a version does on rows that it has not seen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from benchmarks.datasets import Row
from dspex import metrics
from dspex.distill.guarded import Guarded
from dspex.guarantee.binomial import tail


@dataclass(frozen=True)
class Found:
    """Answers of a version beside a teacher's.

    Attributes:
        scores: [rows] of the gate.
        confidence: [rows] of the model.
        familiarity: [rows] how like the examples the inputs are, as the gate has it.
        wrong: [rows] whether the answer is not the teacher's.
        stands: [rows] whether it stands, by the certificate.
    """

    scores: NDArray[np.float64]
    confidence: NDArray[np.float64]
    familiarity: NDArray[np.float64]
    wrong: NDArray[np.bool_]
    stands: NDArray[np.bool_]

    @property
    def coverage(self) -> float:
        return float(self.stands.mean())

    @property
    def answered(self) -> int:
        return int(self.stands.sum())

    @property
    def mistakes(self) -> int:
        return int(self.wrong[self.stands].sum())

    @property
    def agreement(self) -> float | None:
        """Among the answers that stand; None without any."""
        return 1 - self.mistakes / self.answered if self.answered else None

    def hindsight(self, agreement: float) -> float:
        """The coverage that the best threshold on the score would have had on these very rows."""
        return metrics.coverage_at(self.scores, ~self.wrong, agreement)

    def breached(self, agreement: float) -> bool:
        """Whether these rows show, by an exact test at 5 %, that the true agreement is lower than this."""
        if not self.answered:
            return False
        return float(tail(self.answered - self.mistakes, self.answered, agreement)) < 0.05


def measure(guarded: Guarded, rows: Sequence[Row]) -> Found:
    """What a version says of rows, and what of it stands."""
    results = guarded.program.batch([{"text": row["text"]} for row in rows])
    return Found(
        scores=np.array([result.gate_score for result in results], np.float64),
        confidence=np.array([result.confidence for result in results], np.float64),
        familiarity=np.array([result.gate_familiarity for result in results], np.float64),
        wrong=np.array([a["label"] != b["label"] for a, b in zip(results, rows, strict=True)]),
        stands=np.array(
            [guarded.stands(result, {"text": row["text"]}) for result, row in zip(results, rows, strict=True)]
        ),
    )

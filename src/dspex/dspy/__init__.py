"""dspex inside DSPy. Importing this imports nothing; its names import DSPy when they are first used."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dspex._lazy import lazy

if TYPE_CHECKING:
    from dspex.dspy.acceleration import PredictorReport, accelerate, load_accelerated, report
    from dspex.dspy.decisions import NativeDecisions
    from dspex.dspy.distill import Distill
    from dspex.dspy.distilled import Distilled
    from dspex.dspy.histories import history_traces
    from dspex.dspy.modes import native_mode
    from dspex.dspy.outlook import DistillReport
    from dspex.dspy.predict import Predict, native_result, route

__all__ = [
    "Distill",
    "DistillReport",
    "Distilled",
    "NativeDecisions",
    "Predict",
    "PredictorReport",
    "accelerate",
    "history_traces",
    "load_accelerated",
    "native_mode",
    "native_result",
    "report",
    "route",
]

_HOMES = {
    "acceleration": ("PredictorReport", "accelerate", "load_accelerated", "report"),
    "decisions": ("NativeDecisions",),
    "distill": ("Distill",),
    "distilled": ("Distilled",),
    "histories": ("history_traces",),
    "outlook": ("DistillReport",),
    "modes": ("native_mode",),
    "predict": ("Predict", "native_result", "route"),
}

if not TYPE_CHECKING:  # type checkers take the imports above, and so see a misspelt name
    __getattr__ = lazy(__name__, _HOMES, globals())


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

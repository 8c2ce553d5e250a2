"""A program that learns its fast path from a teacher, with a guarantee. Names are imported on first use."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dspex._lazy import lazy

if TYPE_CHECKING:
    from dspex.distill.guarded import Guarded
    from dspex.distill.learner import Lesson, learn
    from dspex.distill.lifecycle import adopt, demote, hold, promote, release, rollback
    from dspex.distill.live import LiveProgram
    from dspex.distill.making import Made, make
    from dspex.distill.settings import (
        DistillSettings,
        GuaranteeSettings,
        LearningSettings,
        LifecycleSettings,
        StoreSettings,
    )
    from dspex.distill.store import Store
    from dspex.distill.teacher import Teacher
    from dspex.distill.trace import Answer, Trace

__all__ = [
    "Answer",
    "DistillSettings",
    "GuaranteeSettings",
    "Guarded",
    "LearningSettings",
    "Lesson",
    "LifecycleSettings",
    "LiveProgram",
    "Made",
    "Store",
    "StoreSettings",
    "Teacher",
    "Trace",
    "adopt",
    "demote",
    "hold",
    "learn",
    "make",
    "promote",
    "release",
    "rollback",
]

_HOMES = {
    "guarded": ("Guarded",),
    "learner": ("Lesson", "learn"),
    "lifecycle": ("adopt", "demote", "hold", "promote", "release", "rollback"),
    "live": ("LiveProgram",),
    "making": ("Made", "make"),
    "settings": (
        "DistillSettings", "GuaranteeSettings", "LearningSettings", "LifecycleSettings", "StoreSettings",
    ),
    "store": ("Store",),
    "teacher": ("Teacher",),
    "trace": ("Answer", "Trace"),
}  # fmt: skip

if not TYPE_CHECKING:  # type checkers take the imports above, and so see a misspelt name
    __getattr__ = lazy(__name__, _HOMES, globals())


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

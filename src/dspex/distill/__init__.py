"""A program that learns its fast path from a teacher, with a guarantee. Names are imported on first use."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

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

    def __getattr__(name: str) -> Any:
        for module, names in _HOMES.items():
            if name in names:
                value = getattr(import_module(f"dspex.distill.{module}"), name)
                globals()[name] = value
                return value
        raise AttributeError(f"module 'dspex.distill' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

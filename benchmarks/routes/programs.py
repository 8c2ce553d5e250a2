"""The programs of these benchmarks, their LMs and their inputs: the example set of dspex, so that no other is
needed; and squares, whose every answer tells whether it is the right one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import dspex
from dspex import demo

TRAIN, UNSEEN = demo.split()
LABELS = tuple(sorted({row["label"] for row in TRAIN}))
INTENTS = f"text -> label: Literal[{', '.join(map(repr, LABELS))}]"
TEXTS = [{"text": row["text"]} for row in UNSEEN]
SQUARES = "number: int -> square: int"

ENGINES = "benchmarks.routes.engines"
INSTANT = f"{ENGINES}:instant"


def lm(engine: str) -> dict[str, Any]:
    """The settings of an LM by the import path of its engine, which a worker process imports for itself."""
    return {"model": "benchmark/instant", "options": {"engine": engine}}


def config(settings: Mapping[str, Any], **more: Any) -> dict[str, Any]:
    """A configuration with one LM."""
    return {"lms": {"one": settings}, **more}


def fitted() -> Any:
    """The native program of the intents."""
    return dspex.fit(INTENTS, TRAIN)


def sure(program: Any, threshold: float = 0.9) -> list[dict[str, str]]:
    """The texts of which it is sure enough for the gate: they are answered natively with one and without."""
    return [row for row in TEXTS if program.predict(row).confidence >= threshold]

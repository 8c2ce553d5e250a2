"""What stands for an LM, and a DSPy module that computes: by import path, for each process makes its own."""

from __future__ import annotations

import re
import time
from typing import Any

import dspy

from benchmarks.peers.dspy_instant_peer import InstantEngine
from benchmarks.routes.programs import INTENTS, LABELS

LM_S = 0.05
STEPS = 150_000
_NUMBER = re.compile(r"\[\[ ## number ## \]\]\s*(-?\d+)")


def instant() -> InstantEngine:
    """Answers at once."""
    return InstantEngine(LABELS[0])


class Late(InstantEngine):
    """Answers after 50 ms."""

    def said(self, request: Any) -> Any:
        time.sleep(LM_S)
        return self.message


def late() -> Late:
    return Late(LABELS[0])


class Squares(InstantEngine):
    """Answers with the square of the number that it is asked for, after 2 ms."""

    def said(self, request: Any) -> Any:
        time.sleep(0.002)
        asked = "\n".join(part.text for part in request.messages[-1].parts)
        return self.saying("square", str(int(_NUMBER.findall(asked)[-1]) ** 2))


def squares() -> Squares:
    return Squares("")


class Computes(dspy.Module):  # type: ignore[misc]  # DSPy has no types
    """Computes for some ms in plain Python, then asks."""

    def __init__(self) -> None:
        super().__init__()
        self.ask = dspy.Predict(INTENTS)

    def forward(self, text: str) -> Any:
        number = len(text)
        for _ in range(STEPS):
            number = (number * 1103515245 + 12345) & 0x7FFFFFFF
        return self.ask(text=f"{text} {number % 2}")

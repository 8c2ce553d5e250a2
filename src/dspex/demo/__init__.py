"""The example set that comes with dspex: messages to an imaginary e-bike rental, in 12 intents.

Written for dspex by hand; no real customer said any of it.
"""

from __future__ import annotations

import json
from importlib import resources

__all__ = ["SIGNATURE", "load", "split"]

SIGNATURE = "text -> label"
_EVERY = 5


def load() -> list[dict[str, str]]:
    """All rows, ``{"text": ..., "label": ...}``, classes mixed, always in the same order."""
    text = resources.files(__package__).joinpath("examples.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


def split() -> tuple[list[dict[str, str]], list[dict[str, str]]]:
    """The rows as ``(train, held_out)``: of every class each fifth row is held out, always the same ones."""
    train: list[dict[str, str]] = []
    held_out: list[dict[str, str]] = []
    seen: dict[str, int] = {}
    for row in load():
        turn = seen[row["label"]] = seen.get(row["label"], 0) + 1
        (held_out if turn % _EVERY == 0 else train).append(row)
    return train, held_out

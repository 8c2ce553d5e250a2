"""Answers for the conformance suite's programs, as an LM would give them: the same for the same inputs."""

from __future__ import annotations

import zlib
from typing import Any

from dspex.testing.lm_server import Request

_VALUES: dict[str, tuple[Any, ...]] = {
    "label": ("refund", "card_lost", "limit"),
    "tone": ("calm tone", "angry tone"),
    "urgent": (True, False),
    "stars": (1, 2, 3),
    "topics": (["money"], ["card", "loss"], []),
    "score": (0.5, 1.25),
    "count": (10, 20, 30),
}


def answer(request: Request) -> dict[str, Any]:
    """A value for each output that is asked for."""
    seed = zlib.crc32(repr(sorted(request.fields.items())).encode())
    return {name: _VALUES[name][seed % len(_VALUES[name])] for name in request.output_fields}

"""A task with a planted teacher, homes with versions made by hand, and live programs over them."""

from __future__ import annotations

import asyncio
import functools
import random
import threading
import time
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import dspex
from dspex.distill.agreement import imported
from dspex.distill.guarded import Guarded
from dspex.distill.live import LiveProgram
from dspex.distill.settings import GuaranteeSettings
from dspex.distill.store import State, Store, VersionRecord
from dspex.distill.terms import terms_of
from dspex.distill.trace import Answer
from dspex.guarantee.certificate import Certificate
from dspex.signature import Signature

CLASSES = ("apple", "birch", "cedar")
SIGNATURE = Signature.of("text -> label: Literal['apple', 'birch', 'cedar']")
WORDS = ("red", "old", "tall", "near", "gone", "slow", "wide", "calm", "late", "thin")

SETTINGS: dict[str, Any] = {
    "lifecycle": {"shadow_checks": 40, "canary_checks": 40, "audit_share": 0.25, "canary_share": 0.5},
    "learning": {"automatic": False},
}


def told(text: str) -> str:
    """What the teacher says at first: the class that is named; of a text that names none, anything."""
    named = [name for name in CLASSES if name in text]
    return named[0] if named else CLASSES[zlib.crc32(text.encode()) % 3]


class Planted:
    """A teacher that can change its mind, fail, and be slow; it counts what it was asked."""

    def __init__(self, usd: float | None = 0.001) -> None:
        self.asked: list[str] = []
        self.shift = 0.0  # share of the texts that it says another class of
        self.fails: Exception | None = None
        self.delay = 0.0
        self.usd = usd
        self.gate = threading.Event()  # cleared: it does not answer
        self.gate.set()

    def ask(self, inputs: Mapping[str, Any], /) -> Answer:
        assert self.gate.wait(20)
        time.sleep(self.delay)
        return self._said(inputs)

    async def aask(self, inputs: Mapping[str, Any], /) -> Answer:
        await asyncio.sleep(self.delay)
        return self._said(inputs)

    def _said(self, inputs: Mapping[str, Any]) -> Answer:
        text = inputs["text"]
        self.asked.append(text)
        if self.fails is not None:
            raise self.fails
        label = told(text)
        if zlib.crc32(b"shift" + text.encode()) % 1000 < 1000 * self.shift:
            label = CLASSES[(CLASSES.index(label) + 1) % 3]
        return Answer({"label": label}, usd=self.usd)


def rows(n: int, seed: int = 0, hard: float = 0.2) -> list[dict[str, str]]:
    """Calls; a share of `hard` names no class."""
    draw = random.Random(seed)
    found = []
    for _ in range(n):
        words = [*draw.choices(WORDS, k=4), str(draw.randrange(10**6))]
        if draw.random() >= hard:
            words.insert(draw.randrange(4), draw.choice(CLASSES))
        found.append({"text": " ".join(words)})
    return found


@functools.cache
def program() -> dspex.Program:
    """Fitted on 600 calls."""
    return dspex.fit(SIGNATURE, [{**row, "label": told(row["text"])} for row in rows(600, seed=99)])


def certificate(threshold: float | None = 0.9, agreement: float = 0.95, **changes: Any) -> Certificate:
    return Certificate(
        **{
            "agreement": agreement, "delta": 0.05, "method": "split", "threshold": threshold,
            "thresholds": None, "rows": 500, "accepted": 400, "errors": 4, "coverage": 0.8, "risk": 0.01,
            "upper_bound": 0.03, "rows_needed": 0, "reason": "certified by hand", "assumptions": (),
            **changes,
        }
    )  # fmt: skip


def add_version(
    store: Store, *, parent: int | None = None, refused: bool = False, retired: bool = False,
    slices: str | None = None, figures: Mapping[str, Any] | None = None, **changes: Any,
) -> int:  # fmt: skip
    """Puts a version into a home, as learning would; by slices, in its file too."""
    number = store.next_version()
    given = certificate(**({"threshold": None, "reason": "too few rows"} if refused else {}) | changes)
    function = imported(slices, "slices")
    saved = program() if function is None else Guarded(program(), given, function).to_save()
    saved.save(store.version_path(number))
    if slices is not None:
        terms = terms_of(GuaranteeSettings.of({"agreement": given.agreement, "slices": slices}))
        figures = {"terms": terms, **(figures or {})}
    store.add_version(
        VersionRecord(
            number, time.time(), store.version_path(number).name,
            "refused" if refused else "retired" if retired else "ready",
            parent=parent, certificate=given.to_dict(), figures=figures or {},
        ),
        [],
    )  # fmt: skip
    return number


def home(path: Path, **open_options: Any) -> Store:
    return Store.open(path / "home", SIGNATURE, **open_options)


def settings(**lifecycle: Any) -> dict[str, Any]:
    return {**SETTINGS, "lifecycle": {**SETTINGS["lifecycle"], **lifecycle}}


def serve(live: LiveProgram, calls: list[dict[str, str]], until: str | None = None, step: int = 20) -> int:
    """Sends calls, and lets the background catch up at times; how many were sent until a stage came."""
    for at, inputs in enumerate(calls, 1):
        live.predict(inputs)
        if at % step == 0:
            assert live.flush()
            if until is not None and live.store.state().stage == until:
                return at
    assert live.flush()
    return len(calls)


def stage_of(store: Store) -> tuple[str, int | None]:
    state: State = store.state()
    return state.stage, state.version

"""A service over a socket to a planted language model, which can change its mind and notes what it said."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import dspy

from dspex.distill.store import State
from dspex.dspy import Distill, Distilled, route
from dspex.testing import LMServer, Request

LABELS = ("card_lost", "fraud", "hours", "refund")
TASK = f"text -> label: Literal{list(LABELS)}"
_WORDS = {
    "refund": ("money back", "charged twice", "wrong amount", "a refund", "paid too much"),
    "card_lost": ("lost my card", "card was stolen", "card is missing", "a new card", "block my card"),
    "hours": ("when you open", "opening hours", "closed on sunday", "open at night", "which time today"),
}
_VAGUE = ("another matter", "that thing", "as discussed", "you know what")  # says nothing: to be deferred
_BEFORE = ("hello", "please", "hi there", "quick question", "so", "dear team", "excuse me", "good morning")
_AFTER = ("thanks", "ok", "please answer", "today", "urgent", "as soon as you can", "cheers", "bye")
_POOL = [
    f"{before} {words} {after} {number}"
    for words in (*(each for group in _WORDS.values() for each in group), *_VAGUE[:2])
    for before in _BEFORE
    for after in _AFTER
    for number in range(40)
]
random.Random(5).shuffle(_POOL)

ROWS = 160  # to label
#: How the service is distilled, and how it goes on; from a breach a new version is due after so many rows.
RELEARN = 240
SETTINGS: Mapping[str, Any] = {
    "lifecycle": {
        "shadow_checks": 20, "canary_checks": 20, "canary_share": 0.5, "audit_share": 0.3,
        "refit_start": "shadow",
    },
    "learning": {"first_rows": RELEARN, "growth": 6.0, "nice": 0},
}  # fmt: skip
OPTIONS: Mapping[str, Any] = {
    "agreement": 0.9, "calibration_share": 0.4, "progress": False, "threads": 1, "num_threads": 4,
    "stage": "shadow", "settings": SETTINGS,
}  # fmt: skip
#: The same with stages that last long enough to be seen from outside.
SLOWER = {**SETTINGS, "lifecycle": {**SETTINGS["lifecycle"], "shadow_checks": 60, "canary_checks": 60}}


def texts(start: int, stop: int) -> list[str]:
    """Calls, all different; about a tenth of them say nothing."""
    return _POOL[start:stop]


def examples(start: int, stop: int) -> list[Any]:
    return [dspy.Example(text=text).with_inputs("text") for text in texts(start, stop)]


def intent(text: str) -> str | None:
    """What a text is about; None: nothing."""
    return next((label for label, words in _WORDS.items() if any(each in text for each in words)), None)


class Mind:
    """What the language model says; threads of the server share it.

    Attributes:
        changed: from now on a lost card is a case of fraud.
        said: text -> the labels that it was given, in order.
    """

    def __init__(self) -> None:
        self.changed = False
        self.said: dict[str, list[str]] = {}
        self._lock = threading.Lock()

    def label(self, text: str) -> str:
        found = intent(text) or LABELS[zlib.crc32(text.encode()) % len(LABELS)]
        return "fraud" if self.changed and found == "card_lost" else found

    def __call__(self, request: Request) -> dict[str, str]:
        text = request.fields["text"]
        label = self.label(text)
        with self._lock:
            self.said.setdefault(text, []).append(label)
        return {"label": label}


@contextmanager
def language_model(mind: Mind) -> Iterator[LMServer]:
    """The server, and DSPy's LM over it as the current one."""
    with LMServer(mind) as server, dspy.context(lm=model(server.lm_config()), num_threads=4):
        yield server


def model(config: Mapping[str, Any]) -> Any:
    return dspy.LM(**{**config, "cache": False, "num_retries": 0})


def distiller(home: Path | None, **options: Any) -> Distill:
    return Distill(home=home, **{**OPTIONS, **options})


def compiled(home: Path, rows: int = ROWS, **options: Any) -> Distilled:
    return distiller(home, **options).compile(dspy.Predict(TASK), trainset=examples(0, rows))


def opened(home: Path, **options: Any) -> Distilled:
    """As a service that starts again does it."""
    return Distilled(dspy.Predict(TASK)).open(home, distiller(home, **options).all_settings())


class Service:
    """A distilled program under calls that are all different.

    Args:
        at: the first text that has not been asked yet.
    """

    def __init__(self, program: Distilled, at: int = ROWS) -> None:
        self.program, self.live, self.at = program, program.live, at

    def calls(self, count: int) -> list[tuple[str, Any]]:
        """Texts and what the program said; the background has caught up then."""
        asked = texts(self.at, self.at + count)
        self.at += count
        found = [(text, self.program(text=text)) for text in asked]
        assert self.live.flush()
        return found

    def state(self) -> State:
        return self.live.store.state()

    def until(self, stage: str, version: int | None, most: int = 6000) -> list[tuple[str, Any]]:
        """Calls until a version (None: any) is in a stage; all of them."""
        found: list[tuple[str, Any]] = []
        while (state := self.state()).stage != stage or version not in (None, state.version):
            found += self.calls(10)
            assert len(found) < most, (
                f"it stays at {state.stage} with version {state.version}: {state.reason}"
            )
        return found

    def __enter__(self) -> Service:
        return self

    def __exit__(self, *_: object) -> None:
        self.program.close()


def natives(found: list[tuple[str, Any]]) -> list[tuple[str, Any]]:
    return [(text, answer) for text, answer in found if route(answer) == "native"]


def agreeing(found: list[tuple[str, Any]], mind: Mind) -> float:
    """The share of answers that are what the language model says now."""
    return sum(answer.label == mind.label(text) for text, answer in found) / max(1, len(found))


def command(*words: Any) -> str:
    """What the command line prints, run as a process of its own."""
    argv = [sys.executable, "-m", "dspex", *map(str, words)]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def status(home: Path) -> Any:
    return json.loads(command("status", home, "--json"))


def until(found: Callable[[], Any], seconds: float = 60.0, pause: float = 0.005) -> Any:
    """What is found, once it is; fails when that takes too long."""
    end = time.monotonic() + seconds
    while not (value := found()):
        assert time.monotonic() < end, "it takes too long"
        time.sleep(pause)
    return value

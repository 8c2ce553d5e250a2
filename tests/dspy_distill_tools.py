"""What the tests of Distill share: a task with as many rows as are wanted, and a teacher over a socket."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import dspy

from dspex.dspy import Distill
from dspex.testing import LMServer, Request

LABELS = "Literal['refund', 'card_lost', 'hours']"
TASK = f"text -> label: {LABELS}"
_WORDS = {
    "refund": ("money back", "charged twice", "wrong amount", "a refund", "paid too much"),
    "card_lost": ("lost my card", "card was stolen", "card is missing", "a new card", "block my card"),
    "hours": ("when you open", "opening hours", "closed on sunday", "open at night", "which time today"),
}
_BEFORE = ("hello", "please", "hi there", "quick question", "so", "dear team", "excuse me", "good morning")
_AFTER = ("thanks", "ok", "please answer", "today", "urgent", "as soon as you can", "cheers", "bye")
COUNT = 150  # rows, of which enough certify
SURE, UNSURE = "hello lost my card thanks", "quite another matter altogether"


def label_of(text: str) -> str:
    """What the teacher says."""
    return next((label for label, words in _WORDS.items() if any(w in text for w in words)), "hours")


def texts(count: int, seed: int = 0) -> list[str]:
    """Different texts, each of one intent; at most 960."""
    pool = [f"{a} {w} {z}" for words in _WORDS.values() for w in words for a in _BEFORE for z in _AFTER]
    return random.Random(seed).sample(pool, count)


def rows(count: int = COUNT, seed: int = 0) -> list[Any]:
    """Examples without outputs."""
    return [dspy.Example(text=text).with_inputs("text") for text in texts(count, seed)]


def labelled(count: int = COUNT, seed: int = 0) -> list[Any]:
    return [dspy.Example(text=t, label=label_of(t)).with_inputs("text") for t in texts(count, seed)]


def answers(request: Request) -> dict[str, Any]:
    """Every output that any of the tests' modules asks for."""
    text = request.fields["text"]
    label = label_of(text)
    return {"label": label, "reasoning": "it says so", "urgent": label == "card_lost", "reply": f"re: {text}"}


@contextmanager
def teaching(says: Callable[[Request], Any] = answers, **lm: Any) -> Iterator[LMServer]:
    """A server that teaches, as DSPy's LM."""
    with LMServer(says) as server:
        model = dspy.LM(**server.lm_config(**{"cache": False, "num_retries": 0, **lm}))
        with dspy.context(lm=model, num_threads=4, disable_history=False, trace=[]):
            yield server


#: Settings under which COUNT rows do.
FAST: Mapping[str, Any] = {
    "stage": "live",
    "agreement": 0.9, "calibration_share": 0.4, "progress": False, "threads": 1, "max_epochs": 10,
}  # fmt: skip


class Counting:
    """Counts calls, by whatever key."""

    def __init__(self) -> None:
        self.seen: dict[Any, int] = {}
        self.lock = threading.Lock()

    def __call__(self, key: Any) -> int:
        """How often it was this key, now included."""
        with self.lock:
            self.seen[key] = self.seen.get(key, 0) + 1
            return self.seen[key]


def compiled(home: Path, trainset: Any = None, **given: Any) -> Any:
    """Closed at once: what it left in its home is looked at."""
    sets = {name: given.pop(name) for name in ("valset", "traces", "teacher") if name in given}
    fast = Distill(home=home, **{**FAST, **given}).compile(dspy.Predict(TASK), trainset=trainset, **sets)
    fast.close()
    return fast.report()


class Own(dspy.Module):
    """A module that says nothing of its signature."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = dspy.Predict(TASK)

    def forward(self, text: str) -> Any:
        return dspy.Prediction(label=self.inner(text=text).label)

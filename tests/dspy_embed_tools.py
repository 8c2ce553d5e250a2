"""What the tests of dspex inside DSPy share: a scripted LM engine, and a small task that is soon learned."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Mapping
from typing import Any

import dspy
from dspy.lm15 import Message, Response, Usage

import dspex

LABELS = "Literal['refund', 'card_lost', 'hours']"
TASK = f"text -> label: {LABELS}"

_WORDS = {
    "refund": ("money back", "charged twice", "wrong amount", "refund please", "paid too much"),
    "card_lost": ("lost my card", "card was stolen", "card is missing", "new card needed", "block my card"),
    "hours": ("when do you open", "opening hours", "closed on sunday", "open at night", "what time today"),
}
_AROUND = ("hello {}", "{} thanks", "please, {}", "i ask: {}", "{} ok", "hi there {}")


def rows() -> list[dict[str, str]]:
    """90 rows of the task."""
    return [
        {"text": frame.format(words), "label": label}
        for label, texts in _WORDS.items()
        for words in texts
        for frame in _AROUND
    ]


def examples() -> list[Any]:
    return [dspy.Example(**row).with_inputs("text") for row in rows()]


def program(**options: Any) -> dspex.Program:
    return dspex.fit(TASK, rows(), threads=1, **options)


Says = Callable[[str], Mapping[str, Any]]


class Engine:
    """A DSPy engine that answers at once with the outputs that `says` gives for the prompt, the system's part
    included, in the format that it asks for.
    """

    def __init__(self, says: Says | Mapping[str, Any]) -> None:
        self.says = says if callable(says) else lambda _: says
        self.prompts: list[str] = []
        self.lock = threading.Lock()

    def complete(self, request: Any) -> Any:
        parts = [part.text for message in request.messages for part in message.parts]
        prompt = "\n".join([request.system or "", *parts])
        with self.lock:
            self.prompts.append(prompt)
        said = self.says(prompt)
        fields = "".join(f"[[ ## {name} ## ]]\n{value}\n\n" for name, value in said.items())
        is_json = "Respond with a JSON object" in prompt
        return Response(
            id=None,
            model=request.model,
            message=Message.assistant(json.dumps(said) if is_json else f"{fields}[[ ## completed ## ]]"),
            finish_reason="stop",
            usage=Usage(input_tokens=1, output_tokens=1),
        )

    @property
    def calls(self) -> int:
        return len(self.prompts)


class AsyncEngine:
    """The same for `acall`."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine

    async def complete(self, request: Any) -> Any:
        return self.engine.complete(request)


def lm_of(engine: Engine, **settings: Any) -> Any:
    return dspy.LM(
        "scripted/lm", engine=engine, async_engine=AsyncEngine(engine), cache=False, num_retries=0, **settings
    )

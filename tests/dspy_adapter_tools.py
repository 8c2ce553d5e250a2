"""What the tests of the DSPy adapter share: adapters over a local server, engines, parts by import path."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from typing import Any

import dspy

from dspex.adapters.dspy import DspyAdapter
from dspex.testing.lm_server import LMServer, Request

STRESS = float(os.environ.get("DSPEX_STRESS", "1"))
NO_RETRY = {"attempts": 1}
made: list[DspyAdapter] = []  # closed after each test, see conftest.py
LABEL = "text -> label: Literal['refund', 'card_lost']"


def over(server: LMServer, *, lm: dict[str, Any] | None = None, **config: Any) -> DspyAdapter:
    """An adapter whose one LM is the server, without retries unless they are asked for."""
    adapter = DspyAdapter(
        {"lms": {"server": server.lm_config(**{"retry": NO_RETRY, **(lm or {})})}, **config}
    )
    made.append(adapter)
    return adapter


def program(server: LMServer, spec: dict[str, Any] | str = LABEL, **config: Any) -> tuple[DspyAdapter, str]:
    """An adapter over the server with one program."""
    adapter = over(server, **config)
    return adapter, adapter.create_program({"signature": spec} if isinstance(spec, str) else spec)


class NamedEngine:
    """A DSPy engine that answers every request with its name, and counts."""

    def __init__(self, name: str, output: str = "label", pause: float = 0.0) -> None:
        self.name = name
        self.output = output
        self.pause = pause
        self.asked = 0
        self.threads: set[int] = set()
        self._lock = threading.Lock()

    def complete(self, request: Any) -> Any:
        with self._lock:
            self.asked += 1
            self.threads.add(threading.get_ident())
        if self.pause:
            time.sleep(self.pause)
        text = f"[[ ## {self.output} ## ]]\n{self.name}\n\n[[ ## completed ## ]]"
        return dspy.lm15.Response(
            id=None,
            model=request.model,
            message=dspy.lm15.Message.assistant(text),
            finish_reason="stop",
            usage=dspy.lm15.Usage(input_tokens=10, output_tokens=5, total_tokens=15),
        )


def engine() -> NamedEngine:
    """A factory by import path."""
    return NamedEngine("made")


ready = NamedEngine("ready")  # an engine by import path


class TwoSteps(dspy.Module):
    """Two predictors, and code between."""

    def __init__(self, greeting: str = "dear") -> None:
        super().__init__()
        self.greeting = greeting
        self.first = dspy.Predict("text -> topic")
        self.second = dspy.Predict("topic -> reply")

    def forward(self, text: str) -> dspy.Prediction:
        topic = self.first(text=text).topic
        return dspy.Prediction(topic=topic, reply=f"{self.greeting} {self.second(topic=topic).reply}")


class OnlyAsync(dspy.Module):
    """A module without `forward`."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = dspy.Predict("text -> reply")

    async def aforward(self, text: str) -> dspy.Prediction:
        return await self.inner.acall(text=text)


class Fixed(dspy.Module):
    """Returns what it is told to, and asks nobody."""

    def __init__(self, value: Any = None) -> None:
        super().__init__()
        self.value = value

    def forward(self, **inputs: Any) -> Any:
        return self.value() if callable(self.value) else self.value


instance = TwoSteps("instance")


def make(greeting: str) -> TwoSteps:
    return TwoSteps(greeting)


def not_a_module() -> int:
    return 3


def add(a: int, b: int) -> int:
    """Adds two numbers."""
    return a + b


async def aadd(a: int, b: int) -> int:
    """Adds two numbers."""
    return a + b


add_tool = dspy.Tool(add, name="plus")


def steps(*calls: tuple[str, dict[str, Any]]) -> Callable[[Request], dict[str, Any]]:
    """Answers of an LM that calls these tools in turn, finishes, and answers with the last observation."""

    def answer(request: Request) -> dict[str, Any]:
        trajectory = request.fields.get("trajectory", "")
        if "next_tool_name" not in request.output_fields:
            last = trajectory.rpartition("## observation_")[0].rpartition("## observation_")[2]
            number = "".join(c for c in last.partition("]]")[2].partition("[[")[0] if c.isdigit())
            return {"reasoning": "done", "answer": int(number or 0)}
        at = trajectory.count("## tool_name_")
        name, args = calls[at] if at < len(calls) else ("finish", {})
        return {"next_thought": "so", "next_tool_name": name, "next_tool_args": args}

    return answer


def wait_until(condition: Callable[[], bool], seconds: float = 5.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it never came to that"
        time.sleep(0.005)

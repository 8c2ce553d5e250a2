"""What the tests of the pooled DSPy adapter share: one pool for most of them, and parts that workers import.

Holds no tests. DSPEX_STRESS=20 multiplies the counts of the long tests by 20.
"""

from __future__ import annotations

import asyncio
import contextlib
import enum
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import dspy
import pydantic

from dspex.adapters.dspy_pool import DspyPoolAdapter
from dspex.testing.lm_server import LMServer, Request
from processes_tools import STRESS, in_background, in_threads, is_alive, scaled, until

__all__ = [
    "LABEL",
    "NO_RETRY",
    "SERVER",
    "STRESS",
    "borrowed",
    "error_of",
    "in_background",
    "in_threads",
    "is_alive",
    "over",
    "running",
    "scaled",
    "settled",
    "until",
]

LABEL = "text -> label: Literal['refund', 'card_lost']"
NO_RETRY = {"attempts": 1}
SERVER = LMServer()  # of the shared pool
_shared: list[DspyPoolAdapter] = []


def over(server: LMServer, *, lm: dict[str, Any] | None = None, **config: Any) -> DspyPoolAdapter:
    """A pool whose one LM is the server, without retries unless they are asked for; of one worker."""
    own = server.lm_config(**{"retry": NO_RETRY, **(lm or {})})
    pool = {"size": 1, **config.pop("dspy_pool", {})}
    return DspyPoolAdapter({"lms": {"server": own}, "dspy_pool": pool, **config})


@contextlib.contextmanager
def borrowed() -> Iterator[DspyPoolAdapter]:
    """A pool of two workers over `SERVER`, the same for all tests: it takes two seconds to start."""
    if not _shared:
        SERVER.start()
        _shared.append(over(SERVER, dspy_pool={"size": 2}))
    adapter = _shared[0]
    adapter.configure_lm(SERVER.lm_config(retry=NO_RETRY, breaker={"enabled": False}))
    SERVER.clear()
    SERVER.delay, SERVER.faults, SERVER.answers = 0.0, None, None
    try:
        yield adapter
    finally:
        for program in adapter.list_programs():
            adapter.delete_program(program)
        until(lambda: running(adapter) == adapter.config.dspy_pool.size)


def error_of(work: Callable[[], Any]) -> Any:
    """What it raises."""
    try:
        work()
    except Exception as error:
        return error
    raise AssertionError("nothing was raised")


def running(adapter: DspyPoolAdapter) -> int:
    workers: int = adapter.get_stats()["pool"]["workers"]
    return workers


def settled(adapter: DspyPoolAdapter) -> DspyPoolAdapter:
    """Waits until its workers have done what they were told, and no call is under way."""
    until(lambda: adapter.get_stats()["pool"]["idle"] == adapter.config.dspy_pool.size)
    return adapter


def echo(request: Request) -> dict[str, Any]:
    """An answer that is a function of the input: each output is the text, reversed."""
    text = "".join(request.fields.values())[::-1]
    return dict.fromkeys(request.output_fields, text)


# What workers import


class Reason(enum.Enum):
    """Why somebody writes."""

    REFUND = "refund"
    LOST = "card_lost"


class Person(pydantic.BaseModel):
    """Who writes."""

    name: str
    age: int


class Mail(dspy.Signature):
    """Say who writes, and why."""

    text: str = dspy.InputField(desc="the mail as it came")
    reason: Reason = dspy.OutputField()
    person: Person = dspy.OutputField(desc="the sender")


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


class Wrapping(dspy.Module):
    """One predictor."""

    def __init__(self) -> None:
        super().__init__()
        self.ask = dspy.Predict(LABEL)

    def forward(self, text: str) -> dspy.Prediction:
        return self.ask(text=text)


class Outer(dspy.Module):
    """A module within a module."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = dspy.ChainOfThought("text -> label: Literal['refund', 'card_lost']")

    def forward(self, text: str) -> dspy.Prediction:
        return self.inner(text=text)


class Typed(dspy.Module):
    """Says by itself what it takes and gives, in types of this module."""

    signature = dspy.Signature(
        {"text": (str, dspy.InputField()), "reason": (Reason, dspy.OutputField())}, "Say why."
    )

    def __init__(self) -> None:
        super().__init__()
        self.ask = dspy.Predict(self.signature)

    def forward(self, text: str) -> dspy.Prediction:
        return self.ask(text=text)


class OwnLM(dspy.Module):
    """Makes the LM of its predictor."""

    def __init__(self, url: str) -> None:
        super().__init__()
        self.ask = dspy.Predict(LABEL)
        self.ask.lm = dspy.LM("openai/own", api_base=url, api_key="test", cache=False, num_retries=0)

    def forward(self, text: str) -> dspy.Prediction:
        return self.ask(text=text)


class Acting(dspy.Module):
    """Does to its worker what the text says, and returns something about it."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def forward(self, text: str) -> dspy.Prediction:
        self.calls += 1
        name, _, argument = text.partition(" ")
        return dspy.Prediction(said=str(getattr(Acts, name)(self, argument)))


class Acts:
    """What `Acting` can do."""

    @staticmethod
    def reverse(module: Any, argument: str) -> str:
        return argument[::-1]

    @staticmethod
    def pid(module: Any, argument: str) -> int:
        return os.getpid()

    @staticmethod
    def calls(module: Acting, argument: str) -> str:
        return f"{os.getpid()} {module.calls}"

    @staticmethod
    def sleep(module: Any, argument: str) -> str:
        time.sleep(float(argument))
        return "slept"

    @staticmethod
    def spin(module: Any, argument: str) -> None:
        while True:
            pass

    @staticmethod
    def work(module: Any, argument: str) -> str:
        """Says when it began and ended."""
        began = time.monotonic()
        sum(number * number for number in range(int(argument)))
        return f"{began} {time.monotonic()}"

    @staticmethod
    def exit(module: Any, argument: str) -> None:
        os._exit(int(argument))

    @staticmethod
    def sys_exit(module: Any, argument: str) -> None:
        sys.exit(argument)

    @staticmethod
    def interrupt(module: Any, argument: str) -> None:
        raise KeyboardInterrupt

    @staticmethod
    def fail(module: Any, argument: str) -> None:
        raise ValueError(argument)

    @staticmethod
    def shout(module: Any, argument: str) -> int:
        print("x" * int(argument))
        print("x" * int(argument), file=sys.stderr)
        return os.write(1, b"x\n")

    @staticmethod
    def chdir(module: Any, argument: str) -> str:
        os.chdir(argument)
        return os.getcwd()

    @staticmethod
    def cwd(module: Any, argument: str) -> str:
        return os.getcwd()

    @staticmethod
    def fork(module: Any, argument: str) -> str:
        pid = os.fork()
        if not pid:
            os._exit(3)
        return str(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))

    @staticmethod
    def garbage(module: Any, argument: str) -> str:
        """Writes to whatever is a socket."""
        for entry in os.listdir("/proc/self/fd"):
            with contextlib.suppress(OSError):
                if os.readlink(f"/proc/self/fd/{entry}").startswith("socket:"):
                    os.write(int(entry), b"this is no frame")
        return "written"

    @staticmethod
    def reset(module: Any, argument: str) -> str:
        """Closes whatever is a socket."""
        for entry in os.listdir("/proc/self/fd"):
            with contextlib.suppress(OSError):
                if os.readlink(f"/proc/self/fd/{entry}").startswith("socket:"):
                    os.close(int(entry))
        return "closed"

    @staticmethod
    def hidden(module: Any, argument: str) -> bool:
        """Whether a text is in this process's environment or arguments."""
        files = [Path(f"/proc/self/{name}").read_bytes() for name in ("environ", "cmdline")]
        return any(argument.encode() in data for data in files)


class Gathering(dspy.Module):
    """Asks twice at once, in tasks."""

    def __init__(self) -> None:
        super().__init__()
        self.ask = dspy.Predict("text -> reply")

    async def aforward(self, text: str) -> dspy.Prediction:
        both = await asyncio.gather(self.ask.acall(text=f"{text} 1"), self.ask.acall(text=f"{text} 2"))
        return dspy.Prediction(reply=" ".join(each.reply for each in both))


class Threads(dspy.Module):
    """Asks several times at once, in DSPy's threads."""

    def __init__(self) -> None:
        super().__init__()
        self.ask = dspy.Predict("text -> reply")

    def forward(self, text: str) -> dspy.Prediction:
        parallel = dspy.Parallel(num_threads=3, disable_progress_bar=True)
        found = parallel([(self.ask, {"text": f"{text} {number}"}) for number in range(3)])
        return dspy.Prediction(reply=" ".join(each.reply for each in found))


def look_up(word: str) -> str:
    """Looks a word up."""
    return f"{word}: found by {os.getpid()}"


def add(a: int, b: int) -> int:
    """Adds two numbers."""
    return a + b


plus = dspy.Tool(add, name="plus")


class Returning(dspy.Module):
    """Returns something of a type that the text names."""

    def forward(self, text: str) -> dspy.Prediction:
        return dspy.Prediction(said={"object": object(), "number": 3}[text])


class Hanging(Wrapping):
    """Never comes to be."""

    def __init__(self) -> None:
        super().__init__()
        time.sleep(600)


def stall() -> None:
    """Never returns."""
    time.sleep(600)


def breaks() -> None:
    """Always fails."""
    raise ValueError("broken")


class Adding(dspy.Module):
    """Adds to its outputs what is hard to send."""

    def forward(self, text: str) -> dspy.Prediction:
        return dspy.Prediction(
            said=text,
            large=2**80,
            odd="half \ud83d",
            path=Path("/tmp"),
            thing=object(),
            nested={1: (1.5, None, Reason.REFUND)},
        )


class Instant:
    """An engine that answers at once: the reply is "done"."""

    def complete(self, request: Any) -> Any:
        text = "[[ ## reply ## ]]\ndone\n\n[[ ## completed ## ]]"
        return dspy.lm15.Response(
            id=None,
            model=request.model,
            message=dspy.lm15.Message.assistant(text),
            finish_reason="stop",
            usage=dspy.lm15.Usage(input_tokens=10, output_tokens=5, total_tokens=15),
        )


instant = Instant()

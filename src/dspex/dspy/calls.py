"""What belongs to one call of a DSPy program, wherever in it an LM is asked."""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Mapping
from concurrent.futures import CancelledError, Future
from typing import Any, Self

from dspy.dsp.utils.settings import main_thread_config, thread_local_overrides

from dspex.dspy.loops import Loops, outcome
from dspex.errors import ProgramError
from dspex.protection import NEVER, Budget, Deadline, Usage

__all__ = [
    "LOOSE",
    "Abandoned",
    "Call",
    "Meter",
    "call_settings",
    "current_call",
    "current_meter",
    "entered",
    "is_partly_sent",
    "setting",
]

_COUNTS = ("prompt_tokens", "completion_tokens", "total_tokens")
_KEY = "dspex_call"  # in DSPy's settings, so that it reaches the threads that DSPy starts


class Abandoned(BaseException):
    """Nobody waits for the call any more. No Exception: the program's own code is to end, not to go on."""


class Call:
    """One call of a program: its deadline, its budget, and what it has used.

    Attributes:
        program: the program's id.
        deadline: when the whole call has to be over.
        budget: the program's, or None.
        loops: where its requests can be cut off; None: nowhere.
        history: whether DSPy keeps the prompts; None: as its settings say.
        apart: it runs on a thread that may be left behind: its requests have to end then.
    """

    __slots__ = (
        *("_abandoned", "_lms", "_lock", "_tokens", "_under_way", "_usd"),
        *("apart", "budget", "deadline", "history", "loops", "program"),
    )

    def __init__(
        self,
        program: str | None,
        deadline: Deadline = NEVER,
        budget: Budget | None = None,
        loops: Loops | None = None,
        *,
        history: bool | None = False,
    ) -> None:
        self.program = program
        self.deadline = deadline
        self.budget = budget
        self.loops = loops
        self.history = history
        self.apart = False
        self._abandoned = False
        self._under_way: set[Future[Any]] = set()
        self._lms: dict[str, int] = {}
        self._tokens: dict[str, int] = {}
        self._usd: float | None = None
        self._lock = threading.Lock()  # a program may ask from several threads

    def answered(self, lm: str, usage: Mapping[str, Any]) -> None:
        """Counts an answer of the LM of this name."""
        with self._lock:
            self._lms[lm] = self._lms.get(lm, 0) + 1
            for name in _COUNTS:
                count = usage.get(name)
                if count:
                    self._tokens[name] = self._tokens.get(name, 0) + count

    def cost(self, usd: float) -> None:
        """Adds what answers cost."""
        with self._lock:
            self._usd = (self._usd or 0.0) + usd

    def usage(self) -> dict[str, Any]:
        """As a result tells it: requests that were answered, by which LMs, tokens where these count them, and
        US dollars where that is known.
        """
        requests = sum(self._lms.values())
        return {"requests": requests, **self._tokens, "usd": self._usd, "lms": dict(self._lms)}

    def require_wanted(self) -> None:
        """Nothing, while it makes sense to ask an LM for this call.

        Raises:
            Abandoned: nobody waits for it any more.
            ProgramError: the adapter was closed.
        """
        if self._abandoned:
            raise Abandoned
        if self.loops is not None and self.loops.closed:
            raise ProgramError("the adapter was closed during the call", program=self.program)

    def wait_for(self, request: Future[Any], deadline: Deadline) -> Any:
        """The outcome of a request that runs elsewhere, and is cut off when the time for it is over.

        Raises:
            CallTimeoutError: it is.
            Abandoned, ProgramError: as `require_wanted`.
        """
        with self._lock:
            self._under_way.add(request)
        try:
            self.require_wanted()
            return outcome(request, deadline, self.program, "the request to the LM")
        except CancelledError:
            self.require_wanted()
            raise
        finally:
            with self._lock:
                self._under_way.discard(request)
            request.cancel()

    def abandon(self) -> None:
        """Ends the requests under way, and lets no more be sent: nobody waits for the call any more."""
        with self._lock:
            self._abandoned = True
            requests = list(self._under_way)
        for request in requests:
            request.cancel()


#: For a protected LM that is asked outside of a program of dspex.
LOOSE = Call(None, history=None)


def current_call() -> Call:
    """The call under way in this thread or task."""
    found: Call = thread_local_overrides.get().get(_KEY, LOOSE)
    return found


def setting(name: str) -> Any:
    """A setting of DSPy's as it is here; what `dspy.settings` says, in a third of the time."""
    here = thread_local_overrides.get()
    return here[name] if name in here else main_thread_config[name]


def call_settings(adapter: Any, history: bool) -> dict[str, Any]:
    """DSPy's settings for every call of a program.

    Args:
        adapter: DSPy's, between signature and prompt; None: the one of the user's settings.
        history: whether DSPy keeps the prompts.
    """
    own = {
        "trace": None,
        "disable_history": not history,
        "send_stream": None,
        "allow_tool_async_sync_conversion": True,
    }
    return own if adapter is None else {**own, "adapter": adapter}


class entered:  # in lower case, as contextlib has it
    """`dspy.context` for a call, without its price: nothing of it reaches other calls or the user's settings.

    Args:
        settings: of `call_settings`.
        more: further settings.
    """

    __slots__ = ("_settings", "_token")

    def __init__(self, call: Call, lm: Any, settings: Mapping[str, Any], **more: Any) -> None:
        self._settings = {**thread_local_overrides.get(), **settings, _KEY: call, "lm": lm, **more}

    def __enter__(self) -> None:
        self._token = thread_local_overrides.set(self._settings)

    def __exit__(self, *_: object) -> None:
        thread_local_overrides.reset(self._token)


class Meter:
    """What one request to an LM uses. While the LM is asked it stands in DSPy's settings for the usage
    tracker, and for the stream if there is one, and passes on to these.

    Args:
        call: that the request belongs to.
        lm: an observed LM.

    Attributes:
        keeps: whether the prompt is for DSPy's history.
        streams: whether the answer is passed on as it comes.
    """

    __slots__ = (
        *("_answers", "_call", "_lm", "_sent", "_stream", "_token", "_tokens", "_usd", "_users"),
        *("keeps", "streams"),
    )

    def __init__(self, call: Call, lm: Any) -> None:
        self._call = call
        self._lm = lm
        self._answers = 0
        self._tokens: int | None = None
        self._usd: float | None = None
        self._sent = False

    def __enter__(self) -> Self:
        here, elsewhere = thread_local_overrides.get(), main_thread_config
        self._users = (here if "usage_tracker" in here else elsewhere)["usage_tracker"]
        self._stream = (here if "send_stream" in here else elsewhere)["send_stream"]
        self.streams = self._stream is not None
        history = self._call.history
        self.keeps: bool = not setting("disable_history") if history is None else history
        # DSPy tells its price with the entry for the history.
        own = {**here, "usage_tracker": self, "disable_history": not (self.keeps or self._lm.dspex_priced)}
        if self.streams:
            own["send_stream"] = self
        self._token = thread_local_overrides.set(own)
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        thread_local_overrides.reset(self._token)
        if self._usd is not None and self._call is not LOOSE:
            self._call.cost(self._usd)
        if error is None:
            return
        if self._answers and self._call.budget is not None:  # answers that came before it failed are paid
            self._call.budget.charge(self._tokens, self._usd)
        if self._sent:
            error.__dict__["dspex_partly_sent"] = True

    def add_usage(self, model: str, usage: dict[str, Any]) -> None:
        """DSPy tells of an answer, unless it had kept it."""
        self._answers += 1
        total = usage.get("total_tokens")
        if total is not None:
            self._tokens = (self._tokens or 0) + total
        prices = self._lm.dspex_prices
        if prices is not None and "prompt_tokens" in usage:
            prompt, completion = usage["prompt_tokens"], usage.get("completion_tokens") or 0
            self._usd = (self._usd or 0.0) + (prompt * prices[0] + completion * prices[1]) / 1e6
        if self._call is not LOOSE:
            self._call.answered(self._lm.dspex_name, usage)
        if self._users is not None:
            self._users.add_usage(model, usage)

    @property
    def usage_data(self) -> Any:
        """Where a tracker within this one puts what it has heard, when it ends."""
        return defaultdict(list) if self._users is None else self._users.usage_data

    def price(self, usd: float | None) -> None:
        """DSPy tells what the answer cost; None: it does not know."""
        if usd is not None and self._answers:
            self._usd = usd

    def used(self) -> Usage:
        """What the request has used; nothing, if its answer had been kept from one before."""
        return Usage(self._tokens, self._usd) if self._answers else Usage(0, 0.0)

    async def send(self, item: Any) -> None:
        """DSPy sends a piece of the answer."""
        self._sent = True
        await self._stream.send(item)


def current_meter() -> Meter | None:
    """The meter of the request under way in this thread or task."""
    found = thread_local_overrides.get().get("usage_tracker")
    return found if isinstance(found, Meter) else None


def is_partly_sent(error: BaseException) -> bool:
    """Whether a part of the answer had been passed on when this error came: nothing may be tried again."""
    return "dspex_partly_sent" in error.__dict__

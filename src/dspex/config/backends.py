"""Settings of the DSPy backends and of the router."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, StrictBool, model_validator

from dspex.config.base import Settings
from dspex.config.lm import Amount, BudgetSettings, Count, Positive, Seconds, SomeSeconds, Text
from dspex.config.problems import Misfit

__all__ = [
    "AnswerCacheSettings",
    "DspySettings",
    "ProcessPoolSettings",
    "RoutingSettings",
    "RuleSettings",
    "When",
]

Share = Annotated[float, Field(strict=True, ge=0, le=1)]
Size = Annotated[int, Field(strict=True, ge=1, le=1024)]
Whole = Annotated[int, Field(strict=True, ge=0)]
Backend = Literal["native", "native_pool", "dspy", "dspy_pool"]
Operation = Literal["call", "acall", "batch"]


class AnswerCacheSettings(Settings):
    """Answers kept for equal inputs of one program."""

    size: Whole = 0
    """Most answers kept; 0: off."""
    ttl: SomeSeconds = 300.0
    """Seconds that one is kept."""


class DspySettings(Settings):
    """How DSPy programs run, in process and in worker processes."""

    timeout: SomeSeconds | None = None
    """Seconds, the deadline of a call with all its tries; None: none. A call can have its own."""
    concurrency: Size = 8
    """Rows of a batch under way at once, in process."""
    format: Literal["chat", "json", "xml"] | None = None
    """DSPy's adapter between signature and prompt; None: the user's dspy.settings, or ChatAdapter."""
    history: StrictBool = False
    """Keep DSPy's history of LM calls; it holds every prompt, 5 KiB a call."""
    on_tool_error: Literal["raise", "observe"] = "raise"
    """A tool that raises ends the call with ProgramError, or is shown to the LM as DSPy does it."""
    single_flight: StrictBool = False
    """Equal inputs that are asked at once are asked once; all get the one answer."""
    cache: AnswerCacheSettings = AnswerCacheSettings()
    budget: BudgetSettings | None = None
    """Of each program; a program's own comes before it."""


class ProcessPoolSettings(Settings):
    """The pool of worker processes."""

    size: Size = 2
    """Worker processes."""
    max_size: Size | None = None
    """With overflow workers, which come while all are busy and calls wait; by default `size`: none."""
    capacity: Whole = 1024
    """Calls that may wait for a worker; one more raises PoolSaturated."""
    max_wait: SomeSeconds = 60.0
    """Seconds that a call without a deadline waits for a worker before PoolSaturated."""
    start_timeout: SomeSeconds = 60.0
    """Seconds that a worker may take to start."""
    idle_timeout: Seconds = 10.0
    """Seconds after which an idle overflow worker goes."""
    ping_interval: SomeSeconds = 5.0
    """Seconds between health pings of an idle worker."""
    ping_timeout: SomeSeconds = 5.0
    """Seconds that it may take to answer one before it is replaced."""
    max_calls: Count | None = None
    """Calls after which a worker is replaced."""
    max_memory_mib: Count | None = None
    """Resident memory above which a worker is replaced, after the call."""
    session_ttl: SomeSeconds = 3600.0
    """Seconds after its last call that a session keeps its worker."""
    allow_pickle: StrictBool = False
    """Programs that are neither state nor import path travel as pickles, which run code when read."""

    @model_validator(mode="after")
    def _sizes(self) -> Self:
        if self.max_size is not None and self.max_size < self.size:
            raise Misfit(f"max_size {self.max_size} is below size {self.size}", "max_size")
        return self

    @property
    def most_workers(self) -> int:
        """`max_size` with its default filled in."""
        return self.size if self.max_size is None else self.max_size


class When(Settings):
    """What a rule looks at; all that is given has to hold. Patterns are those of fnmatch, and case counts."""

    operation: Operation | None = None
    """How the program is called."""
    program: str | None = None
    """An id, or a pattern of ids."""
    kind: str | None = None
    """What is asked of the program, "predict" or "chain_of_thought"."""
    signature: str | None = None
    """A pattern of the signature's string form, "text -> *: Literal*"; or "native" / "not native" for its
    eligibility."""
    tag: str | None = None
    """A tag, or a pattern of tags; one of the program's has to fit."""


class RuleSettings(Settings):
    """One routing rule: for the calls that fit `when`, the backend to use."""

    when: When = When()
    """What has to hold; by default the rule is for every call."""
    use: Backend
    """The backend."""
    name: Text | None = None
    """For explanations; by default its number."""


class RoutingSettings(Settings):
    """How the hybrid adapter picks a backend; a program's own `routing` comes before these."""

    backend: Backend | None = None
    """An explicit choice, before every rule."""
    rules: tuple[RuleSettings, ...] = ()
    """Looked at in order; the first that fits decides."""
    prefer: Literal["native", "dspy", "speed", "quality", "cost"] | None = None
    """"native", "speed" and "cost" wish for the native backends where they can; "dspy" and "quality" for
    DSPy."""
    latency_budget_ms: Positive | None = None
    """Milliseconds that a call may take: excludes backends whose median of late was longer."""
    max_cost: Amount | None = None
    """US dollars that a call may cost: excludes DSPy when its median cost of late was more."""
    threshold: Share | None = 0.9
    """The gate: a native answer less confident is asked of DSPy, where an LM is configured. None: no gate."""
    certified: StrictBool = True
    """A program with a certificate goes by that in place of `threshold`, unless its own `routing` has one."""
    fallback: StrictBool = True
    """DSPy down, over budget or too slow: the native answer, with `route.degraded`. False: the error."""
    hedge_after_ms: Seconds | None = None
    """Milliseconds after which a call that a pool has not answered is started on DSPy in process as well."""
    native_pool: StrictBool = False
    """Native programs run on the worker pool rather than in the caller's thread."""
    dspy_pool: StrictBool = False
    """DSPy programs run in worker processes rather than in this one."""

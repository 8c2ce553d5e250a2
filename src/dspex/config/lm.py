"""Settings of a language model and of the protection around it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, SecretStr

from dspex.config.base import Settings

__all__ = ["BreakerSettings", "BudgetSettings", "LimitSettings", "LMSettings", "RetrySettings"]

Seconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1)]


class RetrySettings(Settings):
    """When a request to the LM is tried again. Only what can succeed is: rate limits, server errors, cut
    connections, time-outs. Pauses have full jitter: uniform in [0, min(max_backoff, backoff * 2**n)].
    """

    attempts: Count = 3
    """Tries of one LM, the first included; 1: none is repeated."""
    backoff: Seconds = 0.5
    """Seconds, the longest first pause."""
    max_backoff: Seconds = 20.0
    """Seconds, the longest pause of all."""
    max_retry_after: Seconds = 60.0
    """Seconds: a Retry-After up to here is waited for, if the deadline allows; a longer one ends the tries."""


class LimitSettings(Settings):
    """How much of an LM is used: token buckets and places. None: no limit."""

    requests_per_minute: Positive | None = None
    tokens_per_minute: Positive | None = None
    """A request takes what it used when it is known: the bucket may go below zero and then has to fill."""
    burst: Positive | None = None
    """Requests that may come at once; by default those of one second, at least 1."""
    concurrency: Count | None = None
    """Requests under way at once."""
    max_wait: Seconds = 30.0
    """Seconds that a request waits for its turn before ResourceError; the deadline may end it sooner."""


class BreakerSettings(Settings):
    """When an LM that fails is left alone. Opens when, within `window` seconds, at least `min_calls` requests
    ended and the share `failure_rate` of them failed; lets `probes` requests through after `cooldown` seconds,
    closes when they succeed and opens again when one fails.
    """

    enabled: bool = True
    failure_rate: Annotated[float, Field(gt=0, le=1)] = 0.5
    min_calls: Count = 10
    window: Positive = 30.0
    cooldown: Positive = 5.0
    probes: Count = 1


class BudgetSettings(Settings):
    """What a program may use within a sliding window. None: no limit. What is asked when the budget is used up
    is refused with ResourceError, whose retry_after says when some of it is free again.
    """

    tokens: Count | None = None
    usd: Positive | None = None
    """Counts where the cost is known: by DSPy's price list, or by the LM's `prices`."""
    window: Positive = 86_400.0
    """Seconds."""


class LMSettings(Settings):
    """A language model: what `dspy.LM` takes, and how it is protected."""

    model: Annotated[str, Field(min_length=1, pattern=r"\S")]
    """As DSPy names it, "openai/gpt-4o-mini"."""
    api_key: SecretStr | None = None
    """By default what the provider's own environment variable holds."""
    api_base: str | None = None
    model_type: Literal["chat", "text", "responses"] = "chat"
    temperature: Annotated[float, Field(ge=0)] | None = None
    max_tokens: Count | None = None
    timeout: Positive | None = 60.0
    """Seconds without a byte from the LM; the deadline of a call is a setting of the call."""
    cache: bool = False
    """DSPy's own cache of LM responses, in memory and on disk."""
    prices: tuple[float, float] | None = None
    """US dollars for a million input tokens and a million output tokens, where DSPy does not know them."""
    options: Mapping[str, Any] = Field(default_factory=dict)
    """Further keywords of `dspy.LM`."""
    retry: RetrySettings = RetrySettings()
    limits: LimitSettings = LimitSettings()
    breaker: BreakerSettings = BreakerSettings()
    fallbacks: tuple[str, ...] = ()
    """Names of LMs that are asked, in order, when this one fails, is open or has no room."""

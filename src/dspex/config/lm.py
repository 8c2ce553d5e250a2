"""Settings of a language model and of the protection around it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit, urlunsplit

from pydantic import Field, SecretStr, StrictBool, field_serializer, field_validator, model_validator

from dspex.config.base import Frozen, Settings, Table
from dspex.config.problems import Misfit
from dspex.errors import ConfigError

__all__ = ["BreakerSettings", "BudgetSettings", "LMSettings", "LimitSettings", "RetrySettings"]

_LONGEST = 1e9  # seconds; clocks and waits of the system overflow not far above
Seconds = Annotated[float, Field(strict=True, ge=0, le=_LONGEST)]
SomeSeconds = Annotated[float, Field(strict=True, gt=0, le=_LONGEST)]
Amount = Annotated[float, Field(strict=True, ge=0, allow_inf_nan=False)]
Positive = Annotated[float, Field(strict=True, gt=0, allow_inf_nan=False)]
Count = Annotated[int, Field(strict=True, ge=1)]
Text = Annotated[str, Field(pattern=r"\S")]

_FROM_ENVIRONMENT = "env:"
_HIDDEN = "**********"


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
    """Seconds: a Retry-After up to here is waited for, if the deadline allows; a longer one ends the
    tries."""


class LimitSettings(Settings):
    """How much of an LM is used: token buckets and places. None: no limit."""

    requests_per_minute: Positive | None = None
    """Requests that are begun."""
    tokens_per_minute: Positive | None = None
    """A request takes what it used when it is known: the bucket may go below zero and then has to fill."""
    burst: Positive | None = None
    """Requests that may come at once; by default those of one second, at least 1."""
    concurrency: Count | None = None
    """Requests under way at once."""
    max_wait: Seconds = 30.0
    """Seconds that a request waits for its turn before ResourceError; the deadline may end it sooner."""

    @model_validator(mode="after")
    def _burst(self) -> Self:
        if self.burst is not None and self.requests_per_minute is None:
            raise Misfit("a burst is of requests_per_minute, which is not set", "burst")
        return self


class BreakerSettings(Settings):
    """When an LM that fails is left alone. Opens when, within `window` seconds, at least `min_calls` requests
    ended and the share `failure_rate` of them failed; lets `probes` requests through after `cooldown`
    seconds, closes when they succeed and opens again when one fails.
    """

    enabled: StrictBool = True
    """Whether there is one."""
    failure_rate: Annotated[float, Field(strict=True, gt=0, le=1)] = 0.5
    """Share of failed requests, in (0, 1], at which it opens."""
    min_calls: Count = 10
    """Requests that have to have ended within the window."""
    window: SomeSeconds = 30.0
    """Seconds that are looked at."""
    cooldown: SomeSeconds = 5.0
    """Seconds until the first probe."""
    probes: Count = 1
    """Requests that are let through to find out, and have to succeed."""


class BudgetSettings(Settings):
    """What a program may use within a sliding window. None: no limit. What is asked when the budget is used
    up is refused with ResourceError, whose retry_after says when some of it is free again.
    """

    tokens: Count | None = None
    """Tokens, of prompts and answers together."""
    usd: Positive | None = None
    """US dollars; counts where the cost is known: by DSPy's price list, or by the LM's `prices`."""
    window: SomeSeconds = 86_400.0
    """Seconds."""


class LMSettings(Settings):
    """A language model: what `dspy.LM` takes, and how it is protected."""

    model: Text
    """As DSPy names it, "openai/gpt-4o-mini"."""
    api_key: SecretStr | None = None
    """The key, or "env:NAME": what the environment variable NAME holds when the LM is made. By default what
    the provider's own variable holds."""
    api_base: str | None = None
    """The URL of an endpoint other than the provider's own."""
    model_type: Literal["chat", "text", "responses"] = "chat"
    """The kind of endpoint."""
    temperature: Amount | None = None
    """Of sampling; by default the provider's."""
    max_tokens: Count | None = None
    """Most tokens of an answer; by default the provider's."""
    timeout: SomeSeconds | None = 60.0
    """Seconds without a byte from the LM; the deadline of a call is a setting of the call."""
    cache: StrictBool = False
    """DSPy's own cache of LM responses, in memory and on disk."""
    prices: tuple[Amount, Amount] | None = None
    """US dollars for a million input tokens and a million output tokens, where DSPy does not know them."""
    options: Table[Any] = Field(default_factory=Frozen)
    """Further keywords of `dspy.LM`. They are never shown."""
    retry: RetrySettings = RetrySettings()
    limits: LimitSettings = LimitSettings()
    breaker: BreakerSettings = BreakerSettings()
    fallbacks: tuple[Text, ...] = ()
    """Names of LMs that are asked, in order, when this one fails, is open or has no room. Their own fallbacks
    are not followed."""

    @field_validator("api_key")
    @classmethod
    def _key(cls, key: SecretStr | None) -> SecretStr | None:
        if key is not None and not key.get_secret_value().removeprefix(_FROM_ENVIRONMENT).strip():
            raise Misfit(
                "'api_key' is empty", hint="Leave it out to use the provider's own environment variable"
            )
        return key

    @field_validator("api_base")
    @classmethod
    def _base(cls, url: str | None) -> str | None:
        if url is not None and not _is_url(url):
            raise Misfit("'api_base' has to be a URL", hint="Write it as 'https://host/v1'")
        return url

    @field_validator("options")
    @classmethod
    def _no_settings(cls, options: Frozen[Any]) -> Frozen[Any]:
        for name in options:
            if name in cls.model_fields:
                raise Misfit(f"{name!r} is a setting of its own", name, hint="Write it beside `options`")
            if name == "num_retries":
                raise Misfit("DSPy's own retries are not used", name, hint="Set retry.attempts")
        return options

    @field_validator("fallbacks")
    @classmethod
    def _once(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        for at, name in enumerate(names):
            if name in names[:at]:
                raise Misfit(f"{name!r} is there twice", at)
        return names

    @property
    def key_variable(self) -> str | None:
        """The environment variable that "env:NAME" names, or None."""
        key = "" if self.api_key is None else self.api_key.get_secret_value()
        return key.removeprefix(_FROM_ENVIRONMENT).strip() if key.startswith(_FROM_ENVIRONMENT) else None

    def key(self, at: str = "lm") -> str | None:
        """The API key in the clear, read from the environment where "env:NAME" says so.

        Args:
            at: where the settings stand, for the error: "lms.fast".

        Raises:
            ConfigError: the variable is not set.
        """
        variable = self.key_variable
        if variable is None:
            return None if self.api_key is None else self.api_key.get_secret_value()
        found = os.environ.get(variable)
        if not found:
            raise ConfigError(
                f"the environment variable {variable!r} of an api_key is not set", field=f"{at}.api_key"
            )
        return found

    @property
    def endpoint(self) -> str | None:
        """`api_base` as it may be shown: without a name and password, and without what may hold a key."""
        if self.api_base is None:
            return None
        parts = urlsplit(self.api_base)
        return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2], query="", fragment=""))

    @field_serializer("options", when_used="json")
    def _hidden_options(self, options: Frozen[Any]) -> dict[str, str]:
        return dict.fromkeys(options, _HIDDEN)

    @field_serializer("api_base", when_used="json")
    def _hidden_user(self, url: str | None) -> str | None:
        return self.endpoint

    def __repr_args__(self) -> Iterator[tuple[str | None, Any]]:
        shown = {"api_base": self.endpoint, "options": dict.fromkeys(self.options, _HIDDEN)}
        for name, value in super().__repr_args__():
            yield name, shown.get(name or "", value)


def _is_url(text: str) -> bool:
    try:
        parts = urlsplit(text)
        return parts.scheme in ("http", "https") and bool(parts.hostname)
    except ValueError:
        return False

"""What can go wrong with a language model, for `LMServer` to do on purpose."""

from __future__ import annotations

import math
import random
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from dspex.errors import ConfigError

__all__ = ["Cut", "Fault", "Faults", "HalfRight", "Hang", "Malformed", "Slow", "Status"]


class Fault:
    """What the server does in place of a good answer, or to it."""

    answer: Any = None


@dataclass(frozen=True)
class Status(Fault):
    """An HTTP error with a body as OpenAI writes it.

    Args:
        code: 400 to 599.
        retry_after: the header Retry-After: seconds, or text, which is sent as it is.
        message: of the error.
    """

    code: int
    retry_after: float | str | None = None
    message: str = "an error on purpose"

    def __post_init__(self) -> None:
        if not 400 <= self.code <= 599:
            raise ConfigError(f"{self.code} is no HTTP error: those are 400 to 599", field="code")


@dataclass(frozen=True)
class Hang(Fault):
    """No byte for some seconds, then the connection is closed; None: until client or server close it."""

    seconds: float | None = None


@dataclass(frozen=True)
class Cut(Fault):
    """The connection is closed before the end of the answer.

    Args:
        after_bytes: of the body, at most so many that its end is missing; 0: nothing, not even a header.
        answer: what is cut, as in `answers`.
    """

    after_bytes: int = 0
    answer: Any = field(default="This answer ends before its end.", hash=False)


@dataclass(frozen=True)
class Malformed(Fault):
    """An answer with status 200 whose body breaks off, so that it is not JSON."""


@dataclass(frozen=True)
class HalfRight(Fault):
    """An answer in the right format that does not fit the signature.

    Args:
        leave_out: the output that is missing; by default the last that is asked for, unless something is
            replaced.
        replace: outputs and what is said in their place, {"label": "no such class"}.
        answer: the outputs before that. Needed where the fault itself is the answer.
    """

    leave_out: str | None = None
    replace: Mapping[str, Any] = field(default_factory=dict, hash=False)
    answer: Mapping[str, Any] | None = field(default=None, hash=False)

    def applied(self, outputs: Mapping[str, Any], asked_for: tuple[str, ...]) -> dict[str, Any]:
        """The outputs with the fault in them."""
        gone = self.leave_out or (asked_for[-1] if asked_for and not self.replace else None)
        return {name: value for name, value in {**outputs, **self.replace}.items() if name != gone}


@dataclass(frozen=True)
class Slow(Fault):
    """A good answer, dripped.

    Args:
        drip: bytes of the body in a second.
        answer: what is said. Needed where the fault itself is the answer.
    """

    drip: float
    answer: Any = field(default=None, hash=False)

    def __post_init__(self) -> None:
        if not self.drip > 0:
            raise ConfigError("drip is a number of bytes in a second, above 0", field="drip")


class Faults:
    """Faults for a share of the requests, drawn in the order of arrival from a seed.

    Args:
        shares: faults and their shares, {Status(503): 0.1}, besides those named by keyword.
        server_error: share that gets Status(500).
        rate_limited: share that gets Status(429, retry_after).
        hang, cut, malformed, half_right: shares of these faults with their defaults.
        seed: of the draws.
        retry_after: of `rate_limited`.

    Raises:
        ConfigError: a share is not in [0, 1], or all together are above 1.
    """

    _ROUNDING: ClassVar[float] = 1e-9

    def __init__(
        self,
        shares: Mapping[Fault, float] | None = None,
        *,
        server_error: float = 0.0,
        rate_limited: float = 0.0,
        hang: float = 0.0,
        cut: float = 0.0,
        malformed: float = 0.0,
        half_right: float = 0.0,
        seed: int = 0,
        retry_after: float | None = None,
    ) -> None:
        self._shares: list[tuple[Fault, float]] = [
            *(shares or {}).items(),
            (Status(500), server_error),
            (Status(429, retry_after), rate_limited),
            (Hang(), hang),
            (Cut(), cut),
            (Malformed(), malformed),
            (HalfRight(), half_right),
        ]
        for fault, share in self._shares:
            if not 0 <= share <= 1:
                raise ConfigError(f"the share of {fault} is {share}, not in [0, 1]", field="shares")
        total = math.fsum(share for _, share in self._shares)
        if total > 1 + self._ROUNDING:
            raise ConfigError(f"the shares of the faults are {total:g} together, more than 1", field="shares")
        self._random = random.Random(seed)
        self._lock = threading.Lock()

    def draw(self) -> Fault | None:
        """The fault of the next request; None: a good answer."""
        with self._lock:
            left = self._random.random()
        for fault, share in self._shares:
            if left < share:
                return fault
            left -= share
        return None

"""A circuit breaker: leaves an LM alone that fails, and looks now and then whether it is back.

The rules are those of resilience4j and Polly: a failure rate over a rolling window, and probes one round at a
time. Whatever was let in under an earlier state no longer counts: a slow failure from before does not open a
circuit that has just closed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Literal

from dspex.protection.window import RollingWindow

if TYPE_CHECKING:
    from dspex.config import BreakerSettings

__all__ = ["Breaker", "State"]

State = Literal["closed", "open", "half_open"]
_SLOTS: Final = 30


class Breaker:
    """The states of one circuit. Pure: no clock, no lock, nothing runs in it; its guard locks around it.

    Attributes:
        state: "closed" lets all through, "open" none, "half_open" probes.
        epoch: grows with each change of state. Who is let in keeps it and hands it back with the outcome.
        opened: how often the circuit has opened.
    """

    __slots__ = ("_good", "_out", "_settings", "_until", "_window", "epoch", "opened", "state")

    def __init__(self, settings: BreakerSettings) -> None:
        self._settings = settings
        self._window = RollingWindow(settings.window / _SLOTS, _SLOTS)  # requests that ended; failures
        self._until = 0.0  # open: when probes may go; half-open: when the round is given up
        self._out = 0  # half-open: probes under way in this round
        self._good = 0  # half-open: probes that succeeded
        self.state: State = "closed"
        self.epoch = 0
        self.opened = 0

    def refused_for(self, now: float) -> float:
        """Seconds until a request may be let in; 0: now. Changes nothing."""
        if self.state == "closed" or (self.state == "half_open" and self._has_place()):
            return 0.0
        return max(0.0, self._until - now)

    def admit(self, now: float) -> int:
        """Lets a request in, which `refused_for` has to allow. Returns the epoch."""
        if self.state == "open":
            self._become("half_open")
            self._good = self._out = 0
        if self.state == "half_open":
            if not self._has_place():  # the round came to no end: its probes hang
                self._out = 0
            self._out += 1
            self._until = now + self._settings.cooldown
        return self.epoch

    def succeeded(self, now: float, epoch: int) -> bool:
        """A request that was let in under this epoch succeeded. Whether that changed the state."""
        if epoch != self.epoch:
            return False
        if self.state == "closed":
            self._window.add(now, 1, 0)
            if self._window.second:
                self._judge(now)
        else:
            self._probe_ended()
            self._good += 1
            if self._good >= self._settings.probes:
                self._become("closed")
                self._window.clear()
        return epoch != self.epoch

    def failed(self, now: float, epoch: int) -> None:
        """A request that was let in under this epoch failed, and that is the LM's fault."""
        if epoch != self.epoch:
            return
        if self.state == "closed":
            self._window.add(now, 1, 1)
            self._judge(now)
        else:
            self._open(now)

    def ended(self, epoch: int) -> None:
        """A request that was let in under this epoch ended without saying anything about the LM."""
        if epoch == self.epoch:
            self._probe_ended()

    def let_go(self) -> None:
        """Forgets the probes under way."""
        self._out = 0

    def _has_place(self) -> bool:
        return self._out + self._good < self._settings.probes

    def _probe_ended(self) -> None:
        self._out = max(0, self._out - 1)  # it may be of a round that was given up

    def _judge(self, now: float) -> None:
        window, settings = self._window, self._settings
        if window.first >= settings.min_calls and window.second / window.first >= settings.failure_rate:
            self._open(now)

    def _open(self, now: float) -> None:
        self._become("open")
        self._until = now + self._settings.cooldown
        self.opened += 1

    def _become(self, state: State) -> None:
        self.state = state
        self.epoch += 1

"""What a look at a pool's workers finds."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

from dspex.errors import DspexError
from dspex.processes.fleet import Fleet
from dspex.processes.member import Member
from dspex.protection.deadline import Deadline

__all__ = ["PoolHealth", "look_at", "stats_of"]

_GLANCE = 0.005  # seconds between looks at whether a busy worker has answered


@dataclass(frozen=True, slots=True)
class PoolHealth:
    """Whether a pool's workers answer; true when all do.

    Attributes:
        ok: whether the pool can work.
        reason: what was found.
        checked: how many workers were asked.
    """

    ok: bool
    reason: str
    checked: int = 0

    def __bool__(self) -> bool:
        return self.ok


def look_at(fleet: Fleet) -> PoolHealth:
    """Pings every worker, also those that are in the middle of a call."""
    with fleet.lock:
        if fleet.closing:
            return PoolHealth(False, "closed")
        members = list(fleet.members)
        idle = [member for member in members if fleet.desk.borrow(member)]
        since = time.monotonic()  # a call that ends from here on is an answer too
    deadline = Deadline.after(fleet.settings.ping_timeout)
    asked = {member: (_asked(member), since) for member in members if member not in idle}
    silent = [member for member in idle if not _answers(fleet, member, deadline)]
    silent += [member for member, asked in asked.items() if not _has_answered(member, asked, deadline)]
    with fleet.lock:
        return _finding(fleet, len(members), silent)


def _answers(fleet: Fleet, member: Member, deadline: Deadline) -> bool:
    try:
        member.running.channel.ping(deadline)
    except DspexError:
        return False
    finally:
        fleet.hand_back(member)
    return True


def _asked(member: Member) -> int:
    """The number of the ping that was sent; -1: it could not be sent."""
    try:
        return member.running.channel.send_ping(Deadline.after(0.1))
    except DspexError:
        return -1


def _has_answered(member: Member, asked: tuple[int, float], deadline: Deadline) -> bool:
    """Whether a busy worker has answered the ping, or has ended a call since."""
    number, since = asked
    while number >= 0 and not member.died:
        if member.running.channel.pongs >= number or member.answered_at > since:
            return True
        if deadline.expired:
            return False
        time.sleep(_GLANCE)
    return False


def _finding(fleet: Fleet, checked: int, silent: list[Member]) -> PoolHealth:
    if silent:
        numbers = ", ".join(str(member.number) for member in silent)
        return PoolHealth(False, f"no answer from {fleet.label} {numbers}", checked)
    if fleet.retry_at is not None:
        return PoolHealth(False, f"a worker cannot be started: {fleet.start_error}", checked)
    for member in fleet.members:
        for key, error in member.failed.items():
            return PoolHealth(False, f"{fleet.label} {member.number} lacks {key!r}: {error}", checked)
    coming = f"; {fleet.starting} more on the way" if fleet.starting else ""
    return PoolHealth(checked > 0, f"each of {checked} workers answers{coming}", checked)


def stats_of(fleet: Fleet) -> dict[str, Any]:
    """JSON-able figures of a pool."""
    with fleet.lock:
        desk = fleet.desk
        names = (
            *("calls", "timeouts", "broken", "repeated", "saturated", "pings"),
            *("started", "failed_starts", "failed_setups", "lost", "retired", "overflow", "dismissed"),
        )
        return {
            "workers": len(fleet.members),
            "starting": fleet.starting,
            "idle": len(desk.idle),
            "busy": len(fleet.members) - len(desk.idle),
            "waiting": desk.waiting,
            "sessions": desk.sessions,
            **{name: fleet.counts[name] for name in names},
            "mean_ms": round(fleet.mean * 1000, 3),
        }

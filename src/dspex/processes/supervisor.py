"""The thread that looks after workers nobody is talking to: dead ones, silent ones, ones too many."""

from __future__ import annotations

import atexit
import contextlib
import functools
import os
import select
import threading
import time
from collections.abc import Iterable

from dspex.errors import DspexError
from dspex.processes.fleet import Fleet
from dspex.processes.member import Member
from dspex.protection.deadline import Deadline

__all__ = ["Supervisor"]


class Supervisor:
    """Watches a fleet until it is closed."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        self._bell, self._rope = os.pipe()  # who pulls the rope wakes the thread
        for end in (self._bell, self._rope):
            os.set_blocking(end, False)
        self._asked_to_close = False
        self._pulling = threading.RLock()  # a collection in the middle of `wake` may call it again
        self._ended = False
        self._thread = threading.Thread(target=self._run, name=f"dspex-{fleet.label}-supervisor", daemon=True)
        fleet.wake = self.wake
        _running.add(self)
        self._thread.start()

    def wake(self) -> None:
        """Has it look again. May be called under any lock."""
        with self._pulling, contextlib.suppress(BlockingIOError):  # full: it will wake anyway
            if not self._ended:
                os.write(self._rope, b"x")

    def ask_to_close(self) -> None:
        """Has it close the fleet: whoever asks cannot, because it may hold any lock."""
        self._asked_to_close = True
        self.wake()

    def join(self, seconds: float) -> None:
        """Waits for its end, after the fleet was closed."""
        self.wake()
        if self._thread is not threading.current_thread():
            self._thread.join(seconds)

    def end(self) -> None:
        """At the interpreter's end."""
        self._fleet.close(0.0)

    def forked(self) -> None:
        """In a forked child, which has no such thread."""
        self._fleet.forked()
        self._pulling = threading.RLock()
        self._hang_up()

    def _run(self) -> None:
        fleet = self._fleet
        while not fleet.closing:
            with fleet.lock:
                watched = {m.running.life: m for m in fleet.members if not m.died}
                pause = self._pause()
            died = self._wait(watched, pause)
            if self._asked_to_close:
                fleet.close(0.0)
                break
            with fleet.lock:
                self._look(died)
        self._hang_up()

    def _hang_up(self) -> None:
        _running.discard(self)
        with self._pulling:
            if not self._ended:
                self._ended = True
                os.close(self._bell)
                os.close(self._rope)

    def _wait(self, watched: dict[int, Member], pause: float) -> list[Member]:
        """Until something happens or is due; the workers whose processes may have ended."""
        poll = select.poll()
        poll.register(self._bell, select.POLLIN)
        for descriptor, member in watched.items():
            poll.register(descriptor, member.running.life_events)
        ready = [descriptor for descriptor, _ in poll.poll(max(0, int(pause * 1000) + 1))]
        with contextlib.suppress(BlockingIOError):
            while self._bell in ready and len(os.read(self._bell, 4096)) == 4096:
                pass
        return [watched[descriptor] for descriptor in ready if descriptor in watched]

    def _look(self, died: Iterable[Member]) -> None:
        """Under the lock."""
        fleet = self._fleet
        for member in died:
            # A descriptor may have been closed, and its number used again, since the list was made.
            if member in fleet.members and not member.running.alive:
                fleet.lost(member)
        fleet.desk.expire()
        self._dismiss()
        self._ping()
        fleet.fill()

    def _dismiss(self) -> None:
        """Overflow workers that have been idle go, the coldest first."""
        fleet, settings = self._fleet, self._fleet.settings
        now = time.monotonic()
        for member in list(fleet.desk.idle):
            if fleet.staying > settings.size and now - member.idle_since >= settings.idle_timeout:
                fleet.counts["dismissed"] += 1
                fleet.let_go(member)

    def _ping(self) -> None:
        now = time.monotonic()
        for member in list(self._fleet.desk.idle):
            if now - member.answered_at >= self._fleet.settings.ping_interval:
                self._fleet.desk.borrow(member)
                try:
                    self._fleet.crew.submit(functools.partial(self._ping_one, member))
                except RuntimeError:  # no more threads
                    self._fleet.desk.give(member)

    def _ping_one(self, member: Member) -> None:
        fleet = self._fleet
        with contextlib.suppress(DspexError):  # then it is not usable, and is replaced
            member.running.channel.ping(Deadline.after(fleet.settings.ping_timeout))
        fleet.counts["pings"] += 1
        fleet.hand_back(member)

    def _pause(self) -> float:
        """Seconds until something may be due; under the lock."""
        fleet, settings = self._fleet, self._fleet.settings
        now = time.monotonic()
        pauses = [settings.ping_interval, settings.session_ttl]
        idle = fleet.desk.idle
        pauses += [member.answered_at + settings.ping_interval - now for member in idle]
        if fleet.staying > settings.size:
            pauses += [settings.idle_timeout]
            pauses += [member.idle_since + settings.idle_timeout - now for member in idle]
        if fleet.retry_at is not None:
            pauses.append(fleet.retry_at - now)
        return max(0.0, min(pauses))


#: Of every pool that has not been closed.
_running: set[Supervisor] = set()


def _at_exit() -> None:
    for supervisor in list(_running):
        supervisor.end()


def _after_fork() -> None:
    for supervisor in list(_running):
        supervisor.forked()


atexit.register(_at_exit)
os.register_at_fork(after_in_child=_after_fork)

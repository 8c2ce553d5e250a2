"""Handlers that the tests of worker processes run in them. Holds no tests."""

from __future__ import annotations

import ctypes
import itertools
import os
import signal
import subprocess
import sys
import threading
import time
from typing import Any

from dspex.errors import CallTimeoutError, InputError, LMError


class Toy:
    """Does what a test tells it; `settings` come back on request."""

    def __init__(self, settings: Any) -> None:
        self.settings = settings
        self.known: list[Any] = []
        self.sessions: dict[str, int] = {}
        self.ballast: list[bytes] = []

    def handle(self, op: str, payload: Any, context: Any) -> Any:
        work = getattr(self, f"do_{op}", None)
        if work is None:
            raise InputError(f"no operation {op!r}", field=op)
        return work(payload, context)

    # Plain work

    def do_echo(self, payload: Any, context: Any) -> Any:
        return payload

    def do_pid(self, payload: Any, context: Any) -> int:
        return os.getpid()

    def do_settings(self, payload: Any, context: Any) -> Any:
        return self.settings

    def do_left(self, payload: Any, context: Any) -> Any:
        return context.left()

    def do_sleep(self, payload: float, context: Any) -> int:
        time.sleep(payload)
        return os.getpid()

    def do_spin(self, payload: float, context: Any) -> None:
        """A busy loop in Python."""
        end = time.monotonic() + payload
        while time.monotonic() < end:
            pass

    def do_hold_gil(self, payload: int, context: Any) -> None:
        """A loop in C that never looks up."""
        sum(itertools.repeat(1, payload))

    def do_sleep_holding_gil(self, payload: int, context: Any) -> None:
        ctypes.PyDLL(None).usleep(int(payload * 1e6))

    def do_square(self, payload: Any, context: Any) -> Any:
        """The answer, after a moment that depends on the question; for tests that look for mix-ups."""
        time.sleep(0.001 * (payload % 3))
        return [payload, payload * payload, os.getpid()]

    def do_grow(self, payload: int, context: Any) -> int:
        self.ballast.append(b"x" * (payload << 20))
        return os.getpid()

    def do_count(self, payload: str, context: Any) -> list[int]:
        """How often a session has called, as this worker knows it."""
        self.sessions[payload] = self.sessions.get(payload, 0) + 1
        return [os.getpid(), self.sessions[payload]]

    # What all workers are told

    def do_learn(self, payload: Any, context: Any) -> None:
        self.known.append(payload)

    def do_learn_slowly(self, payload: Any, context: Any) -> None:
        time.sleep(0.2)
        self.known.append(payload)

    def do_learn_once(self, payload: str, context: Any) -> None:
        """Works in one worker only, the first that makes the file."""
        os.close(os.open(payload, os.O_CREAT | os.O_EXCL))
        self.known.append(payload)

    def do_known(self, payload: Any, context: Any) -> Any:
        return [os.getpid(), self.known]

    # Ways to fail

    def do_raise(self, payload: Any, context: Any) -> None:
        raise ValueError(payload)

    def do_raise_own(self, payload: Any, context: Any) -> None:
        error = LMError(
            "it refused", field="f", program="p", row=3, hint="wait", retryable=True, retry_after=1.5
        )
        error.add_note("a note")
        raise error

    def do_raise_timeout(self, payload: Any, context: Any) -> None:
        raise CallTimeoutError("inside the worker")

    def do_system_exit(self, payload: Any, context: Any) -> None:
        sys.exit(3)

    def do_exit(self, payload: int, context: Any) -> None:
        os._exit(payload)

    def do_kill(self, payload: Any, context: Any) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def do_stop(self, payload: Any, context: Any) -> None:
        os.kill(os.getpid(), signal.SIGSTOP)

    def do_unsendable(self, payload: Any, context: Any) -> Any:
        return object()

    def do_garbage(self, payload: bytes, context: Any) -> None:
        """Writes past the protocol."""
        context._server._transport._socket.sendall(payload)

    def do_noise(self, payload: Any, context: Any) -> Any:
        print("to stdout", flush=True)
        print("to stderr", file=sys.stderr, flush=True)
        os.write(1, b"raw to stdout\n")
        os.write(2, b"raw to stderr\n")
        return sys.stdin.read()

    def do_child(self, payload: float, context: Any) -> int:
        """Leaves a forked child that holds everything open."""
        pid = os.fork()
        if pid == 0:
            time.sleep(payload)
            os._exit(0)
        return pid

    def do_inherited(self, payload: Any, context: Any) -> str:
        """The descriptors of a program that a program of ours starts without a thought."""
        command = ["ls", "-l", "/proc/self/fd"]
        return subprocess.run(command, close_fds=False, stdout=subprocess.PIPE, text=True).stdout

    # Talk during a call

    def do_ask(self, payload: Any, context: Any) -> Any:
        return context.ask("question", payload)

    def do_ask_twice(self, payload: Any, context: Any) -> Any:
        return [context.ask("question", payload), context.ask("question", payload)]

    def do_ask_together(self, payload: int, context: Any) -> Any:
        """From several threads at once."""
        answers: list[Any] = [None] * payload

        def ask(number: int) -> None:
            answers[number] = context.ask("question", number)

        threads = [threading.Thread(target=ask, args=(number,)) for number in range(payload)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return answers

    def do_ask_and_release(self, payload: Any, context: Any) -> Any:
        """A question whose answer waits for what is told meanwhile."""
        answers: list[Any] = []
        thread = threading.Thread(target=lambda: answers.append(context.ask("wait")))
        thread.start()
        time.sleep(0.05)
        context.tell("go")
        thread.join()
        return answers

    def do_tell(self, payload: int, context: Any) -> int:
        for number in range(payload):
            context.tell("news", number)
        return payload

    def do_keep_context(self, payload: Any, context: Any) -> None:
        self.context = context

    def do_use_kept_context(self, payload: Any, context: Any) -> Any:
        return self.context.ask("question", payload)


def make(settings: Any) -> Toy:
    return Toy(settings)


def make_slowly(settings: float) -> Toy:
    time.sleep(settings)
    return Toy(settings)


def make_nothing(settings: Any) -> Toy:
    raise InputError("these settings are wrong", field="settings")


def make_crash(settings: Any) -> Toy:
    os._exit(7)


def make_error(settings: Any) -> Toy:
    raise ValueError("no")


def make_hang(settings: Any) -> None:
    sum(itertools.repeat(1, 10**15))


def make_while_present(settings: str) -> Toy:
    """Can be made while a file is there."""
    os.stat(settings)
    return Toy(settings)

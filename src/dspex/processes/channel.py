"""The parent's end of the protocol: calls over a transport, one at a time, each answer to its own call."""

from __future__ import annotations

import contextlib
import threading
from collections import deque
from collections.abc import Callable
from typing import Any

from dspex.errors import CommunicationError, ConfigError, DspexError
from dspex.processes import failures
from dspex.processes.frames import Decoder, Frame, Kind, encode, pack
from dspex.processes.transport import Transport
from dspex.protection.deadline import NEVER, Deadline

__all__ = ["Channel", "Later", "NotBegun", "OnAsk", "OnTell"]

#: What answers a worker's question: (op, payload) to the answer's payload, or to a `Later`.
OnAsk = Callable[[str, Any], Any]
#: What hears what a worker tells: (op, payload).
OnTell = Callable[[str, Any], None]


class Later:
    """An answer that takes waiting: `work` is called in a thread of its own, and what it returns or raises is
    the answer. Meanwhile the call goes on, and more can be asked and told.
    """

    __slots__ = ("work",)

    def __init__(self, work: Callable[[], Any]) -> None:
        self.work = work


class NotBegun(CommunicationError):
    """The peer broke off before it had read the call, which is therefore safe to repeat."""


class Channel:
    """One thread at a time calls; `send_ping` may come from any thread.

    Args:
        transport: belongs to the channel from here on.
        peer: what the other end is called in errors.
    """

    def __init__(self, transport: Transport, peer: str = "the worker") -> None:
        self.peer = peer
        self.pongs = 0  # the number of the newest ping that was answered
        self.intact = True  # frames can still be told apart, in both directions
        self._transport = transport
        self._decoder = Decoder()
        self._inbox: deque[Frame] = deque()
        self._sending = threading.Lock()
        self._request = 0
        self._pings = 0
        self._sent = 0  # frames since the call was sent
        self._settled = True

    @property
    def usable(self) -> bool:
        """Whether the last call has ended in good order, so that another one can be made."""
        return self._settled and self.intact and self._decoder.broken is None

    def hello(self, payload: Any, deadline: Deadline = NEVER) -> Any:
        """Tells the peer what to be; returns what it says when it is ready.

        Raises:
            DspexError: it could not become that; or as `call`.
        """
        self._settled = False
        self._send(encode(Frame(Kind.HELLO, 0, payload)), deadline, None)
        frame = self._receive(deadline, None)
        if frame.kind is Kind.ERROR:
            raise failures.from_data(frame.payload)
        if frame.kind is not Kind.READY:
            raise self._unexpected(frame, None)
        self._settled = True
        return frame.payload

    def call(
        self,
        op: str,
        payload: Any,
        deadline: Deadline = NEVER,
        *,
        on_ask: OnAsk | None = None,
        on_tell: OnTell | None = None,
        program: str | None = None,
    ) -> Any:
        """Has the peer do something and returns its answer.

        What `on_ask` raises is raised in the peer; what `on_tell` raises is raised here, after the call.

        Raises:
            DspexError: as the peer raised it; the channel stays usable.
            CallTimeoutError: no answer by the deadline.
            CommunicationError: the payload cannot be sent; or the peer broke off or sent what is no answer.
        """
        request = self._request = self._request + 1
        data = encode(Frame(Kind.CALL, request, [op, deadline.left(), payload]))
        self._settled, self._sent = False, 0
        self._send(data, deadline, program)
        trouble: Exception | None = None
        while True:
            frame = self._receive(deadline, program)
            if frame.request != request:
                self._check_stray(frame, program)
            elif frame.kind is Kind.RESULT:
                break
            elif frame.kind is Kind.ERROR:
                self._settled = True
                raise failures.from_data(frame.payload)
            elif frame.kind is Kind.TELL:
                trouble = self._tell(frame, on_tell, program) or trouble
            elif frame.kind is Kind.ASK:
                self._ask(frame, on_ask, deadline, program)
            else:
                raise self._unexpected(frame, program)
        self._settled = True
        if trouble is not None:
            raise trouble
        return frame.payload

    def ping(self, deadline: Deadline) -> None:
        """Sees that an idle peer answers.

        Raises:
            CallTimeoutError, CommunicationError: it does not.
        """
        self._settled = False
        number = self.send_ping(deadline)
        while self.pongs < number:
            self._check_stray(self._receive(deadline, None, pong=True), None)
        self._settled = True

    def send_ping(self, deadline: Deadline = NEVER) -> int:
        """Sends a ping, also during a call, and returns its number: `pongs` reaches it when the answer has
        been read by whoever makes the call.

        Raises:
            CallTimeoutError, CommunicationError: it cannot be sent.
        """
        with self._sending:
            self._pings += 1
            number = self._pings
        self._send(encode(Frame(Kind.PING, number)), deadline, None)
        return number

    def stop(self) -> None:
        """Asks the peer to end, if it is there."""
        with contextlib.suppress(OSError):  # it has ended, or does not read and is told by the stream's end
            self._transport.send(encode(Frame(Kind.STOP, 0)), 0.0)

    def close(self) -> None:
        """Ends the connection."""
        self.intact = False
        self._transport.close()

    # Sending and receiving

    def _send(self, data: bytes, deadline: Deadline, program: str | None) -> None:
        try:
            with self._sending:
                self._transport.send(data, deadline.left())
                self._sent += 1
        except TimeoutError:
            self.intact = False  # half a frame may have gone
            raise deadline.error(program, f"sending to {self.peer}") from None
        except OSError as cause:
            raise self._gone(cause, program, begun=self._sent > 0) from None

    def _receive(self, deadline: Deadline, program: str | None, pong: bool = False) -> Frame:
        """The next frame; pongs are noted, and returned only when they are waited for."""
        while True:
            while self._inbox:
                frame = self._inbox.popleft()
                if frame.kind is not Kind.PONG:
                    return frame
                self.pongs = max(self.pongs, min(frame.request, self._pings))
                if pong:
                    return frame
            try:
                data = self._transport.recv(deadline.left())
            except TimeoutError:
                raise deadline.error(program, f"the call on {self.peer}") from None
            except OSError as cause:
                # A peer that ends without having read all that was sent resets the connection. When that was
                # the call, and nothing else, it has not been begun.
                unread = isinstance(cause, ConnectionResetError) and self._sent == 1
                raise self._gone(cause, program, begun=not unread) from None
            if not data:
                raise self._gone(None, program, begun=True)
            try:
                self._inbox.extend(self._decoder.feed(data))
            except CommunicationError as error:
                raise self._broken(f"{self.peer} sent garbage: {error.message}", program) from None

    def _check_stray(self, frame: Frame, program: str | None) -> None:
        """What belongs to a call that has ended is late, and of no interest; anything else is a fault."""
        if frame.kind is Kind.PONG:
            return
        if frame.kind is Kind.ERROR and frame.request == 0:
            error = failures.from_data(frame.payload)
            raise self._broken(f"{self.peer} gave up: {error.message}", program)
        if not 0 < frame.request <= self._request:
            raise self._unexpected(frame, program)

    # During a call

    def _tell(self, frame: Frame, on_tell: OnTell | None, program: str | None) -> Exception | None:
        try:
            op, payload = frame.payload
        except (TypeError, ValueError):
            raise self._unexpected(frame, program) from None
        if on_tell is None:
            return None
        try:
            on_tell(op, payload)
        except Exception as error:  # the call has to end first
            return error
        return None

    def _ask(self, frame: Frame, on_ask: OnAsk | None, deadline: Deadline, program: str | None) -> None:
        try:
            number, op, payload = frame.payload
        except (TypeError, ValueError):
            raise self._unexpected(frame, program) from None
        if on_ask is None:
            refusal = ConfigError(f"nobody is there to answer {op!r}")
            self._answer(frame.request, number, lambda: _raise(refusal), deadline, program)
            return
        self._answer(frame.request, number, lambda: on_ask(op, payload), deadline, program)

    def _answer(
        self, request: int, number: Any, work: Callable[[], Any], deadline: Deadline, program: str | None
    ) -> None:
        try:
            answer = work()
            if isinstance(answer, Later):
                arguments = (request, number, answer.work, deadline, program)
                threading.Thread(target=self._answer_later, args=arguments, daemon=True).start()
                return
            body = [number, True, pack(answer)]
        except Exception as error:
            body = [number, False, failures.to_data(error)]
        self._send(encode(Frame(Kind.ANSWER, request, body)), deadline, program)

    def _answer_later(self, *arguments: Any) -> None:
        with contextlib.suppress(DspexError):  # the call sees for itself that the peer has gone
            self._answer(*arguments)

    # Errors

    def _gone(self, cause: OSError | None, program: str | None, begun: bool) -> CommunicationError:
        what = f"{self.peer} has ended" if cause is None else f"{self.peer} has ended ({cause})"
        if begun:
            return self._broken(what, program)
        self.intact = False
        return NotBegun(f"{what}; the call was not begun", program=program, hint="It is safe to try again")

    def _broken(self, what: str, program: str | None) -> CommunicationError:
        self.intact = False
        return CommunicationError(
            f"{what}; the call may have been begun",
            program=program,
            hint="Trying again can help, if the call may happen twice",
        )

    def _unexpected(self, frame: Frame, program: str | None) -> CommunicationError:
        which = f"{frame.kind.name} for request {frame.request}"
        return self._broken(f"{self.peer} sent what was not asked for: {which}", program)


def _raise(error: Exception) -> Any:
    raise error

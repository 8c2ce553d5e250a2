"""The worker's end of the protocol: runs calls one at a time, and answers pings during them."""

from __future__ import annotations

import itertools
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any, Protocol

from dspex.errors import CommunicationError, DspexError
from dspex.processes import failures
from dspex.processes.frames import Decoder, Frame, Kind, encode
from dspex.processes.transport import Transport

__all__ = ["Context", "Handler", "Server"]


class Handler(Protocol):
    """What a worker does."""

    def handle(self, op: str, payload: Any, context: Context, /) -> Any:
        """Does one operation and returns what msgpack can carry. What it raises is raised in the caller: a
        DspexError as it is, anything else as InternalError.
        """


class Context:
    """What a call may use while it runs, from any thread of the worker."""

    def __init__(self, server: Server, request: int, left: float | None) -> None:
        self._server = server
        self._request = request
        self._end = None if left is None else time.monotonic() + left

    def ask(self, op: str, payload: Any = None) -> Any:
        """Asks the parent and waits for its answer.

        Raises:
            DspexError: as the parent raised it.
            CommunicationError: the call has ended, or the parent has.
        """
        return self._server.ask(self._request, op, payload)

    def tell(self, op: str, payload: Any = None) -> None:
        """Tells the parent something; nothing comes back.

        Raises:
            CommunicationError: as `ask`.
        """
        self._server.tell(self._request, op, payload)

    def left(self) -> float | None:
        """Seconds until the parent ends this worker because the call is late; None: it never does."""
        return None if self._end is None else max(0.0, self._end - time.monotonic())


class _Question:
    """One ASK that waits for its ANSWER."""

    __slots__ = ("answer", "done")

    def __init__(self) -> None:
        self.done = False
        self.answer: Any = None


class Server:
    """Reads frames for whichever threads wait for some: one of them reads, the others wait for it.

    Args:
        transport: belongs to the server from here on.
    """

    def __init__(self, transport: Transport) -> None:
        self._transport = transport
        self._decoder = Decoder()
        self._sending = threading.Lock()
        self._turn = threading.Condition(threading.Lock())
        self._reading = False
        self._work: deque[Frame] = deque()  # HELLO and CALL, in order
        self._questions: dict[int, _Question] = {}
        self._numbers = itertools.count(1)  # its next() is atomic
        self._last = -1  # the newest request taken in
        self._current: int | None = None
        self.ended = False
        self.stopped = False

    @property
    def busy(self) -> bool:
        """Whether a call is running."""
        return self._current is not None

    def hello(self) -> Any:
        """The payload of the parent's first frame; None when it is not one."""
        frame = self._next()
        return frame.payload if frame is not None and frame.kind is Kind.HELLO else None

    def ready(self, payload: Any) -> None:
        """Tells the parent that calls may come."""
        self._send(Frame(Kind.READY, 0, payload))

    def refuse(self, error: BaseException) -> None:
        """Tells the parent that no calls may come."""
        self._send(Frame(Kind.ERROR, 0, failures.to_data(error)))

    def serve(self, handler: Handler) -> None:
        """Runs calls until the parent says stop or ends."""
        while (frame := self._next()) is not None:
            self._run(frame, handler)

    def look(self) -> None:
        """Reads what has come, if nobody else is reading: pings are answered during a call. Does not wait."""
        with self._turn:
            if self._reading or self.ended:
                return
            self._reading = True
        self._read(0.0)

    def ask(self, request: int, op: str, payload: Any) -> Any:
        """See `Context.ask`."""
        self._require_current(request)
        number, question = next(self._numbers), _Question()
        self._questions[number] = question
        try:
            self._send(Frame(Kind.ASK, request, [number, op, payload]))
            self._wait(lambda: question.done)
        finally:
            del self._questions[number]
        if not question.done:
            raise CommunicationError("the parent has ended", retryable=False)
        answered, answer = question.answer
        if answered:
            return answer
        raise failures.from_data(answer)

    def tell(self, request: int, op: str, payload: Any) -> None:
        """See `Context.tell`."""
        self._require_current(request)
        self._send(Frame(Kind.TELL, request, [op, payload]))

    def close(self) -> None:
        """Ends the connection."""
        self._transport.close()

    def _require_current(self, request: int) -> None:
        if request != self._current:
            raise CommunicationError("the call has ended: its parent no longer listens", retryable=False)

    def _run(self, frame: Frame, handler: Handler) -> None:
        self._current = frame.request
        try:
            op, left, payload = frame.payload
            answer = handler.handle(op, payload, Context(self, frame.request, left))
            data = encode(Frame(Kind.RESULT, frame.request, answer))
        except BaseException as error:  # also SystemExit: a program does not end its worker
            data = encode(Frame(Kind.ERROR, frame.request, failures.to_data(error)))
        finally:
            self._current = None
        self._send_bytes(data)

    # Reading

    def _next(self) -> Frame | None:
        """The next piece of work; None after the end."""
        self._wait(lambda: bool(self._work))
        return self._work.popleft() if self._work else None

    def _wait(self, come: Callable[[], bool]) -> None:
        """Until it has come, or the end has; reads when nobody else does."""
        while True:
            with self._turn:
                while self._reading and not come() and not self.ended:
                    self._turn.wait()
                if come() or self.ended:
                    return
                self._reading = True
            self._read(None)

    def _read(self, timeout: float | None) -> None:
        frames: list[Frame] = []
        try:
            data = self._transport.recv(timeout)
            ended = not data
            frames = self._decoder.feed(data) if data else []
        except TimeoutError:
            ended = False
        except OSError:
            ended = True
        except CommunicationError as error:
            ended = True
            self._send_last_words(error)
        with self._turn:
            self._reading = False
            self.ended = self.ended or ended
            for frame in frames:
                self._take(frame)
            self._turn.notify_all()

    def _take(self, frame: Frame) -> None:
        if frame.kind in (Kind.CALL, Kind.HELLO):
            if frame.request > self._last:  # else it came twice, or late, and nobody waits for it
                self._last = frame.request
                self._work.append(frame)
        elif frame.kind is Kind.ANSWER:
            self._take_answer(frame)
        elif frame.kind is Kind.PING:
            self._send(Frame(Kind.PONG, frame.request))
        elif frame.kind is Kind.STOP:
            self.ended = self.stopped = True
        else:
            self.ended = True
            self._send_last_words(CommunicationError(f"a parent does not send {frame.kind.name}"))

    def _take_answer(self, frame: Frame) -> None:
        try:
            number, answered, answer = frame.payload
            question = self._questions.get(number)
        except (TypeError, ValueError):
            self.ended = True
            self._send_last_words(CommunicationError("an answer is misshapen"))
            return
        if question is not None:  # else it is late
            question.answer = (answered, answer)
            question.done = True

    # Sending

    def _send(self, frame: Frame) -> None:
        self._send_bytes(encode(frame))

    def _send_bytes(self, data: bytes) -> None:
        try:
            with self._sending:
                self._transport.send(data)
        except OSError:
            self.ended = True  # the parent has gone

    def _send_last_words(self, error: DspexError) -> None:
        self.refuse(error)

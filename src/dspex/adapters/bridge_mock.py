"""The mock behind the real protocol: calls cross to a peer in frames, faulty ones if wanted."""

from __future__ import annotations

import asyncio
import dataclasses
import threading
import weakref
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from dspex.adapters.base import Capabilities, Health, as_rows, check_options
from dspex.adapters.local import LocalAdapter
from dspex.adapters.mock import Answers, Delay, MockAdapter
from dspex.checks import check_inputs
from dspex.errors import CommunicationError, ConfigError, DspexError, ProgramError
from dspex.processes.channel import Channel
from dspex.processes.faults import Fault, Faults, FaultyTransport
from dspex.processes.server import Context, Server
from dspex.processes.transport import MemoryTransport
from dspex.protection.deadline import Deadline
from dspex.result import Result, Route
from dspex.spec import ProgramSpec
from dspex.wire import from_wire, result_from_wire, result_to_wire, to_wire

__all__ = ["BridgeMockAdapter"]

_MOCK_OPTIONS = ("answers", "delay", "error", "error_rate", "seed")
_OPTIONS = (*_MOCK_OPTIONS, "faults", "timeout")
_ROUTE = Route("bridge_mock", reason="the program was created on the bridge_mock adapter")


class BridgeMockAdapter(LocalAdapter):
    """Answers as `MockAdapter` does, over the protocol of worker processes: its frames, its checks, its
    errors. There is no process: the peer is a thread.

    A call whose frames are lost raises CallTimeoutError after `timeout`; one whose frames are damaged raises
    CommunicationError; frames that come twice, late or out of order change no answer.

    The settings hold for every program; a spec's `options` override them for one.

    Args:
        seed, answers, delay, error_rate, error: as for `MockAdapter`.
        faults: what goes wrong with frames, see `dspex.processes.faults.Fault`. Frames are counted for each
            program.
        timeout: seconds that a call waits for its answer.

    Raises:
        ConfigError: a setting that makes no sense.
    """

    name: ClassVar[str] = "bridge_mock"
    layers: ClassVar[frozenset[str]] = frozenset({"bridge_mock"})

    def __init__(
        self,
        *,
        seed: int = 0,
        answers: Answers | None = None,
        delay: Delay = 0.0,
        error_rate: float = 0.0,
        error: type[DspexError] | DspexError = CommunicationError,
        faults: Sequence[Fault | Mapping[str, Any]] = (),
        timeout: float = 0.5,
    ) -> None:
        super().__init__()
        self._defaults: dict[str, Any] = {
            "seed": seed,
            "answers": answers,
            "delay": delay,
            "error_rate": error_rate,
            "error": error,
            "faults": faults,
            "timeout": timeout,
        }
        self._mock({}, None)
        self._bridge({}, None)

    def build(self, spec: ProgramSpec, program_id: str) -> _BridgedProgram:
        check_options(spec.options, _OPTIONS, "the bridge_mock adapter", program_id)
        mock = self._mock(spec.options, program_id)
        mock.create_program(dataclasses.replace(spec, id=program_id, adapter=None, options={}))
        return _BridgedProgram(program_id, mock, *self._bridge(spec.options, program_id))

    def delete_program(self, program_id: str) -> None:
        runner = self.runners().get(program_id)
        super().delete_program(program_id)
        if isinstance(runner, _BridgedProgram):
            runner.close()

    def get_test_capabilities(self) -> Capabilities:
        self._store.require_open()
        return {
            "adapter": self.name,
            "layers": sorted(self.layers),
            "kinds": sorted(self.kinds),
            "deterministic": True,
            "uses_lm": False,
            "needs_examples": False,
            "scripted": True,
        }

    def health_check(self) -> Health:
        """Pings the peer of every program, over a connection without faults."""
        if self.closed:
            return Health(False, "closed")
        runners = self.runners()
        try:
            for runner in runners.values():
                assert isinstance(runner, _BridgedProgram)
                runner.ping()
        except DspexError as error:
            return Health(False, str(error), len(runners))
        return Health(True, "the peer of every program answers", len(runners))

    def close(self) -> None:
        runners = self.runners()
        super().close()
        for runner in runners.values():
            if isinstance(runner, _BridgedProgram):
                runner.close()

    def _mock(self, options: Mapping[str, Any], program_id: str | None) -> MockAdapter:
        settings = {**self._defaults, **options}
        try:
            return MockAdapter(**{name: settings[name] for name in _MOCK_OPTIONS})
        except ConfigError as error:
            error.program = program_id
            raise

    def _bridge(self, options: Mapping[str, Any], program_id: str | None) -> tuple[Faults, float]:
        settings = {**self._defaults, **options}
        given, timeout = settings["faults"], settings["timeout"]
        if isinstance(given, str | bytes | Mapping) or not isinstance(given, Sequence):
            raise ConfigError(f"faults are a list, not {type(given).__name__}", program=program_id)
        if isinstance(timeout, bool) or not isinstance(timeout, int | float) or not 0 < timeout < 1e6:
            raise ConfigError(f"timeout is a number of seconds above 0, not {timeout!r}", program=program_id)
        try:
            return Faults(given, settings["seed"]), float(timeout)
        except ConfigError as error:
            error.program = program_id
            raise


class _Line:
    """A connection with a peer at its other end, which answers from a mock."""

    def __init__(self, answer: _Answerer, faults: Faults) -> None:
        near, far = MemoryTransport.pair()
        self.channel = Channel(FaultyTransport(near, faults, "calls"), "the peer")
        self.server = Server(FaultyTransport(far, faults, "answers"))
        peer = threading.Thread(target=_serve, args=(self.server, answer), name="dspex-peer", daemon=True)
        peer.start()


def _serve(server: Server, answer: _Answerer) -> None:
    server.serve(answer)
    server.close()


class _Answerer:
    """What the peer does with a call."""

    def __init__(self, program_id: str, mock: MockAdapter) -> None:
        self._id = program_id
        self._mock = mock
        self._signature = mock.runners()[program_id].signature

    def handle(self, op: str, payload: Any, context: Context, /) -> Any:
        if op != "execute":
            raise ProgramError(f"the peer has no operation {op!r}", program=self._id)
        inputs = from_wire(self._signature.inputs, payload, program=self._id)
        result = self._mock.execute_program(self._id, inputs)
        return result_to_wire(self._signature.outputs, result, program=self._id)


class _BridgedProgram:
    """One program: its connections, made as calls need them."""

    backend = "bridge_mock"

    def __init__(self, program_id: str, mock: MockAdapter, faults: Faults, timeout: float) -> None:
        runner = mock.runners()[program_id]
        self.signature = runner.signature
        self.kind = runner.kind
        self._id = program_id
        self._mock_info = runner.info()
        self._answerer = _Answerer(program_id, mock)
        self._faults = faults
        self._timeout = timeout
        self._free: list[_Line] = []
        self._closed = False
        weakref.finalize(self, _close_lines, self._free).atexit = False  # else peers wait for ever

    def predict(self, inputs: Mapping[str, Any], /) -> Result:
        checked = check_inputs(self.signature, inputs, program=self._id)
        payload = to_wire(self.signature.inputs, checked, program=self._id)
        line = self._line()
        try:
            answer = line.channel.call("execute", payload, Deadline.after(self._timeout), program=self._id)
        finally:
            self._hand_back(line)
        result = result_from_wire(self.signature.outputs, answer, program=self._id)
        return _routed(result, self.signature.outputs)

    async def acall(self, /, **inputs: Any) -> Result:
        return await asyncio.to_thread(self.predict, inputs)

    def batch(self, rows: Any, /) -> list[Result]:
        listed = as_rows(rows, self._id)
        for row, inputs in enumerate(listed):
            check_inputs(self.signature, inputs, program=self._id, row=row)
        results = []
        for row, inputs in enumerate(listed):
            try:
                results.append(self.predict(inputs))
            except DspexError as error:
                error.row = row if error.row is None else error.row
                raise
        return results

    def info(self) -> dict[str, Any]:
        return {
            **self._mock_info,
            "faults": [fault.model_dump(mode="json") for fault in self._faults.faults],
            "faults_happened": dict(self._faults.happened),
            "frames": self._faults.sent,
            "timeout": self._timeout,
        }

    def ping(self) -> None:
        """Raises CallTimeoutError or CommunicationError when no peer answers."""
        line = _Line(self._answerer, Faults())
        try:
            line.channel.ping(Deadline.after(max(1.0, self._timeout)))
        finally:
            line.channel.close()

    def close(self) -> None:
        """Ends the connections; those in use when their calls end."""
        self._closed = True
        _close_lines(self._free)

    def _line(self) -> _Line:
        try:
            return self._free.pop()
        except IndexError:
            return _Line(self._answerer, self._faults)

    def _hand_back(self, line: _Line) -> None:
        # After a time-out the connection is kept: what is late then meets a later call, which must not mind.
        # With a peer that is still at work the next call would only wait as well.
        if line.channel.intact and not line.server.busy and not self._closed:
            self._free.append(line)
        else:
            line.channel.close()


def _routed(result: Result, outputs: Any) -> Result:
    odds = {}
    for name in outputs:
        try:
            odds[name] = result.probabilities(name)
        except KeyError:
            continue
    return Result(result.to_dict(), route=_ROUTE, probabilities=odds, confidence=result.confidence)


def _close_lines(lines: list[_Line]) -> None:
    while lines:
        lines.pop().channel.close()

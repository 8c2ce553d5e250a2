"""What a worker process does for the `dspy_pool` adapter: makes programs of descriptions and asks them."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import threading
import traceback
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from pydantic_core import to_jsonable_python

from dspex.config import Config, DspySettings
from dspex.dspy.failures import translated
from dspex.dspy.lms import LMs
from dspex.dspy.loops import APART, Loops
from dspex.dspy.portable import revived
from dspex.dspy.portable_types import Packing, packed_signature
from dspex.dspy.remote import RemoteBudget, RemoteCall, guarding
from dspex.dspy.runner import DspyProgram
from dspex.errors import CallTimeoutError, DspexError, ProgramError
from dspex.processes import Context
from dspex.protection import Deadline
from dspex.result import Result
from dspex.wire import from_wire, result_to_wire

__all__ = ["Handler", "make_handler"]

_MARGIN = 0.2  # seconds, at most, that a call is over here before the parent has to kill the process


class Handler:
    """The worker's side of `dspy_pool`. Operations: configure_lm, create, delete, call."""

    def __init__(self, told: str) -> None:
        settings = json.loads(told)
        self._folder = settings["folder"]
        _go_to(self._folder)
        sys.path[:] = [os.path.abspath(entry) for entry in sys.path]  # the folder may change
        self._config = Config.of(settings["config"])
        self._lms = LMs(self._config, guarding)
        self._misconfigured: DspexError | None = None
        self._loops = Loops()
        self._programs: dict[str, tuple[int, DspyProgram]] = {}

    def handle(self, op: str, payload: Any, context: Context) -> Any:
        """Does one operation and returns its answer, which msgpack can carry.

        Raises:
            DspexError: what the adapter is to raise.
        """
        operation = _OPERATIONS.get(op)
        if operation is None:
            raise ProgramError(f"a worker has no operation {op!r}")
        try:
            return operation(self, payload, context)
        finally:
            _go_to(self._folder)  # or the next answer would depend on which worker gives it

    def _configure_lm(self, told: str, context: Context) -> None:
        payload = json.loads(told)
        _find_modules(payload["search"])
        try:
            self._lms.configure(payload["settings"])
        except DspexError as error:
            self._misconfigured = error  # the LM before it is not the one that calls mean
            raise
        self._misconfigured = None

    def _create(self, told: str, context: Context) -> dict[str, Any]:
        """Makes a program; told again what it knows, it does nothing."""
        payload = json.loads(told)
        program_id, version = payload["id"], payload["version"]
        known = self._programs.get(program_id)
        if known is None or known[0] != version:
            self._programs[program_id] = (version, self._made(payload))
        program = self._programs[program_id][1]
        return {"signature": self._news(payload["program"], program), "info": program.info()}

    def _news(self, description: Mapping[str, Any], program: DspyProgram) -> dict[str, Any] | None:
        """The signature, if the parent does not know it."""
        if description["signature"] is not None:
            return None
        return packed_signature(program.signature, Packing(program.id, self._config.dspy_pool.allow_pickle))

    def _made(self, payload: Mapping[str, Any]) -> DspyProgram:
        _find_modules(payload["search"])
        settings, program_id = DspySettings.of(payload["settings"]), payload["id"]
        with _telling_why(program_id):
            return DspyProgram(
                program_id,
                revived(payload["program"], program_id, allow_pickle=self._config.dspy_pool.allow_pickle),
                payload["kind"],
                lms=self._lms,
                lm=payload["lm"],
                settings=settings,
                loops=self._loops,
                budget=RemoteBudget() if settings.budget is not None else None,  # type: ignore[arg-type]
            )

    def _delete(self, payload: Any, context: Context) -> None:
        known = self._programs.get(payload["id"])
        if known is not None and known[0] == payload["version"]:
            del self._programs[payload["id"]]

    def _call(self, payload: Any, context: Context) -> dict[str, Any]:
        remote = RemoteCall(context, payload["call"], payload["prepaid"])
        if payload["default"] and self._misconfigured is not None:
            raise self._misconfigured.with_traceback(None)
        program = self._program(payload, remote)
        inputs = from_wire(program.signature.inputs, payload["inputs"], program=program.id)
        try:
            with remote.entered(), _telling_why(program.id), _nothing_left_behind(context):
                result = program.ask(inputs, _deadline(context), payload["lm"])
                return {**_packed(program, result), "told": remote.unsaid()}
        finally:
            remote.say()  # of a call that failed

    def _program(self, payload: Mapping[str, Any], remote: RemoteCall) -> DspyProgram:
        """The program that the call means: it may be another one than the latest of its id, and this worker
        may have failed to make it when it was told to.
        """
        program_id, version = payload["id"], payload["version"]
        known = self._programs.get(program_id)
        if known is not None and known[0] == version:
            return known[1]
        program = self._made(json.loads(remote.ask("program")))
        self._programs.setdefault(program_id, (version, program))
        return program


def _deadline(context: Context) -> Deadline:
    """A little before the one at which the parent kills this process: what can end in good order, shall."""
    left = context.left()
    return Deadline.after(None if left is None else left - min(_MARGIN, left / 10))


@contextlib.contextmanager
def _nothing_left_behind(context: Context) -> Iterator[None]:
    """A call that is late may have left its own code running. That cannot be stopped but with the process,
    which the parent does if it comes to no end.
    """
    try:
        yield
    except CallTimeoutError:
        left = context.left()
        if left is not None:
            for thread in threading.enumerate():
                if thread.name == APART:
                    thread.join()
        raise


@contextlib.contextmanager
def _telling_why(program_id: str) -> Iterator[None]:
    """Errors cross to the parent without their causes: what these tell goes along as notes. Whatever else a
    program raises, SystemExit too, is an error of the program's.
    """
    try:
        yield
    except BaseException as raised:
        error = translated(raised, program_id)
        cause = raised.__cause__ if error is raised else raised
        for note in getattr(cause, "__notes__", ()):
            error.add_note(note)
        if cause is not None and isinstance(error, ProgramError):
            error.add_note("".join(traceback.format_exception(cause)).rstrip())
        raise error from None


def _packed(program: DspyProgram, result: Result) -> dict[str, Any]:
    outputs = program.signature.outputs
    values = result.to_dict()
    declared = Result({name: values.pop(name) for name in outputs}, route=result.route, usage=result.usage)
    data = result_to_wire(outputs, declared, program=program.id, error=ProgramError)
    # What the module adds is passed on as plain data. As text, because msgpack takes no large numbers.
    data["extra"] = json.dumps(to_jsonable_python(values, fallback=repr)) if values else None
    return data


def _find_modules(search: Iterable[str]) -> None:
    """What the parent can import by now, this process can."""
    sys.path += [entry for entry in search if entry not in sys.path]


def _go_to(folder: str) -> None:
    with contextlib.suppress(OSError):  # it is gone: then nothing can be there
        if not os.path.samefile(os.curdir, folder):
            os.chdir(folder)


_OPERATIONS = {
    "configure_lm": Handler._configure_lm,
    "create": Handler._create,
    "delete": Handler._delete,
    "call": Handler._call,
}


def make_handler(told: str) -> Handler:
    """Made once in each worker process, of the parent's settings as JSON."""
    return Handler(told)

"""The pooled DSPy adapter: programs that ask a language model, run by DSPy in worker processes."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import sys
import threading
from collections.abc import Mapping
from typing import Any, ClassVar

from dspex.adapters.admissions import Admission, Admissions
from dspex.adapters.asking import Asked, AskingAdapter
from dspex.adapters.base import Health, check_lm_config
from dspex.adapters.local import _Held
from dspex.config import Config, DspySettings, LMSettings
from dspex.errors import ConfigError, DspexError
from dspex.processes import ProcessPool
from dspex.protection import Budget, Deadline, LMGuard
from dspex.result import Result, Route
from dspex.spec import ProgramSpec, asked_kind, with_learned_classes
from dspex.wire import result_from_wire, to_wire

__all__ = ["DspyPoolAdapter"]

_HANDLER = "dspex.dspy.worker:make_handler"
_ROUTE = "dspy_pool"


class DspyPoolAdapter(AskingAdapter):
    """Runs DSPy programs in worker processes: many at once on all cores, and a call that hangs is ended.

    Programs travel as DSPy's own state and as import paths. Limits, breakers and budgets hold for all workers
    together. Options of a call: `timeout`, in seconds, after which a worker that is still busy with it is
    killed and replaced; `lm`, the name of another configured LM; `session`, an id whose calls go to one
    worker while it lives.

    Args:
        config: LMs, limits and settings; a `Config` or a mapping.

    Raises:
        ConfigError: a setting that does not exist or does not fit.
        CommunicationError, ResourceError: no worker can be started.
    """

    name: ClassVar[str] = "dspy_pool"
    options: ClassVar[tuple[str, ...]] = ("timeout", "lm", "session")

    def __init__(self, config: Config | Mapping[str, Any] | None = None) -> None:
        super().__init__(config)
        from dspex.dspy.lms import LMs  # imports DSPy
        from dspex.dspy.portable import portable_config

        self.lms = LMs(self.config)
        self.admissions = Admissions()
        self.versions = itertools.count(1)  # of programs
        self._configuring = threading.Lock()
        self.pool = ProcessPool(
            _HANDLER,
            self.config.dspy_pool,
            handler_settings=json.dumps({"config": portable_config(self.config), "folder": os.getcwd()}),
            on_ask=self.admissions.asked,
            on_tell=self.admissions.told,
        )

    def asked(self, spec: ProgramSpec, program_id: str, settings: DspySettings) -> Asked:
        return _RemoteProgram(self, with_learned_classes(spec), program_id, settings)

    def concurrency(self, settings: DspySettings) -> int:
        return self.config.dspy_pool.most_workers

    def configure_lm(self, config: Mapping[str, Any]) -> None:
        """Sets the default LM of every program that names none, in every worker, present and future.

        Args:
            config: settings of `LMSettings`, at least `model`; engines by import path.

        Raises:
            ConfigError: a setting that does not exist or does not fit.
        """
        from dspex.dspy.portable import portable_lm

        self._store.require_open()
        settings = portable_lm(LMSettings.of(check_lm_config(config), at="lm"))
        with self._configuring:  # here and there, the same one comes last
            self.lms.configure(settings)
            told = json.dumps({"settings": settings, "search": _search_path()})
            self.pool.broadcast("configure_lm", told, key="configure_lm")

    def delete_program(self, program_id: str) -> None:
        program = self.runners().get(program_id)
        super().delete_program(program_id)
        if program is not None:
            program.asked.withdraw()  # type: ignore[attr-defined]

    def available(self, program_id: str) -> DspexError | None:
        return super().available(program_id) or self.pool.refusal()

    def health_check(self) -> Health:
        """Whether every worker answers a ping, and knows every program."""
        if self.closed:
            return Health(False, "closed")
        found = self.pool.health()
        return Health(found.ok, found.reason, found.checked)

    def get_stats(self) -> dict[str, Any]:
        return super().get_stats() | {"lms": self.lms.stats(), "pool": self.pool.stats()}

    def close(self) -> None:
        """Forgets every program and ends the workers. Calls under way have five seconds to end."""
        super().close()
        self.pool.close()
        self.lms.close()

    def _held(self, spec: ProgramSpec, program_id: str) -> _Held:
        held = super()._held(spec, program_id)
        held.runner.asked.publish()  # type: ignore[attr-defined]
        return held


class _RemoteProgram:
    """A program that lives in the workers. One of them makes it now, so that its faults are found."""

    def __init__(
        self, adapter: DspyPoolAdapter, spec: ProgramSpec, program_id: str, settings: DspySettings
    ) -> None:
        from dspex.dspy.portable import described
        from dspex.dspy.portable_types import unpacked_signature

        self.id = program_id
        self.budget = Budget(settings.budget) if settings.budget is not None else None
        self._adapter = adapter
        self._guards_of_code: dict[str, LMGuard] = {}
        allowed = adapter.config.dspy_pool.allow_pickle
        kind = asked_kind(spec)
        spec, description = described(spec, program_id, allow_pickle=allowed)
        self._set_lm(spec.lm)
        self._route = Route(_ROUTE, reason=f"DSPy program of kind {kind!r} in a worker process")
        self._version = next(adapter.versions)
        # As JSON, because msgpack takes no large numbers.
        self._description = json.dumps({
            "id": program_id,
            "version": self._version,
            "kind": kind,
            "program": description,
            "lm": self._lm if self._own_settings is None else self._own_settings,
            "settings": settings.model_dump(mode="json"),
            "search": _search_path(),
        })  # fmt: skip
        patience = Deadline.after(adapter.config.dspy_pool.start_timeout)
        made = adapter.pool.call("create", self._description, deadline=patience, program=program_id)
        self.signature = spec.signature or unpacked_signature(made["signature"])
        self._info = made["info"]

    def _set_lm(self, lm: Any) -> None:
        from dspex.dspy.portable import portable_lm

        self._lm: str | None = None
        self._own_settings: dict[str, Any] | None = None
        self._own_lm: Any = None
        if isinstance(lm, Mapping):
            self._own_settings = portable_lm(LMSettings.of(lm, at="lm"), "lm", self.id)
            self._own_lm = self._adapter.lms.get(self._own_settings, self.id)
        elif lm is not None:
            self._lm = lm
            self._adapter.lms.get(lm, self.id)  # there has to be one

    def publish(self) -> None:
        """Has every worker make it, now and in future, before it is called there."""
        self._adapter.pool.broadcast("create", self._description, key=self._key)

    def withdraw(self) -> None:
        """Has every worker forget it."""
        self._adapter.pool.forget(self._key)
        self._adapter.pool.broadcast("delete", {"id": self.id, "version": self._version})

    @property
    def _key(self) -> str:
        return f"program {self.id!r}, version {self._version}"

    def asks(self, lm: Any = None) -> object:
        """What is equal, and lives, as long as calls ask the same LM."""
        return next(iter(self._guards(lm).values()))

    def refusal(self, lm: Any = None) -> DspexError | None:
        """Why a call would be refused now; None: it would be tried."""
        try:
            if self.budget is not None:
                self.budget.check(self.id)
            refusals = [guard.peek() for guard in self._guards(lm).values()]
        except DspexError as error:
            return error
        return None if None in refusals else refusals[0]

    def ask(
        self, inputs: Mapping[str, Any], deadline: Deadline, /, lm: Any = None, session: str | None = None
    ) -> Result:
        adapter = self._adapter
        call, payload = self._begin(inputs, deadline, lm)
        try:
            answer = adapter.pool.call("call", payload, deadline=deadline, session=session, program=self.id)
            return self._result(call, answer)
        finally:
            adapter.admissions.end(call)

    async def aask(
        self, inputs: Mapping[str, Any], deadline: Deadline, /, lm: Any = None, session: str | None = None
    ) -> Result:
        adapter = self._adapter
        call, payload = self._begin(inputs, deadline, lm)
        # A task of its own: it may have to go on when the one that waits for it is cancelled.
        exchange = asyncio.ensure_future(
            adapter.pool.acall("call", payload, deadline=deadline, session=session, program=self.id)
        )
        try:
            return self._result(call, await asyncio.shield(exchange))
        finally:
            if exchange.done():
                adapter.admissions.end(call)
            else:
                call.abandoned = True
                exchange.add_done_callback(lambda _: adapter.admissions.end(call))
                if not call.holds_place:  # else its request takes that place until it ends
                    exchange.cancel()

    def info(self) -> dict[str, Any]:
        return dict(self._info)

    def _begin(
        self, inputs: Mapping[str, Any], deadline: Deadline, lm: Any
    ) -> tuple[Admission, dict[str, Any]]:
        """Lets a call in, and gives what its worker has to know."""
        wired = to_wire(self.signature.inputs, inputs, program=self.id)
        call = self._adapter.admissions.begin(
            self.id, self.budget, self._guards(lm), self._guards_of_code, self._description, deadline
        )
        payload = {
            "id": self.id,
            "version": self._version,
            "inputs": wired,
            "lm": lm,
            "default": lm is None and self._lm is None and self._own_lm is None,
            "call": call.number,
            "prepaid": call.prepaid,
        }
        return call, payload

    def _guards(self, lm: Any) -> dict[str, LMGuard]:
        """The guards of the LM that a call asks, and of those it falls back to, by name."""
        lms = self._adapter.lms
        if lm is not None and not isinstance(lm, str):
            raise ConfigError(
                "a call in a worker process names its LM", field="lm", program=self.id,
                hint="Configure it, and give its name",
            )  # fmt: skip
        wanted = lm or self._lm or lms.default
        if self._own_lm is not None and lm is None:
            asked = self._own_lm
        elif wanted is None:
            raise ConfigError(
                "no language model is configured",
                field="lm",
                program=self.id,
                hint="Call configure_lm, or name one in dspex.toml: dspy.settings do not reach workers",
            )
        else:
            asked = lms.get(wanted, self.id)
        return {link.name: link.guard for link in asked._dspex_links}

    def _result(self, call: Admission, answer: dict[str, Any]) -> Result:
        call.hear(answer["told"])
        result = result_from_wire(self.signature.outputs, answer, program=self.id)
        extra = {} if answer["extra"] is None else json.loads(answer["extra"])
        return Result(result.to_dict() | extra, route=self._route, usage=result.usage)


def _search_path() -> list[str]:
    """Where this process finds modules by now."""
    return [os.path.abspath(entry) for entry in sys.path]

"""The one object that services call: native answers where that is certified, the teacher's otherwise."""

from __future__ import annotations

import asyncio
import atexit
import time
import weakref
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any, Self

from dspex.distill import lifecycle
from dspex.distill.auditor import Auditor
from dspex.distill.batches import run_batch
from dspex.distill.coins import SAMPLE
from dspex.distill.engine import Engine
from dspex.distill.forks import children
from dspex.distill.guarded import Guarded
from dspex.distill.hooks import log
from dspex.distill.keeper import Keeper
from dspex.distill.settings import DistillSettings
from dspex.distill.status import status_of
from dspex.distill.store import Event, Stage, Store
from dspex.distill.tally import Costs
from dspex.distill.teacher import Teacher
from dspex.distill.terms import keep_terms, kept_settings
from dspex.distill.tutor import Tutor
from dspex.errors import InputError
from dspex.result import Result

__all__ = ["LiveProgram"]

_LONG = 4096  # characters from which a native call is not for the event loop, see Program.acall
_ROOM = 256  # audits and comparisons that may wait
_TICK = 1.0  # seconds


class LiveProgram:
    """A program that learns its own fast path, and takes it where that is certified.

    Threads and event loops may share it. Other processes may serve the same home; what one of them moves, the
    others notice within about a second. After a fork the child goes on with coins, counters and a background
    thread of its own. One that is dropped without `close` ends its thread by itself; one that is there at the
    end of the process is closed then.

    A version that guarantees less than the settings ask for does not answer: it goes back to shadow, with an
    event. Over a store with `redact`, native answers are from redacted inputs, as they were certified.

    Args:
        store: the home; closed by who opened it, after the program.
        teacher: answers where the native program does not; None: such calls are refused.
        settings: None for the defaults. What they do not say of the guarantee is as the home keeps it; what
            they say of it the home keeps from then on.
        seed: of the coins; None: from the system.
        clock: seconds since the epoch.

    Raises:
        ConfigError: settings that do not fit.
        ModelFileError: the file of the version in service is missing or damaged.
    """

    def __init__(
        self,
        store: Store,
        teacher: Teacher | None,
        settings: DistillSettings | Mapping[str, Any] | None = None,
        *,
        seed: int | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.store = store
        self.signature = store.signature
        self.settings = kept_settings(store, settings)
        keep_terms(store, self.settings, settings)
        costs = Costs()
        self._clock = clock
        self._keeper = Keeper(store, self.settings, costs, seed=seed, clock=clock)
        self._tutor = Tutor(store, self.settings, clock)
        self._keeper.hooks.on("learning started", self._tutor.saw)
        self._auditor = self._new_auditor()
        self._engine = Engine(store, teacher, self.settings, self._keeper, self._auditor, costs, clock)
        self._closed = False
        children.add(self)
        # Neither pins the program: services come and go in tests and notebooks, and not all are closed.
        self._at_exit = partial(_close, weakref.ref(self))
        atexit.register(self._at_exit)  # after what the store has there, so it runs before that
        self._dropped = weakref.finalize(self, _let_go, self._engine, self._at_exit)
        self._dropped.atexit = False
        self._auditor.start()

    def _new_auditor(self) -> Auditor:
        return Auditor(partial(_tick, self._keeper, self._tutor), interval=_TICK, room=_ROOM)

    # Calls

    def predict(self, inputs: Mapping[str, Any]) -> Result:
        """Answers one mapping of inputs. What the teacher says is stored durably before it is returned.

        Raises:
            InputError: inputs that do not fit the signature.
            ProgramError: the teacher is needed, and there is none.
            Exception: whatever the teacher raises.
        """
        plan = self._keeper.plan  # once: it may be replaced at any time
        result = coin = None
        native = plan.fast
        if native is not None:
            try:
                result = native(inputs)
                score = result.gate_score
                if score is not None and score >= plan.threshold:
                    coin = next(plan.coins.drawn)
                    if not coin:
                        return result
                    if coin == SAMPLE:
                        plan.samples.append(result)
                        return result
            except (InputError, StopIteration):
                pass  # nothing to go by, such as blank text; the coins of this block are used up
        return self._engine.answer(plan, inputs, result, coin)

    def __call__(self, /, **inputs: Any) -> Result:
        """As `predict`."""
        return self.predict(inputs)

    async def acall(self, /, **inputs: Any) -> Result:
        """As `predict`, without holding up the event loop."""
        plan = self._keeper.plan
        result = coin = None
        if plan.native is not None:
            for value in inputs.values():
                if isinstance(value, str) and len(value) > _LONG:
                    return await self._engine.aanswer_long(plan, inputs)
            try:
                result = plan.native(inputs)
                score = result.gate_score
                if plan.fast is not None and score is not None and score >= plan.threshold:
                    coin = next(plan.coins.drawn)
                    if not coin:
                        return result
                    if coin == SAMPLE:
                        plan.samples.append(result)
                        return result
            except (InputError, StopIteration):
                pass
        return await self._engine.aanswer(plan, inputs, result, coin)

    def batch(
        self, rows: Iterable[Mapping[str, Any]], *, on_error: str = "raise", concurrency: int = 8
    ) -> list[Any]:
        """Answers many rows, in order: natively on all cores, then what is left by the teacher.

        Args:
            rows: mappings of inputs.
            on_error: "raise" the first row's error once all rows that had been begun are done; "collect": put
                each error in its row's place.
            concurrency: rows that the teacher is asked at once.

        Raises:
            ConfigError: an unknown `on_error`, or a concurrency below 1.
            Exception: as `predict`.
        """
        return run_batch(self._engine, self._keeper.plan, rows, on_error, concurrency)

    @property
    def guarded(self) -> Guarded | None:
        """The program of the version in service with its certificate; None: there is none that will do."""
        plan = self._keeper.plan
        return None if plan.weaker is not None else plan.guarded

    @property
    def version(self) -> int | None:
        """The number of the version in service; None: there is none, or it guarantees too little."""
        plan = self._keeper.plan
        return None if plan.weaker is not None else plan.state.version

    # Lifecycle: see `dspex.distill.lifecycle`

    def promote(self, reason: str, to: Stage | None = None, *, by: str = "user") -> None:
        """Moves the version in service on, and takes it off hold; see `lifecycle.promote`."""
        settings, at = self.settings.lifecycle, self._clock()
        self._keeper.moved_by(
            lambda: lifecycle.promote(self.store, by, reason, to, settings=settings, at=at)
        )  # fmt: skip

    def demote(self, reason: str, to: Stage | None = None, *, by: str = "user") -> None:
        """Moves the version in service back, and holds it there; see `lifecycle.demote`."""
        self._keeper.moved_by(lambda: lifecycle.demote(self.store, by, reason, to, at=self._clock()))

    def rollback(self, reason: str, *, by: str = "user") -> None:
        """Puts the previous version back in service; see `lifecycle.rollback`."""
        self._keeper.moved_by(lambda: lifecycle.rollback(self.store, by, reason, at=self._clock()))

    def adopt(self, version: int, reason: str, *, by: str = "user") -> None:
        """Puts a certified version in service; see `lifecycle.adopt`."""
        settings, at = self.settings.lifecycle, self._clock()
        self._keeper.moved_by(
            lambda: lifecycle.adopt(self.store, version, by, reason, settings=settings, at=at)
        )

    def hold(self, reason: str, *, by: str = "user") -> None:
        """Keeps the program from moving on by itself; see `lifecycle.hold`."""
        self._keeper.moved_by(lambda: lifecycle.hold(self.store, by, reason, at=self._clock()))

    def release(self, reason: str, *, by: str = "user") -> None:
        """Lets the program move on by itself again; see `lifecycle.release`."""
        self._keeper.moved_by(lambda: lifecycle.release(self.store, by, reason, at=self._clock()))

    def learn(self, wait: bool = False) -> bool:
        """Learns a new version now, in a process beside this one; False where one is being learned already.

        Args:
            wait: until it is done, and in service where the rules put it there.
        """
        started = self._tutor.start("user", "asked for")
        self._keeper.tell()
        if wait:
            self._tutor.wait()
            self.flush()
        return started

    # Telling

    def on(self, kind: str, callback: Callable[[Event], object]) -> None:
        """Calls back for each event of a kind, or with "*" for each of all, whichever process caused it.

        The callback runs in the background thread or in that of who moved. What it raises is logged.
        """
        self._keeper.hooks.on(kind, callback)

    def status(self) -> dict[str, Any]:
        """Where the program stands, as JSON-able data."""
        return status_of(self.store, self._keeper, self._tutor, self._auditor)

    def flush(self, timeout: float = 30.0) -> bool:
        """Waits until what calls left to do is done, then looks at the store; False when it took too long."""
        settled = self._auditor.settle(timeout)
        if settled:
            self._keeper.tick()
        return settled

    def close(self, timeout: float = 10.0) -> None:
        """Ends audits, after those that wait, and a learning process; writes the counters.

        Args:
            timeout: seconds that waiting audits get.
        """
        if self._closed:
            return
        self._closed = self._engine.closed = True
        self._keeper.close()
        self._tutor.close()
        dropped = self._auditor.close(timeout)
        if dropped:
            log.warning("%d audits were dropped at the end", dropped)
        atexit.unregister(self._at_exit)
        self._dropped.detach()
        children.discard(self)

    def _in_child(self) -> None:
        """After a fork: what is the parent's stays with it."""
        if self._closed:
            return
        self._keeper.reborn()
        self._tutor.reborn()
        self._auditor = self._engine.auditor = self._new_auditor()
        self._auditor.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await asyncio.to_thread(self.close)


def _tick(keeper: Keeper, tutor: Tutor) -> None:
    keeper.tick()
    if keeper.closed:
        tutor.close()  # of a program that was dropped
    tutor.tick(keeper.plan.state)
    keeper.tell()


def _close(program: weakref.ref[LiveProgram]) -> None:
    found = program()
    if found is not None:
        found.close()


def _let_go(engine: Engine, at_exit: Callable[[], None]) -> None:
    """Of a program that nobody has any more. Waits for nothing: this runs wherever memory is collected."""
    atexit.unregister(at_exit)
    engine.closed = True
    engine.keeper.closed = True
    engine.auditor.end()

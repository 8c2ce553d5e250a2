"""The way of a call that is more than one native answer: the gate's no, DSPy, falling back.

A way is a generator: it yields an `Ask`, is sent the answer or thrown the error, and returns the result. So
it is written once, and driven by a thread or by a task.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
from collections.abc import AsyncGenerator, Callable, Generator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from dspex.errors import (
    CallTimeoutError,
    CommunicationError,
    DspexError,
    InputError,
    LMError,
    PoolSaturated,
    ResourceError,
)
from dspex.result import Result, Route
from dspex.routing import Decision, Gate, Hedge, Race, standing

if TYPE_CHECKING:
    from dspex.adapters.base import Adapter
    from dspex.adapters.hybrid.program import HybridProgram

__all__ = [
    "FALLS_BACK",
    "Ask",
    "Way",
    "adrive",
    "answered",
    "astream",
    "crowded",
    "drive",
    "dspy_options",
    "failed",
    "refused",
    "rerouted",
    "unsure",
]

#: Errors of DSPy that a native answer can stand in for; those of inputs and settings are the caller's.
FALLS_BACK = (LMError, ResourceError, CallTimeoutError, CommunicationError)

Inputs: TypeAlias = Mapping[str, Any]
Options: TypeAlias = Mapping[str, Any]


class Ask(NamedTuple):
    """One question to a backend."""

    backend: str
    inputs: Inputs
    options: dict[str, Any]
    hedge: Hedge[Result] | None = None


Way: TypeAlias = Generator[Ask, Race[Result], Result]


def drive(program: HybridProgram, way: Way) -> Result:
    """Goes a way in the caller's thread."""
    program.tally.take()
    try:
        ask = next(way)
        while True:
            try:
                answer = _asked(program, ask)
            except Exception as error:
                ask = way.throw(error)
            else:
                ask = way.send(answer)
    except StopIteration as end:
        result: Result = end.value
        return result
    except BaseException as error:
        program.tally.give_back()
        if not isinstance(error, Exception):  # a cancelled task, Ctrl-C: nobody else counts it
            program.tally.error()
        raise


async def adrive(program: HybridProgram, way: Way) -> Result:
    """Goes a way as a task."""
    program.tally.take()
    try:
        ask = next(way)
        while True:
            try:
                answer = await _aasked(program, ask)
            except Exception as error:
                ask = way.throw(error)
            else:
                ask = way.send(answer)
    except StopIteration as end:
        result: Result = end.value
        return result
    except BaseException as error:
        program.tally.give_back()
        if not isinstance(error, Exception):  # a cancelled task, Ctrl-C: nobody else counts it
            program.tally.error()
        raise


async def astream(program: HybridProgram, way: Way) -> AsyncGenerator[tuple[str, str] | Result, None]:
    """Goes a way as a task, and passes on the pieces of DSPy's answer. The result comes last."""
    program.tally.take()
    begun = False  # from then on there is no other way
    try:
        ask = next(way)
        while True:
            try:
                if ask.backend == "dspy":
                    async with contextlib.aclosing(await _astreamed(program, ask)) as items:
                        async for item in items:
                            if isinstance(item, Result):
                                answer = Race(item)
                            else:
                                begun = True
                                yield item
                else:
                    answer = await _aasked(program, ask)
            except Exception as error:
                if begun:
                    raise
                ask = way.throw(error)
            else:
                ask = way.send(answer)
    except StopIteration as end:
        result: Result = end.value
    except BaseException as error:
        program.tally.give_back()
        if not isinstance(error, Exception):  # cancelled, or nobody reads on: nobody else counts it
            program.tally.error()
        raise
    yield result


def answered(program: HybridProgram, operation: str, inputs: Inputs, options: Options) -> Way:
    """The whole way of a call."""
    decision, gate = program.decided(operation, options)
    if not decision.is_native:
        return (
            yield from _through_dspy(program, decision.backend, decision, decision.reason, inputs, options)
        )
    try:
        race = yield _native_ask(program, decision, gate, inputs, options)
    except InputError as error:
        return (yield from refused(program, decision, gate, inputs, options, error))
    except PoolSaturated as error:
        return (yield from crowded(program, decision, gate, inputs, options, error))
    if race.won:
        return _told(program, race.answer, Route("dspy", reason=_late(program, decision.backend)))
    return (yield from unsure(program, decision, gate, inputs, options, race))


def unsure(
    program: HybridProgram,
    decision: Decision,
    gate: Gate | None,
    inputs: Inputs,
    options: Options,
    race: Race[Result],
) -> Way:
    """The way on from a native answer, which may be unsure."""
    answer = race.answer
    doubt = gate.doubt(answer) if gate is not None else None
    if doubt is None:
        route = Route(decision.backend, reason=standing(decision, gate), degraded=decision.degraded)
        return _told(program, answer, route)
    program.tally.note("deferred")
    if race.lost_by is not None:
        return _instead(program, answer, f"{doubt}, but {failed('dspy', race.lost_by)}")
    return (
        yield from _through_dspy(
            program, program.policy.dspy, decision, doubt, inputs, options, lambda: answer
        )
    )


def refused(
    program: HybridProgram,
    decision: Decision,
    gate: Gate | None,
    inputs: Inputs,
    options: Options,
    error: InputError,
) -> Way:
    """The way on from inputs that the native program refused: DSPy may know what to do with them."""
    if gate is None or not program.is_beyond_native(inputs):
        raise error
    program.tally.note("deferred")
    backend = program.policy.dspy
    return (
        yield from _through_dspy(program, backend, decision, error.message, inputs, options, lambda: None)
    )


def crowded(
    program: HybridProgram,
    decision: Decision,
    gate: Gate | None,
    inputs: Inputs,
    options: Options,
    error: PoolSaturated,
) -> Way:
    """The way on from a native pool that is full: the caller's thread is free, and the answer the same."""
    if decision.binding or not program.policy.fallback:
        raise error
    instead = Decision("native", f"{decision.reason}, but the native pool is full")
    try:
        race = yield Ask("native", inputs, {})
    except InputError as refusal:
        return (yield from refused(program, instead, gate, inputs, options, refusal))
    return (yield from unsure(program, instead, gate, inputs, options, race))


def _through_dspy(
    program: HybridProgram,
    backend: str,
    decision: Decision,
    reason: str,
    inputs: Inputs,
    options: Options,
    spare: Callable[[], Result | None] | None = None,
) -> Way:
    """Asks DSPy; `spare` gives the native answer that may stand in, by default that of the native program."""
    spare = spare or functools.partial(program.spare, inputs)
    may_fall_back = program.policy.fallback and program.means.native and not decision.binding
    bar = None if decision.binding else program.barred(backend, options)
    if bar is not None:
        answer = spare() if may_fall_back else None
        if answer is not None:
            return _instead(program, answer, f"{reason}, but {bar.reason}")
        if bar.strict:
            raise ResourceError(
                bar.reason, program=program.id, retryable=False, hint="Raise routing.max_cost"
            )
    try:
        race = yield _dspy_ask(program, backend, decision, inputs, options)
    except FALLS_BACK as error:
        answer = spare() if may_fall_back else None
        if answer is None:
            raise
        return _instead(program, answer, f"{reason}, but {failed(backend, error)}")
    if race.won:
        backend, reason = "dspy", f"{reason}; {_late(program, backend)}"
    return _told(program, race.answer, Route(backend, reason=reason))


def _told(program: HybridProgram, answer: Result, route: Route) -> Result:
    program.tally.answered(str(route), degraded=route.degraded)
    return rerouted(answer, route)


def _instead(program: HybridProgram, answer: Result, reason: str) -> Result:
    """A native answer in the place of DSPy's."""
    program.tally.note("fallbacks")
    return _told(program, answer, Route("native", reason=reason, degraded=True))


def rerouted(result: Result, route: Route) -> Result:
    """The same answer with another route."""
    old = result.route
    if old == route and old.reason == route.reason and old.degraded == route.degraded:
        return result
    odds = {}
    for name in result:
        try:
            odds[name] = result.probabilities(name)
        except KeyError:
            continue
    return Result(
        result.to_dict(),
        route=route,
        probabilities=odds,
        confidence=result.confidence,
        score=result.gate_score,
        familiarity=result.gate_familiarity,
        usage=result.usage,
    )


def failed(backend: str, error: BaseException) -> str:
    """What is told of an error of a backend."""
    if isinstance(error, DspexError):
        return f"{backend} failed: [{error.category}] {error.message}"
    return f"{backend} failed: {type(error).__name__}: {error}"


def _late(program: HybridProgram, backend: str) -> str:
    return f"{backend} had not answered after {program.policy.hedge_after_ms:g} ms"


def _native_ask(
    program: HybridProgram, decision: Decision, gate: Gate | None, inputs: Inputs, options: Options
) -> Ask:
    backend = decision.backend
    if backend == "native":
        return Ask(backend, inputs, {})
    given = {name: options[name] for name in ("timeout", "session") if options.get(name) is not None}
    hedge = None
    if not decision.binding and program.means.lm is not None:
        hedge = _hedge(program, given, lambda error: False, gate)
    return Ask(backend, inputs, given, hedge)


def _dspy_ask(
    program: HybridProgram, backend: str, decision: Decision, inputs: Inputs, options: Options
) -> Ask:
    given = dspy_options(program, backend, options, binding=decision.binding)
    hedge = None
    if backend == "dspy_pool" and not decision.binding:
        hedge = _hedge(
            program, given, lambda error: isinstance(error, PoolSaturated | CommunicationError), None
        )
    return Ask(backend, inputs, given, hedge)


def dspy_options(program: HybridProgram, backend: str, options: Options, *, binding: bool) -> dict[str, Any]:
    """The options of a call that are DSPy's; a latency budget is its deadline where it has no other."""
    given: dict[str, Any] = {}
    if options:
        names = ("timeout", "lm", "session") if backend == "dspy_pool" else ("timeout", "lm")
        given = {name: options[name] for name in names if options.get(name) is not None}
    budget = program.policy.latency_budget
    if budget is not None and "timeout" not in given and not binding:
        given["timeout"] = budget
    return given


def _hedge(
    program: HybridProgram,
    options: Mapping[str, Any],
    starts_at_once: Callable[[BaseException], bool],
    gate: Gate | None,
) -> Hedge[Result] | None:
    after, timeout = program.policy.hedge_after_ms, options.get("timeout")
    if after is None or (timeout is not None and after / 1000 >= timeout):
        return None
    if gate is None:
        return Hedge(after / 1000, starts_at_once=starts_at_once)
    sure = gate.doubt
    return Hedge(
        after / 1000,
        starts_at_once=starts_at_once,
        is_good=lambda answer: sure(answer) is None,
    )


def _second(program: HybridProgram, ask: Ask) -> dict[str, Any]:
    """The options of an ask's hedge, which begins later."""
    options = {name: value for name, value in ask.options.items() if name != "session"}
    if "timeout" in options and program.policy.hedge_after_ms is not None:
        options["timeout"] -= program.policy.hedge_after_ms / 1000
    return options


def _asked(program: HybridProgram, ask: Ask) -> Race[Result]:
    if ask.backend == "native":
        return Race(program.native_in_place(ask.inputs))
    first = functools.partial(_execute, program, ask.backend, ask.inputs, ask.options)
    if ask.hedge is None:
        return Race(first())
    second = functools.partial(_execute, program, "dspy", ask.inputs, _second(program, ask))
    return _counted(program, ask.hedge.run(first, second))


async def _aasked(program: HybridProgram, ask: Ask) -> Race[Result]:
    if ask.backend == "native":
        return Race(await program.anative_in_place(ask.inputs))
    first = functools.partial(_aexecute, program, ask.backend, ask.inputs, ask.options)
    if ask.hedge is None:
        return Race(await first())
    second = functools.partial(_aexecute, program, "dspy", ask.inputs, _second(program, ask))
    return _counted(program, await ask.hedge.arun(first, second))


def _execute(program: HybridProgram, backend: str, inputs: Inputs, options: dict[str, Any]) -> Result:
    return program.sides.adapter(backend).execute_program(program.id, inputs, options or None)


async def _aadapter(program: HybridProgram, backend: str) -> Adapter:
    if not program.sides.is_ready(backend):  # making it can take long
        await asyncio.to_thread(program.sides.adapter, backend)
    return program.sides.adapter(backend)


async def _astreamed(program: HybridProgram, ask: Ask) -> AsyncGenerator[tuple[str, str] | Result, None]:
    adapter = await _aadapter(program, ask.backend)
    return adapter.astream_program(program.id, ask.inputs, ask.options or None)


async def _aexecute(program: HybridProgram, backend: str, inputs: Inputs, options: dict[str, Any]) -> Result:
    adapter = await _aadapter(program, backend)
    return await adapter.aexecute_program(program.id, inputs, options or None)


def _counted(program: HybridProgram, race: Race[Result]) -> Race[Result]:
    if race.hedged:
        program.tally.note("hedges")
        program.tally.note("hedges_won" if race.won else "hedges_lost")
    return race

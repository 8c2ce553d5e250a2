"""LMs that protect themselves: deadline, limits, breaker, retries and fallbacks at every request.

The request is the place for it, not the program: an agent asks many times, and each time the LM can be down.
"""

from __future__ import annotations

import asyncio
import functools
import threading
from collections.abc import Mapping
from typing import Any

import dspy
from dspy.clients._deprecation import adapter_message_call

from dspex.dspy.calls import Call, Meter, current_call, current_meter
from dspex.dspy.failures import as_lm_errors
from dspex.dspy.loops import apart, keep_of_parent
from dspex.protection import NEVER, Chain, Deadline, Link, Usage

__all__ = ["disconnect", "is_protected", "observed", "protect"]


class _Observed:
    """Mixed into the class of an LM: meters its requests, and asks through a chain if it has one.

    Attributes:
        dspex_name: its name, for what a result tells.
        dspex_prices: US dollars for a million tokens in and out, for what DSPy has no price of.
        dspex_priced: whether DSPy may know what an answer costs.
    """

    dspex_name: str
    dspex_prices: tuple[float, float] | None
    dspex_priced: bool
    _dspex_chain: Chain | None
    _dspex_links: tuple[Link, ...]
    _dspex_others: Mapping[str, Any]
    _dspex_blocks: bool

    def __call__(self, prompt: Any = None, *, messages: Any = None, **kwargs: Any) -> Any:
        chain = self._dspex_chain
        if chain is None:
            return super().__call__(prompt, messages=messages, **kwargs)  # type: ignore[misc]
        call = current_call()
        call.require_wanted()

        def ask(name: str, deadline: Deadline) -> tuple[Any, Meter]:
            call.require_wanted()
            lm = self._dspex_others.get(name, self)
            with Meter(call, lm) as meter, as_lm_errors(lm):
                if lm is self:
                    return lm._dspex_request(call, deadline, meter, prompt, messages, kwargs), meter
                with adapter_message_call(lm, messages):
                    return lm._dspex_request(call, deadline, meter, prompt, messages, kwargs), meter

        return chain.run(ask, call.deadline, call.program, call.budget, _measure)[0]

    async def acall(self, prompt: Any = None, *, messages: Any = None, **kwargs: Any) -> Any:
        chain = self._dspex_chain
        if chain is None:
            return await super().acall(prompt, messages=messages, **kwargs)  # type: ignore[misc]
        call = current_call()
        call.require_wanted()

        async def ask(name: str, deadline: Deadline) -> tuple[Any, Meter]:
            call.require_wanted()
            lm = self._dspex_others.get(name, self)
            with Meter(call, lm) as meter, as_lm_errors(lm):
                if lm is self:
                    return await lm._dspex_arequest(meter, prompt, messages, kwargs), meter
                with adapter_message_call(lm, messages):
                    return await lm._dspex_arequest(meter, prompt, messages, kwargs), meter

        return (await chain.arun(ask, call.deadline, call.program, call.budget, _measure))[0]

    def _dspex_request(
        self, call: Call, deadline: Deadline, meter: Meter, prompt: Any, messages: Any, kwargs: dict[str, Any]
    ) -> Any:
        """One request, cut off by the deadline."""
        here = super().__call__  # type: ignore[misc]
        if (deadline is NEVER and not call.apart) or call.loops is None or meter.streams:
            return here(prompt, messages=messages, **kwargs)
        if self._dspex_blocks:
            return call.wait_for(apart(here, prompt, messages=messages, **kwargs), deadline)
        loop = call.loops.shared()
        if loop.is_current:
            return here(prompt, messages=messages, **kwargs)
        elsewhere = super().acall  # type: ignore[misc]
        return call.wait_for(loop.submit(lambda: elsewhere(prompt, messages=messages, **kwargs)), deadline)

    async def _dspex_arequest(self, meter: Meter, prompt: Any, messages: Any, kwargs: dict[str, Any]) -> Any:
        """One request; who cancels the task cuts it off."""
        if self._dspex_blocks and not meter.streams:
            here = super().__call__  # type: ignore[misc]
            return await asyncio.wrap_future(apart(here, prompt, messages=messages, **kwargs))
        return await super().acall(prompt, messages=messages, **kwargs)  # type: ignore[misc]

    def update_history(self, entry: dict[str, Any]) -> None:
        """DSPy tells here what a request cost; it is kept in the history only where that is wanted."""
        meter = current_meter()
        if meter is not None:
            meter.price(entry["cost"])
        if meter is None or meter.keeps:
            super().update_history(entry)  # type: ignore[misc]

    def dump_state(self) -> dict[str, Any]:
        """As the LM that is protected: a saved program does not depend on dspex."""
        state: dict[str, Any] = super().dump_state()  # type: ignore[misc]
        key = "_dspy_lm_class"
        if key in state:
            inner = type(self).__mro__[2]
            state[key] = f"{inner.__module__}.{inner.__qualname__}"
        return state

    def __copy__(self) -> Any:  # else copying would take the way of pickling
        of_base = getattr(super(), "__copy__", None)
        if of_base is not None:
            return of_base()
        copy = object.__new__(type(self))
        copy.__dict__.update(self.__dict__)
        return copy

    def __deepcopy__(self, memo: Any) -> Any:
        return self  # a copy with breaker and limits of its own would not protect

    def __reduce__(self) -> Any:
        raise TypeError("a protected LM holds locks and cannot be pickled: configure it where it runs")


def _measure(answer: tuple[Any, Meter]) -> Usage:
    return answer[1].used()


@functools.cache
def _observed_class(base: type) -> type:
    return type(f"Protected{base.__name__}", (_Observed, base), {"__module__": __name__})


def observed(name: str, lm: Any, prices: tuple[float, float] | None = None) -> Any:
    """A copy of the LM, on the same connections, that tells what each answer cost and does not retry."""
    copy = lm.copy()
    copy.__class__ = _observed_class(type(lm))  # type: ignore[arg-type]  # types are hashable
    copy.num_retries = 0
    copy.dspex_name = name
    copy.dspex_prices = prices
    # DSPy prices what its own engines answer.
    copy.dspex_priced = isinstance(getattr(lm, "engine", "auto"), str)
    copy._dspex_chain = None
    copy._dspex_links = ()
    copy._dspex_others = {}
    copy._dspex_blocks = _blocks(lm)
    return copy


def _blocks(lm: Any) -> bool:
    """Whether the LM has no async side of its own."""
    if isinstance(lm, dspy.LM):
        return not isinstance(lm.engine, str) and getattr(lm, "_async_engine_spec", lm.engine) is None
    return type(lm).aforward is dspy.BaseLM.aforward


def protect(lm: Any, chain: Chain, others: Mapping[str, Any], fallbacks: tuple[str, ...]) -> None:
    """Has an `observed` LM ask through the chain.

    Args:
        others: the chain's other LMs by their names there, `observed` too.
        fallbacks: the names.
    """
    lm._dspex_others = others
    lm._dspex_fallbacks = fallbacks
    lm._dspex_links = chain.links
    lm._dspex_chain = chain


def disconnect(lm: Any) -> None:
    """Has the LM make connections of its own in a child of a fork: two processes must not write to one."""
    if hasattr(lm, "_engine_store"):
        keep_of_parent(lm._engine_store)
        lm._engine_store, lm._engine_lock = {}, threading.RLock()


def is_protected(lm: Any) -> bool:
    """Whether the LM asks through a chain."""
    return isinstance(lm, _Observed) and lm._dspex_chain is not None

"""Many calls at once: native answers in one go, then the teacher for what is left."""

from __future__ import annotations

import contextvars
from collections.abc import Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from dspex.distill.engine import Engine
from dspex.distill.plan import Plan
from dspex.errors import ConfigError, nearest
from dspex.result import Result

__all__ = ["run_batch"]

_ON_ERROR = ("raise", "collect")


def run_batch(
    engine: Engine, plan: Plan, rows: Iterable[Mapping[str, Any]], on_error: str, concurrency: int
) -> list[Any]:
    """See `LiveProgram.batch`; each row is a call with a coin of its own."""
    if on_error not in _ON_ERROR:
        raise ConfigError(
            f"on_error cannot be {on_error!r}", field="on_error", hint=nearest(on_error, _ON_ERROR)
        )
    if isinstance(concurrency, bool) or not isinstance(concurrency, int) or concurrency < 1:
        raise ConfigError(f"concurrency is a whole number from 1, not {concurrency!r}", field="concurrency")
    given = list(rows)
    outcomes = _answered(engine, plan, given, concurrency)
    if on_error == "raise":
        for outcome in outcomes:
            if isinstance(outcome, BaseException):
                raise outcome
    return outcomes


def _answered(engine: Engine, plan: Plan, rows: list[Mapping[str, Any]], concurrency: int) -> list[Any]:
    natives: list[Any] = [None] * len(rows)
    if plan.batch is not None:
        found = plan.batch(rows)
        natives = [each if isinstance(each, Result) else None for each in found]
    outcomes: list[Any] = [None] * len(rows)
    waiting: list[tuple[int, Future[Any]]] = []
    with ThreadPoolExecutor(concurrency, thread_name_prefix="dspex-batch") as threads:
        for at, (inputs, native) in enumerate(zip(rows, natives, strict=True)):
            coin = None
            if plan.fast is not None and native is not None and (native.gate_score or 0.0) >= plan.threshold:
                coin = plan.coins.next()
                if not coin:
                    outcomes[at] = native
                    continue
            try:
                way = engine.way(plan, inputs, native, coin)
            except Exception as error:
                outcomes[at] = error
                continue
            if way.serves:
                outcomes[at] = engine.served(plan, way)
            else:
                context = contextvars.copy_context()  # what the teacher looks up there is the caller's
                waiting.append((at, threads.submit(context.run, engine.asked, plan, way)))
    for at, future in waiting:
        failure = future.exception()
        outcomes[at] = future.result() if failure is None else failure
    return outcomes

"""An LM that often fails and sometimes hangs, under load: every call ends in time, once, with its answer."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import dspex
from benchmarks.rounds import Block, Figures, Plan
from benchmarks.routes.load import SPEC, Load, told
from benchmarks.routes.programs import SQUARES, config
from benchmarks.sections import Section, Target
from dspex.adapters.dspy import DspyAdapter
from dspex.adapters.dspy_pool import DspyPoolAdapter
from dspex.adapters.hybrid import HybridAdapter
from dspex.testing import Faults, LMServer, Request

MINUTE_S, QUICK_S = 60.0, 5.0
LM_S, TIMEOUT_S, LATE_MS = 0.1, 1.0, 50.0
#: A hang lasts until the deadline: the LM's own timeout, without a byte, is longer.
LM = {"retry": {"backoff": 0.05}}
AGAIN = "asked again"


def sections(plan: Plan) -> Iterator[Section]:
    seconds = QUICK_S if plan.quick else MINUTE_S
    errors: dict[str, str] = {}

    def block(name: str, make: Callable[[dict[str, Any]], Any], program: Mapping[str, Any]) -> Block:
        def run() -> Figures:
            with LMServer(_squared, delay=LM_S, faults=_faults()) as server:
                figures, errors[name] = _under_load(server, make, program, seconds)
                return figures

        return run

    prefer_dspy = {"routing": {"prefer": "dspy"}}
    native = {"program": dspex.fit(SQUARES, [{"number": n, "square": n * n} for n in range(50)])}
    cases = plan.once(
        {
            "dspy adapter": block("dspy adapter", DspyAdapter, {}),
            "dspy_pool adapter": block("dspy_pool adapter", DspyPoolAdapter, {}),
            "hybrid adapter": block("hybrid adapter", HybridAdapter, native | prefer_dspy),
        }
    )
    said = "; ".join(f"{name}: {told}" for name, told in errors.items())
    section = Section(
        f"An LM with 30 % errors and 2 % hangs, {seconds:g} s of load",
        cases,
        peer=next(iter(cases)),
        compared="calls/s",
        peers={name: name for name in cases},
        note=f"8 threads and 8 tasks; an LM of {1000 * LM_S:g} ms, a deadline of {TIMEOUT_S:g} s. Instead: a "
        "native answer, where there is one. Late: the most by which a call ended after its deadline. Asked "
        f"again: inputs that the LM got once more after it had answered them. Errors: {said}.",
    )
    for name, series in cases.items():
        amiss = sum(series[what][0] for what in ("lost", "twice", "wrong", "miscounted", AGAIN))
        section.targets += [
            Target.at_most(f"calls lost, twice, wrong or miscounted, {name}", [amiss], 0),
            Target.at_most(f"most that a call is late, {name}", series["late ms"], LATE_MS, " ms"),
        ]
    yield section


def _under_load(
    server: LMServer, make: Callable[[dict[str, Any]], Any], program: Mapping[str, Any], seconds: float
) -> tuple[Figures, str]:
    with make(config(server.lm_config(**LM), dspy_pool={"size": 4})) as adapter:
        adapter.create_program({**SPEC, **program})
        with Load(adapter, timeout=TIMEOUT_S) as load:
            time.sleep(seconds)
        figures = load.figures()
    return {**figures, "requests": float(server.count), AGAIN: float(_asked_again(server))}, told(load.failed)


def _faults() -> Faults:
    """30 % errors and 2 % hangs."""
    return Faults(server_error=0.12, rate_limited=0.08, cut=0.05, malformed=0.05, hang=0.02)


def _squared(request: Request) -> dict[str, Any]:
    return {"square": int(request.fields["number"]) ** 2}


def _asked_again(server: LMServer) -> int:
    answered: set[str] = set()
    again: set[str] = set()
    for each in server.requests:
        number = each.request.fields["number"]
        if number in answered:
            again.add(number)
        if each.outcome == "answered":
            answered.add(number)
    return len(again)

"""What asking through dspex costs beside `dspy.Predict`, with an LM that answers at once."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import dspy

from benchmarks import timing
from benchmarks.rounds import Call, Plan
from benchmarks.routes.engines import instant
from benchmarks.routes.programs import INSTANT, INTENTS, TEXTS, config, fitted, lm, sure
from benchmarks.sections import Section, Target, quotient
from dspex import Client
from dspex.adapters.dspy import DspyAdapter
from dspex.adapters.dspy_pool import DspyPoolAdapter
from dspex.adapters.hybrid import HybridAdapter
from dspex.dspy import Predict

Rows = list[dict[str, str]]
DIRECT, IN_PROCESS, POOLED = "dspy.Predict", "dspy adapter", "dspy_pool adapter"
LIMITED = "dspy adapter, with a deadline"
MOST_RATIO, MOST_US = 1.03, 300.0
ROWS = 50
SPEC = {"id": "intents", "signature": INTENTS}
#: What DSPy keeps of each call unless it is told not to; an adapter of dspex does not keep it.
NOTHING_KEPT = {"disable_history": True, "trace": None}


def sections(plan: Plan) -> Iterator[Section]:
    yield in_process(plan, "DSPy's default settings", {})
    yield in_process(plan, "without DSPy's history and trace", NOTHING_KEPT)


def in_process(plan: Plan, title: str, settings: Mapping[str, Any]) -> Section:
    """The adapters in this process beside `dspy.Predict`, all under the same settings of DSPy."""
    with contextlib.ExitStack() as stack:
        executes: dict[str, Any] = {
            IN_PROCESS: stack.enter_context(DspyAdapter(config(lm(INSTANT)))),
            "hybrid adapter": stack.enter_context(HybridAdapter(config(lm(INSTANT)))),
            "client, auto": stack.enter_context(Client(config=config(lm(INSTANT)))),
        }
        calls: dict[str, Call] = {DIRECT: _directly()}
        for name, each in executes.items():
            each.create_program(SPEC)
            calls[name] = partial(each.execute_program, SPEC["id"])
        with timing.one_core(), dspy.context(lm=_instant_lm(), **settings):
            cases = plan.call_by_call(calls, TEXTS[:ROWS])
    section = Section(
        f"DSPy in this process, {title}",
        cases,
        peer=DIRECT,
        compared="p50 µs",
        note="The LM answers at once; one core. The cases take turns with every call.",
    )
    section.targets = [
        Target.at_most(
            f"p50 of {name}, in those of dspy.Predict, {title}",
            quotient(cases[name]["p50 µs"], cases[DIRECT]["p50 µs"]),
            MOST_RATIO,
            "x",
        )
        for name in executes
    ]
    return section


def pool_sections(plan: Plan) -> Iterator[Section]:
    """A worker process beside this one."""
    settings = config(lm(INSTANT), dspy_pool={"size": 1})
    with contextlib.ExitStack() as stack:
        executes: dict[str, Any] = {
            IN_PROCESS: stack.enter_context(DspyAdapter(settings)),
            POOLED: stack.enter_context(DspyPoolAdapter(settings)),
            "hybrid adapter, dspy_pool": stack.enter_context(
                HybridAdapter({**settings, "routing": {"dspy_pool": True}})
            ),
        }
        calls: dict[str, Call] = {}
        for name, each in executes.items():
            each.create_program(SPEC)
            calls[name] = partial(each.execute_program, SPEC["id"])
        adapter = executes[IN_PROCESS]
        calls[LIMITED] = lambda row: adapter.execute_program(SPEC["id"], row, {"timeout": 10.0})
        cases = plan.calls_in_turn(calls, TEXTS[:ROWS])
    section = Section(
        "DSPy in a worker process",
        cases,
        peer=IN_PROCESS,
        compared="p50 µs",
        note="One call at a time, to one worker; the LM answers at once. In this process a request with a "
        "deadline goes over a thread that can be left behind.",
    )
    section.targets = [
        Target.at_most(f"p50 of {name}, above the dspy adapter", section.above_peer(name), MOST_US, " µs")
        for name in cases
        if name not in (IN_PROCESS, LIMITED)
    ]
    yield section


def inside_sections(plan: Plan) -> Iterator[Section]:
    """A native answer through DSPy's own call."""
    program = fitted()
    rows = sure(program)[:ROWS]
    native = Predict(INTENTS, native=program)
    calls: dict[str, Call] = {
        DIRECT: _directly(),
        "dspex.dspy.Predict": lambda row: native(**row),
        "Program.predict": program.predict,
    }
    with timing.one_core(), dspy.context(lm=_instant_lm(), **NOTHING_KEPT):
        cases = plan.calls_in_turn(calls, rows)
    yield Section(
        "A native answer inside DSPy",
        cases,
        peer=DIRECT,
        compared="p50 µs",
        note="`dspex.dspy.Predict` in the place of `dspy.Predict`, called as a module of DSPy; the LM of "
        "`dspy.Predict` answers at once. Without DSPy's history and trace.",
    )


def _instant_lm() -> Any:
    return dspy.LM("benchmark/instant", engine=instant(), cache=False)


def _directly() -> Call:
    predict = dspy.Predict(INTENTS)
    return lambda row: predict(**row)

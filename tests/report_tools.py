"""Homes for the tests of the report and of the command line, made through the store alone."""

from __future__ import annotations

import json
import math
import random
from typing import Any

from dspex.distill import lifecycle
from dspex.distill.store import Audit, Event, Store, VersionRecord
from dspex.distill.trace import Answer, Trace
from dspex.signature import Signature

SIGNATURE = "text -> label: str"
NOW = 1_795_640_000.0
HOSTILE = "<script>document.title='x'</script> \"q\" 'x' \u202eevil\u202c \x1b[31m \x00 &amp; " + "W" * 900


def open_home(path: Any, **options: Any) -> Store:
    return Store.open(path, Signature.of(SIGNATURE), **options)


def certificate(covers: bool = True, **changes: Any) -> dict[str, Any]:
    curve = [
        {"threshold": 1 - at / 50, "coverage": at / 50, "agreement": 1 - 0.1 * (at / 50) ** 4,
         "lower": 1 - 0.1 * (at / 50) ** 4 - 0.02}
        for at in range(1, 51)
    ]  # fmt: skip
    return {
        "agreement": 0.95, "delta": 0.03, "method": "split", "threshold": 0.8 if covers else None,
        "thresholds": None, "rows": 400, "accepted": 360 if covers else 0, "errors": 9 if covers else 0,
        "coverage": 0.9 if covers else 0.0, "upper_bound": 0.047, "rows_needed": None if covers else 350,
        "reason": "certified" if covers else "no threshold reaches 0.95; about 350 more rows would do",
        "assumptions": ["the calls to come are drawn like those that certified"], "curve": curve,
        "test": "binomial", "risk": 0.025, "start": 0.9, "groups": None, **changes,
    }  # fmt: skip


def figures(classes: int = 3, text: str = "where is my card") -> dict[str, Any]:
    row = {"inputs": {"text": text}, "native": "card_arrival", "teacher": "card_arrival", "score": 0.81}
    names = [f"class_{at}" if text != HOSTILE else f"{HOSTILE}{at}" for at in range(classes)]
    return {
        "per_class": {
            name: {"rows": 10, "answered": 9 if at % 3 else 0, "wrong": at % 2 if at % 3 else 0,
                   "coverage": 0.9 if at % 3 else 0.0, "agreement": 1 - at % 2 / 9 if at % 3 else None}
            for at, name in enumerate(names)
        },
        "boundary": [{"likeness": 0.5, "answered": row, "deferred": {**row, "teacher": text, "score": 0.79}}],
    }  # fmt: skip


def add_version(
    store: Store, *, covers: bool = True, at: float = NOW, given: Any = None, **figures_options: Any
) -> int:
    number = store.next_version()
    if covers:
        store.version_path(number).write_bytes(b"stands for a model file")
    record = VersionRecord(
        number, at, store.version_path(number).name, "ready" if covers else "refused",
        certificate=given or certificate(covers), figures=figures(**figures_options),
        rows_fit=1600, rows_calibrate=400, delta=0.05 * 6 / (math.pi * number) ** 2, seconds=2.5,
    )  # fmt: skip
    store.add_version(record, [])
    return number


def add_traces(store: Store, count: int = 20, text: str = "call") -> None:
    store.add(
        Trace({"text": f"{text} {at}"}, Answer({"label": f"class_{at % 3}"}, usd=0.002, seconds=0.5), at=NOW)
        for at in range(count)
    )


def add_audits(store: Store, count: int, errors: int, version: int = 1, seed: int = 0) -> None:
    wrong = [at < errors for at in range(count)]
    random.Random(seed).shuffle(wrong)
    store.add_audits(
        [Audit(NOW + at, version, "live", 0.9, {"label": "a"}, {"label": "b" if bad else "a"}, bad)
         for at, bad in enumerate(wrong)]
    )  # fmt: skip


def served_home(
    path: Any, text: str = "where is my card", classes: int = 3, reason: str = "looks good"
) -> Store:
    """A home with a version that has gone to live, calls, audits and a drift alarm."""
    store = open_home(path, clock=lambda: NOW)
    add_traces(store, text=text)
    add_version(store, covers=False, at=NOW - 9000, text=text)
    add_version(store, at=NOW - 8000, classes=classes, text=text)
    for stage, at in (("shadow", 7000), ("canary", 6000), ("live", 5000)):
        lifecycle.promote(store, "user:ada", reason, to=stage, at=NOW - at)
    store.add_counts({"asked": 300, "deferred": 40}, version=2, stage="shadow", at=NOW - 7000)
    store.add_counts({"asked": 30, "native": 270, "audited": 10}, version=2, stage="live", at=NOW)
    add_audits(store, 60, 1, version=2)
    moved = {"what": "class 'a'", "direction": "rose", "reference": 0.01, "lately": 0.2, "part": 1.0}
    report = {"alarm": True, "score": {"evidence": 1.0, "moved": []}, "classes": {"moved": [moved]}}
    store.record(Event(NOW, "drift", "watch", f"Drift: {text}", {}, report))
    return store


def parsed(text: str) -> Any:
    """JSON as other languages read it: no NaN and no Infinity."""

    def refuse(name: str) -> Any:
        raise AssertionError(f"{name} is no JSON")

    return json.loads(text, parse_constant=refuse)

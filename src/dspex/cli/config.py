"""``dspex config check``: what the configuration will do, before anything runs by it."""

from __future__ import annotations

import argparse
import os
import textwrap
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from dspex.cli import output

if TYPE_CHECKING:
    from dspex.config import Loaded

HELP = "check the configuration"
DESCRIPTION = (
    "Reads the configuration as dspex does, from the environment variables DSPEX_* and a file, checks it and "
    "says what will happen. The file is the one given, else that of DSPEX_CONFIG, else dspex.toml or the "
    "table [tool.dspex] of pyproject.toml in the working directory."
)
_LABEL = 16


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("action", choices=["check"], help="what to do")
    parser.add_argument("--config", metavar="FILE", help="a TOML file")


def run(args: argparse.Namespace) -> None:
    from dspex.cli.config_facts import facts
    from dspex.config import read

    loaded = read(args.config)
    found = facts(loaded)
    if args.json:
        output.print_json(found)
    else:
        for title, rows in _sections(loaded, found):
            output.heading(title)
            for label, text in rows:
                _print_row(label, text)


def _print_row(label: str, text: str) -> None:
    indent = " " * (_LABEL + 3)
    if len(label) > _LABEL:
        print(f"  {label}")
        label = ""
    print(
        textwrap.fill(
            text, output.WIDTH, initial_indent=f"  {label.ljust(_LABEL)} ", subsequent_indent=indent,
            break_long_words=False, break_on_hyphens=False,
        )
    )  # fmt: skip


Rows = Iterator[tuple[str, str]]


def _sections(loaded: Loaded, found: dict[str, Any]) -> Iterator[tuple[str, Rows]]:
    yield "sources", _sources(found)
    yield "language models", _lms(found)
    yield "DSPy programs", _dspy(found)
    yield "pools", _pools(found)
    yield "routing", _routing(found)
    if found["changed"]:
        yield "other than the defaults", _changed(found)
    if found["warnings"]:
        yield "warnings", (("-", text) for text in found["warnings"])


def _sources(found: dict[str, Any]) -> Rows:
    if not found["sources"]:
        yield "none", "everything has its default"
    for source in found["sources"]:
        yield source["kind"], ", ".join(source["from"])


def _lms(found: dict[str, Any]) -> Rows:
    if not found["lms"]:
        yield "none", "DSPy programs use the LM of dspy.settings, if there is one"
    for name, lm in found["lms"].items():
        default = " (default)" if name == found["lm"] else ""
        place = f" at {lm['api_base']}" if lm["api_base"] else ""
        yield f"{name}{default}", f"{lm['model']}{place}; key: {lm['api_key']}"
        yield "  tries", _retry(lm["retry"])
        yield "  limits", _limits(lm["limits"])
        yield "  breaker", _breaker(lm["breaker"])
        yield "  then asks", ", ".join(lm["fallbacks"]) or "no other"


def _retry(retry: dict[str, Any]) -> str:
    if retry["attempts"] == 1:
        return "1, none is repeated"
    pauses = f"pauses of up to {retry['backoff']:g} s, doubling to {retry['max_backoff']:g} s"
    return (
        f"{retry['attempts']}, with {pauses}; "
        f"a Retry-After of up to {retry['max_retry_after']:g} s is waited for"
    )


def _limits(limits: dict[str, Any]) -> str:
    parts = [
        f"{limits[name]:g} {words}"
        for name, words in (
            ("requests_per_minute", "requests a minute"), ("burst", "at a time"),
            ("tokens_per_minute", "tokens a minute"), ("concurrency", "under way at once"),
        )
        if limits[name] is not None
    ]  # fmt: skip
    return f"{', '.join(parts)}; waits up to {limits['max_wait']:g} s for a turn" if parts else "none"


def _breaker(breaker: dict[str, Any]) -> str:
    if not breaker["enabled"]:
        return "none"
    return (
        f"opens when {breaker['failure_rate']:.0%} of at least {breaker['min_calls']} requests failed within "
        f"{breaker['window']:g} s; after {breaker['cooldown']:g} s {_many(breaker['probes'], 'probe')}"
    )


def _dspy(found: dict[str, Any]) -> Rows:
    dspy = found["dspy"]
    yield "deadline", "none" if dspy["timeout"] is None else f"{dspy['timeout']:g} s, with all tries"
    yield "batches", f"{_many(dspy['concurrency'], 'row')} under way at once"
    cache = dspy["cache"]
    kept = f"{cache['size']} for {cache['ttl']:g} s" if cache["size"] else "none are kept"
    shared = "equal inputs at once are asked once" if dspy["single_flight"] else "each input is asked"
    yield "answers", f"{kept}; {shared}"
    yield "budget", _budget(dspy["budget"])


def _budget(budget: dict[str, Any] | None) -> str:
    if budget is None or (budget["tokens"] is None and budget["usd"] is None):
        return "none"
    parts = [f"{budget['tokens']:,} tokens"] if budget["tokens"] is not None else []
    parts += [f"${budget['usd']:g}"] if budget["usd"] is not None else []
    return f"{' and '.join(parts)} of each program within {budget['window']:g} s"


def _pools(found: dict[str, Any]) -> Rows:
    native, dspy = found["native_pool"], found["dspy_pool"]
    yield "native", f"{_sized(native, 'thread')}; {native['policy']} when {native['capacity']} calls wait"
    retired = [
        f"{dspy[name]:,} {words}"
        for name, words in (("max_calls", "calls"), ("max_memory_mib", "MiB"))
        if dspy[name] is not None
    ]
    waiting = f"{dspy['capacity']} calls may wait, up to {dspy['max_wait']:g} s"
    replaced = f"replaced after {' or '.join(retired)}" if retired else "replaced when they die"
    yield "dspy", f"{_sized(dspy, 'process', 'processes')}; {waiting}; {replaced}"


def _sized(pool: dict[str, Any], one: str, many: str | None = None) -> str:
    more = f", up to {pool['max_size']} when busy" if pool["max_size"] > pool["size"] else ""
    return f"{_many(pool['size'], one, many)}{more}"


def _many(count: int, one: str, many: str | None = None) -> str:
    return f"{count:,} {one if count == 1 else many or f'{one}s'}"


def _routing(found: dict[str, Any]) -> Rows:
    routing = found["routing"]
    if routing["backend"]:
        yield "always", f"every program runs on {routing['backend']}; nothing else is looked at"
        return
    for rule in routing["rules"]:
        yield f"rule {rule['name'] or rule['number']}", f"{rule['when']} -> {rule['use']}"
    yield (
        "else",
        (f"programs with a fitted native side -> {routing['first']}; the others -> {routing['other']}"),
    )
    yield "gate", routing["gate"]
    yield (
        "fallback",
        (
            "where DSPy cannot be asked, the native answer, marked degraded"
            if routing["fallback"]
            else "none: where DSPy cannot be asked, the call fails"
        ),
    )
    if routing["latency_budget_ms"] is not None:
        ms = routing["latency_budget_ms"]
        yield "latency", f"DSPy has {ms:g} ms for a call, and is asked while its median is at most that"
    if routing["max_cost"] is not None:
        yield "cost", f"DSPy only while its median is at most ${routing['max_cost']:g} a call"
    if routing["hedge_after_ms"] is not None:
        ms = routing["hedge_after_ms"]
        yield "hedge", f"what a pool has not answered after {ms:g} ms is asked of DSPy in process as well"


def _changed(found: dict[str, Any]) -> Rows:
    for change in found["changed"]:
        yield (
            change["setting"],
            (
                f"{output.to_json(change['value'])}, by default {output.to_json(change['default'])}; "
                f"from {os.path.basename(change['from'])}"
            ),
        )

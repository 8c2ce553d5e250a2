"""``dspex learn``: make a new version from the traces of a home, now."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from typing import Any

from dspex.cli import output
from dspex.errors import ConfigError

HELP = "learn a new version from a home's traces"
DESCRIPTION = (
    "Fits a version on the stored answers of the teacher and certifies it on rows that have certified none "
    "before; waits until that is done. A service that runs puts it in use by its own rules, 'dspex promote' "
    "does it by hand."
)
_LABEL = 13


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("home", metavar="HOME", help="the directory of a distilled program")
    parser.add_argument(
        "--agreement",
        type=float,
        metavar="SHARE",
        help="guaranteed share of agreeing answers (default: as the home keeps it, else 0.95)",
    )
    parser.add_argument(
        "--delta",
        type=float,
        metavar="CHANCE",
        help="chance that a guarantee fails (default: as the home keeps it, else 0.05)",
    )
    parser.add_argument(
        "--method",
        choices=["split", "cross"],
        help="how rows are used to certify (default: as the home keeps it, else split)",
    )
    parser.add_argument("--seed", type=int, default=0, help="of the fit (default 0)")
    parser.add_argument(
        "--set", metavar="NAME=VALUE", action="append", default=[],
        help="another setting, such as guarantee.per_class=true or learning.threads=2 (repeatable)",
    )  # fmt: skip


def run(args: argparse.Namespace) -> None:
    from dspex.distill.learner import learn
    from dspex.distill.settings import DistillSettings
    from dspex.distill.store import Store
    from dspex.distill.terms import wanted_of, weaker

    settings = DistillSettings.of(_settings(args))
    with Store.open(args.home, settings=settings.store, create=False) as store:
        lesson = learn(store, settings, seed=args.seed)
        record = None if lesson.version is None else store.version(lesson.version)
        wanted = wanted_of(store)
    facts = lesson.to_dict()
    if record is not None:
        certificate = record.certificate
        facts |= {
            "certificate": {name: value for name, value in certificate.items() if name != "curve"},
            "rows_fit": record.rows_fit,
            "rows_calibrate": record.rows_calibrate,
            "seconds": record.seconds,
            "compared": record.figures.get("compared"),
            "weaker": None if wanted is None else weaker(record, wanted),
        }
    if args.json:
        output.print_json(facts)
    else:
        _print(facts)


def _print(facts: dict[str, Any]) -> None:
    from dspex.distill.report import words

    output.pair("outcome", facts["outcome"], _LABEL)
    if facts["version"] is not None:
        output.pair("version", str(facts["version"]), _LABEL)
        output.pair("learned from", f"{facts['rows_fit']:,} rows", _LABEL)
        output.pair("certified on", f"{facts['rows_calibrate']:,} rows", _LABEL)
        output.pair("coverage", words.percent(facts["certificate"].get("coverage")), _LABEL)
        if facts["compared"] is not None:
            output.pair("beside", _beside(facts["compared"]), _LABEL)
        output.pair("took", words.duration(facts["seconds"]), _LABEL)
    output.pair("because", output.shorten(words.visible(facts["reason"]), 600), _LABEL)
    if facts.get("weaker"):
        output.pair("not used", f"the home guarantees more: {facts['weaker']}", _LABEL)
    if facts["rows_needed"]:
        output.pair("missing", f"about {facts['rows_needed']:,} certifying rows", _LABEL)


def _beside(compared: Mapping[str, Any]) -> str:
    """The version in service on the same rows."""
    from dspex.distill.report import words

    line = compared["running"]
    coverage, agreement = words.percent(line["coverage"]), words.percent(line["agreement"])
    return f"version {compared['version']}: coverage {coverage}, agreement {agreement} on these rows"


def _settings(args: argparse.Namespace) -> dict[str, Any]:
    """The options as nested settings; a value is JSON where it can be read as such, else text."""
    nested: dict[str, Any] = {}
    for pair in args.set:
        name, equals, value = pair.partition("=")
        group, dot, key = name.partition(".")
        if not equals or not dot or not key:
            raise ConfigError(
                f"--set {pair!r} is not a setting and a value", hint="Write --set learning.threads=2"
            )
        values = nested.setdefault(group, {})
        if key in values:
            raise ConfigError(f"--set {name} is given twice", field=name)
        try:
            values[key] = json.loads(value)
        except ValueError:
            values[key] = value
    for key in ("agreement", "delta", "method"):
        given = getattr(args, key)
        if given is not None:
            values = nested.setdefault("guarantee", {})
            if key in values:
                raise ConfigError(f"guarantee.{key} is given twice", field=f"guarantee.{key}")
            values[key] = given
    return nested

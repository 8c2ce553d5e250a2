"""One HTML page with everything in it: it asks no network for anything, and can be read without scripts."""

from __future__ import annotations

import base64
import hashlib
import os
from collections.abc import Callable, Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

from dspex.distill.report import history, sections, words
from dspex.distill.report.html import foreign, text

__all__ = ["page", "write_page"]

Facts = Mapping[str, Any]
_SECTIONS: tuple[tuple[str, str, Callable[[Facts], str]], ...] = (
    ("guaranteed", "What is guaranteed", sections.headline),
    ("coverage", "Coverage against agreement", sections.coverage),
    ("saved", "What it saves", sections.savings),
    ("classes", "Class by class", sections.classes),
    ("boundary", "At the boundary", sections.boundary),
    ("watch", "The watch", history.watch),
    ("drift", "Drift", history.drift),
    ("versions", "Versions and stages", history.versions),
    ("log", "What happened", history.log),
)


def page(facts: Facts) -> str:
    """The report as one HTML document, from what `facts` gives."""
    style, script = _part("page.css"), _part("page.js")
    title = f"dspex: {facts['signature']['text']}"
    policy = f"default-src 'none'; style-src '{_hash(style)}'; script-src '{_hash(script)}'; img-src data:"
    links = "".join(f'<li><a href="#{key}">{name}</a></li>' for key, name, _ in _SECTIONS)
    body = "\n".join(
        f'<section id="{key}" aria-labelledby="{key}-h"><h2 id="{key}-h">{name}</h2>{make(facts)}</section>'
        for key, name, make in _SECTIONS
    )
    return (
        f'<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<title>{text(title)}</title>\n<link rel="icon" href="data:,">\n<style>{style}</style>\n</head>\n'
        f'<body>\n<a class="skip" href="#main">Skip to the report</a>\n<div class="wide">\n'
        f"<header><h1>{foreign(facts['signature']['text'], 200)}</h1>"
        f'<p class="where">{foreign(facts["home"])}, as of {words.moment(facts["made"])} UTC</p>'
        f'<nav aria-label="Sections"><ul>{links}</ul></nav></header>\n'
        f'<main id="main">\n{body}\n</main>\n'
        f"<footer>Made by dspex {text(facts['dspex'])}. All times are UTC.</footer>\n</div>\n"
        f"<script>{script}</script>\n</body>\n</html>\n"
    )


def write_page(path: str | os.PathLike[str], facts: Facts) -> None:
    """Writes the page, whole or not at all: a file of this name stays until the new one is there."""
    made = page(facts)
    target = Path(path)
    fresh = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        fresh.write_text(made, encoding="utf-8")
        fresh.replace(target)
    finally:
        fresh.unlink(missing_ok=True)


def _part(name: str) -> str:
    return files(__package__ or "").joinpath(name).read_text(encoding="utf-8")


def _hash(part: str) -> str:
    """The part's hash as a content security policy writes it: nothing else may run or paint."""
    return f"sha256-{base64.b64encode(hashlib.sha256(part.encode()).digest()).decode()}"

"""The report of a home: facts as data, and as one HTML page."""

from __future__ import annotations

from dspex.distill.report.facts import facts
from dspex.distill.report.page import page, write_page

__all__ = ["facts", "page", "write_page"]

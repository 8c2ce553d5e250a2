"""A new version beside the one in service, on the same rows, which neither was fitted on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dspex.distill.figures import line
from dspex.distill.guarded import Guarded
from dspex.distill.judging import judge, stands_of
from dspex.distill.settings import GuaranteeSettings
from dspex.distill.trace import Trace

__all__ = ["compared"]


def compared(
    new: dict[str, Any], running: Guarded, rows: Sequence[Trace], settings: GuaranteeSettings, number: int
) -> dict[str, Any]:
    """{"rows", "new": line, "running": line, "version": of the running one}.

    A line is {"answered", "wrong", "coverage", "agreement"}.

    Args:
        new: the line of the new version.
        rows: that certified it; the running version has not seen them either.
    """
    judged = judge(running.program, rows, settings)
    stands = stands_of(running, rows, judged)
    own = line(len(rows), int(stands.sum()), int((stands & judged.wrong).sum()))
    return {"rows": len(rows), "version": number, "new": new, "running": own}

"""Which of several outputs are beyond a guarantee, told from the rows to fit on alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from dspex.distill.making import taught
from dspex.distill.settings import GuaranteeSettings
from dspex.distill.task import with_outputs
from dspex.distill.trace import Trace
from dspex.errors import InputError
from dspex.signature import Signature

if TYPE_CHECKING:
    from dspex.dspy.distill import Distill

__all__ = ["hopeless"]

_LEAST_ROWS = 20
_LEAST_SHARE = 0.25  # of the rows: what is answered natively less often would take the other outputs with it


def hopeless(
    signature: Signature, rows: Sequence[Trace], guarantee: GuaranteeSettings, options: Distill
) -> dict[str, str]:
    """Output -> why nothing can be guaranteed of it. One such output would take the others with it.

    Each output is fitted alone; its answers to rows that were held out, surest first, must agree as often as
    is asked for somewhere.

    Args:
        signature: with the outputs to learn. One alone is not looked at, and one always remains: the
            certificate tells of that.
        rows: rows to fit on. Those that certify are not looked at, so the choice costs no confidence.
    """
    names = list(signature.outputs)
    if len(names) < 2:
        return {}
    found = {name: _doubt(with_outputs(signature, [name]), name, rows, guarantee, options) for name in names}
    lost = {name: why for name, why in found.items() if why is not None}
    return lost if len(lost) < len(names) else {}


def _doubt(
    signature: Signature, name: str, rows: Sequence[Trace], guarantee: GuaranteeSettings, options: Distill
) -> str | None:
    tolerance = {k: v for k, v in guarantee.tolerance.items() if k == name}
    settings = guarantee.model_copy(update={"tolerance": tolerance, "method": "split"})
    try:
        lesson = taught(
            signature,
            rows,
            (),
            settings,
            seed=options.seed,
            threads=options.threads,
            fit_options=options.options,
        )
    except InputError as error:
        return f"it cannot be learned: {error.message}"
    held_out = lesson.program._held_out
    assert held_out is not None
    wrong = held_out.wrong[np.argsort(-held_out.scores, kind="stable")]  # the surest answer first
    least = max(_LEAST_ROWS, int(len(rows) * _LEAST_SHARE))
    if len(wrong) < least:
        return None
    # With one wrong and one right on top: among many short beginnings some are good by luck.
    shares = (np.cumsum(wrong) + 1) / (np.arange(1, len(wrong) + 1) + 2)
    best = float(shares[least - 1 :].min())
    if best <= 1 - guarantee.agreement:
        return None
    return (
        f"nothing can be guaranteed of it: its surest answers agree on {1 - best:.3f} of the rows "
        "that were held out"
    )

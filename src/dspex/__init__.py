"""dspex answers the predictable calls of DSPy programs natively, in about a microsecond."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .errors import DspexError
from .result import Result, Route
from .signature import Signature

if TYPE_CHECKING:
    from . import distill as distill
    from . import dspy as dspy
    from .client import (
        Client,
        aexecute_program,
        configure_lm,
        create_program,
        delete_program,
        execute_batch,
        execute_program,
        explain,
        get_program_info,
        list_programs,
    )
    from .learning.fit import fit
    from .pool import Pool, default_pool
    from .program import Program, load

__version__ = "0.1.0"

__all__ = [
    "Client",
    "DspexError",
    "Pool",
    "Program",
    "Result",
    "Route",
    "Signature",
    "aexecute_program",
    "configure_lm",
    "create_program",
    "default_pool",
    "delete_program",
    "distill",
    "dspy",
    "execute_batch",
    "execute_program",
    "explain",
    "fit",
    "get_program_info",
    "list_programs",
    "load",
]

_LAZY = {
    "Client": "client",
    "aexecute_program": "client",
    "configure_lm": "client",
    "create_program": "client",
    "delete_program": "client",
    "execute_batch": "client",
    "execute_program": "client",
    "explain": "client",
    "get_program_info": "client",
    "list_programs": "client",
    "fit": "learning.fit",
    "Pool": "pool",
    "Program": "program",
    "default_pool": "pool",
    "load": "program",
}


if not TYPE_CHECKING:  # type checkers take the imports above, and so see a misspelt name

    def __getattr__(name: str) -> Any:
        # NumPy and the client are imported on first need: `import dspex` stays light.
        from importlib import import_module

        if name in ("distill", "dspy"):
            return import_module(f"dspex.{name}")
        if name not in _LAZY:
            raise AttributeError(f"module 'dspex' has no attribute {name!r}")
        value = getattr(import_module(f"dspex.{_LAZY[name]}"), name)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

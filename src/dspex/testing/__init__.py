"""What tests of users and third parties need: the conformance suite of adapters, and a local LM server.

Subclass `AdapterConformance` in a test module, as `class TestMine(AdapterConformance)`, and give it a
`make_adapter(self)` that returns a new adapter; this needs pytest. `LMServer` and its faults need nothing.
"""

from __future__ import annotations

import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dspex.testing.cases import CASES, Case
    from dspex.testing.conformance import AdapterConformance
    from dspex.testing.lm_faults import Cut, Fault, Faults, HalfRight, Hang, Malformed, Slow, Status
    from dspex.testing.lm_request import Request
    from dspex.testing.lm_server import LMServer, Logged

__all__ = [
    "CASES",
    "AdapterConformance",
    "Case",
    "Cut",
    "Fault",
    "Faults",
    "HalfRight",
    "Hang",
    "LMServer",
    "Logged",
    "Malformed",
    "Request",
    "Slow",
    "Status",
]

if "pytest" in sys.modules:
    # Before the imports, so that a failing assertion of the suite shows its values.
    for _part in ("hooks", "calls", "lifecycle", "conformance"):
        sys.modules["pytest"].register_assert_rewrite(f"dspex.testing.{_part}")

_HOMES = {
    "cases": ("CASES", "Case"),
    "conformance": ("AdapterConformance",),
    "lm_faults": ("Cut", "Fault", "Faults", "HalfRight", "Hang", "Malformed", "Slow", "Status"),
    "lm_request": ("Request",),
    "lm_server": ("LMServer", "Logged"),
}


def __getattr__(name: str) -> Any:
    for module, names in _HOMES.items():
        if name in names:
            return getattr(import_module(f"dspex.testing.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

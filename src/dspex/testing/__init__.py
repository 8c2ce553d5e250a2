"""What a third party needs to test an adapter of its own; needs pytest.

Subclass `AdapterConformance` in a test module, as `class TestMine(AdapterConformance)`, and give it a
`make_adapter(self)` that returns a new adapter.
"""

import pytest

# Before the imports, so that a failing assertion of the suite shows its values.
for _part in ("hooks", "calls", "lifecycle", "conformance"):
    pytest.register_assert_rewrite(f"dspex.testing.{_part}")

from dspex.testing.cases import CASES, Case  # noqa: E402
from dspex.testing.conformance import AdapterConformance  # noqa: E402

__all__ = ["CASES", "AdapterConformance", "Case"]

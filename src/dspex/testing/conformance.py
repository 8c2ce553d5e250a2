"""The tests that every adapter passes, whoever wrote it."""

from __future__ import annotations

from dspex.testing.calls import CallTests
from dspex.testing.lifecycle import LifecycleTests

__all__ = ["AdapterConformance"]


class AdapterConformance(LifecycleTests, CallTests):
    """Subclass it under a name that pytest collects, and override `make_adapter`.

    Attributes:
        unsupported: names of cases whose signatures the adapter refuses by design; for these a
            SignatureError is expected.
        routes: the routes that its results may have; by default the adapter's name.
        tolerance: how far probabilities and numbers of equal calls may be apart.
    """

"""The conformance suite over the hybrid adapter's native sides, and over a stand-in for DSPy behind them."""

from __future__ import annotations

from dspex.adapters import Adapter
from dspex.adapters.hybrid import HybridAdapter
from dspex.adapters.mock import MockAdapter
from dspex.testing import AdapterConformance
from hybrid_tools import LM


class TestHybridConforms(AdapterConformance):
    routes = frozenset({"native"})

    def make_adapter(self) -> Adapter:
        return HybridAdapter()


class TestHybridOnThePoolConforms(AdapterConformance):
    routes = frozenset({"native_pool"})

    def make_adapter(self) -> Adapter:
        return HybridAdapter({"routing": {"native_pool": True}, "native_pool": {"size": 2}})


class TestHybridWithAGateConforms(AdapterConformance):
    """Some answers are native, and the others those of the mock in the place of DSPy."""

    routes = frozenset({"native", "dspy"})

    def make_adapter(self) -> Adapter:
        return HybridAdapter({**LM, "routing": {"threshold": 0.97}}, backends={"dspy": MockAdapter()})


class TestHybridWithDspyFirstConforms(AdapterConformance):
    routes = frozenset({"dspy"})

    def make_adapter(self) -> Adapter:
        return HybridAdapter({**LM, "routing": {"prefer": "dspy"}}, backends={"dspy": MockAdapter()})

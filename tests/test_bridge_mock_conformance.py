"""The conformance suite over the bridge_mock adapter, with a clean connection and with harmless faults."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dspex.adapters import Adapter, create
from dspex.adapters.bridge_mock import BridgeMockAdapter
from dspex.testing import AdapterConformance

HARMLESS: list[Mapping[str, Any]] = [
    {"kind": "duplicate", "side": "calls", "share": 0.5},
    {"kind": "duplicate", "side": "answers", "share": 0.5},
    {"kind": "delay", "side": "answers", "share": 0.02, "seconds": 0.01},
]


class TestBridgeMockConforms(AdapterConformance):
    def make_adapter(self) -> Adapter:
        return create("bridge_mock", timeout=5.0)  # the machine may be busy


class TestBridgeMockWithHarmlessFaultsConforms(AdapterConformance):
    def make_adapter(self) -> Adapter:
        return BridgeMockAdapter(faults=HARMLESS, timeout=5.0)

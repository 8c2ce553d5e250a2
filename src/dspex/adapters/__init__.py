"""Adapters: one contract over every backend. Third parties add theirs through entry points."""

from dspex.adapters.base import TEST_LAYERS, Adapter, Capabilities, Health, Spec
from dspex.adapters.local import LocalAdapter, Runner
from dspex.adapters.registry import available, create, get, register, unregister
from dspex.checks import check_inputs, check_outputs
from dspex.spec import KINDS, ProgramSpec

__all__ = [
    "KINDS",
    "TEST_LAYERS",
    "Adapter",
    "Capabilities",
    "Health",
    "LocalAdapter",
    "ProgramSpec",
    "Runner",
    "Spec",
    "available",
    "check_inputs",
    "check_outputs",
    "create",
    "get",
    "register",
    "unregister",
]

"""What all tests share: what DSPy reads from the environment at import, and a server in place of an LM."""

from __future__ import annotations

import gc
import os
import sys
import tempfile
import warnings
from collections.abc import Iterator

import pytest

from dspex.config.places import CONFIG, variables
from dspex.testing.lm_server import LMServer

# Set before anything imports DSPy, and inherited by the processes that tests start.
_CACHE = tempfile.TemporaryDirectory(prefix="dspex-tests-dspy-")
os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "true")  # else the first call asks the internet
os.environ.setdefault("DSPY_CACHEDIR", _CACHE.name)  # else DSPy makes a folder in the user's home
for _name in (*variables(), CONFIG):
    os.environ.pop(_name, None)  # settings of whoever runs the tests


@pytest.fixture(scope="session", autouse=True)
def _dspy_cache() -> Iterator[None]:
    yield
    _CACHE.cleanup()


@pytest.fixture(autouse=True)
def _adapters_end() -> Iterator[None]:
    yield
    tools = sys.modules.get("dspy_adapter_tools")
    while tools is not None and tools.made:
        tools.made.pop().close()


@pytest.fixture(autouse=True, scope="module")
def _connections_end() -> Iterator[None]:
    """DSPy closes the connections of an LM that was let go of when it is collected: not in another's test."""
    yield
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()


@pytest.fixture
def lm_server() -> Iterator[LMServer]:
    """A running `LMServer`; set its `answers`, `delay` and `faults`."""
    with LMServer() as server:
        yield server

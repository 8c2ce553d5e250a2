"""The hybrid adapter: native where that is good enough, DSPy for the rest."""

from dspex.adapters.hybrid.adapter import HybridAdapter

__all__ = ["HybridAdapter"]

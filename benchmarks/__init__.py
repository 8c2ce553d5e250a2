"""Benchmarks: dspex and its peers, on the same rows, in one run."""

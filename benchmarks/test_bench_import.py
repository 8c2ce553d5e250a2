"""What `import dspex` costs, each time in a new process that has NumPy already."""

from __future__ import annotations

from typing import Any

from benchmarks import fresh


def test_import(benchmark: Any) -> None:
    found = benchmark.pedantic(fresh.import_in_fresh_process, args=("dspex", 1), rounds=5)
    benchmark.extra_info.update(found)
    assert found["import_ms"] < 1000

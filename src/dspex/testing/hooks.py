"""What the parts of the conformance suite share: how adapters and programs are made, and comparing."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

import pytest

from dspex.adapters.base import Adapter
from dspex.errors import SignatureError
from dspex.result import Result
from dspex.testing.cases import CASES, Case

__all__ = ["THREADS", "Hooks", "each_case"]

THREADS = 8

each_case = pytest.mark.parametrize("case", CASES, ids=str)


class Hooks:
    """How the adapter under test is made; see `AdapterConformance`.

    Attributes:
        unsupported: names of cases whose signatures the adapter refuses by design; for these a
            SignatureError is expected.
        routes: the routes that its results may have.
        tolerance: how far probabilities and numbers of equal calls may be apart.
    """

    unsupported: ClassVar[frozenset[str]] = frozenset()
    routes: ClassVar[frozenset[str]] = frozenset()
    tolerance: ClassVar[float] = 1e-6

    def make_adapter(self) -> Adapter:
        """A new adapter, ready for use. To be overridden."""
        raise NotImplementedError("override make_adapter")

    def make_spec(self, case: Case, **extra: Any) -> Mapping[str, Any]:
        """The spec that a case's program is created from; override it to add settings."""
        return {"signature": case.signature, "examples": list(case.examples), **extra}

    @pytest.fixture
    def adapter(self) -> Iterator[Adapter]:
        """The adapter under test, closed afterwards."""
        adapter = self.make_adapter()
        yield adapter
        adapter.close()

    def create(self, adapter: Adapter, case: Case, **extra: Any) -> str:
        """Creates the case's program; for one that is unsupported, checks the refusal and skips."""
        if case.name in self.unsupported:
            with pytest.raises(SignatureError):
                adapter.create_program(self.make_spec(case, **extra))
            pytest.skip(f"{adapter.name} refuses {case.name} by design")
        return adapter.create_program(self.make_spec(case, **extra))

    def assert_same(self, one: Result, other: Result) -> None:
        """Equal answers, routes and (within the tolerance) numbers."""
        assert list(one) == list(other)
        for name in one:
            self._assert_close(one[name], other[name])
        assert str(one.route) == str(other.route)
        self._assert_close(one.confidence, other.confidence)

    def _assert_close(self, one: Any, other: Any) -> None:
        if isinstance(one, float) and isinstance(other, float):
            assert math.isclose(one, other, rel_tol=self.tolerance, abs_tol=self.tolerance)
        else:
            assert one == other

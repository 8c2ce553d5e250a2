"""The conformance suite over every built-in adapter, and proof that it catches what it should."""

from __future__ import annotations

import asyncio
import importlib
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import pytest

import lm_answers
from dspex.adapters import Adapter, Health, ProgramSpec, create
from dspex.adapters.mock import MockAdapter
from dspex.adapters.registry import BUILTIN
from dspex.errors import DspexError, InputError, ProgramError, ResourceError
from dspex.result import Result
from dspex.testing import CASES, AdapterConformance
from dspex.testing.lm_server import LMServer


class TestMockConforms(AdapterConformance):
    def make_adapter(self) -> Adapter:
        return create("mock")


class TestNativeConforms(AdapterConformance):
    def make_adapter(self) -> Adapter:
        return create("native")


class TestNativePoolConforms(AdapterConformance):
    def make_adapter(self) -> Adapter:
        return create("native_pool", size=2)


_SERVER = LMServer(lm_answers.answer)  # stands for the language model


@pytest.fixture(autouse=True, scope="module")
def _server() -> Iterator[None]:
    with _SERVER:
        yield
        while _kept:
            _kept.pop().close()


class TestDspyConforms(AdapterConformance):
    def make_adapter(self) -> Adapter:
        return create("dspy", config={"lms": {"server": _SERVER.lm_config()}})


class TestDspyPoolConforms(AdapterConformance):
    def make_adapter(self) -> Adapter:
        return create("dspy_pool", config={"lms": {"server": _SERVER.lm_config()}, "dspy_pool": {"size": 1}})

    @pytest.fixture
    def adapter(self) -> Iterator[Adapter]:
        """One that earlier tests have used: a worker that imports DSPy takes a second to start."""
        adapter = _kept.pop() if _kept else self.make_adapter()
        yield adapter
        if not adapter.closed:
            adapter.configure_lm(_SERVER.lm_config())
            for program in adapter.list_programs():
                adapter.delete_program(program)
            _kept.append(adapter)


_kept: list[Adapter] = []


def test_every_builtin_adapter_is_covered() -> None:
    modules = [sys.modules[__name__], *map(importlib.import_module, _ELSEWHERE)]
    suites = [
        each
        for module in modules
        for name, each in vars(module).items()
        if name.startswith("Test") and issubclass(each, AdapterConformance)
    ]
    covered = set()
    for suite in suites:
        with suite().make_adapter() as adapter:
            covered.add(adapter.name)
    assert covered == set(BUILTIN)


_ELSEWHERE = ("test_hybrid_conformance", "test_bridge_mock_conformance")


# Each of these breaks one promise; the suite has to notice.


class ConstantHealth(MockAdapter):
    def health_check(self) -> Health:
        return Health(True, "fine")


class AnswersForUnknownIds(MockAdapter):
    def execute_program(self, program_id: str, inputs: Any, options: Any = None) -> Result:
        known = self.list_programs()
        return super().execute_program(program_id if program_id in known else known[0], inputs, options)


class Overwrites(MockAdapter):
    def create_program(self, spec: Any) -> str:
        checked = ProgramSpec.of(spec)
        if checked.id in self.list_programs():
            self.delete_program(str(checked.id))
        return super().create_program(checked)


class FillsIn(MockAdapter):
    def execute_program(self, program_id: str, inputs: Any, options: Any = None) -> Result:
        return super().execute_program(program_id, {"text": "", **inputs}, options)


class IgnoresUnknownFields(MockAdapter):
    def execute_program(self, program_id: str, inputs: Any, options: Any = None) -> Result:
        known = {key: value for key, value in inputs.items() if key == "text"}
        return super().execute_program(program_id, known, options)


class ConvertsInputs(MockAdapter):
    def execute_program(self, program_id: str, inputs: Any, options: Any = None) -> Result:
        return super().execute_program(program_id, {k: str(v) for k, v in inputs.items()}, options)


class ChangesInputs(MockAdapter):
    def execute_program(self, program_id: str, inputs: Any, options: Any = None) -> Result:
        result = super().execute_program(program_id, inputs, options)
        inputs.clear()
        return result


class ReversedBatch(MockAdapter):
    def execute_batch(self, program_id: str, rows: Iterable[Any], options: Any = None) -> list[Result]:
        return super().execute_batch(program_id, rows, options)[::-1]


class RowlessBatch(MockAdapter):
    def execute_batch(self, program_id: str, rows: Iterable[Any], options: Any = None) -> list[Result]:
        try:
            return super().execute_batch(program_id, rows, options)
        except InputError as error:
            error.row = None
            raise


class OtherAsync(MockAdapter):
    async def aexecute_program(self, program_id: str, inputs: Any, options: Any = None) -> Result:
        await asyncio.sleep(0)
        return self.execute_program(program_id, {"text": "something else"}, options)


class PlainDict(MockAdapter):
    def execute_program(self, program_id: str, inputs: Any, options: Any = None) -> Any:
        return dict(super().execute_program(program_id, inputs, options))


class Unsure(MockAdapter):
    def execute_program(self, program_id: str, inputs: Any, options: Any = None) -> Result:
        good = super().execute_program(program_id, inputs, options)
        odds = {name: dict.fromkeys(good.probabilities(name), 0.7) for name in good}
        return Result(dict(good), route=good.route, probabilities=odds, confidence=0.7)


class ArgmaxElsewhere(MockAdapter):
    def execute_program(self, program_id: str, inputs: Any, options: Any = None) -> Result:
        good = super().execute_program(program_id, inputs, options)
        odds = {name: {v: 1 - p for v, p in good.probabilities(name).items()} for name in good}
        return Result(dict(good), route=good.route, probabilities=odds, confidence=good.confidence)


class IgnoresOptions(MockAdapter):
    def execute_program(self, program_id: str, inputs: Any, options: Any = None) -> Result:
        return super().execute_program(program_id, inputs)


class IgnoresSpecKeys(MockAdapter):
    def create_program(self, spec: Any) -> str:
        known = ("signature", "id", "kind", "examples", "options", "path", "program", "tags")
        return super().create_program({key: spec[key] for key in known if key in spec})


class FrozenStats(MockAdapter):
    def get_stats(self) -> dict[str, Any]:
        return {**super().get_stats(), "calls": 0}


class NeverCloses(MockAdapter):
    def close(self) -> None:
        pass


class RetryableWhenClosed(MockAdapter):
    def list_programs(self) -> list[str]:
        if self.closed:
            raise ResourceError("closed")
        return super().list_programs()


class WrongCategory(MockAdapter):
    def execute_program(self, program_id: str, inputs: Any, options: Any = None) -> Result:
        try:
            return super().execute_program(program_id, inputs, options)
        except InputError as error:
            raise DspexError(str(error), field=error.field, program=error.program) from None


class Racy(MockAdapter):
    """Looks whether the id is free, and only later takes it."""

    def create_program(self, spec: Any) -> str:
        checked = ProgramSpec.of(spec)
        if checked.id in self.list_programs():
            raise ProgramError("taken", program=checked.id)
        time.sleep(0.05)
        try:
            return super().create_program(checked)
        except ProgramError:
            return str(checked.id)


class Shared(MockAdapter):
    """Passes inputs to the call through the object, so that threads mix them up."""

    _inputs: Mapping[str, Any]

    def execute_program(self, program_id: str, inputs: Any, options: Any = None) -> Result:
        self._inputs = inputs
        time.sleep(0)
        return super().execute_program(program_id, self._inputs, options)


_FAULTS: list[tuple[type[MockAdapter], str]] = [
    (ConstantHealth, "test_health_is_looked_at"),
    (AnswersForUnknownIds, "test_an_unknown_id_is_refused_with_the_nearest"),
    (Overwrites, "test_a_taken_id_is_refused_and_deletion_frees_it"),
    (FillsIn, "test_bad_inputs_are_refused"),
    (IgnoresUnknownFields, "test_bad_inputs_are_refused"),
    (ConvertsInputs, "test_bad_inputs_are_refused"),
    (WrongCategory, "test_bad_inputs_are_refused"),
    (ChangesInputs, "test_round_trip"),
    (ReversedBatch, "test_batch_equals_single_calls_in_order"),
    (RowlessBatch, "test_batch_names_the_bad_row"),
    (OtherAsync, "test_async_equals_sync"),
    (PlainDict, "test_result_shape"),
    (Unsure, "test_result_shape"),
    (ArgmaxElsewhere, "test_result_shape"),
    (IgnoresOptions, "test_unknown_options_are_refused"),
    (IgnoresSpecKeys, "test_bad_specs_are_refused"),
    (FrozenStats, "test_stats_move"),
    (NeverCloses, "test_use_after_close_is_refused"),
    (RetryableWhenClosed, "test_use_after_close_is_refused"),
    (NeverCloses, "test_a_with_block_closes"),
    (Racy, "test_one_of_many_creates_of_an_id_wins"),
    (Shared, "test_concurrent_calls_equal_sequential_ones"),
]
_BY_CASE = {
    "test_round_trip",
    "test_bad_inputs_are_refused",
    "test_result_shape",
    "test_batch_equals_single_calls_in_order",
    "test_async_equals_sync",
}


@pytest.mark.parametrize(("faulty", "test"), _FAULTS, ids=lambda each: getattr(each, "__name__", each))
def test_the_suite_catches(faulty: type[MockAdapter], test: str) -> None:
    def run(adapter_class: type[MockAdapter]) -> None:
        class Suite(AdapterConformance):
            def make_adapter(self) -> Adapter:
                return adapter_class()

        method: Callable[..., None] = getattr(Suite(), test)
        literal = next(case for case in CASES if case.name == "literal")
        if test == "test_a_with_block_closes":
            method()
        else:
            method(adapter_class(), *([literal] if test in _BY_CASE else []))

    run(MockAdapter)
    with pytest.raises((AssertionError, pytest.fail.Exception, DspexError, AttributeError)):
        run(faulty)


def test_an_unsupported_case_has_to_be_refused() -> None:
    class Suite(AdapterConformance):
        unsupported = frozenset({"literal"})

        def make_adapter(self) -> Adapter:
            return MockAdapter()

    literal = next(case for case in CASES if case.name == "literal")
    with MockAdapter() as adapter, pytest.raises(pytest.fail.Exception):
        Suite().create(adapter, literal)

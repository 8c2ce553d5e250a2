"""The conformance suite's tests of calls: inputs, results, batches, async and threads."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from dspex.adapters.base import Adapter
from dspex.checks import check_outputs
from dspex.errors import ConfigError, InputError, ProgramError
from dspex.result import Result
from dspex.signature import Field, Signature
from dspex.spec import ENUMERABLE
from dspex.testing.cases import WRONG_VALUES, Case, case
from dspex.testing.hooks import THREADS, Hooks, each_case

__all__ = ["CallTests"]


class CallTests(Hooks):
    """Bad inputs are refused, results have one shape, and every way to call gives the same ones."""

    # Inputs

    @each_case
    def test_bad_inputs_are_refused(self, adapter: Adapter, case: Case) -> None:
        program = self.create(adapter, case)
        row = case.rows()[0]
        for name, field in case.parsed.inputs.items():
            missing = {key: value for key, value in row.items() if key != name}
            self._assert_refused(adapter, program, missing, name)
            for value in WRONG_VALUES[field.kind]:
                self._assert_refused(adapter, program, {**row, name: value}, name)
        near = next(iter(row)) + "s"
        error = self._assert_refused(adapter, program, {**row, near: "x"}, near)
        assert repr(near[:-1]) in (error.hint or "")
        self.assert_same(adapter.execute_program(program, row), adapter.execute_program(program, row))

    def _assert_refused(
        self, adapter: Adapter, program: str, inputs: Mapping[str, Any], field: str
    ) -> InputError:
        with pytest.raises(InputError) as caught:
            adapter.execute_program(program, inputs)
        error = caught.value
        assert (error.category, error.field, error.program) == ("input", field, program), inputs
        assert not error.retryable
        with pytest.raises(InputError) as again:
            asyncio.run(adapter.aexecute_program(program, inputs))
        assert again.value.field == field
        return error

    def test_inputs_that_are_no_mapping_are_refused(self, adapter: Adapter) -> None:
        program = self.create(adapter, case("bool"))
        odd: list[Any] = ["text", None, 3, ["text"], [("text", "a")], {3: "a"}]
        for inputs in odd:
            with pytest.raises(InputError):
                adapter.execute_program(program, inputs)
            with pytest.raises(InputError):
                asyncio.run(adapter.aexecute_program(program, inputs))

    def test_unknown_options_are_refused(self, adapter: Adapter) -> None:
        program = self.create(adapter, case("bool"))
        row = case("bool").rows()[0]
        odd: list[Any] = [{"no_such_option": 1}, ["x"], "x"]
        for options in odd:
            with pytest.raises(ConfigError):
                adapter.execute_program(program, row, options)
            with pytest.raises(ConfigError):
                adapter.execute_batch(program, [row], options)
            with pytest.raises(ConfigError):
                asyncio.run(adapter.aexecute_program(program, row, options))
        adapter.execute_program(program, row, {})

    # Results

    @each_case
    def test_result_shape(self, adapter: Adapter, case: Case) -> None:
        program = self.create(adapter, case)
        outputs = case.parsed.outputs
        for row in case.rows()[:6]:
            result = adapter.execute_program(program, row)
            assert isinstance(result, Result)
            assert issubclass(type(result), Mapping)
            assert list(result) == list(outputs)
            assert len(result) == len(outputs)
            _assert_read_only(result)
            assert str(result.route) in (self.routes or {adapter.name})
            assert isinstance(result.route.reason, str)
            assert isinstance(result.route.degraded, bool)
            if result.confidence is None and adapter.get_test_capabilities()["uses_lm"]:
                _assert_bare_answers(result, outputs)
                continue
            sure = [
                _assert_answer(result, name, field)
                for name, field in outputs.items()
                if field.kind in ENUMERABLE
            ]
            for name, field in outputs.items():
                if field.kind in ("int", "float"):
                    assert type(result[name]) is {"int": int, "float": float}[field.kind]
            if not sure:
                assert result.confidence is None
            else:
                assert result.confidence is not None
                assert 0 <= result.confidence <= 1
                if None not in sure:
                    assert math.isclose(
                        result.confidence, min(s for s in sure if s is not None), abs_tol=1e-6
                    )

    @each_case
    def test_batch_equals_single_calls_in_order(self, adapter: Adapter, case: Case) -> None:
        program = self.create(adapter, case)
        rows = case.rows()
        singles = [adapter.execute_program(program, row) for row in rows]
        batch = adapter.execute_batch(program, rows)
        assert isinstance(batch, list)
        assert len(batch) == len(rows)
        for one, other in zip(batch, singles, strict=True):
            self.assert_same(one, other)
        for one, other in zip(adapter.execute_batch(program, iter(rows[:5])), singles[:5], strict=True):
            self.assert_same(one, other)
        assert adapter.execute_batch(program, []) == []

    def test_batch_names_the_bad_row(self, adapter: Adapter) -> None:
        program = self.create(adapter, case("bool"))
        rows: list[Any] = case("bool").rows()[:4]
        bad_rows: list[tuple[Any, str | None]] = [
            ({"text": 3}, "text"),
            ({}, "text"),
            ({"text": "a", "b": 1}, "b"),
            ("text", None),
        ]
        for bad, field in bad_rows:
            with pytest.raises(InputError) as caught:
                adapter.execute_batch(program, [*rows[:2], bad, *rows[2:]])
            assert (caught.value.row, caught.value.field, caught.value.program) == (2, field, program)
        odd: list[Any] = [rows[0], "text", 3]
        for batch in odd:
            with pytest.raises(InputError):
                adapter.execute_batch(program, batch)

    @each_case
    def test_async_equals_sync(self, adapter: Adapter, case: Case) -> None:
        program = self.create(adapter, case)
        rows = case.rows()[:8]

        async def together() -> list[Result]:
            return list(await asyncio.gather(*(adapter.aexecute_program(program, row) for row in rows)))

        for row, other in zip(rows, asyncio.run(together()), strict=True):
            self.assert_same(adapter.execute_program(program, row), other)

    def test_equal_adapters_give_equal_results(self, adapter: Adapter) -> None:
        if not adapter.get_test_capabilities()["deterministic"]:
            pytest.skip("not deterministic, as it says")
        self.create(adapter, case("several"), id="p")
        with self.make_adapter() as twin:
            self.create(twin, case("several"), id="p")
            for row in case("several").rows():
                self.assert_same(adapter.execute_program("p", row), twin.execute_program("p", row))

    # Threads

    def test_concurrent_calls_equal_sequential_ones(self, adapter: Adapter) -> None:
        program = self.create(adapter, case("several"))
        rows = case("several").rows() * 4
        expected = [adapter.execute_program(program, row) for row in rows]
        with ThreadPoolExecutor(THREADS) as threads:
            found = list(threads.map(lambda row: adapter.execute_program(program, row), rows))
        for one, other in zip(found, expected, strict=True):
            self.assert_same(one, other)

    def test_programs_come_and_go_while_others_run(self, adapter: Adapter) -> None:
        program = self.create(adapter, case("literal"))
        rows = case("literal").rows()
        expected = [dict(adapter.execute_program(program, row)) for row in rows]

        def churn(number: int) -> None:
            for _ in range(3):
                self.create(adapter, case("bool"), id=f"other-{number}")
                assert f"other-{number}" in adapter.list_programs()
                adapter.delete_program(f"other-{number}")

        def work(number: int) -> list[dict[str, Any]]:
            return [dict(adapter.execute_program(program, row)) for row in rows]

        with ThreadPoolExecutor(THREADS) as threads:
            churns = [threads.submit(churn, number) for number in range(2)]
            for future in [threads.submit(work, number) for number in range(THREADS)]:
                assert future.result() == expected
            for each in churns:
                each.result()
        assert adapter.list_programs() == [program]

    def test_one_of_many_creates_of_an_id_wins(self, adapter: Adapter) -> None:
        def attempt(number: int) -> bool:
            try:
                return bool(self.create(adapter, case("bool"), id="one"))
            except ProgramError:
                return False

        with ThreadPoolExecutor(THREADS) as threads:
            assert sum(threads.map(attempt, range(THREADS))) == 1
        assert adapter.list_programs() == ["one"]


def _assert_read_only(result: Result) -> None:
    name = next(iter(result))
    writable: Any = result
    with pytest.raises(TypeError):
        writable[name] = None
    with pytest.raises(TypeError):
        del writable[name]
    with pytest.raises((AttributeError, TypeError)):
        setattr(result, name, None)
    copy = dict(result)
    copy.clear()
    assert name in result


def _assert_bare_answers(result: Result, outputs: Mapping[str, Any]) -> None:
    """An LM's answers are checked, and have no probabilities."""
    assert dict(result) == check_outputs(Signature([*_ANY_INPUT, *outputs.values()]), result)
    for name in outputs:
        with pytest.raises(KeyError):
            result.probabilities(name)


_ANY_INPUT = (Field("any", str, "input"),)


def _assert_answer(result: Result, name: str, field: Any) -> float | None:
    """Checks an enumerable output; returns its top probability, or None for a multilabel one."""
    odds: dict[Any, float] = result.probabilities(name)
    classes = (False, True) if field.kind == "bool" else field.classes
    assert set(odds) == set(classes)
    assert all(0 <= p <= 1 for p in odds.values())
    if field.kind == "multilabel":
        assert isinstance(result[name], list)
        assert all(label in odds for label in result[name])
        assert len(set(result[name])) == len(result[name])
        return None
    assert math.isclose(math.fsum(odds.values()), 1, abs_tol=1e-6)
    answer = result[name]
    assert any(answer is value or (answer == value and type(answer) is type(value)) for value in classes)
    assert odds[answer] == max(odds.values())
    return odds[answer]

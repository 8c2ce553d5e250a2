"""The conformance suite's tests of the contract, of programs' lives, and of the adapter's own."""

from __future__ import annotations

import asyncio
import inspect
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest

from dspex.adapters.base import TEST_LAYERS, Adapter
from dspex.errors import ConfigError, DspexError, InputError, ProgramError, ResourceError, SignatureError
from dspex.spec import KINDS
from dspex.testing.cases import Case, case
from dspex.testing.hooks import Hooks, each_case

__all__ = ["LifecycleTests"]

_METHODS = (
    "create_program",
    "execute_program",
    "list_programs",
    "delete_program",
    "configure_lm",
    "supports_test_layer",
    "get_test_capabilities",
    "get_program_info",
    "health_check",
    "get_stats",
    "execute_batch",
    "aexecute_program",
    "close",
)
_STAT_KEYS = {"adapter", "programs", "created", "deleted", "calls", "batches", "errors"}


class LifecycleTests(Hooks):
    """Programs come and go, settings are checked, counters move, the end is the end."""

    # The contract

    def test_has_every_method_of_the_contract(self, adapter: Adapter) -> None:
        assert isinstance(adapter, Adapter)
        assert isinstance(adapter.name, str)
        assert adapter.name
        for method in _METHODS:
            assert callable(getattr(adapter, method)), method
        assert inspect.iscoroutinefunction(adapter.aexecute_program)

    def test_test_layers(self, adapter: Adapter) -> None:
        answers = {layer: adapter.supports_test_layer(layer) for layer in TEST_LAYERS}
        assert all(isinstance(answer, bool) for answer in answers.values())
        assert any(answers.values())
        capabilities = adapter.get_test_capabilities()
        assert sorted(capabilities["layers"]) == sorted(layer for layer, yes in answers.items() if yes)
        assert capabilities["adapter"] == adapter.name
        assert set(capabilities["kinds"]) == set(adapter.kinds)
        json.dumps(capabilities)
        with pytest.raises(ConfigError):
            adapter.supports_test_layer("fulll")

    def test_configure_lm_checks_its_argument(self, adapter: Adapter) -> None:
        adapter.configure_lm({"model": "test/none"})
        bad: list[Any] = [{}, {"model": ""}, {"model": 3}, "test/none", None, {3: "model"}]
        for config in bad:
            with pytest.raises(ConfigError):
                adapter.configure_lm(config)

    # Programs come and go

    @each_case
    def test_round_trip(self, adapter: Adapter, case: Case) -> None:
        assert adapter.list_programs() == []
        assert self.create(adapter, case, id="it", tags=["a"]) == "it"
        assert adapter.list_programs() == ["it"]
        info = adapter.get_program_info("it")
        assert (info["id"], info["adapter"]) == ("it", adapter.name)
        json.dumps(info)
        row = case.rows()[0]
        before = dict(row)
        result = adapter.execute_program("it", row)
        assert row == before
        self.assert_same(result, adapter.execute_program("it", row))
        adapter.delete_program("it")
        assert adapter.list_programs() == []
        with pytest.raises(ProgramError):
            adapter.execute_program("it", row)

    def test_ids_are_given_out_once(self, adapter: Adapter) -> None:
        ids = [self.create(adapter, case("bool")) for _ in range(3)]
        assert len(set(ids)) == 3
        assert adapter.list_programs() == ids

    def test_a_taken_id_is_refused_and_deletion_frees_it(self, adapter: Adapter) -> None:
        self.create(adapter, case("bool"), id="one")
        with pytest.raises(ProgramError) as caught:
            self.create(adapter, case("literal"), id="one")
        assert caught.value.program == "one"
        row = case("bool").rows()[0]
        assert list(adapter.execute_program("one", row)) == ["urgent"]
        adapter.delete_program("one")
        self.create(adapter, case("literal"), id="one")
        assert list(adapter.execute_program("one", case("literal").rows()[0])) == ["label"]

    def test_an_unknown_id_is_refused_with_the_nearest(self, adapter: Adapter) -> None:
        self.create(adapter, case("bool"), id="intents")
        row = case("bool").rows()[0]
        for call in _calls(adapter, "intent", row):
            with pytest.raises(ProgramError) as caught:
                call()
            assert caught.value.program == "intent"
            assert "'intents'" in (caught.value.hint or "")
        for odd in (None, 3, ["intents"]):
            with pytest.raises(ProgramError):
                adapter.execute_program(odd, row)  # type: ignore[arg-type]

    def test_bad_specs_are_refused(self, adapter: Adapter) -> None:
        good = dict(self.make_spec(case("bool")))
        bad: list[tuple[Any, type[DspexError]]] = [
            ({**good, "exmples": []}, ConfigError),
            ({**good, "path": "x.dspex"}, ConfigError),
            ({**good, "id": ""}, ConfigError),
            ({**good, "id": 3}, ConfigError),
            ({**good, "kind": "clasify"}, ConfigError),
            ({**good, "tags": "one"}, ConfigError),
            ({**good, "options": {"no_such_option": 1}}, ConfigError),
            ({**good, "program": object(), "examples": None}, ConfigError),
            ({key: value for key, value in good.items() if key != "signature"}, SignatureError),
            ("text -> label: bool", ConfigError),
        ]
        for spec, error in bad:
            with pytest.raises(error):
                adapter.create_program(spec)
        assert adapter.list_programs() == []

    def test_a_kind_it_does_not_run_is_refused(self, adapter: Adapter) -> None:
        for kind in set(KINDS) - adapter.kinds:
            with pytest.raises(ProgramError):
                self.create(adapter, case("bool"), kind=kind)
        with pytest.raises(SignatureError) as caught:
            self.create(adapter, case("float"), kind="classify")
        assert caught.value.field == "score"

    # Health, counters, the end

    def test_stats_move(self, adapter: Adapter) -> None:
        before = adapter.get_stats()
        assert before.keys() >= _STAT_KEYS
        program = self.create(adapter, case("bool"))
        rows: list[Any] = case("bool").rows()[:3]
        for row in rows:
            adapter.execute_program(program, row)
        adapter.execute_batch(program, rows)
        asyncio.run(adapter.aexecute_program(program, rows[0]))
        with pytest.raises(InputError):
            adapter.execute_program(program, {})
        during = adapter.get_stats()
        assert during["programs"] == before["programs"] + 1
        assert during["created"] == before["created"] + 1
        assert during["calls"] == before["calls"] + 8
        assert during["batches"] == before["batches"] + 1
        assert during["errors"].get("input", 0) == before["errors"].get("input", 0) + 1
        adapter.delete_program(program)
        after = adapter.get_stats()
        assert after["programs"] == before["programs"]
        assert after["deleted"] == before["deleted"] + 1
        assert after["calls"] == during["calls"]
        json.dumps(after)

    def test_health_is_looked_at(self, adapter: Adapter) -> None:
        self.create(adapter, case("bool"))
        health = adapter.health_check()
        assert health
        assert health.ok is True
        assert health.reason
        json.dumps(health.to_dict())
        adapter.close()
        health = adapter.health_check()
        assert not health
        assert health.reason

    def test_use_after_close_is_refused(self, adapter: Adapter) -> None:
        program = self.create(adapter, case("bool"))
        row = case("bool").rows()[0]
        adapter.close()
        adapter.close()
        calls: list[Callable[[], Any]] = [
            *_calls(adapter, program, row),
            lambda: adapter.create_program(self.make_spec(case("bool"))),
            adapter.list_programs,
            adapter.get_stats,
            lambda: adapter.configure_lm({"model": "test/none"}),
        ]
        for call in calls:
            with pytest.raises((ProgramError, ResourceError)) as caught:
                call()
            assert not caught.value.retryable

    def test_a_with_block_closes(self) -> None:
        with self.make_adapter() as adapter:
            self.create(adapter, case("bool"))
        with pytest.raises((ProgramError, ResourceError)):
            adapter.list_programs()


def _calls(adapter: Adapter, program: str, row: Mapping[str, Any]) -> Sequence[Callable[[], Any]]:
    """Every call that takes a program id."""
    return (
        lambda: adapter.execute_program(program, row),
        lambda: adapter.execute_batch(program, [row]),
        lambda: asyncio.run(adapter.aexecute_program(program, row)),
        lambda: adapter.get_program_info(program),
        lambda: adapter.delete_program(program),
    )

"""Specs, the shared checks, the store, and the contract's defaults."""

from __future__ import annotations

import asyncio
import enum
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dspex.adapters import Adapter, Capabilities, ProgramSpec, check_inputs, check_outputs
from dspex.adapters.base import check_options
from dspex.adapters.local import ProgramStore
from dspex.errors import ConfigError, InputError, LMError, ProgramError, SignatureError
from dspex.result import Result, Route
from dspex.signature import Signature

LABEL = "text -> label: Literal['a', 'b', 'c']"


class Tone(enum.Enum):
    CALM = "calm"
    ANGRY = "angry"


# Specs


def test_a_spec_is_checked_once() -> None:
    spec = ProgramSpec.of(
        {"signature": LABEL, "id": "p", "kind": "classify", "options": {"seed": 1}, "tags": ["x", "y"]}
    )
    assert spec.signature == Signature.of(LABEL)
    assert (spec.id, spec.kind, dict(spec.options), spec.tags) == ("p", "classify", {"seed": 1}, ("x", "y"))
    assert ProgramSpec.of(spec) is spec


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"exampels": []}, "'examples'"),
        ({"adaptor": "native"}, "'adapter'"),
        ({3: 4}, "unknown key 3"),
        ({"examples": [], "path": "x"}, "examples and path"),
        ({"id": ""}, "program id"),
        ({"id": " "}, "program id"),
        ({"id": "a\nb"}, "program id"),
        ({"id": "x" * 257}, "program id"),
        ({"kind": "classfy"}, "'classify'"),
        ({"kind": []}, "kind"),
        ({"adapter": 3}, "adapter"),
        ({"adapter": ""}, "adapter"),
        ({"path": 3}, "path"),
        ({"path": b"x"}, "path"),
        ({"path": ""}, "path"),
        ({"options": [1]}, "options"),
        ({"options": {1: 2}}, "options"),
        ({"tags": "x"}, "tags"),
        ({"tags": [3]}, "tags"),
        ({"program": "x"}, "dspex.fit"),
    ],
    ids=str,
)
def test_bad_specs(change: dict[Any, Any], words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        ProgramSpec.of({"signature": LABEL, **change})
    assert words in str(caught.value)


def test_a_spec_needs_a_signature() -> None:
    specs: list[dict[str, Any]] = [{}, {"examples": []}, {"id": "p", "signature": None}]
    for spec in specs:
        with pytest.raises(SignatureError) as caught:
            ProgramSpec.of(spec)
        assert caught.value.program == spec.get("id")
    with pytest.raises(SignatureError):
        ProgramSpec.of({"signature": "text -> label: Litteral['a']"})
    assert ProgramSpec.of({"path": Path("x.dspex")}).path == "x.dspex"


# The shared checks

ALL = {
    "inputs": {
        "text": "str",
        "ok": "bool",
        "n": "int",
        "x": "float",
        "vec": "list[float]",
        "arr": "numpy.ndarray",
        "tone": Tone,
        "tags": {"type": "list[str]", "classes": ["p", "q"]},
        "more": "dict[str, int]",
    },
    "outputs": {"label": ["a", "b"]},
}
GOOD: dict[str, Any] = {
    "text": "t",
    "ok": True,
    "n": 1,
    "x": 1.5,
    "vec": [1.0, 2.0],
    "arr": np.array([1.0]),
    "tone": Tone.CALM,
    "tags": ["q"],
    "more": {"a": 1},
}


def test_good_inputs_come_back_in_their_types_and_order() -> None:
    signature = Signature.of(ALL)
    given = {
        **dict(reversed(GOOD.items())),
        "ok": np.bool_(True),
        "n": np.int32(1),
        "x": 2,
        "vec": np.array([1, 2], dtype=np.int8),
        "tone": "calm",
        "text": np.str_("t"),
        "tags": ("q",),
    }
    checked = check_inputs(signature, given)
    assert list(checked) == list(signature.inputs)
    types = {name: type(value) for name, value in checked.items()}
    assert types == {
        "text": str,
        "ok": bool,
        "n": int,
        "x": float,
        "vec": list,
        "arr": np.ndarray,
        "tone": Tone,
        "tags": list,
        "more": dict,
    }
    assert checked["vec"] == [1.0, 2.0]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *[("text", v) for v in (3, None, b"x", ["x"])],
        *[("ok", v) for v in (1, 0, "true", None)],
        *[("n", v) for v in (True, 1.0, "1", None, np.float64(1))],
        *[("x", v) for v in (True, "1", None, float("nan"), float("-inf"), 10**400, 1j)],
        *[
            ("vec", v)
            for v in (
                "ab",
                None,
                [],
                [[1.0]],
                [1.0, [2.0]],
                ["a"],
                [1.0, float("nan")],
                3.0,
                [True],
                [1.0, True],
            )
        ],
        *[("arr", v) for v in (np.zeros((2, 2)), np.array([]), np.array([np.inf]), np.array(["a"]))],
        *[("tone", v) for v in ("CALM", 3, None)],
        *[("tags", v) for v in ("p", ["r"], ["p", "p"], None)],
        *[("more", v) for v in ({"a": "1"}, [1], None)],
    ],
    ids=repr,
)
def test_values_that_do_not_fit(field: str, value: Any) -> None:
    signature = Signature.of(ALL)
    with pytest.raises(InputError) as caught:
        check_inputs(signature, {**GOOD, field: value}, program="p", row=3)
    assert (caught.value.field, caught.value.program, caught.value.row) == (field, "p", 3)
    missing = {name: each for name, each in GOOD.items() if name != field}
    with pytest.raises(InputError) as caught:
        check_inputs(signature, missing)
    assert caught.value.field == field
    assert caught.value.hint


def test_unknown_fields_come_with_the_nearest() -> None:
    with pytest.raises(InputError) as caught:
        check_inputs(Signature.of(ALL), {**GOOD, "txet": "x"})
    assert caught.value.field == "txet"
    assert "'text'" in str(caught.value)


def test_classes_are_told_apart_by_type() -> None:
    signature = Signature.of({"inputs": {"text": "str"}, "outputs": {"stars": [1, 2]}})
    assert check_outputs(signature, {"stars": np.int64(1)}) == {"stars": 1}
    for wrong in (True, 1.0, "1"):
        with pytest.raises(LMError) as caught:
            check_outputs(signature, {"stars": wrong})
        assert caught.value.field == "stars"
    with pytest.raises(ConfigError):
        check_outputs(signature, {"stars": 3}, error=ConfigError)


def test_long_values_are_cut_in_messages() -> None:
    with pytest.raises(InputError) as caught:
        check_inputs(Signature.of(LABEL), {"text": ["x" * 100_000]})
    assert len(str(caught.value)) < 300


def test_options() -> None:
    check_options({}, (), "it")
    check_options({"a": 1}, ("a",), "it")
    with pytest.raises(ConfigError, match="'timeout'"):
        check_options({"timeuot": 1}, ("timeout",), "it")


# The store


def test_a_failed_build_frees_the_id() -> None:
    store: ProgramStore[int] = ProgramStore("it")

    def fail(program_id: str) -> int:
        with pytest.raises(ProgramError):
            store.create(program_id, lambda _: 2)
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        store.create("a", fail)
    assert store.create("a", lambda _: 3) == "a"
    assert store.get("a") == 3


def test_a_build_that_ends_after_close_is_refused() -> None:
    store: ProgramStore[int] = ProgramStore("it")

    def build(program_id: str) -> int:
        store.close()
        return 1

    with pytest.raises(ProgramError, match="closed"):
        store.create("a", build)
    assert store.items == {}


def test_readers_see_a_snapshot() -> None:
    store: ProgramStore[int] = ProgramStore("it")
    store.create("a", lambda _: 1)
    seen = store.items
    store.create("b", lambda _: 2)
    store.remove("a")
    assert seen == {"a": 1}
    assert store.items == {"b": 2}


# The contract's defaults: an adapter that has only what it must


class Smallest(Adapter):
    name = "smallest"

    def __init__(self) -> None:
        self.programs: dict[str, ProgramSpec] = {}

    def create_program(self, spec: Any) -> str:
        checked = ProgramSpec.of(spec)
        self.require_kind(checked)
        self.programs[checked.id or "only"] = checked
        return checked.id or "only"

    def execute_program(self, program_id: str, inputs: Mapping[str, Any], options: Any = None) -> Result:
        signature = self.programs[program_id].signature
        assert signature is not None
        values = check_inputs(signature, inputs, program=program_id)
        return Result({"ok": bool(values["text"])}, route=Route(self.name, reason="the only one"))

    def list_programs(self) -> list[str]:
        return list(self.programs)

    def delete_program(self, program_id: str) -> None:
        del self.programs[program_id]

    def configure_lm(self, config: Mapping[str, Any]) -> None:
        pass

    def get_test_capabilities(self) -> Capabilities:
        raise NotImplementedError


def test_defaults() -> None:
    with Smallest() as adapter:
        program = adapter.create_program({"signature": "text -> ok: bool", "id": "p"})
        assert [r["ok"] for r in adapter.execute_batch(program, [{"text": "a"}, {"text": ""}])] == [
            True,
            False,
        ]
        with pytest.raises(InputError) as caught:
            adapter.execute_batch(program, [{"text": "a"}, {}])
        assert caught.value.row == 1
        assert asyncio.run(adapter.aexecute_program(program, {"text": "a"}))["ok"] is True
        assert adapter.get_program_info("p") == {"id": "p", "adapter": "smallest"}
        with pytest.raises(ProgramError, match="'p'"):
            adapter.get_program_info("pp")
        assert adapter.get_stats() == {"adapter": "smallest", "programs": 1}
        assert adapter.supports_test_layer("full")
        assert not adapter.supports_test_layer("mock")
        assert adapter.health_check().checked == 1
        adapter.programs = None  # type: ignore[assignment]
        assert not adapter.health_check()
    assert adapter.health_check().reason == "closed"


def test_an_adapter_cannot_leave_out_what_it_must_have() -> None:
    with pytest.raises(TypeError):
        Adapter()  # type: ignore[abstract]

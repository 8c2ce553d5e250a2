"""The native adapter: fitting, loading, adopting, and what it refuses."""

from __future__ import annotations

import sys
import threading
from array import array
from collections.abc import Callable, Iterator
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import dspex
from dspex.adapters import create
from dspex.adapters.native import NativeAdapter, native_obstacle
from dspex.checks import check_inputs
from dspex.errors import ConfigError, InputError, ModelFileError, ProgramError, SignatureError
from dspex.signature import Signature
from dspex.testing import CASES, Case

LABEL = "text -> label: Literal['a', 'b', 'c']"


def case(name: str) -> Case:
    return next(each for each in CASES if each.name == name)


@pytest.fixture
def native() -> Iterator[NativeAdapter]:
    with NativeAdapter() as adapter:
        yield adapter


def test_examples_are_learned(native: NativeAdapter) -> None:
    for each in CASES:
        program = native.create_program({"signature": each.signature, "examples": each.examples})
        output, field = next(iter(each.parsed.outputs.items()))
        results = native.execute_batch(program, each.rows())
        if field.kind in ("class", "bool"):
            right = [r[output] == e[output] for r, e in zip(results, each.examples, strict=True)]
            assert sum(right) >= 0.9 * len(right), each.name


def test_a_saved_and_a_fitted_program(native: NativeAdapter, tmp_path: Path) -> None:
    literal = case("literal")
    fitted = dspex.fit(literal.signature, literal.examples)
    path = tmp_path / "x.dspex"
    fitted.save(path)
    ids = [
        native.create_program({"program": fitted}),
        native.create_program({"program": fitted, "signature": literal.signature}),
        native.create_program({"path": path}),
        native.create_program({"path": str(path), "signature": literal.signature, "kind": "classify"}),
    ]
    for row in literal.rows():
        assert len({native.execute_program(each, row).label for each in ids}) == 1
    assert native.get_program_info(ids[0])["signature"] == fitted.signature.to_string()


def test_an_enum_comes_back_when_it_is_declared(native: NativeAdapter, tmp_path: Path) -> None:
    each = case("enum")
    dspex.fit(each.signature, each.examples).save(tmp_path / "x.dspex")
    row, tone = each.rows()[0], each.examples[0]["tone"]
    plain = native.create_program({"path": tmp_path / "x.dspex"})
    assert native.execute_program(plain, row)["tone"] == tone.value
    for given in ({"path": tmp_path / "x.dspex"}, {"program": dspex.load(tmp_path / "x.dspex")}):
        program = native.create_program({"signature": each.signature, **given})
        result = native.execute_program(program, row)
        assert result["tone"] is tone
        assert tone in result.probabilities("tone")


@pytest.mark.parametrize("source", ["program", "path"])
def test_a_program_of_another_signature(native: NativeAdapter, tmp_path: Path, source: str) -> None:
    literal = case("literal")
    fitted = dspex.fit(literal.signature, literal.examples)
    fitted.save(tmp_path / "x.dspex")
    given = {"program": fitted} if source == "program" else {"path": tmp_path / "x.dspex"}
    others = (
        ("text -> label: Literal['refund', 'card_lost']", "label"),
        ("text -> label: bool", "label"),
        ("text -> other: Literal['refund', 'card_lost', 'limit']", "other"),
        ("text, more -> label: Literal['refund', 'card_lost', 'limit']", "more"),
        ("text: int -> label: Literal['refund', 'card_lost', 'limit']", "text"),
    )
    for signature, field in others:
        with pytest.raises(SignatureError) as caught:
            native.create_program({"id": "p", "signature": signature, **given})
        assert (caught.value.field, caught.value.program) == (field, "p")
    assert native.list_programs() == []


def test_a_str_output_takes_its_classes_from_examples(native: NativeAdapter) -> None:
    literal = case("literal")
    spec = {"signature": "text -> label", "examples": literal.examples, "id": "p", "kind": "classify"}
    native.create_program(spec)
    assert set(native.execute_program("p", literal.rows()[0]).probabilities("label")) == {
        "refund",
        "card_lost",
        "limit",
    }
    with pytest.raises(ProgramError, match="unfitted"):
        native.create_program({"signature": "text -> label"})


def test_unfitted(native: NativeAdapter) -> None:
    with pytest.raises(ProgramError, match="unfitted") as caught:
        native.create_program({"signature": LABEL, "id": "p"})
    assert (caught.value.program, caught.value.category) == ("p", "program")
    assert "examples" in (caught.value.hint or "")


def test_what_cannot_be_native(native: NativeAdapter) -> None:
    for signature, field in (
        ("text -> d: dict[str, int]", "d"),
        ("text, more: dict[str, int] -> ok: bool", "more"),
        ("text -> label, d: dict[str, int]", "d"),
    ):
        for examples in (None, [{"text": "a"}]):
            with pytest.raises(SignatureError) as caught:
                native.create_program({"signature": signature, "id": "p", "examples": examples})
            assert (caught.value.field, caught.value.program) == (field, "p")
    assert native_obstacle(Signature.of("text -> label, ok: bool"), has_examples=True) is None
    assert native_obstacle(Signature.of("text -> labels: list[str]"), has_examples=True) is None
    obstacle = native_obstacle(Signature.of("text -> label"), has_examples=False)
    assert obstacle is not None
    assert obstacle[0] == "label"


def test_settings_of_fit(native: NativeAdapter) -> None:
    literal = case("literal")
    spec = {"signature": literal.signature, "examples": literal.examples}
    native.create_program({**spec, "options": {"seed": 3, "threads": 1}})
    with pytest.raises(ConfigError):
        native.create_program({**spec, "options": {"sede": 3}})
    fitted = dspex.fit(literal.signature, literal.examples)
    with pytest.raises(ConfigError, match="seed"):
        native.create_program({"program": fitted, "options": {"seed": 3}})


def test_a_bad_path_and_bad_examples(native: NativeAdapter, tmp_path: Path) -> None:
    with pytest.raises(ModelFileError) as file:
        native.create_program({"path": tmp_path / "none.dspex", "id": "p"})
    assert file.value.program == "p"
    with pytest.raises(InputError) as rows:
        native.create_program({"signature": LABEL, "id": "p", "examples": [{"text": "a", "label": "z"}]})
    assert rows.value.program == "p"
    assert native.get_stats()["errors"] == {"model_file": 1, "input": 1}


def test_health_notices_a_program_that_does_not_run(
    native: NativeAdapter, monkeypatch: pytest.MonkeyPatch
) -> None:
    literal = case("literal")
    program = native.create_program({"signature": literal.signature, "examples": literal.examples})
    health = native.health_check()
    assert (health.ok, health.checked) == (True, 1)

    class Broken:
        signature = literal.parsed

        def predict(self, inputs: Any) -> Any:
            raise RuntimeError("gone")

    monkeypatch.setattr(native._store.items[program], "runner", Broken())
    assert "gone" in native.health_check().reason


def test_health_notices_a_core_that_answers_wrong(
    native: NativeAdapter, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Wrong:
        def predict(self, inputs: Any) -> Any:
            return {"sign": True}

    monkeypatch.setattr("dspex.adapters.native._core_probe_program", Wrong)
    health = native.health_check()
    assert not health
    assert "compiled core" in health.reason


def test_no_lm(native: NativeAdapter) -> None:
    native.configure_lm({"model": "test/none"})
    assert native.get_test_capabilities()["uses_lm"] is False


def test_executing_waits_for_no_lock(native: NativeAdapter) -> None:
    """A fit that is under way, and whoever holds the adapter's locks, do not hold up calls."""
    literal = case("literal")
    program = native.create_program({"signature": literal.signature, "examples": literal.examples})
    done = threading.Event()

    def call() -> None:
        native.execute_program(program, literal.rows()[0])
        done.set()

    with native._lock, native._store._lock:
        thread = threading.Thread(target=call, daemon=True)
        thread.start()
        assert done.wait(10)
    thread.join()


def test_calls_are_counted_exactly(native: NativeAdapter) -> None:
    literal = case("literal")
    program = native.create_program({"signature": literal.signature, "examples": literal.examples})
    row = literal.rows()[0]

    def work() -> None:
        for _ in range(2000):
            native.execute_program(program, row)

    threads = [threading.Thread(target=work) for _ in range(8)]
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    counted = native.get_program_info(program)["calls"]
    gil = getattr(sys, "_is_gil_enabled", lambda: True)()
    assert counted == 16_000 if gil else 0 < counted <= 16_000


def test_an_unexpected_error_is_counted_and_passed_on() -> None:
    def explode(inputs: Any) -> Any:
        raise ZeroDivisionError("a fault of the script")

    with create("mock", answers=explode) as mock:
        program = mock.create_program({"signature": LABEL})
        with pytest.raises(ZeroDivisionError):
            mock.execute_program(program, {"text": "x"})
        assert mock.get_stats()["errors"] == {"system": 1}


def test_an_adapter_refuses_a_spec_for_another(native: NativeAdapter) -> None:
    for name in ("mock", "auto"):
        with pytest.raises(ConfigError, match="'native'"):
            native.create_program({"signature": LABEL, "adapter": name})


_ODD_VALUES: list[Any] = [
    *("", " ", "text", "1", "nan", "\ud800", "a\0b", b"x", None, True, False, 0, 1, -3, 2**63, 10**400),
    *(0.0, 1.5, -0.0, 1e308, float("nan"), float("inf"), 1j, Fraction(1, 2), Decimal("1.5"), object()),
    *(np.str_("text"), np.str_("1"), np.bool_(True), np.int8(3), np.uint64(2**64 - 1), np.float16(1.5)),
    *(np.float64("nan"), np.complex128(1), np.datetime64("2020-01-01"), np.array(1), np.array(1.5)),
    *([], [1, 2, 3], [1.0, 2.0, 3.0], (1.0, 2.0, 3.0), [1.0, "2", 3.0], [1.0, True, 3.0], [[1.0, 2.0, 3.0]]),
    *([1.0, None, 3.0], [1.0, float("nan"), 3.0], {1.0, 2.0, 3.0}, {"a": 1}, range(3), "abc"),
    *(np.ones(3), np.ones(3, "f4"), np.ones(3, "i8"), np.ones(3, "?"), np.ones(3, ">f8"), np.ones(6)[::2]),
    *(np.ones((1, 3)), np.array(["a", "b", "c"]), np.array([1, 2, None]), np.array([1.0, np.inf, 2.0])),
    *(np.array([1, 2.5, 3], dtype=object), np.array([])),
    *(np.ones(3, "c16"), np.ones(3, "M8[s]"), array("d", [1, 2, 3]), array("i", [1, 2, 3]), b"abc"),
    *(memoryview(b"abc"), np.ones(3, "f2"), np.ones(3, "g"), [np.float32(1), np.int8(2), np.float64(3)]),
]


def refused_field(run: Callable[[dict[str, Any]], Any], inputs: dict[str, Any]) -> str | None:
    try:
        run(inputs)
    except InputError as error:
        return error.field
    except Exception as error:  # what must not come out; the comparison shows it
        return repr(error)
    return None


@pytest.mark.parametrize("name", ["mixed", "vector"])
def test_native_and_python_checks_agree(native: NativeAdapter, name: str) -> None:
    each = case(name)
    native.create_program({"signature": each.signature, "examples": each.examples, "id": name})
    row = each.rows()[0]
    differ = []
    for field in row:
        for value in _ODD_VALUES:
            inputs = {**row, field: value}
            python = refused_field(lambda given: check_inputs(each.parsed, given), inputs)
            compiled = refused_field(lambda given: native.execute_program(name, given), inputs)
            if python != compiled:
                differ.append((field, value, python, compiled))
    assert differ == []

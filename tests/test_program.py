"""A program: its calls in every form, what it refuses, saving and loading, and pickling."""

from __future__ import annotations

import asyncio
import copy
import json
import pickle
import subprocess
import sys
import time
from collections import OrderedDict, UserDict
from collections.abc import Callable
from enum import Enum
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest

import dspex
from dspex import Program
from dspex.errors import InputError, ModelFileError
from dspex.modelfile import write_model
from fit_tools import MIXED, inputs_of, mixed, quick

ROWS = mixed(60)
PROGRAM = quick(MIXED, ROWS)
SIMPLE = quick()
MANY = quick("text -> label: str", [{"text": f"word{i % 20} x{i}", "label": f"c{i % 20}"} for i in range(60)])
INPUTS = inputs_of(PROGRAM, ROWS[0])


class Tone(Enum):
    CALM = "calm tone"
    ANGRY = "angry tone"


ENUM = quick(
    {"inputs": {"text": "str"}, "outputs": {"tone": Tone}},
    [{"text": f"{t.value} {i}", "tone": t} for i in range(10) for t in Tone],
)


# --------------------------------------------------------------------------------------------------- calls


def test_all_ways_to_call_answer_the_same() -> None:
    truth = PROGRAM.predict(INPUTS)
    forms = (dict(INPUTS), OrderedDict(reversed(INPUTS.items())), MappingProxyType(INPUTS), UserDict(INPUTS))
    answers = [PROGRAM.predict(form) for form in forms]
    answers += [PROGRAM(**INPUTS), asyncio.run(PROGRAM.acall(**INPUTS)), *PROGRAM.batch([INPUTS])]
    for answer in answers:
        assert answer == truth
        assert answer.confidence == truth.confidence
        assert answer.probabilities("label") == truth.probabilities("label")


def test_batch_answers_in_order_whatever_the_rows_come_in() -> None:
    rows = [inputs_of(PROGRAM, row) for row in ROWS]
    truth = [PROGRAM.predict(row) for row in rows]
    for form in (rows, tuple(rows), iter(rows), (row for row in rows)):
        assert PROGRAM.batch(form) == truth
    assert PROGRAM.batch([]) == []
    assert len({result.label for result in truth}) == 3


def test_numbers_of_every_kind_are_numbers() -> None:
    truth = PROGRAM._logits(INPUTS | {"amount": 7, "items": 3, "vip": True, "place": [1, 2.5, -1]})
    for amount in (7.0, np.float32(7), np.float64(7), np.int8(7), np.array(7.0)):
        for items in (3, np.uint16(3), np.array(3)):
            for vip in (True, np.True_):
                for place in ((1, 2.5, -1), np.array([1, 2.5, -1]), np.array([1, 2.5, -1], np.float16)):
                    inputs = INPUTS | {"amount": amount, "items": items, "vip": vip, "place": place}
                    assert PROGRAM._logits(inputs) == truth


def test_acall_does_not_hold_up_the_loop() -> None:
    long = "word " * 1_000_000

    async def both() -> int:
        ticks = 0
        task = asyncio.create_task(SIMPLE.acall(text=long))
        while not task.done():
            await asyncio.sleep(0)
            ticks += 1
        assert (await task) == SIMPLE(text=long)
        return ticks

    assert asyncio.run(both()) > 10


def test_what_is_known_of_a_program_is_json() -> None:
    for program in (PROGRAM, SIMPLE, MANY, ENUM):
        info = json.loads(json.dumps(program.info()))
        assert info["id"] == program.id
        assert (info["kind"], info["backend"]) == (program.kind, "native")
        assert info["model_bytes"] >= program._bytes > 0
        assert program.id in repr(program)
        assert program.signature.to_string() in repr(program)
    assert PROGRAM.info()["outputs"]["label"]["classes"] == ["refund", "card_lost", "limit"]
    assert ENUM.info()["outputs"]["tone"]["classes"] == ["calm tone", "angry tone"]


# ---------------------------------------------------------------------------------------- what it refuses

BAD: list[tuple[dict[str, Any], str]] = [
    ({"subject": 3}, "subject"),
    ({"subject": None}, "subject"),
    ({"body": b"bytes"}, "body"),
    ({"body": ["text"]}, "body"),
    ({"amount": "7"}, "amount"),
    ({"amount": True}, "amount"),
    ({"amount": float("nan")}, "amount"),
    ({"amount": np.float32("inf")}, "amount"),
    ({"amount": 10**400}, "amount"),
    ({"amount": 1j}, "amount"),
    ({"items": 1.0}, "items"),
    ({"items": np.float64(1)}, "items"),
    ({"items": False}, "items"),
    ({"vip": 1}, "vip"),
    ({"vip": "yes"}, "vip"),
    ({"vip": np.int8(1)}, "vip"),
    ({"place": [1.0, 2.0]}, "place"),
    ({"place": [1.0, 2.0, 3.0, 4.0]}, "place"),
    ({"place": [1.0, 2.0, float("nan")]}, "place"),
    ({"place": np.array([1.0, 2.0, np.inf])}, "place"),
    ({"place": [1.0, 2.0, "3"]}, "place"),
    ({"place": [1.0, 2.0, True]}, "place"),
    ({"place": np.ones((3, 1))}, "place"),
    ({"place": np.array(["1", "2", "3"])}, "place"),
    ({"place": "abc"}, "place"),
    ({"place": []}, "place"),
    ({"place": {1.0, 2.0, 3.0}}, "place"),
    ({"more": 1}, "more"),
]


def assert_refused(call: Callable[[], Any], field: str | None, row: int | None = None) -> None:
    with pytest.raises(InputError) as caught:
        call()
    error = caught.value
    assert (error.category, error.field, error.row, error.program) == ("input", field, row, PROGRAM.id)
    assert error.hint


@pytest.mark.parametrize(("changes", "field"), BAD, ids=[repr(changes)[:40] for changes, _ in BAD])
def test_bad_inputs(changes: dict[str, Any], field: str) -> None:
    inputs = INPUTS | changes
    assert_refused(lambda: PROGRAM.predict(inputs), field)
    assert_refused(lambda: PROGRAM(**inputs), field)
    assert_refused(lambda: asyncio.run(PROGRAM.acall(**inputs)), field)
    assert_refused(lambda: PROGRAM.predict(UserDict(inputs)), field)
    assert_refused(lambda: PROGRAM.batch([INPUTS, INPUTS, inputs, {}]), field, row=2)


@pytest.mark.parametrize("name", list(INPUTS))
def test_missing_inputs(name: str) -> None:
    inputs = {k: v for k, v in INPUTS.items() if k != name}
    assert_refused(lambda: PROGRAM.predict(inputs), name)
    # As many inputs as there should be, one of them under another name.
    assert_refused(lambda: PROGRAM.predict(inputs | {name + "s": INPUTS[name]}), name + "s")


@pytest.mark.parametrize("inputs", ["text", None, 3, ["a"], [("text", "a")]], ids=repr)
def test_inputs_that_are_no_mapping(inputs: Any) -> None:
    assert_refused(lambda: PROGRAM.predict(inputs), None)
    assert_refused(lambda: PROGRAM.batch([inputs]), None, row=0)


@pytest.mark.parametrize("rows", ["text", b"text", INPUTS], ids=["str", "bytes", "mapping"])
def test_rows_that_are_no_rows(rows: Any) -> None:
    assert_refused(lambda: PROGRAM.batch(rows), None)


@pytest.mark.parametrize("text", ["", " ", "\n\t\0", "\u200b\ufeff", "\u0301"])
def test_a_text_that_holds_nothing_is_refused_when_there_is_nothing_else(text: str) -> None:
    with pytest.raises(InputError) as caught:
        SIMPLE(text=text)
    assert (caught.value.field, caught.value.program) == ("text", SIMPLE.id)
    assert caught.value.hint
    assert PROGRAM.predict(INPUTS | {"subject": text}).label == PROGRAM.predict(INPUTS).label


def test_an_input_that_raises_keeps_its_own_error() -> None:
    class Stubborn(UserDict):  # type: ignore[type-arg]
        def __getitem__(self, key: str) -> Any:
            raise OSError("stubborn")

    with pytest.raises(OSError, match="stubborn"):
        PROGRAM.predict(Stubborn(INPUTS))

    def rows() -> Any:
        yield INPUTS
        raise OSError("rows")

    with pytest.raises(OSError, match="rows"):
        PROGRAM.batch(rows())


# ------------------------------------------------------------------------------------- saving and loading

ALL = pytest.mark.parametrize("program", [PROGRAM, SIMPLE, MANY], ids=["mixed", "float rows", "int8 rows"])
TEXTS = ["refund my money back", "word3", "unknown wörds, 日本 !!!", "\ud800", "x" * 3000]


def logits(program: Program) -> list[list[float]]:
    if len(program.signature.inputs) > 1:
        return [program._logits(inputs_of(program, row)) for row in ROWS]
    return [program._logits({"text": text}) for text in TEXTS]


@ALL
def test_a_loaded_program_answers_bit_for_bit_the_same(program: Program, tmp_path: Path) -> None:
    program.save(tmp_path / "x.dspex")
    loaded = dspex.load(tmp_path / "x.dspex")
    assert logits(loaded) == logits(program)
    assert (loaded.id, loaded.kind, loaded.signature) == (program.id, program.kind, program.signature)
    assert loaded.info() == json.loads(json.dumps(program.info()))
    if program is PROGRAM:
        assert [loaded(**inputs_of(loaded, row)) for row in ROWS] == [
            program(**inputs_of(program, row)) for row in ROWS
        ]
        assert loaded.explain(**INPUTS) == program.explain(**INPUTS)
    loaded.save(str(tmp_path / "again.dspex"))
    assert (tmp_path / "again.dspex").read_bytes() == (tmp_path / "x.dspex").read_bytes()


def test_a_loaded_program_outlives_its_file(tmp_path: Path) -> None:
    path = tmp_path / "x.dspex"
    SIMPLE.save(path)
    loaded = dspex.load(path)
    MANY.save(path)  # another file of the same name
    assert logits(loaded) == logits(SIMPLE)
    path.unlink()
    assert logits(loaded) == logits(SIMPLE)
    assert not loaded._arrays["rows"].flags.writeable


def test_enum_classes_come_back_as_values_and_can_be_members_again(tmp_path: Path) -> None:
    ENUM.save(tmp_path / "x.dspex")
    loaded = dspex.load(tmp_path / "x.dspex")
    assert ENUM(text="angry tone").tone is Tone.ANGRY
    assert loaded(text="angry tone").tone == "angry tone"
    assert list(loaded(text="calm").probabilities("tone")) == ["calm tone", "angry tone"]


def test_loading_is_quick_and_imports_nothing_heavy(tmp_path: Path) -> None:
    SIMPLE.save(tmp_path / "x.dspex")
    code = (
        "import sys, dspex; p = dspex.load(sys.argv[1]); print(p(text='refund').label);"
        "assert not {'dspy', 'sklearn', 'scipy', 'pydantic'} & set(sys.modules), sorted(sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "x.dspex")], capture_output=True, text=True, check=True
    )
    assert done.stdout == "refund\n"
    dspex.load(tmp_path / "x.dspex")
    times = []
    for _ in range(20):
        begin = time.perf_counter()
        dspex.load(tmp_path / "x.dspex")
        times.append(time.perf_counter() - begin)
    assert min(times) < 0.005


def test_files_that_are_no_programs(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError) as caught:
        dspex.load(tmp_path / "absent.dspex")
    assert "absent.dspex" in caught.value.message
    write_model(tmp_path / "other.dspex", {"x": np.ones(3)}, {"anything": 1})
    with pytest.raises(ModelFileError) as caught:
        dspex.load(tmp_path / "other.dspex")
    assert caught.value.hint


def test_a_program_that_was_never_made_is_refused() -> None:
    """In a process of its own: what goes wrong here goes wrong badly."""
    code = (
        "import dspex\n"
        "from dspex import _core\n"
        "for each in (dspex.Program.__new__(dspex.Program), _core.Predictor()):\n"
        "    for call in (lambda: each.predict({}), lambda: each(text='a'), lambda: each._logits({}),\n"
        "                 lambda: each._contributions('a', 0)):\n"
        "        try:\n"
        "            call()\n"
        "        except MemoryError:\n"
        "            raise\n"
        "        except Exception as error:\n"
        "            print(type(error).__name__)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.splitlines()) == (0, ["ProgramError"] * 8), done.stderr


# ----------------------------------------------------------------------------------------------- pickling


@ALL
@pytest.mark.parametrize("how", [copy.copy, copy.deepcopy, lambda p: pickle.loads(pickle.dumps(p))])
def test_a_program_travels(program: Program, how: Any) -> None:
    other = how(program)
    assert type(other) is Program
    assert logits(other) == logits(program)
    assert (other.id, other.signature, other.info()) == (program.id, program.signature, program.info())


def test_a_loaded_program_travels_without_its_file(tmp_path: Path) -> None:
    PROGRAM.save(tmp_path / "x.dspex")
    data = pickle.dumps(dspex.load(tmp_path / "x.dspex"))
    (tmp_path / "x.dspex").unlink()
    assert logits(pickle.loads(data)) == logits(PROGRAM)


def test_a_program_that_travels_keeps_its_enum() -> None:
    for other in (copy.deepcopy(ENUM), pickle.loads(pickle.dumps(ENUM))):
        assert other(text="angry tone").tone is Tone.ANGRY

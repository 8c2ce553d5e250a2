"""The same program asked through dspex and through DSPy alone: equal prompts, equal outputs, equal types."""

from __future__ import annotations

import contextlib
import random
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import dspy
import pytest

from differential_tools import Case, Scripted, case
from dspex.adapters import create
from dspex.errors import LMError
from dspex.signature import Signature
from dspy_adapter_tools import STRESS

COUNT = round(120 * STRESS)  # for each form of signature


class Sides:
    """An engine, and who asks it."""

    def __init__(self) -> None:
        self.engine = Scripted()
        settings = {"model": "openai/x", "options": {"engine": self.engine}, "retry": {"attempts": 1}}
        settings["breaker"] = {"enabled": False}
        config = {"lms": {"main": settings}}
        self.adapters = [create("dspy", config=config), create("hybrid", config=config)]
        self.lm = dspy.LM("openai/x", engine=self.engine, cache=False, num_retries=0)

    def close(self) -> None:
        for adapter in self.adapters:
            adapter.close()


@pytest.fixture(scope="module")
def sides() -> Iterator[Sides]:
    with contextlib.closing(Sides()) as sides:
        yield sides


def compare(sides: Sides, made: Case, given: Any, theirs: Any, counts: Counter[str]) -> None:
    """One case in one form: with answers that fit, and with some that do not."""
    programs = [(adapter, adapter.create_program({"signature": given})) for adapter in sides.adapters]
    for text in (made.said(), *misfits(made)):
        sides.engine.text = text
        sides.engine.asked.clear()
        try:
            wanted = dict(dspy.Predict(theirs)(**made.values, lm=sides.lm).items())
        except dspy.utils.exceptions.AdapterParseError:
            wanted = None
        counts["refused" if wanted is None else "answered"] += 1
        prompts = list(sides.engine.asked)
        for adapter, pid in programs:
            sides.engine.asked.clear()
            if wanted is None:
                with pytest.raises(LMError, match="does not fit") as caught:
                    adapter.execute_program(pid, made.values)
                assert (caught.value.program, caught.value.retryable) == (pid, False)
            else:
                found = adapter.execute_program(pid, made.values)
                assert found.to_dict() == wanted
                assert [shape(value) for value in found.values()] == [
                    shape(value) for value in wanted.values()
                ]
                assert str(found.route) == "dspy"
            assert sides.engine.asked == prompts
    for adapter, pid in programs:
        adapter.delete_program(pid)


def misfits(made: Case) -> Iterator[str]:
    """Answers that do not fit the signature."""
    dice = random.Random(repr(made.answers))
    wrong = [name for name, kind in made.outputs.items() if kind.misfits]
    if wrong:
        name = dice.choice(wrong)
        yield made.said({**made.answers, name: dice.choice(made.outputs[name].misfits)})
    left_out = dice.choice(list(made.outputs))
    if made.outputs[left_out].text not in ("Optional[int]", "Optional[str]", "Optional[Literal['a', 'b']]"):
        yield made.said(
            {name: text for name, text in made.answers.items() if name != left_out} or {"no": "x"}
        )


def shape(value: Any) -> Any:
    """The type of a value, and of what is in it."""
    if isinstance(value, dict):
        return [(key, shape(item)) for key, item in value.items()]
    return [list, *map(shape, value)] if isinstance(value, list) else type(value)


FORMS: dict[str, Callable[[Case], tuple[Any, Any]]] = {
    "string": lambda made: (made.as_string(), made.as_string()),
    "mapping": lambda made: (made.as_mapping(), Signature.of(made.as_mapping()).to_dspy()),
    "class": lambda made: (made.as_class(),) * 2,
}


@pytest.mark.parametrize("form", FORMS)
def test_answers_are_those_of_dspy(sides: Sides, form: str) -> None:
    counts: Counter[str] = Counter()
    seed = 1_000_000 * list(FORMS).index(form)
    while counts["signatures"] < COUNT:
        seed += 1
        made = case(seed)
        if form == "string" and not made.written:
            continue
        counts["signatures"] += 1
        try:
            compare(sides, made, *FORMS[form](made), counts)
        except BaseException as error:
            error.add_note(f"seed {seed}: {made}")
            raise
    assert min(counts["answered"], counts["refused"]) >= 0.9 * COUNT, counts


STRICTER = {
    "list[Literal['a', 'b']]": ('["a", "a"]', "a label is given twice"),
    "float": ("nan", "not a finite number"),
    "int": ("9" * 400, "the number is too large"),
}


@pytest.mark.parametrize("written", STRICTER)
def test_where_dspex_is_stricter(sides: Sides, written: str) -> None:
    answer, told = STRICTER[written]
    signature = f"text -> out: {written}"
    sides.engine.text = f"[[ ## out ## ]]\n{answer}\n\n[[ ## completed ## ]]"
    dspy.Predict(signature)(text="x", lm=sides.lm)
    for adapter in sides.adapters:
        pid = adapter.create_program({"signature": signature})
        with pytest.raises(LMError, match=told) as caught:
            adapter.execute_program(pid, {"text": "x"})
        assert (caught.value.field, caught.value.program) == ("out", pid)


def test_a_list_of_numbers_may_be_empty(sides: Sides) -> None:
    sides.engine.text = "[[ ## out ## ]]\n[]\n\n[[ ## completed ## ]]"
    for adapter in sides.adapters:
        pid = adapter.create_program({"signature": "text -> out: list[float]"})
        assert adapter.execute_program(pid, {"text": "x"}).out == []

"""The mock: deterministic, typed, scripted, and nobody's fallback."""

from __future__ import annotations

import ast
import asyncio
import contextlib
import datetime
import enum
import math
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import dspex
from dspex.adapters.made_up import Draw, canonical
from dspex.adapters.mock import MockAdapter
from dspex.errors import (
    CallTimeoutError,
    CommunicationError,
    ConfigError,
    InputError,
    LMError,
    ProgramError,
    SignatureError,
)

LABEL = "text -> label: Literal['a', 'b', 'c']"


def run(spec: Any, inputs: Any, **settings: Any) -> Any:
    with MockAdapter(**settings) as mock:
        program = mock.create_program(
            {"id": "p", **(spec if isinstance(spec, dict) else {"signature": spec})}
        )
        return mock.execute_program(program, inputs)


class Tone(enum.Enum):
    CALM = 1
    ANGRY = 2


# Made-up answers


def test_equal_in_every_process() -> None:
    code = (
        "from dspex.adapters.mock import MockAdapter\n"
        "m = MockAdapter(seed=7)\n"
        "m.create_program({'id': 'p', 'signature': 'text, tags: dict[str, int] -> "
        "label: Literal[1, 2, 3], score: float, note, more: dict[str, list[int]]'})\n"
        "r = m.execute_program('p', {'text': 'caf\\u00e9 \\ud800', 'tags': {'x': 1, 'y': 2}})\n"
        "print(ascii(dict(r)), r.confidence)\n"
    )
    seen = set()
    for seed in ("0", "1"):
        done = subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            text=True,
            check=True,
            env={"PYTHONHASHSEED": seed, "PYTHONPATH": ":".join(sys.path)},
        )
        seen.add(done.stdout)
    assert len(seen) == 1
    assert "label" in seen.pop()


def test_inputs_id_and_seed_matter_and_nothing_else() -> None:
    def confidence(seed: int = 0, program: str = "p", text: str = "x") -> float:
        with MockAdapter(seed=seed) as mock:
            mock.create_program({"id": program, "signature": LABEL})
            mock.execute_program(program, {"text": "a call before"})
            result = mock.execute_program(program, {"text": text})
            assert result.confidence is not None
            return float(result.confidence)

    assert confidence() == confidence()
    assert len({confidence(), confidence(seed=1), confidence(program="q"), confidence(text="y")}) == 4


def test_every_class_is_drawn() -> None:
    with MockAdapter() as mock:
        program = mock.create_program({"signature": LABEL})
        counts = dict.fromkeys("abc", 0)
        for number in range(600):
            counts[mock.execute_program(program, {"text": str(number)}).label] += 1
    assert min(counts.values()) > 140


def test_the_order_of_the_inputs_does_not_matter() -> None:
    signature = "subject, body -> label: Literal['a', 'b']"
    one = run(signature, {"subject": "s", "body": "b"})
    assert one.confidence == run(signature, {"body": "b", "subject": "s"}).confidence
    assert one.confidence != run(signature, {"body": "s", "subject": "b"}).confidence


@pytest.mark.parametrize(
    ("annotation", "check"),
    [
        (str, lambda v: isinstance(v, str)),
        (bool, lambda v: isinstance(v, bool)),
        (int, lambda v: type(v) is int),
        (float, lambda v: type(v) is float and math.isfinite(v)),
        (Tone, lambda v: isinstance(v, Tone)),
        (Literal["x", 3, None], lambda v: v in ("x", 3, None)),
        (list[Literal["x", "y"]], lambda v: isinstance(v, list) and set(v) <= {"x", "y"}),
        (list[float], lambda v: isinstance(v, list) and all(type(x) is float for x in v)),
        (list[int], lambda v: isinstance(v, list) and all(type(x) is int for x in v)),
        (dict[str, int], lambda v: isinstance(v, dict) and all(type(x) is int for x in v.values())),
        (dict, lambda v: isinstance(v, dict)),
        (list, lambda v: isinstance(v, list)),
        (int | None, lambda v: v is None or type(v) is int),
        (Literal["x"] | None, lambda v: v in ("x", None)),
        (int | str, lambda v: type(v) in (int, str)),
        (tuple[int, str], lambda v: type(v[0]) is int and type(v[1]) is str),
        (tuple[int, ...], lambda v: isinstance(v, tuple)),
        (set[str], lambda v: isinstance(v, set)),
        (bytes, lambda v: isinstance(v, bytes)),
        (datetime.date, lambda v: isinstance(v, datetime.date)),
        (datetime.datetime, lambda v: isinstance(v, datetime.datetime)),
        (Any, lambda v: v is not None),
        (list[dict[str, Tone | None]], lambda v: isinstance(v, list)),
    ],
    ids=str,
)
def test_typed_by_the_signature(annotation: Any, check: Any) -> None:
    with MockAdapter() as mock:
        program = mock.create_program(
            {"signature": {"inputs": {"text": "str"}, "outputs": {"out": annotation}}}
        )
        for number in range(20):
            assert check(mock.execute_program(program, {"text": str(number)})["out"])


def test_arrays_and_models() -> None:
    import pydantic

    class Inner(pydantic.BaseModel):
        tone: Tone
        notes: list[str]
        parent: Inner | None = None

    outputs = {"vec": np.ndarray, "inner": Inner, "many": list[Inner]}
    result = run({"signature": {"inputs": {"text": "str"}, "outputs": outputs}}, {"text": "x"})
    assert isinstance(result.vec, np.ndarray)
    assert isinstance(result.inner, Inner)
    assert all(isinstance(each, Inner) for each in result.many)


def test_a_type_that_cannot_be_made_up_is_refused_at_creation() -> None:
    class Odd:
        pass

    signature = {"inputs": {"text": "str"}, "outputs": {"odd": Odd}}
    with MockAdapter() as mock:
        with pytest.raises(SignatureError) as caught:
            mock.create_program({"signature": signature})
        assert caught.value.field == "odd"
        assert "Script" in (caught.value.hint or "")
        odd = Odd()
        program = mock.create_program({"signature": signature, "options": {"answers": lambda inputs: odd}})
        assert mock.execute_program(program, {"text": "x"})["odd"] is odd


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.text(min_size=1, max_size=8), min_size=1, max_size=12, unique=True),
    st.text(max_size=40),
    st.integers(),
)
def test_probabilities_are_a_distribution_with_the_answer_on_top(
    classes: list[str], text: str, seed: int
) -> None:
    spec = {"signature": {"inputs": {"text": "str"}, "outputs": {"label": classes, "ok": "bool"}}}
    result = run(spec, {"text": text}, seed=seed)
    for name in ("label", "ok"):
        odds = result.probabilities(name)
        assert math.isclose(math.fsum(odds.values()), 1, abs_tol=1e-9)
        assert odds[result[name]] == max(odds.values())
    assert result.confidence == min(max(result.probabilities(n).values()) for n in ("label", "ok"))


def test_multilabel_probabilities_agree_with_the_answer() -> None:
    signature = "text -> topics: list[Literal['a', 'b', 'c', 'd']]"
    answers = set()
    for number in range(50):
        result = run(signature, {"text": str(number)})
        odds = result.probabilities("topics")
        assert result.topics == [label for label, p in odds.items() if p > 0.5]
        assert result.confidence == math.prod(max(p, 1 - p) for p in odds.values())
        answers.add(tuple(result.topics))
    assert len(answers) > 8


def test_canonical_is_the_same_for_equal_values() -> None:

    assert canonical({"a": {1: "x", 2: "y"}}) == canonical({"a": {2: "y", 1: "x"}})
    assert canonical({"a": {"x", "y", "z"}}) == canonical({"a": {"z", "y", "x"}})
    assert canonical({"v": np.array([1.0, 2.0])}) == canonical({"v": [1.0, 2.0]})
    assert canonical({"t": Tone.CALM}) != canonical({"t": Tone.ANGRY})
    assert canonical({"o": object()}) == canonical({"o": object()})
    assert Draw("ab", "c").uniform() != Draw("a", "bc").uniform()


# Scripts


def test_a_mapping_scripts_some_inputs() -> None:
    options = {"answers": {"lost": {"label": "b"}, "sold": "c"}}
    spec = {"signature": LABEL, "options": options}
    assert run(spec, {"text": "lost"}).label == "b"
    result = run(spec, {"text": "sold"})
    assert result.label == "c"
    assert result.probabilities("label")["c"] == max(result.probabilities("label").values())
    assert dict(run(spec, {"text": "else"})) == dict(run(LABEL, {"text": "else"}))


def test_a_mapping_of_several_inputs() -> None:
    options = {"answers": {("s", "b"): {"label": "b"}}}
    spec = {"signature": "subject, body -> label: Literal['a', 'b']", "options": options}
    assert run(spec, {"body": "b", "subject": "s"}).label == "b"
    vector = {"signature": "vec: list[float] -> ok: bool", "options": {"answers": {"x": True}}}
    with pytest.raises(ConfigError, match="callable"):
        run(vector, {"vec": [1.0]})


def test_a_list_answers_in_order_and_then_ends() -> None:
    with MockAdapter(answers=["a", {"label": "c"}, InputError("scripted")]) as mock:
        program = mock.create_program({"signature": LABEL})
        assert [mock.execute_program(program, {"text": "x"}).label for _ in range(2)] == ["a", "c"]
        with pytest.raises(InputError) as caught:
            mock.execute_program(program, {"text": "x"})
        assert caught.value.program == program
        with pytest.raises(ProgramError, match="3 answers, and this is call 4"):
            mock.execute_program(program, {"text": "x"})


def test_a_callable_answers() -> None:
    seen: list[Any] = []

    def answer(inputs: Any) -> Any:
        seen.append(dict(inputs))
        return inputs["text"][0]

    assert run(LABEL, {"text": "bee"}, answers=answer).label == "b"
    assert seen == [{"text": "bee"}]


def test_answers_that_do_not_fit_are_errors() -> None:
    for wrong in ("x", 3, {"label": "x"}, {"lable": "a"}, {}, {"label": "a", "more": 1}, None):
        with pytest.raises(ConfigError) as ahead:
            run({"signature": LABEL, "options": {"answers": [wrong]}}, {"text": "x"})
        assert ahead.value.program == "p"
        with pytest.raises(LMError) as late:
            run(LABEL, {"text": "x"}, answers=lambda inputs, wrong=wrong: wrong)
        assert (late.value.program, late.value.field is None) == ("p", False)


def test_scripted_values_become_the_field_type() -> None:
    spec = {"signature": {"inputs": {"text": "str"}, "outputs": {"tone": Tone, "score": "float"}}}
    result = run(spec, {"text": "x"}, answers=[{"score": 3, "tone": 2}])
    assert result["tone"] is Tone.ANGRY
    assert type(result["score"]) is float
    assert list(result) == ["tone", "score"]
    data = {"signature": {"inputs": {"text": "str"}, "outputs": {"data": "dict[str, int]"}}}
    assert run(data, {"text": "x"}, answers=[{"a": 1}])["data"] == {"a": 1}
    assert run(data, {"text": "x"}, answers=[{"data": {"a": 1}}])["data"] == {"a": 1}
    none = "text -> label: Literal['a', None]"
    assert run(none, {"text": "x"}, answers=[None])["label"] is None
    assert run("text -> label: Literal['a', None]", {"text": "x"}, answers=[{"label": None}])["label"] is None


# Delays and failures


def test_delays() -> None:
    start = time.perf_counter()
    run(LABEL, {"text": "x"}, delay=0.05)
    assert time.perf_counter() - start >= 0.05
    start = time.perf_counter()
    run(LABEL, {"text": "x"}, delay=lambda inputs: 0.02 * len(inputs["text"]))
    assert time.perf_counter() - start >= 0.02
    with pytest.raises(ConfigError, match="delay"):
        run(LABEL, {"text": "x"}, delay=lambda inputs: -1)


def test_async_delays_do_not_block_the_loop() -> None:
    async def many() -> float:
        with MockAdapter(delay=0.2) as mock:
            program = mock.create_program({"signature": LABEL})
            start = time.perf_counter()
            await asyncio.gather(*(mock.aexecute_program(program, {"text": str(i)}) for i in range(20)))
            return time.perf_counter() - start

    assert asyncio.run(many()) < 2  # 4 s one after the other


def test_error_rate_is_deterministic_and_about_right() -> None:
    def failures(**settings: Any) -> list[int]:
        failed: list[Exception | None] = []
        with MockAdapter(error_rate=0.3, **settings) as mock:
            mock.create_program({"id": "p", "signature": LABEL})
            for _ in range(1000):
                try:
                    mock.execute_program("p", {"text": "same"})
                    failed.append(None)
                except CommunicationError as error:
                    failed.append(error)
        assert {(e.program, e.retryable) for e in failed if isinstance(e, CommunicationError)} == {
            ("p", True)
        }
        return [number for number, each in enumerate(failed) if each]

    first = failures()
    assert first == failures()
    assert first != failures(seed=1)
    assert 240 < len(first) < 360


def test_errors_of_any_class() -> None:
    with pytest.raises(CallTimeoutError):
        run(LABEL, {"text": "x"}, error_rate=1, error=CallTimeoutError)
    own = LMError("overloaded", retryable=True, retry_after=2.0)
    with MockAdapter(error_rate=1, error=own) as mock:
        program = mock.create_program({"signature": LABEL})
        caught = []
        for _ in range(2):
            with pytest.raises(LMError) as each:
                mock.execute_program(program, {"text": "x"})
            caught.append(each.value)
        assert caught[0] is not caught[1]
        assert (caught[0].message, caught[0].retry_after, caught[0].program) == ("overloaded", 2.0, program)
        assert own.program is None
        assert mock.get_stats()["errors"] == {"lm": 2}


def test_options_of_a_program_go_before_the_adapter() -> None:
    with MockAdapter(answers=lambda inputs: "a") as mock:
        mock.create_program({"id": "own", "signature": LABEL, "options": {"answers": lambda inputs: "b"}})
        mock.create_program({"id": "default", "signature": LABEL})
        assert mock.execute_program("own", {"text": "x"}).label == "b"
        assert mock.execute_program("default", {"text": "x"}).label == "a"


@pytest.mark.parametrize(
    "wrong",
    [
        {"seed": "1"},
        {"seed": True},
        {"delay": -1},
        {"delay": float("nan")},
        {"delay": "1"},
        {"error_rate": 1.1},
        {"error_rate": float("nan")},
        {"error_rate": "0.5"},
        {"error": ValueError},
        {"error": "timeout"},
        {"answers": "text"},
        {"answers": 3},
    ],
    ids=str,
)
def test_settings_that_make_no_sense(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        MockAdapter(**wrong)
    with MockAdapter() as mock, pytest.raises(ConfigError) as caught:
        mock.create_program({"id": "p", "signature": LABEL, "options": wrong})
    assert caught.value.program == "p"


def test_classes_come_from_examples_as_in_fitting() -> None:
    rows = [{"text": "x", "label": label, "tags": tags} for label, tags in (("b", ["q"]), ("a", ["p", "q"]))]
    columns = {"text": ["x", "x"], "label": np.array(["b", "a"]), "tags": [["q"], ["p", "q"]]}
    for examples in (rows, columns):
        spec = {"signature": "text -> label, tags: list[str]", "kind": "classify", "examples": examples}
        result = run(spec, {"text": "x"})
        assert set(result.probabilities("label")) == {"a", "b"}
        assert set(result.probabilities("tags")) == {"p", "q"}
    for wrong in ([{"text": "x"}], [{"text": "x", "label": 3}], {"text": ["x"]}, [3], 3, []):
        with pytest.raises(InputError) as caught:
            run({"signature": "text -> label", "examples": wrong}, {"text": "x"})
        assert caught.value.program == "p"
    with pytest.raises(SignatureError):
        run({"signature": "text -> label", "kind": "classify"}, {"text": "x"})


def test_a_path_alone_is_refused() -> None:
    with MockAdapter() as mock, pytest.raises(SignatureError):
        mock.create_program({"path": "x.dspex"})


def test_health_ignores_scripts_and_failures() -> None:
    with MockAdapter(error_rate=1, delay=60, answers=[]) as mock:
        assert mock.health_check()


# Nobody's fallback


def test_nothing_imports_the_mock() -> None:
    package = Path(dspex.__file__).parent
    for file in package.rglob("*.py"):
        if file.name in ("mock.py", "bridge_mock.py"):  # that one answers nothing real either
            continue
        for node in ast.walk(ast.parse(file.read_text())):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = [node.module or "", *(f"{node.module}.{alias.name}" for alias in node.names)]
            assert not any(name.endswith("adapters.mock") for name in names), file


def test_auto_is_never_the_mock(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("the mock was made")

    monkeypatch.setattr(MockAdapter, "__init__", refuse)
    signatures = (LABEL, "text -> answer", "text -> d: dict[str, int]", "image: dspy.Image -> ok: bool")
    with dspex.Client() as client:
        for signature in signatures:
            for kind in (None, "predict", "classify", "chain_of_thought", "react", "embed"):
                for adapter in (None, "auto", "native", "dspy", "none"):
                    spec = {"signature": signature, "kind": kind}
                    with contextlib.suppress(dspex.DspexError):  # anything but made-up answers
                        client.create_program(spec, adapter=adapter)

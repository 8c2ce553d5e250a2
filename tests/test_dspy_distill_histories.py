"""DSPy's histories of calls as traces, and soft labels from probabilities and votes."""

from __future__ import annotations

import math
from typing import Any

import dspy
import pytest
from dspy.lm15 import Message, Response, TokenLogprob, TopLogprob, Usage

from dspex.distill.trace import Trace
from dspex.dspy import history_traces
from dspex.dspy.soft import from_logprobs, majority, self_consistency, shares
from dspex.dspy.teachers import ModuleTeacher
from dspex.errors import InputError, SignatureError
from dspex.signature import Signature
from dspy_distill_tools import TASK, Counting, answers, teaching

BOTH = f"text, n: int -> {TASK.partition('-> ')[2]}, urgent: bool"
ADAPTERS = {"chat": dspy.ChatAdapter(), "json": dspy.JSONAdapter(), "xml": dspy.XMLAdapter()}
TEXT = "I lost my card.\n\nPlease answer: [[ now ]] <b>soon</b>"


@pytest.mark.parametrize("adapter", ADAPTERS)
@pytest.mark.parametrize("kind", [dspy.Predict, dspy.ChainOfThought])
def test_each_adapter(adapter: str, kind: Any) -> None:
    program = kind(BOTH)
    with teaching(), dspy.context(adapter=ADAPTERS[adapter]):
        program(text=TEXT, n=3)
        found = history_traces(dspy.settings.lm, program)
        assert history_traces(program, BOTH) == history_traces(program.history, BOTH) == found
    (trace,) = found
    assert trace.inputs == {"text": TEXT, "n": 3}
    assert trace.answer.outputs == {"label": "card_lost", "urgent": True}
    assert trace.answer.soft is None
    assert trace.answer.tokens
    assert trace.source == "history"
    assert trace.at > 1.7e9


def test_the_global_history() -> None:
    with teaching():
        dspy.Predict(BOTH)(text="a very special one", n=77)
        assert any(t.inputs["n"] == 77 for t in history_traces(None, BOTH))


def test_other_calls_are_passed_over() -> None:
    with teaching():
        dspy.Predict(TASK)(text=TEXT)
        dspy.Predict("text -> reply")(text=TEXT)
        dspy.Predict(BOTH)(text=TEXT, n=1)
        lm = dspy.settings.lm
        assert [t.inputs for t in history_traces(lm, TASK)] == [{"text": TEXT}]
        with pytest.raises(SignatureError, match=r"none of the 3 calls.*The first has text"):
            history_traces(lm, "text, tone -> label: bool")


def test_what_dspy_could_not_read() -> None:
    with teaching(lambda request: {"label": "lost"}):
        with pytest.raises(Exception, match="fail"):
            dspy.Predict(TASK)(text=TEXT)
        with pytest.raises(SignatureError, match="none of the"):
            history_traces(dspy.settings.lm, TASK)


def test_completions_become_soft_labels() -> None:
    turn = Counting()
    with teaching(lambda request: {"label": "hours" if turn(0) == 1 else "refund"}):
        dspy.Predict(TASK)(text=TEXT, config={"n": 4, "temperature": 1.0})
        traces = history_traces(dspy.settings.lm, TASK)
    labels = {t.answer.outputs["label"] for t in traces}
    soft = [t.answer.soft for t in traces if t.answer.soft]
    assert labels <= {"refund", "hours"}
    assert soft in ([], [{"label": {"hours": 0.25, "refund": 0.75}}])


@pytest.mark.parametrize("given", ["x", 3, [{"a": 1}]])
def test_no_history(given: Any) -> None:
    with pytest.raises(InputError, match="history"):
        history_traces(given, TASK)


def test_an_empty_history() -> None:
    assert history_traces([], TASK) == []


class Probable:
    """An engine that tells the probabilities of its tokens."""

    def complete(self, request: Any) -> Any:
        tokens = [
            token("[[ ## label ## ]]\n", 1.0),
            token("ref", 0.7, hou=0.2, card=0.1),
            token("und", 1.0),
            token("\n\n[[ ## completed ## ]]", 1.0),
        ]
        return Response(
            id=None,
            model=request.model,
            message=Message.assistant("".join(each.token for each in tokens)),
            finish_reason="stop",
            usage=Usage(input_tokens=1, output_tokens=1),
            logprobs=tuple(tokens),
        )


def token(text: str, share: float, **others: float) -> Any:
    tops = tuple(TopLogprob(token=t, logprob=math.log(p)) for t, p in {text: share, **others}.items())
    return TokenLogprob(token=text, logprob=math.log(share), top=tops)


def said(*tokens: tuple[str, float, dict[str, float]]) -> dict[str, Any]:
    return {
        "content": [
            {
                "token": text,
                "logprob": math.log(share),
                "top_logprobs": [
                    {"token": t, "logprob": math.log(p)} for t, p in {text: share, **others}.items()
                ],
            }
            for text, share, others in tokens
        ]
    }


def test_probabilities_of_tokens() -> None:
    signature = Signature.of("text -> label: Literal['card', 'card_lost', 'hours']")
    logprobs = said(
        ("[[ ## label ## ]]\n", 1.0, {}),
        ("card", 0.8, {"hours": 0.15, "zebra": 0.05}),
        ("_lost", 0.75, {"\n": 0.25}),
    )
    soft = from_logprobs(logprobs, {"label": "card_lost"}, signature)
    # A line that ends behind "card" is that class. What goes on to none is left out.
    assert soft["label"] == pytest.approx({"card_lost": 0.6 / 0.95, "card": 0.2 / 0.95, "hours": 0.15 / 0.95})


def test_an_lm_that_tells_probabilities() -> None:
    lm = dspy.LM("scripted/lm", engine=Probable(), cache=False, logprobs=True, top_logprobs=3)
    teacher = ModuleTeacher(dspy.Predict(TASK), Signature.of(TASK), ["label"])
    with dspy.context(lm=lm):
        answer = teacher.said({"text": TEXT}).answer
        soft = {"label": pytest.approx({"refund": 0.7, "hours": 0.2, "card_lost": 0.1})}
        assert answer.outputs == {"label": "refund"}
        assert answer.soft == soft
        assert history_traces(lm, TASK)[0].answer.soft == soft


def test_probabilities_of_bools_and_of_what_is_not_there() -> None:
    signature = Signature.of("text -> urgent: bool, n: int")
    logprobs = said(("urgent: ", 1.0, {}), ("True", 0.9, {"False": 0.1}))
    soft = from_logprobs(logprobs, {"urgent": "True", "n": "3"}, signature)
    assert soft["urgent"] == pytest.approx({True: 0.9, False: 0.1})
    assert soft.keys() == {"urgent"}
    assert from_logprobs(said(), {"urgent": "True"}, signature) == {}
    assert from_logprobs(said(("urgent: ", 1.0, {}), ("True", 1.0, {})), {"urgent": "True"}, signature) == {}


def test_votes() -> None:
    said_ = [{"a": 1, "b": "x"}, {"a": 2, "b": "y"}, {"a": 2, "b": "z"}, {"a": 2, "b": "y"}]
    assert majority(said_, ["a"]) == (1, [3, 1])
    assert majority(said_, ["a", "b"]) == (1, [2, 1, 1])
    signature = Signature.of("text -> a: int, b: Literal['x', 'y', 'z']")
    assert shares(said_, signature) == {"b": {"x": 0.25, "y": 0.5, "z": 0.25}}


def test_self_consistency() -> None:
    assert self_consistency([(1,), (1,)]) is None
    assert self_consistency([(4,), (2, 2)]) == (pytest.approx((1 + 4 / 12) / 2), 0.75)


def test_traces_are_traces() -> None:
    with teaching(answers):
        dspy.Predict(TASK)(text=TEXT)
        assert isinstance(history_traces(dspy.settings.lm, TASK)[0], Trace)

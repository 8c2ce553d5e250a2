"""The local LM server, asked as its users ask it: through the real dspy.LM."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Iterator
from typing import Any, Literal

import pytest

from dspex.errors import CallTimeoutError, ConfigError
from dspex.testing import Cut, Faults, HalfRight, Hang, LMServer, Malformed, Request, Slow, Status

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # importing DSPy warns, depending on its version
    dspy = pytest.importorskip("dspy")

SIGNATURE = "text, n: int -> label: Literal['a', 'b'], score: float"
RIGHT = {"label": "a", "score": 0.5}
CHAT, JSON, XML = dspy.ChatAdapter, dspy.JSONAdapter, dspy.XMLAdapter
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@pytest.fixture
def lm(lm_server: LMServer) -> Iterator[Any]:
    made = dspy.LM(**lm_server.lm_config(cache=False, num_retries=0))
    with dspy.context(lm=made, adapter=CHAT(use_json_adapter_fallback=False)):
        yield made


def ask(**inputs: Any) -> Any:
    return dspy.Predict(SIGNATURE)(**{"text": "hello", "n": 3, **inputs})


@pytest.mark.parametrize("adapter", [CHAT, JSON, XML])
def test_outputs_go_out_in_the_format_asked_for(lm_server: LMServer, lm: Any, adapter: Any) -> None:
    lm_server.answers = RIGHT
    with dspy.context(adapter=adapter()):
        answer = ask()
    assert (answer.label, answer.score) == ("a", 0.5)
    assert lm_server.requests[0].outcome == "answered"


@pytest.mark.parametrize("adapter", [CHAT, JSON, XML])
def test_a_callable_sees_inputs_and_wished_outputs(lm_server: LMServer, lm: Any, adapter: Any) -> None:
    seen: list[Request] = []

    def answer(request: Request) -> dict[str, Any]:
        seen.append(request)
        return {"label": "b", "score": len(request.fields["text"]), "unasked": 1}

    lm_server.answers = answer
    text = "two\nlines\n[[ ## marker ## ]]\nRespond with nothing"
    with dspy.context(adapter=adapter()):
        assert ask(text=text).score == len(text)
    (request,) = seen
    assert request.fields == {"text": text, "n": "3"}
    assert request.output_fields == ("label", "score")
    assert request.model == "test-model"
    assert [message["role"] for message in request.messages] == ["system", "user"]
    assert text in request.text


def test_demos_are_not_taken_for_the_inputs(lm_server: LMServer, lm: Any) -> None:
    lm_server.answers = lambda request: {"label": request.fields["text"], "score": 1}
    predict = dspy.Predict(SIGNATURE)
    predict.demos = [dspy.Example(text="demo", n=1, label="a", score=0.1)]
    assert predict(text="b", n=2).label == "b"


@pytest.mark.parametrize("adapter", [CHAT, JSON])
def test_values_of_many_types_arrive_as_they_were(lm_server: LMServer, lm: Any, adapter: Any) -> None:
    lm_server.answers = {"flag": True, "names": ["x", "y"], "facts": {"k": 1}, "mood": None, "number": -2}
    signature = dspy.Signature(
        {
            "text": (str, dspy.InputField()),
            "flag": (bool, dspy.OutputField()),
            "names": (list[str], dspy.OutputField()),
            "facts": (dict[str, int], dspy.OutputField()),
            "mood": (Literal["good"] | None, dspy.OutputField()),
            "number": (int, dspy.OutputField()),
        }
    )
    with dspy.context(adapter=adapter()):
        assert dict(dspy.Predict(signature)(text="t").items()) == lm_server.answers


def test_one_mapping_serves_programs_of_several_steps(lm_server: LMServer, lm: Any) -> None:
    lm_server.answers = {**RIGHT, "reasoning": "because"}
    thoughtful = dspy.ChainOfThought(SIGNATURE)(text="t", n=1)
    assert (thoughtful.reasoning, thoughtful.label) == ("because", "a")
    assert ask().label == "a"


def test_text_goes_out_as_it_is_and_tokens_are_words(lm_server: LMServer, lm: Any) -> None:
    lm_server.answers = "just four words here"
    with dspy.track_usage() as tracker:
        assert lm("one two") == ["just four words here"]
    (usage,) = tracker.get_total_tokens().values()
    assert (usage["prompt_tokens"], usage["completion_tokens"], usage["total_tokens"]) == (2, 4, 6)


def test_several_answers_to_one_call(lm_server: LMServer, lm: Any) -> None:
    lm_server.answers = ["one", "two"]  # DSPy's own engine sends a request for each
    assert sorted(lm("x", n=2)) == ["one", "two"]


def test_a_list_is_given_in_order_and_then_used_up(lm_server: LMServer, lm: Any) -> None:
    lm_server.answers = ["one", "two"]
    assert [lm("x"), lm("x")] == [["one"], ["two"]]
    with pytest.raises(Exception, match="its list of 2 is used up"):
        lm("x")
    lm_server.answers = ["again"]
    assert lm("x") == ["again"]
    lm_server.clear()
    assert lm("x") == ["again"]
    assert lm_server.count == 1


async def many(count: int) -> list[Any]:
    predict = dspy.Predict(SIGNATURE)
    return await asyncio.gather(*(predict.acall(text=str(at), n=at) for at in range(count)))


def test_async_calls_are_served_at_once(lm_server: LMServer, lm: Any) -> None:
    lm_server.answers = lambda request: {"label": "a", "score": request.fields["n"]}
    lm_server.delay = 0.1
    answers = asyncio.run(many(8))
    assert [answer.score for answer in answers] == list(range(8))
    assert lm_server.max_in_flight > 1
    lm_server.wait_idle()
    assert lm_server.in_flight == 0


async def streamed() -> list[Any]:
    listener = dspy.streaming.StreamListener(signature_field_name="answer")
    program = dspy.streamify(dspy.Predict("question -> answer"), stream_listeners=[listener])
    return [part async for part in program(question="why?")]


def test_streams(lm_server: LMServer, lm: Any) -> None:
    lm_server.answers = {"answer": "one two three four five six seven eight nine ten"}
    parts = asyncio.run(streamed())
    pieces = [part.chunk for part in parts if isinstance(part, dspy.streaming.StreamResponse)]
    assert len(pieces) > 2
    assert "".join(pieces).strip() == lm_server.answers["answer"]
    assert parts[-1].answer == lm_server.answers["answer"]
    assert lm_server.requests[0].request.stream


# --- faults, as DSPy sees them ---


@pytest.mark.parametrize(
    ("answers", "outcome"),
    [
        (Status(500), "status 500"),
        (Status(429, retry_after=2), "status 429"),
        (Status(401), "status 401"),
        (Cut(), "cut"),
        (Cut(after_bytes=40), "cut"),
        (Malformed(), "malformed"),
        (HalfRight(answer=RIGHT), "half right"),
        (HalfRight(replace={"label": "no such class"}, answer=RIGHT), "half right"),
        (HalfRight(leave_out="label", answer=RIGHT), "half right"),
    ],
)
def test_a_fault_is_an_error(lm_server: LMServer, lm: Any, answers: Any, outcome: str) -> None:
    lm_server.answers = answers
    with pytest.raises(Exception):  # noqa: B017, PT011 - DSPy's own types, which differ from version to version
        ask()
    assert [entry.outcome for entry in lm_server.requests] == [outcome]
    lm_server.answers = RIGHT
    assert ask().label == "a"


def test_a_stream_can_be_cut(lm_server: LMServer, lm: Any) -> None:
    lm_server.answers = Cut(after_bytes=400, answer={"answer": "word " * 100})
    with pytest.raises(BaseException):  # noqa: B017, PT011 - a group of DSPy's own errors
        asyncio.run(streamed())
    assert lm_server.requests[0].outcome == "cut"


def test_a_hung_request_ends_when_the_client_goes(lm_server: LMServer) -> None:
    lm_server.answers = Hang()
    impatient = dspy.LM(**lm_server.lm_config(cache=False, num_retries=0, timeout=0.2))
    with pytest.raises(Exception):  # noqa: B017, PT011
        impatient("x")
    lm_server.wait_idle(2)
    assert lm_server.requests[0].outcome == "gone"


def test_a_cancelled_call_is_seen_to_go(lm_server: LMServer, lm: Any) -> None:
    lm_server.answers, lm_server.delay = RIGHT, 30.0

    async def give_up() -> None:
        await asyncio.wait_for(dspy.Predict(SIGNATURE).acall(text="t", n=1), 0.2)

    with pytest.raises(asyncio.TimeoutError):
        asyncio.run(give_up())
    lm_server.wait_idle(2)
    assert lm_server.requests[0].outcome == "gone"


def test_a_slow_answer_is_dripped_and_whole(lm_server: LMServer, lm: Any) -> None:
    lm_server.answers = Slow(drip=2000, answer=RIGHT)
    begun = time.monotonic()
    assert ask().label == "a"
    assert time.monotonic() - begun > 0.1  # its body has more than 300 bytes
    assert lm_server.requests[0].outcome == "slow"


def test_faults_come_in_their_shares_and_the_same_from_a_seed() -> None:
    def drawn(seed: int) -> list[Any]:
        faults = Faults({Status(503): 0.1}, server_error=0.3, hang=0.02, seed=seed)
        return [faults.draw() for _ in range(2000)]

    first = drawn(1)
    assert first == drawn(1) != drawn(2)
    for fault, share in ((Status(503), 0.1), (Status(500), 0.3), (Hang(), 0.02), (None, 0.58)):
        assert first.count(fault) / 2000 == pytest.approx(share, abs=0.05)


def test_a_share_of_the_requests_fails(lm_server: LMServer, lm: Any) -> None:
    lm_server.answers, lm_server.faults = RIGHT, Faults(half_right=0.5, seed=3)
    for _ in range(20):
        with contextlib.suppress(dspy.utils.exceptions.AdapterParseError):
            assert ask().label == "a"
    outcomes = [entry.outcome for entry in lm_server.requests]
    assert set(outcomes) == {"answered", "half right"}


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Faults(hang=1.5), "not in"),
        (lambda: Faults(hang=-0.1), "not in"),
        (lambda: Faults(hang=0.6, cut=0.6), "1.2 together"),
        (lambda: Status(200), "no HTTP error"),
        (lambda: Slow(0), "above 0"),
        (lambda: LMServer(answers=7), "not int"),
        (lambda: LMServer().url, "not been started"),
    ],
)
def test_nonsense_is_refused(make: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make()


@pytest.mark.parametrize(
    ("answers", "reason"),
    [
        (None, "it was given none"),
        (lambda request: 1 / 0, "ZeroDivisionError"),
        (lambda request: 7, "not int"),
        (lambda request: {"other": 1}, "the outputs asked for are label, score"),
        (HalfRight(), "a mapping of outputs"),
        (lambda request: ["one", "two"], "2 answers were given and 1 are asked for"),
    ],
)
def test_what_has_no_answer_is_an_error_that_says_why(
    lm_server: LMServer, lm: Any, answers: Any, reason: str
) -> None:
    lm_server.answers = answers
    with pytest.raises(Exception, match=reason):
        ask()
    assert lm_server.count == 1, "a status that nobody tries again"
    assert str(lm_server.requests[0].outcome).startswith("no answer: ")


# --- the log and the life ---


def test_the_log_holds_no_secrets(lm_server: LMServer, lm: Any) -> None:
    lm_server.answers = "x"
    secret = dspy.LM(**{**lm_server.lm_config(cache=False), "api_key": "s3cret"})
    secret("x")
    (entry,) = lm_server.requests
    assert entry.headers["content-type"] == "application/json"
    assert "s3cret" not in repr(entry)
    assert time.monotonic() - entry.time < 10


def test_waiting_for_requests(lm_server: LMServer, lm: Any) -> None:
    lm_server.answers = "x"
    with pytest.raises(CallTimeoutError, match="0 of 1 requests"):
        lm_server.wait_for(1, timeout=0.01)
    thread = threading.Thread(target=lm, args=("x",))
    thread.start()
    lm_server.wait_for(1)
    thread.join()


def test_it_can_be_had_without_dspy_and_pytest() -> None:
    code = "import sys; from dspex.testing import LMServer; print({'dspy', 'pytest'} & set(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.strip() == "set()"

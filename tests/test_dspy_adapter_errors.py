"""What can go wrong with an LM, as errors of dspex: category, what helps, field and program."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import Any

import dspy
import pytest

from dspex.adapters.dspy import DspyAdapter
from dspex.errors import (
    CallTimeoutError,
    CommunicationError,
    ConfigError,
    DspexError,
    LMError,
    ProgramError,
)
from dspex.testing.lm_server import Cut, HalfRight, Hang, LMServer, Malformed, Status
from dspy_adapter_tools import LABEL, NO_RETRY, Fixed, over, program

ROW = {"text": "x"}


def ways(adapter: DspyAdapter, pid: str) -> list[Callable[[], Any]]:
    return [
        lambda: adapter.execute_program(pid, ROW),
        lambda: adapter.execute_program(pid, ROW, {"timeout": 20}),
        lambda: asyncio.run(adapter.aexecute_program(pid, ROW)),
        lambda: adapter.execute_batch(pid, [ROW]),
    ]


@pytest.mark.parametrize(
    ("answer", "error", "retryable", "message"),
    [
        (Status(400, message="bad parameter"), LMError, False, "bad parameter"),
        (Status(401, message="wrong key"), LMError, False, "refused the credentials.*wrong key.*401"),
        (Status(403, message="not yours"), LMError, False, "refused the credentials.*not yours"),
        (Status(402, message="no money"), LMError, False, "refused the credentials.*no money"),
        (Status(404, message="no such model"), LMError, False, "no such model"),
        (Status(422, message="not so"), LMError, False, "not so"),
        (Status(429, message="slow down"), LMError, True, "rate limit.*slow down"),
        (Status(500, message="oops"), LMError, True, "the LM failed.*oops"),
        (Status(503, message="oops"), LMError, True, "the LM failed.*oops"),
        (Status(504, message="took long"), CallTimeoutError, True, "timed out.*took long"),
        (Cut(), CommunicationError, True, "cannot be reached"),
        (Cut(after_bytes=20), CommunicationError, True, "cannot be reached"),
        (Malformed(), CommunicationError, True, "reply cannot be read"),
        ("no format at all", LMError, False, "does not fit output 'label'.*no format at all"),
        ("", LMError, False, "does not fit"),
    ],
    ids=str,
)
def test_failures_of_the_lm(
    lm_server: LMServer, answer: Any, error: type[DspexError], retryable: bool, message: str
) -> None:
    lm_server.answers = answer
    adapter, pid = program(lm_server, {"signature": LABEL, "id": "fragile"})
    for call in ways(adapter, pid):
        with pytest.raises(error, match=message) as caught:
            call()
        assert caught.value.retryable is retryable
        assert caught.value.program == "fragile"
        assert caught.value.__cause__ is not None
        assert "RouterConfig" not in str(caught.value)
        assert len(str(caught.value)) < 600
    assert adapter.get_stats()["errors"] == {error.category: 4}


def test_retry_after_is_passed_on(lm_server: LMServer) -> None:
    lm_server.answers = Status(429, retry_after=17)
    adapter, pid = program(lm_server)
    with pytest.raises(LMError) as caught:
        adapter.execute_program(pid, ROW)
    assert caught.value.retry_after == 17


def test_nobody_listens() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    settings = {
        "model": "openai/x",
        "api_base": f"http://127.0.0.1:{port}/v1",
        "api_key": "k",
        "retry": NO_RETRY,
    }
    adapter = DspyAdapter({"lms": {"nobody": settings}})
    pid = adapter.create_program({"signature": LABEL})
    for call in ways(adapter, pid):
        with pytest.raises(CommunicationError, match="cannot be reached") as caught:
            call()
        assert caught.value.retryable
        assert caught.value.program == pid


def test_an_lm_that_sends_nothing_for_its_timeout(lm_server: LMServer) -> None:
    lm_server.answers = Hang()
    adapter, pid = program(lm_server, lm={"timeout": 0.2})
    for call in ways(adapter, pid):
        with pytest.raises((CallTimeoutError, CommunicationError)) as caught:
            call()
        assert caught.value.retryable


def test_half_right_answers(lm_server: LMServer) -> None:
    good = {"topic": "money", "label": "refund", "score": 0.5}
    signature = "text -> topic, label: Literal['refund', 'card_lost'], score: float"
    adapter, pid = program(lm_server, {"signature": signature, "id": "three"})
    for form in ("chat", "json", "xml"):
        own = adapter.create_program({"signature": signature, "id": form, "dspy": {"format": form}})
        for fault, field in (
            (HalfRight(leave_out="topic", answer=good), "topic"),
            (HalfRight(leave_out="score", answer=good), "score"),
            (HalfRight(replace={"label": "weather"}, answer=good), "label"),
            (HalfRight(replace={"score": "high"}, answer=good), "score"),
        ):
            lm_server.answers = fault
            for call in ways(adapter, own):
                with pytest.raises(LMError) as caught:
                    call()
                assert (caught.value.field, caught.value.program) == (field, form)
                assert not caught.value.retryable
    lm_server.answers = good
    assert adapter.execute_program(pid, ROW).score == 0.5


def test_a_missing_output_is_never_filled_in(lm_server: LMServer) -> None:
    """An optional one may be missing, as its type says; others may not."""
    adapter = over(lm_server)
    pid = adapter.create_program({"signature": "text -> label: str, why: Optional[str]"})
    lm_server.answers = {"label": "refund"}
    assert dict(adapter.execute_program(pid, ROW)) == {"label": "refund", "why": None}
    lm_server.answers = {"why": "so"}
    with pytest.raises(LMError) as caught:
        adapter.execute_program(pid, ROW)
    assert caught.value.field == "label"


def test_an_lm_that_is_not_set_up(lm_server: LMServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    adapter = DspyAdapter(
        {"lms": {"bare": {"model": "openai/x", "api_base": lm_server.url, "retry": NO_RETRY}}}
    )
    pid = adapter.create_program({"signature": LABEL})
    with pytest.raises(ConfigError, match="cannot be used as it is set up") as caught:
        adapter.execute_program(pid, ROW)
    assert caught.value.field == "lm"
    assert lm_server.count == 0


def test_an_error_in_the_users_code_is_not_the_lms(lm_server: LMServer) -> None:
    def fails() -> Any:
        raise ValueError("x" * 1000)

    adapter, pid = program(lm_server, {"signature": LABEL, "module": Fixed(fails)})
    with pytest.raises(ProgramError, match="the program raised ValueError: xxx") as caught:
        adapter.execute_program(pid, ROW)
    assert len(caught.value.message) < 400
    assert isinstance(caught.value.__cause__, ValueError)

    for odd in (TimeoutError, StopIteration, StopAsyncIteration, AssertionError, OSError):

        def raises(odd: type[Exception] = odd) -> Any:
            raise odd("in the module")

        other = adapter.create_program({"signature": LABEL, "module": Fixed(raises)})
        for call in ways(adapter, other):
            with pytest.raises(ProgramError, match=f"{odd.__name__}.*in the module"):
                call()


def test_an_engine_that_raises_anything(lm_server: LMServer) -> None:
    class Odd:
        def complete(self, request: Any) -> Any:
            raise self.error

    engine: Any = Odd()
    settings = {
        "model": "test/odd",
        "options": {"engine": engine},
        "retry": NO_RETRY,
        "breaker": {"enabled": False},
    }
    adapter = DspyAdapter({"lms": {"odd": settings}})
    pid = adapter.create_program({"signature": LABEL})
    for error in (
        RuntimeError("odd"),
        StopIteration("odd"),
        dspy.lm15.ServerError("odd"),
    ):
        engine.error = error
        for call in ways(adapter, pid):
            with pytest.raises(LMError, match="odd"):
                call()
    engine.error = dspy.lm15.ContextLengthError("8192 tokens at most")
    for call in ways(adapter, pid):
        with pytest.raises(LMError, match=r"prompt is too long for the LM.*8192") as caught:
            call()
        assert not caught.value.retryable


def test_a_shared_error_names_the_row_of_the_batch(lm_server: LMServer) -> None:
    lm_server.answers = lambda request: (
        Status(400) if request.fields["text"] == "bad" else {"label": "refund"}
    )
    adapter, pid = program(lm_server, dspy={"concurrency": 1})
    with pytest.raises(LMError) as caught:
        adapter.execute_batch(pid, [{"text": "good"}, {"text": "bad"}, {"text": "good"}])
    assert caught.value.row == 1
    assert lm_server.count == 2  # what has not begun is dropped


class OwnLM(dspy.BaseLM):
    """An LM of the user's, in the form that DSPy calls legacy."""

    def __init__(self, error: Exception) -> None:
        super().__init__("own/lm")
        self.error = error
        self.num_retries = 0

    def forward(self, prompt: Any = None, messages: Any = None, **kwargs: Any) -> Any:
        raise self.error


@pytest.mark.filterwarnings("ignore:Implementing custom LMs:DeprecationWarning")
@pytest.mark.parametrize(
    ("raised", "error", "retryable"),
    [
        (ConnectionRefusedError("nobody listens"), CommunicationError, True),
        (TimeoutError("too slow"), CallTimeoutError, True),
        (RuntimeError("out of order"), LMError, False),
    ],
)
def test_what_an_lm_of_the_users_raises_is_the_lms(
    raised: Exception, error: type[DspexError], retryable: bool
) -> None:
    with DspyAdapter() as adapter:
        pid = adapter.create_program({"signature": LABEL, "lm": OwnLM(raised)})
        for _ in range(10):
            with pytest.raises(error) as caught:
                adapter.execute_program(pid, {"text": "x"})
            assert caught.value.retryable is retryable
        with pytest.raises(LMError, match="left alone"):  # they speak against it
            adapter.execute_program(pid, {"text": "x"})

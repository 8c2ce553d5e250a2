"""Agents: tools of every form, sync and async, tools that raise, that block, and that ask other programs."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from typing import Any

import dspy
import pytest

from dspex.adapters.dspy import DspyAdapter
from dspex.errors import CallTimeoutError, ConfigError, LMError, ProgramError, ResourceError
from dspex.result import Result
from dspex.testing.lm_server import Hang, LMServer, Request
from dspy_adapter_tools import aadd, add, over, program, steps

SIGNATURE = "question -> answer: int"


def both(adapter: DspyAdapter, pid: str, **options: Any) -> list[Callable[[], Result]]:
    row = {"question": "20 and 22?"}
    return [
        lambda: adapter.execute_program(pid, row, options),
        lambda: asyncio.run(adapter.aexecute_program(pid, row, options)),
    ]


class Adder:
    """Adds two numbers."""

    def __init__(self) -> None:
        self.calls = 0
        self.lock = threading.Lock()  # what holds a lock cannot be copied

    def __call__(self, a: int, b: int) -> int:
        return self.method(a, b)

    def method(self, a: int, b: int) -> int:
        """Adds two numbers."""
        self.calls += 1
        return a + b


class AsyncAdder:
    async def __call__(self, a: int, b: int) -> int:
        return a + b


TOOLS = [
    (add, "add"),
    (aadd, "aadd"),
    (dspy.Tool(add, name="sum", desc="adds"), "sum"),
    (dspy.Tool(aadd, name="asum"), "asum"),
    ("dspy_adapter_tools:add", "add"),
    ("dspy_adapter_tools:aadd", "aadd"),
    ("dspy_adapter_tools:add_tool", "plus"),
    (Adder(), "Adder"),
    (Adder().method, "method"),
    (AsyncAdder(), "AsyncAdder"),
]


@pytest.mark.parametrize("timeout", [None, 10.0])
@pytest.mark.parametrize(("tool", "name"), TOOLS, ids=lambda each: str(each)[:30])
def test_tools_of_every_form(lm_server: LMServer, tool: Any, name: str, timeout: float | None) -> None:
    lm_server.answers = steps((name, {"a": 20, "b": 22}))
    spec = {"signature": SIGNATURE, "kind": "react", "tools": [tool], "dspy": {"timeout": timeout}}
    adapter, pid = program(lm_server, spec)
    for call in both(adapter, pid):
        result = call()
        assert result.answer == 42
        assert result.reasoning == "done"
        assert result.trajectory["observation_0"] == 42
        assert result.usage is not None
        assert result.usage["requests"] == 3
        assert result.usage["lms"] == {"server": 3}


def test_sync_and_async_tools_side_by_side(lm_server: LMServer) -> None:
    threads = {}

    def here(a: int) -> int:
        """A blocking tool."""
        threads["sync"] = threading.get_ident()
        return a

    async def there(a: int) -> int:
        """A tool for event loops."""
        threads["async"] = threading.get_ident()
        return a

    lm_server.answers = steps(("here", {"a": 1}), ("there", {"a": 2}))
    adapter, pid = program(lm_server, {"signature": SIGNATURE, "kind": "react", "tools": [here, there]})

    async def on_loop() -> Result:
        result = await adapter.aexecute_program(pid, {"question": "?"})
        assert threads["async"] == threading.get_ident() != threads["sync"]
        return result

    assert asyncio.run(on_loop()).answer == 2
    assert adapter.execute_program(pid, {"question": "?"}).answer == 2


def test_a_blocking_tool_does_not_hold_up_the_loop(lm_server: LMServer) -> None:
    def slow(a: int) -> int:
        """Takes its time."""
        time.sleep(0.3)
        return a

    lm_server.answers = steps(("slow", {"a": 7}))
    adapter, pid = program(lm_server, {"signature": SIGNATURE, "kind": "react", "tools": [slow]})

    async def beside() -> tuple[Result, float]:
        call = asyncio.create_task(adapter.aexecute_program(pid, {"question": "?"}))
        longest, before = 0.0, time.monotonic()
        while not call.done():
            await asyncio.sleep(0.005)
            now = time.monotonic()
            longest, before = max(longest, now - before), now
        return call.result(), longest

    result, longest = asyncio.run(beside())
    assert result.answer == 7
    assert longest < 0.25


def test_an_async_tool_in_a_sync_call_from_a_loop(lm_server: LMServer) -> None:
    lm_server.answers = steps(("aadd", {"a": 20, "b": 22}))
    adapter, pid = program(lm_server, {"signature": SIGNATURE, "kind": "react", "tools": [aadd]})

    async def calls_sync() -> Result:
        return adapter.execute_program(pid, {"question": "?"})

    assert asyncio.run(calls_sync()).answer == 42


class Broken(Exception):
    pass


def broken(a: int) -> int:
    """Does not work."""
    raise Broken("no such account")


async def abroken(a: int) -> int:
    """Does not work."""
    await asyncio.sleep(0)
    raise Broken("no such account")


def half_async(a: int) -> Any:
    """Does not work."""
    return abroken(a)


@pytest.mark.parametrize("tool", [broken, abroken, half_async])
@pytest.mark.parametrize("timeout", [None, 10.0])
def test_a_tool_that_raises_ends_the_call(lm_server: LMServer, tool: Any, timeout: float | None) -> None:
    lm_server.answers = steps((tool.__name__, {"a": 1}))
    spec = {
        "signature": SIGNATURE,
        "kind": "react",
        "tools": [tool],
        "id": "agent",
        "dspy": {"timeout": timeout},
    }
    adapter, pid = program(lm_server, spec)
    for call in both(adapter, pid):
        lm_server.clear()
        with pytest.raises(
            ProgramError, match=f"tool '{tool.__name__}' raised Broken: no such account"
        ) as caught:
            call()
        assert caught.value.program == "agent"
        assert caught.value.field == tool.__name__
        assert isinstance(caught.value.__cause__, BaseException)
        assert not caught.value.retryable
        assert lm_server.count == 1  # the LM is not asked what it makes of it


@pytest.mark.parametrize("tool", [broken, abroken, half_async])
def test_or_is_observed_as_dspy_does_it(lm_server: LMServer, tool: Any) -> None:
    lm_server.answers = steps((tool.__name__, {"a": 1}))
    spec = {
        "signature": SIGNATURE,
        "kind": "react",
        "tools": [tool],
        "dspy": {"on_tool_error": "observe"},
    }
    adapter, pid = program(lm_server, spec)
    for call in both(adapter, pid):
        result = call()
        assert "no such account" in result.trajectory["observation_0"]


def test_wrong_arguments_are_the_lms_to_see(lm_server: LMServer) -> None:
    lm_server.answers = steps(("add", {"a": "twenty", "b": 22}), ("add", {"a": 20, "b": 22}))
    adapter, pid = program(lm_server, {"signature": SIGNATURE, "kind": "react", "tools": [add]})
    for call in both(adapter, pid):
        result = call()
        assert "invalid" in result.trajectory["observation_0"]
        assert result.answer == 42


@pytest.mark.parametrize(("kind", "retryable"), [(ResourceError, True), (ProgramError, False)])
def test_an_error_of_dspex_from_a_tool_keeps_its_category(
    lm_server: LMServer, kind: type[Any], retryable: bool
) -> None:
    def full(a: int) -> int:
        """Has no room."""
        raise kind("no room", retry_after=3.0 if retryable else None)

    lm_server.answers = steps(("full", {"a": 1}))
    adapter, pid = program(lm_server, {"signature": SIGNATURE, "kind": "react", "tools": [full]})
    with pytest.raises(kind, match="tool 'full' raised") as caught:
        adapter.execute_program(pid, {"question": "?"})
    assert caught.value.retryable is retryable
    assert caught.value.retry_after == (3.0 if retryable else None)


def test_ctrl_c_in_a_tool_passes(lm_server: LMServer) -> None:
    def interrupted(a: int) -> int:
        """Somebody presses Ctrl-C."""
        raise KeyboardInterrupt

    lm_server.answers = steps(("interrupted", {"a": 1}))
    adapter, pid = program(lm_server, {"signature": SIGNATURE, "kind": "react", "tools": [interrupted]})
    with pytest.raises(KeyboardInterrupt):
        adapter.execute_program(pid, {"question": "?"})


def test_a_tool_that_asks_another_program(lm_server: LMServer) -> None:
    adapter = over(lm_server)
    inner = adapter.create_program({"id": "inner", "signature": "topic -> number: int"})

    def ask(topic: str) -> int:
        """Asks somebody else."""
        result = adapter.execute_program(inner, {"topic": topic})
        assert result.usage is not None
        assert result.usage["requests"] == 1
        return int(result.number)

    async def aask(topic: str) -> int:
        """Asks somebody else."""
        return int((await adapter.aexecute_program(inner, {"topic": topic})).number)

    def answer(request: Request) -> Any:
        if "number" in request.output_fields:
            return {"number": len(request.fields["topic"])}
        return plan(request)

    lm_server.answers = answer
    for tool in (ask, aask):
        plan = steps((tool.__name__, {"topic": "seven.."}))
        outer = adapter.create_program({"signature": SIGNATURE, "kind": "react", "tools": [tool]})
        for call in both(adapter, outer):
            result = call()
            assert result.answer == 7
            assert result.usage is not None
            assert result.usage["requests"] == 3  # what the other program used is its own


def test_what_a_tool_asks_ends_by_the_deadline_of_the_call(lm_server: LMServer) -> None:
    adapter = over(lm_server)
    inner = adapter.create_program({"id": "inner", "signature": "topic -> number: int"})

    def ask(topic: str) -> int:
        """Asks somebody else, without a deadline."""
        return int(adapter.execute_program(inner, {"topic": topic}).number)

    def answer(request: Request) -> Any:
        return Hang() if "number" in request.output_fields else steps(("ask", {"topic": "t"}))(request)

    lm_server.answers = answer
    outer = adapter.create_program({"id": "outer", "signature": SIGNATURE, "kind": "react", "tools": [ask]})
    for call in both(adapter, outer, timeout=0.3):
        started = time.monotonic()
        with pytest.raises(CallTimeoutError) as caught:
            call()
        assert time.monotonic() - started < 0.5
        assert caught.value.program == "outer"
        lm_server.wait_idle(1)
    assert adapter.get_stats()["errors"]["timeout"] >= 2


def test_an_agent_whose_lm_gives_no_valid_step(lm_server: LMServer) -> None:
    lm_server.answers = {"next_thought": "so", "next_tool_name": "no_such_tool", "next_tool_args": {}}
    adapter, pid = program(
        lm_server, {"signature": SIGNATURE, "kind": "react", "tools": [add], "id": "agent"}
    )
    with pytest.raises(LMError) as caught:
        adapter.execute_program(pid, {"question": "?"})
    assert (caught.value.field, caught.value.program) == ("next_tool_name", "agent")


def finish() -> str:
    return "mine"


@pytest.mark.parametrize(
    ("tools", "message"),
    [
        ([add, add], "'add' has the name of another tool"),
        ([finish], "'finish' has the name of the agent's own tool"),
        (["dspy_adapter_tools:no_such"], "cannot be imported"),
        (["no_such_module:f"], "cannot be imported"),
        (["dspy_adapter_tools:STRESS"], "cannot be a tool"),
    ],
)
def test_tools_that_cannot_be(lm_server: LMServer, tools: list[Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        program(lm_server, {"signature": SIGNATURE, "kind": "react", "tools": tools, "id": "agent"})
    assert (caught.value.field, caught.value.program) == ("tools", "agent")


def test_max_iters_is_an_init(lm_server: LMServer) -> None:
    lm_server.answers = steps(*[("add", {"a": 1, "b": 1})] * 9)
    spec = {"signature": SIGNATURE, "kind": "react", "tools": [add], "init": {"max_iters": 2}}
    adapter, pid = program(lm_server, spec)
    adapter.execute_program(pid, {"question": "?"})
    assert lm_server.count == 3


@pytest.mark.parametrize("agent", [dspy.ReAct, dspy.ReActV2])
def test_the_tools_of_a_live_agent_are_its_own(lm_server: LMServer, agent: Any) -> None:
    counter = Adder()
    module = agent(SIGNATURE, tools=[counter.method, broken])
    if agent is dspy.ReAct:
        lm_server.answers = steps(("method", {"a": 20, "b": 22}))
    else:
        call = {"tool_calls": [{"name": "method", "args": {"a": 20, "b": 22}}]}
        end = {"tool_calls": [{"name": "submit", "args": {"answer": 42}}]}
        lm_server.answers = [{"next_thought": "", "tool_calls": each} for each in (call, end)]
    adapter, pid = program(lm_server, {"module": module})
    assert adapter.execute_program(pid, {"question": "?"}).answer == 42
    assert counter.calls == 1  # not a copy of it
    assert module.tools["broken"].func is broken

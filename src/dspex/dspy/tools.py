"""Tools of agents: made from functions and import paths, kept from blocking an event loop, and from failing
unseen.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import dspy

from dspex.dspy.failures import ToolFailed
from dspex.dspy.imports import imported
from dspex.dspy.loops import apart
from dspex.errors import ConfigError

__all__ = ["guard_tools", "made_tools"]

_ENDING = {dspy.ReAct: "finish", dspy.ReActV2: "submit"}  # the agents, and the tool of their own


def made_tools(tools: Sequence[Any]) -> list[Any]:
    """The tools that functions, import paths and `dspy.Tool`s stand for.

    Raises:
        ConfigError: one cannot be a tool, or its name is taken.
    """
    made = [_made(tool) for tool in tools]
    names = ["finish"]
    for tool in made:
        if tool.name in names:
            what = "the agent's own" if tool.name == "finish" else "another"
            raise ConfigError(
                f"tool {tool.name!r} has the name of {what} tool",
                field="tools",
                hint="Give it another: dspy.Tool(function, name=...)",
            )
        names.append(tool.name)
    return made


def _made(tool: Any) -> Any:
    found = imported(tool, "tools") if isinstance(tool, str) else tool
    if isinstance(found, dspy.Tool):
        return found
    try:
        return dspy.Tool(found)
    except Exception as error:
        raise ConfigError(
            f"{tool!r} cannot be a tool: {type(error).__name__}: {error}",
            field="tools",
            hint="A tool is a function with typed arguments",
        ) from error


def guard_tools(module: Any, *, raising: bool) -> None:
    """Has agents that run on an event loop run tools that are no coroutine functions on threads.

    Args:
        raising: a tool that raises ends the call, instead of being told to the LM.
    """
    for _, agent in module.named_sub_modules(tuple(_ENDING)):
        ending = next(name for kind, name in _ENDING.items() if isinstance(agent, kind))
        agent.tools = {
            name: tool if name == ending else _guarded(tool, raising) for name, tool in agent.tools.items()
        }


def _guarded(tool: Any, raising: bool) -> Any:
    func = _raising(tool.func, tool.name) if raising else tool.func
    if type(tool) is not dspy.Tool:  # a class of the user's own keeps its ways
        return tool.model_copy(update={"func": func})
    return _OffLoopTool.model_construct(**{**dict(tool), "func": func})


class _OffLoopTool(dspy.Tool):  # type: ignore[misc]  # DSPy is not typed
    """A tool that never blocks the event loop of an agent."""

    async def acall(self, **kwargs: Any) -> Any:
        if _is_async(self.func):
            return await super().acall(**kwargs)
        return await asyncio.wrap_future(apart(self, **kwargs))


def _is_async(function: Callable[..., Any]) -> bool:
    called = function if inspect.isroutine(function) else getattr(function, "__call__", None)  # noqa: B004
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(called)


def _raising(function: Callable[..., Any], name: str) -> Callable[..., Any]:
    if _is_async(function):

        @functools.wraps(function)
        async def acalled(*args: Any, **kwargs: Any) -> Any:
            return await _awaited(function(*args, **kwargs), name)

        return acalled

    @functools.wraps(function)
    def called(*args: Any, **kwargs: Any) -> Any:
        try:
            result = function(*args, **kwargs)
        except Exception as error:
            raise ToolFailed(name, error) from error
        return _awaited(result, name) if inspect.iscoroutine(result) else result

    return called


async def _awaited(result: Awaitable[Any], name: str) -> Any:
    try:
        return await result
    except Exception as error:
        raise ToolFailed(name, error) from error

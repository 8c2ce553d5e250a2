"""The last message of the user and the answer, from the attributes and events of an LM's span."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from dspex.distill.imports.history import text_of
from dspex.distill.imports.spans import json_or_text

__all__ = ["messages_of"]

_ASKED = ("gen_ai.input.messages", "gen_ai.prompt", "llm.input_messages")
_SAID = ("gen_ai.output.messages", "gen_ai.completion", "llm.output_messages")
Events = Sequence[tuple[str, Mapping[str, Any]]]


def messages_of(attributes: Mapping[str, Any], events: Events) -> tuple[str, str] | None:
    """What was asked and what was said; None: the span has no messages.

    Attributes hold them as JSON (gen_ai from 1.37 on), or one by one under numbered names
    (``llm.input_messages.0.message.content``, ``gen_ai.prompt.0.content``); older conventions of gen_ai have
    an event for each.
    """
    everywhere = dict(attributes)
    for _, values in events:
        everywhere.update({key: value for key, value in values.items() if key in (*_ASKED, *_SAID)})
    asked = _of_attributes(everywhere, _ASKED) or _of_events(events, "gen_ai.user.message")
    said = _of_attributes(everywhere, _SAID) or _of_events(
        events, "gen_ai.choice", "gen_ai.assistant.message"
    )
    question = next((text for role, text in reversed(asked) if role == "user"), None)
    answer = next((text for _, text in said), None)
    return None if not question or not answer else (question, answer)


def _of_attributes(attributes: Mapping[str, Any], keys: Sequence[str]) -> list[tuple[str, str]]:
    """Role and text of each message under the first of the names that is there."""
    for key in keys:
        listed = json_or_text(attributes.get(key))
        if isinstance(listed, str):
            return [("user", listed)]
        if isinstance(listed, list) and (
            found := [_message(item) for item in listed if isinstance(item, Mapping)]
        ):
            return found
        if found := _numbered(attributes, key):
            return found
    return []


def _message(message: Mapping[str, Any]) -> tuple[str, str]:
    inner = message.get("message")
    message = inner if isinstance(inner, Mapping) else message
    content = message.get("content", message.get("parts", message.get("message.content")))
    return str(message.get("role", message.get("message.role", "user"))), text_of(content)


def _numbered(attributes: Mapping[str, Any], key: str) -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []
    while True:
        start = f"{key}.{len(found)}."
        values = {name[len(start) :]: value for name, value in attributes.items() if name.startswith(start)}
        if not values:
            return found
        values = {name.removeprefix("message."): value for name, value in values.items()}
        found.append((str(values.get("role", "user")), text_of(values.get("content"))))


def _of_events(events: Events, *names: str) -> list[tuple[str, str]]:
    found = []
    for name, values in events:
        if name in names:
            body = json_or_text(values.get("body", values.get("message", values)))
            body = body if isinstance(body, Mapping) else values
            found.append(_message({"role": "user", **body}))
    return found

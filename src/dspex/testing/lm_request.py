"""What a chat request asks for, read from the prompts that DSPy writes, and answers in that format."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from functools import cached_property
from typing import Any

from dspex.errors import ConfigError

__all__ = ["Request", "words"]

_MARKER = re.compile(r"^\[\[ ## (\w+) ## \]\][ \t]*", re.MULTILINE)
_LISTED = re.compile(r"^\d+\. `(\w+)` \(", re.MULTILINE)
# The sentence that ends DSPy's prompts, how it names the outputs, and the format that it stands for.
_WISHES = (
    ("chat", "Respond with the corresponding output fields, starting with the field ", r"`\[\[ ## (\w+) ##"),
    ("json", "Respond with a JSON object in the following order of fields: ", r"(?:^|, then )`(\w+)`"),
    ("xml", "Respond with the corresponding output fields wrapped in XML tags ", r"`<(\w+)>`"),
)  # fmt: skip


@dataclass(frozen=True)
class Request:
    """A chat request.

    Attributes:
        body: the whole of it, as sent.
    """

    body: Mapping[str, Any]

    @property
    def model(self) -> str:
        """As sent, without DSPy's provider: "test-model"."""
        return str(self.body.get("model", ""))

    @property
    def messages(self) -> list[dict[str, Any]]:
        messages = self.body.get("messages")
        return [m for m in messages if isinstance(m, dict)] if isinstance(messages, list) else []

    @property
    def stream(self) -> bool:
        return self.body.get("stream") is True

    @property
    def n(self) -> int:
        """How many answers are asked for."""
        n = self.body.get("n")
        return n if isinstance(n, int) and n > 0 else 1

    @cached_property
    def text(self) -> str:
        """The text of all messages."""
        return "\n\n".join(_text(message) for message in self.messages)

    @cached_property
    def format(self) -> str | None:
        """The adapter of DSPy that asks: "chat", "json" or "xml"; None: another prompt."""
        return self._wish[0]

    @cached_property
    def output_fields(self) -> tuple[str, ...]:
        """The outputs that are asked for, in order; empty where DSPy did not write the prompt."""
        return self._wish[1]

    @cached_property
    def fields(self) -> dict[str, str]:
        """The inputs that DSPy wrote into the last message, as text."""
        inputs = self._input_names
        if self.format == "xml":
            found = (
                (name, re.search(rf"^<{name}>\n(.*?)\n</{name}>$", self._asked, re.M | re.S))
                for name in inputs
            )
            return {name: match[1] for name, match in found if match}
        marks = [m for m in _MARKER.finditer(self._asked) if not inputs or m[1] in inputs]
        ends = [*(m.start() for m in marks[1:]), len(self._asked)]
        fields: dict[str, str] = {}
        for mark, end in zip(marks, ends, strict=False):
            fields.setdefault(mark[1], self._asked[mark.end() : end].strip())
        return fields

    def written(self, outputs: Mapping[str, Any]) -> str:
        """Outputs in the format that the request asks for; those that it does not ask for are left away.

        Raises:
            ConfigError: the request names no outputs, or none of these.
        """
        if self.format is None and "response_format" not in self.body:
            raise ConfigError("the request asks for no outputs by name", hint="Answer it with text")
        asked = {name: outputs[name] for name in self.output_fields or outputs if name in outputs}
        if not asked:
            names = ", ".join(self.output_fields)
            raise ConfigError(
                f"the outputs asked for are {names}; the answer has {', '.join(outputs) or 'none'}"
            )
        return self._format(asked)

    def _format(self, outputs: Mapping[str, Any]) -> str:
        if self.format == "xml":
            return "\n".join(f"<{name}>\n{_cell(value)}\n</{name}>" for name, value in outputs.items())
        if self.format == "chat":
            parts = [f"[[ ## {name} ## ]]\n{_cell(value)}" for name, value in outputs.items()]
            return "\n\n".join([*parts, "[[ ## completed ## ]]"])
        return json.dumps(outputs, default=_plain)

    @cached_property
    def _last(self) -> str:
        return next((_text(m) for m in reversed(self.messages) if m.get("role") == "user"), "")

    @cached_property
    def _wish(self) -> tuple[str | None, tuple[str, ...], int]:
        """Format, outputs, and where in the last message the sentence about them begins."""
        for form, sentence, names in _WISHES:
            at = self._last.rfind(sentence)
            if at >= 0:
                found = re.findall(names, self._last[at + len(sentence) :])
                return form, tuple(n for n in found if form != "chat" or n != "completed"), at
        return None, (), len(self._last)

    @cached_property
    def _asked(self) -> str:
        """The last message up to the sentence about outputs."""
        return self._last[: self._wish[2]]

    @cached_property
    def _input_names(self) -> tuple[str, ...]:
        """From the system message's list, so that markers within a text are not taken for inputs."""
        system = next((_text(m) for m in self.messages if m.get("role") in ("system", "developer")), "")
        listed = system.partition("Your input fields are:")[2].partition("\nYour output fields are:")[0]
        return tuple(_LISTED.findall(listed))


def words(text: str) -> int:
    """The number of words: what the server takes for tokens."""
    return len(text.split())


def _text(message: Mapping[str, Any]) -> str:
    content = message.get("content")
    if isinstance(content, list):
        return "\n".join(str(part.get("text", "")) for part in content if isinstance(part, dict))
    return content if isinstance(content, str) else ""


def _cell(value: Any) -> str:
    value = _plain(value)
    return json.dumps(value, default=_plain) if isinstance(value, list | dict) else str(value)


def _plain(value: Any) -> Any:
    if isinstance(value, Enum):
        return value.value
    return list(value) if isinstance(value, tuple | set | frozenset) else value

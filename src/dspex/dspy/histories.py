"""Traces from DSPy's own histories of calls."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

import dspy
from dspy.adapters.utils import parse_value
from dspy.clients.base_lm import GLOBAL_HISTORY

from dspex.checks import check_inputs, check_outputs
from dspex.distill.trace import Answer, Trace
from dspex.dspy.soft import from_logprobs, majority, shares
from dspex.dspy.tasks import signature_of
from dspex.dspy.teachers import was_cached
from dspex.errors import DspexError, InputError, SignatureError
from dspex.signature import Signature

__all__ = ["history_traces"]

_log = logging.getLogger("dspex.dspy")
_MARK = re.compile(r"^\[\[ ## (\w+) ## \]\][ \t]*", re.MULTILINE)
_TAG = re.compile(r"^<(\w+)>\n(.*?)\n</\1>$", re.MULTILINE | re.DOTALL)
_ASK = "\n\nRespond with "  # what DSPy's adapters write below the inputs


def history_traces(source: Any, signature: Any) -> list[Trace]:
    """The calls of one signature in a history of DSPy's, for `Distill(...).compile(student, traces=...)`.

    Calls of other signatures are passed over, and so are answers that DSPy could not read either. Several
    completions become one answer with soft labels, log-probabilities soft labels too.

    Args:
        source: an LM or module, for its history; a list of its entries; None: DSPy's global history.
        signature: of the calls, in any form; or the dspy.Predict or ChainOfThought that made them.

    Raises:
        InputError: it is no history.
        SignatureError: it has calls, and none is of this signature.
    """
    entries = list(_entries(source))
    task = signature_of(signature) if isinstance(signature, dspy.Module) else signature_of(None, signature)
    if task is None:
        raise SignatureError(
            f"{type(signature).__name__} does not say its signature", hint="Give the signature"
        )
    found, others = [], []
    for row, entry in enumerate(entries):
        if not isinstance(entry, Mapping) or "outputs" not in entry:
            raise InputError("this is no entry of a DSPy history", row=row, hint="Give lm.history, or the LM")
        inputs = _inputs(entry)
        trace = _trace(task, entry, inputs) if inputs.keys() == task.inputs.keys() else None
        if trace is None:
            others.append(", ".join(inputs) or "no fields that can be read")
        else:
            found.append(trace)
    if others and not found:
        raise SignatureError(
            f"none of the {len(others)} calls is of {task.to_string()!r}", hint=f"The first has {others[0]}"
        )
    _log.info("%d calls of the history are of the signature, %d are not", len(found), len(others))
    return found


def _entries(source: Any) -> Iterable[Any]:
    if source is None:
        return list(GLOBAL_HISTORY)
    history: Any = getattr(source, "history", source)
    if isinstance(history, str | bytes | Mapping) or not isinstance(history, Iterable):
        raise InputError(
            f"a {type(source).__name__} has no history", hint="Give an LM, a module, or a list of entries"
        )
    return list(history)


def _inputs(entry: Mapping[str, Any]) -> dict[str, str]:
    """Input -> its text, as DSPy's chat, JSON and XML adapters write them in the last message."""
    messages = [one for one in entry.get("messages") or [] if one.get("role") == "user"]
    text = _text(messages[-1].get("content")) if messages else str(entry.get("prompt") or "")
    text = text.rpartition(_ASK)[0] or text
    marks = list(_MARK.finditer(text))
    if not marks:
        return dict(_TAG.findall(text))
    ends = [mark.start() for mark in marks[1:]] + [len(text)]
    return {mark[1]: text[mark.end() : end].strip("\n") for mark, end in zip(marks, ends, strict=True)}


def _text(content: Any) -> str:
    if isinstance(content, str):
        return content
    return "".join(part.get("text", "") for part in content or [] if isinstance(part, Mapping))


def _trace(task: Signature, entry: Mapping[str, Any], inputs: Mapping[str, str]) -> Trace | None:
    """None where the answer is of another signature, or is none."""
    declared = task.to_dspy()
    try:
        asked = {
            name: text
            if field.annotation is str
            else parse_value(text, declared.input_fields[name].annotation)
            for name, (text, field) in ((name, (inputs[name], task.inputs[name])) for name in task.inputs)
        }
        checked = check_inputs(task, asked)
        answers = [_outputs(task, declared, output) for output in entry["outputs"]]
    except (DspexError, ValueError, TypeError, LookupError):
        return None
    if not answers:
        return None
    place, _ = majority(answers, tuple(task.outputs))
    soft = shares(answers, task) if len(answers) > 1 else _soft(task, entry["outputs"][0], answers[0])
    return Trace(checked, _answer(entry, answers[place], soft), source="history", at=_at(entry))


def _outputs(task: Signature, declared: Any, output: Any) -> dict[str, Any]:
    text = output["text"] if isinstance(output, Mapping) else output
    for adapter in (dspy.ChatAdapter(), dspy.JSONAdapter(), dspy.XMLAdapter()):
        try:
            return check_outputs(task, adapter.parse(declared, text))
        except Exception:
            continue  # DSPy's adapters have no error in common
    raise ValueError("no adapter reads it")


def _soft(task: Signature, output: Any, said: Mapping[str, Any]) -> dict[str, dict[Any, float]]:
    logprobs = output.get("logprobs") if isinstance(output, Mapping) else None
    texts = {name: str(getattr(value, "value", value)) for name, value in said.items()}
    return from_logprobs(logprobs, texts, task) if logprobs else {}


def _answer(entry: Mapping[str, Any], outputs: Mapping[str, Any], soft: Any) -> Answer:
    cached, usage = was_cached(entry), entry.get("usage") or {}
    return Answer(
        outputs, soft or None,
        usd=0.0 if cached else entry.get("cost"), tokens=0 if cached else usage.get("total_tokens"),
    )  # fmt: skip


def _at(entry: Mapping[str, Any]) -> float:
    try:
        return datetime.fromisoformat(entry["timestamp"]).timestamp()
    except (KeyError, TypeError, ValueError):
        return 0.0

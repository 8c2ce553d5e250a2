"""What a DSPy module is asked and what it answers, and which of its outputs can be learned."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

import dspy

from dspex.distill.task import with_outputs
from dspex.errors import ConfigError, SignatureError, nearest
from dspex.signature import Field, Signature

__all__ = ["Task", "free_text", "inferred", "signature_of", "task_of"]

_REASONING = "reasoning"
_SHARE = 5  # answers for each different value, on average, from which they count as labels
_PLAIN = (bool, int, float, str)


@dataclass(frozen=True, slots=True)
class Task:
    """A signature, and what becomes of its outputs.

    Attributes:
        signature: every input and every output that is asked for; no reasoning.
        candidates: the outputs that can be learned as far as their types tell.
        left: output -> why it stays with the teacher.
        asked: the outputs that the user named; None: all that can be learned.
    """

    signature: Signature
    candidates: tuple[str, ...]
    left: Mapping[str, str]
    asked: tuple[str, ...] | None = None


def task_of(
    signature: Signature, fields: Sequence[str] | None, labels: Mapping[str, Sequence[Any]] | None = None
) -> Task:
    """Sorts the outputs of a signature, before anybody is asked.

    Args:
        fields: the outputs to learn; None: all that can be.
        labels: output -> the labels that were given with the examples. They tell whether an output of type
            str or list[str] is text or a label; without them it is taken for text.

    Raises:
        ConfigError: one of `fields` is no output.
        SignatureError: an input is of a type that no native program takes, or no output can be learned;
            it says why for each.
    """
    if isinstance(fields, str):
        raise ConfigError("fields is one string", field="fields", hint=f"Write [{fields!r}]")
    for name in fields or ():
        if name not in signature.outputs:
            raise ConfigError(
                f"there is no output {name!r}", field="fields", hint=nearest(name, signature.outputs)
            )
    left, candidates = {}, []
    for name in signature.outputs:
        if fields is not None and name not in fields:
            left[name] = "it is not among the fields to learn"
            continue
        obstacle = _obstacle(signature, name)
        if obstacle is None and fields is None and signature.outputs[name].takes_learned_classes:
            obstacle = free_text((labels or {}).get(name, ()))
        if obstacle is None:
            candidates.append(name)
        else:
            left[name] = obstacle
    if not candidates:
        told = "; ".join(f"{name}: {reason}" for name, reason in left.items())
        raise SignatureError(
            f"no output can be learned: {told}", hint="Outputs to learn are enumerable or numbers"
        )
    return Task(signature, tuple(candidates), left, None if fields is None else tuple(fields))


def _obstacle(signature: Signature, output: str) -> str | None:
    """Why an output cannot be learned by its type.

    Raises:
        SignatureError: an input stands in the way.
    """
    alone = with_outputs(signature, [output])
    if alone.outputs[output].takes_learned_classes:
        alone = alone.with_classes(output, ["a", "b"])  # whether they are labels, the answers will tell
    verdict = alone.native_eligibility()
    if verdict.ok:
        return None
    if verdict.field in signature.inputs:
        raise SignatureError(verdict.reason, field=verdict.field)
    return verdict.reason.removeprefix(f"the output {output!r} ")


def free_text(values: Sequence[Any]) -> str | None:
    """Why an output of type str or list[str] that was given these values is none of labels; None: it is."""
    if not values:
        return "it is of type str, and so taken for text; declare a Literal, or name it in `fields`"
    seen = [str(label) for value in values for label in (value if isinstance(value, list) else [value])]
    different = len(set(seen))
    if different * _SHARE <= len(seen):
        return None
    return (
        f"its {len(seen)} labels have {different} different values, and so it is taken for text; "
        "declare a Literal, or name it in `fields`"
    )


def signature_of(module: Any, signature: Any = None) -> Signature | None:
    """The task of a module, without the reasoning; None for a module that does not say.

    Args:
        signature: in any form; it goes before what the module says.

    Raises:
        SignatureError: it cannot be read.
    """
    if signature is not None:
        return Signature.of(signature)
    if isinstance(module, dspy.ChainOfThought):
        found = module.predict.signature
    else:
        found = getattr(module, "signature", None)
    return None if found is None else _without_reasoning(Signature.of(found))


def _without_reasoning(signature: Signature) -> Signature:
    if _REASONING not in signature.outputs or len(signature.outputs) == 1:
        return signature
    return with_outputs(signature, [name for name in signature.outputs if name != _REASONING])


def inferred(module: Any, inputs: Mapping[str, Any], outputs: Mapping[str, Any]) -> Signature:
    """A signature for a module that does not say, from one row of what it takes and what it gives.

    A field that one of its predictors has by the same name is of the type that it has there.

    Raises:
        SignatureError: the type of a value is none that can be taken over.
    """
    declared: dict[tuple[str, str], Any] = {}
    for _, predictor in module.named_predictors():
        for role, fields in (
            ("input", predictor.signature.input_fields),
            ("output", predictor.signature.output_fields),
        ):
            declared |= {(role, name): info.annotation for name, info in fields.items()}
    made = [_field(name, value, "input", declared) for name, value in inputs.items()]
    made += [_field(name, value, "output", declared) for name, value in outputs.items() if name != _REASONING]
    return Signature(made)


def _field(name: str, value: Any, role: Any, declared: Mapping[tuple[str, str], Any]) -> Field:
    annotation = declared.get((role, name)) or _type(value)
    if annotation is None:
        raise SignatureError(
            f"the type of the {role} {name!r} cannot be told from {type(value).__name__}", field=name,
            hint="Give Distill a signature",
        )  # fmt: skip
    return Field(name, annotation, role)


def _type(value: Any) -> Any:
    if isinstance(value, Enum):
        return type(value)
    if isinstance(value, list) and value and all(isinstance(each, str) for each in value):
        return list[str]
    return type(value) if type(value) in _PLAIN else None

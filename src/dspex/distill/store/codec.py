"""Values of a signature as JSON bytes and back, in their fields' own types; see `dspex.wire`."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from enum import Enum
from typing import Any

import msgspec

from dspex._signature_field import changed
from dspex._signature_types import names_dspy
from dspex.checks import check_field, check_inputs
from dspex.distill.store.failures import DAMAGED
from dspex.distill.trace import Answer
from dspex.errors import CommunicationError, InputError, ModelFileError, nearest
from dspex.signature import Field, Signature
from dspex.wire import from_wire, to_wire

__all__ = ["Codec", "fingerprint", "plain_json", "stored_json", "without_learned"]

_SOFT = ("class", "bool", "multilabel")
_encode = msgspec.json.Encoder().encode


def fingerprint(packed: bytes) -> bytes:
    """16 bytes of BLAKE2b of packed inputs."""
    return hashlib.blake2b(packed, digest_size=16).digest()


def plain_json(value: Mapping[str, Any]) -> str:
    """JSON text of a record's mapping.

    Raises:
        InputError: it is not plain JSON.
    """
    try:
        return json.dumps(dict(value))
    except (TypeError, ValueError, RecursionError) as error:
        raise InputError(f"this cannot be stored: {error}", hint="Give plain JSON") from None


def stored_json(text: str | bytes) -> Any:
    """What JSON text of a column says.

    Raises:
        ModelFileError: it is no JSON text.
    """
    try:
        return msgspec.json.decode(text)
    except (msgspec.DecodeError, TypeError, ValueError, RecursionError) as error:
        raise ModelFileError(f"a stored value cannot be read: {error}", hint=DAMAGED) from None


def without_learned(signature: Signature) -> Signature:
    """The signature with outputs of type str or list[str] open again: a teacher may say a new class."""
    fields = [
        changed(field, classes=None, learned=False) if field.learned else field
        for field in signature.fields.values()
    ]
    return Signature(fields, instructions=signature.instructions, name=signature.name)


class Codec:
    """Packs inputs, outputs and answers of one signature.

    Outputs outside the signature, such as a chain of thought's reasoning, are kept where they are plain JSON.
    """

    def __init__(self, signature: Signature) -> None:
        self._signature = signature
        self._inputs = signature.inputs
        self._outputs = signature.outputs
        self._writers = {name: _writer(field) for name, field in signature.fields.items()}
        self._readers = {name: _reader(field) for name, field in signature.fields.items()}

    def pack_inputs(self, inputs: Mapping[str, Any]) -> bytes:
        """All inputs, in the signature's order.

        Raises:
            InputError: as `dspex.checks.check_inputs` and `dspex.wire.to_wire`.
        """
        if not isinstance(inputs, Mapping) or inputs.keys() != self._inputs.keys():
            check_inputs(self._signature, inputs)  # says what is wrong
        return _encode({name: self._writers[name](inputs[name]) for name in self._inputs})

    def unpack_inputs(self, packed: bytes) -> dict[str, Any]:
        """What `pack_inputs` packed."""
        return self._unpack(stored_json(packed))

    def pack_outputs(self, outputs: Mapping[str, Any]) -> bytes:
        """Some outputs, without others."""
        return _encode(self._written(outputs))

    def unpack_outputs(self, packed: bytes) -> dict[str, Any]:
        """What `pack_outputs` packed."""
        return self._unpack(stored_json(packed))

    def pack_answer(self, answer: Answer) -> bytes:
        """Outputs, soft labels and further outputs; not what they cost.

        Raises:
            InputError: no output of the signature at all; a value that does not fit its field; a further
                output that is not plain JSON; soft labels that are no probabilities.
        """
        soft = answer.soft or {}
        if not (any(name in self._outputs for name in answer.outputs) or soft):
            raise InputError("the answer has no output of the signature", hint=_wanted(self._outputs))
        known = {name: value for name, value in answer.outputs.items() if name in self._outputs}
        data: dict[str, Any] = {"outputs": self._written(known)}
        if soft:
            data["soft"] = {name: self._soft(name, shares) for name, shares in soft.items()}
        if len(known) < len(answer.outputs):
            data["more"] = {
                name: _plain(name, value) for name, value in answer.outputs.items() if name not in known
            }
        return _encode(data)

    def unpack_answer(
        self, packed: bytes, usd: float | None = None, tokens: int | None = None, seconds: float | None = None
    ) -> Answer:
        """What `pack_answer` packed."""
        data = stored_json(packed)
        outputs = self._unpack(data["outputs"])
        outputs.update(data.get("more", ()))
        soft = data.get("soft")
        if soft is not None:
            soft = {
                name: {self._label(name, label): share for label, share in pairs}
                for name, pairs in soft.items()
            }
        return Answer(outputs, soft, usd, tokens, seconds)

    def _written(self, outputs: Mapping[str, Any]) -> dict[str, Any]:
        for name in outputs:
            if name not in self._outputs:
                what = f"there is no output {name!r}"
                raise InputError(what, field=name, hint=nearest(name, self._outputs))
        return {name: self._writers[name](value) for name, value in outputs.items()}

    def _unpack(self, data: dict[str, Any]) -> dict[str, Any]:
        try:
            return {name: self._readers[name](value) for name, value in data.items()}
        except (LookupError, ValueError, TypeError, AttributeError, CommunicationError) as error:
            raise ModelFileError(f"a stored value cannot be read: {error}", hint=DAMAGED) from None

    def _soft(self, name: str, shares: Mapping[Any, float]) -> list[list[Any]]:
        field = self._outputs.get(name)
        if field is None or not (field.kind in _SOFT or field.takes_learned_classes):
            what = f"there are no soft labels for {name!r}"
            known = [n for n, f in self._outputs.items() if f.kind in _SOFT or f.takes_learned_classes]
            raise InputError(what, field=name, hint=nearest(name, known))
        pairs = []
        for label, share in shares.items():
            if not (isinstance(share, int | float) and 0 <= share <= 1):
                what = f"the probability of {label!r} is {share!r}"
                raise InputError(what, field=name, hint="Give numbers from 0 to 1")
            pairs.append([self._label_written(field, label), float(share)])
        return pairs

    def _label_written(self, field: Field, label: Any) -> Any:
        if field.kind == "multilabel":
            return to_wire(self._outputs, {field.name: check_field(field, [label])})[field.name][0]
        return str(label) if field.kind == "other" else self._writers[field.name](label)

    def _label(self, name: str, label: Any) -> Any:
        field = self._outputs[name]
        if field.kind == "multilabel":
            return self._readers[name]([label])[0]
        return label if field.kind == "other" else self._readers[name](label)


def _writer(field: Field) -> Callable[[Any], Any]:
    """Checks and writes a value; the frequent cases without the detour through `dspex.wire`."""
    fields = {field.name: field}

    def careful(value: Any) -> Any:
        return to_wire(fields, {field.name: check_field(field, value)})[field.name]

    if field.kind == "text":
        return lambda value: value if type(value) is str and value.isascii() else careful(value)
    if field.kind == "class" and field.classes:
        known = {(type(label), label): careful(label) for label in field.classes}
        return lambda value: known[key] if (key := _key(value)) in known else careful(value)
    return careful


def _reader(field: Field) -> Callable[[Any], Any]:
    fields = {field.name: field}

    def careful(value: Any) -> Any:
        if field.opaque and names_dspy(field.annotation):
            return json.loads(value)  # its type is at hand only where the signature was given
        return from_wire(fields, {field.name: value})[field.name]

    if field.kind == "text":
        return lambda value: value if type(value) is str else careful(value)
    if field.kind == "class" and field.classes:
        known = {(type(_value_of(label)), _value_of(label)): label for label in field.classes}
        return lambda value: known[key] if (key := _key(value)) in known else careful(value)
    return careful


def _key(value: Any) -> Any:
    try:
        hash(value)
    except TypeError:
        return None
    return (type(value), value)


def _value_of(label: Any) -> Any:
    return label.value if isinstance(label, Enum) else label


def _plain(name: str, value: Any) -> Any:
    try:
        if msgspec.json.decode(_encode(value)) == value:
            return value
    except (TypeError, ValueError, RecursionError, OverflowError):
        pass
    raise InputError(
        f"the further output {name!r} cannot be stored: it is not plain JSON", field=name,
        hint="The signature does not have it: declare it there, or leave it out",
    )  # fmt: skip


def _wanted(fields: Mapping[str, Field]) -> str:
    return f"Give {', '.join(repr(name) for name in fields)}"

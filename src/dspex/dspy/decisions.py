"""`NativeDecisions`: a native program as DSPy's decision client, in place of an LM."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from typing import Any, Literal, NoReturn, Self, get_args

import dspy
from dspy.adapters.types.decision import Choice, Noul, Score, decision_type
from dspy.clients.base_lm import LM_CLASS_STATE_KEY, record_history
from dspy.utils.callback import with_callbacks

from dspex.dspy.native_side import packed, unpacked
from dspex.errors import ConfigError, InputError, SignatureError, nearest
from dspex.learning.fit import fit
from dspex.program import Program, load
from dspex.result import Result
from dspex.signature import Field

__all__ = ["NativeDecisions"]

_Keys = dict[str, dict[Any, Any]]
"""output -> class of the program -> the key of its probability in DSPy's form"""


class NativeDecisions(dspy.BaseLM):  # type: ignore[misc]
    """Answers DSPy's decision requests (`Choice`, `Noul`, `Score`, and plain Literals and bools) natively.

    Give it where an LM goes: `dspy.context(lm=...)`, `predictor.lm`, `predictor(lm=...)`. DSPy turns its
    probabilities into values by the predictor's thresholds, cuts and weights. It answers what its program was
    fitted for, and nothing else; instructions, descriptions and demos do not change its answers.

    Args:
        program: a fitted `dspex.Program`, or the path of a saved one. A `Noul` is one of its bools, a
            `Choice` one of its class outputs with the same options, a `Score` one with a class for each
            level: its number from 0, or its description.
        callbacks: as of dspy.BaseLM.

    Raises:
        ModelFileError: there is no such file, or it cannot be read.
        ConfigError: it is neither a program nor a path.
    """

    supports_decision_requests = True

    def __init__(self, program: Any, *, callbacks: Any = None) -> None:
        if not isinstance(program, Program):
            if not isinstance(program, str) and not hasattr(program, "__fspath__"):
                what = f"program is a {type(program).__name__}, not a dspex.Program or a path"
                raise ConfigError(what, field="program")
            program = load(program)
        # Nothing is cached, and nothing has to be: equal requests get equal answers. ReAnchor asks for that.
        super().__init__(model=f"dspex/{program.id}", cache=True, callbacks=callbacks)
        self.kwargs: dict[str, Any] = {}
        self.program: Program = program

    @classmethod
    def fit(cls, signature: Any, examples: Any, **options: Any) -> Self:
        """Learns a program for the decisions of a signature.

        Args:
            signature: a dspy.Signature class, or its string form, whose outputs are decisions or plain types.
            examples: as for `dspex.fit`. A label of a decision is its value, or an object of the decision's
                type; that of a Score is the number of a level from 0, its description, or a Score.
            **options: further arguments of `dspex.fit`.

        Raises:
            SignatureError, InputError, ConfigError: as `dspex.fit`.
        """
        declared = dspy.ensure_signature(signature)
        kinds = {name: decision_type(info) for name, info in declared.output_fields.items()}
        plain = declared
        for name, kind in kinds.items():
            if kind is not None:
                plain = plain.with_updated_fields(name, type_=_plain_type(kind))
        rows = [_plain_row(row, number, kinds) for number, row in enumerate(_rows(examples))]
        return cls(fit(plain, rows, **options))

    @with_callbacks  # type: ignore[untyped-decorator]
    def __call__(self, state: Mapping[str, Any], questions: Mapping[str, Any]) -> dict[str, Any]:
        """Answers a decision request of DSPy's.

        Args:
            state: with the inputs of the call under "inputs".
            questions: output -> its "type" ("noul", "choice" or "score") and "criteria".

        Returns:
            output -> {"noul": p} or {"probabilities": {option: p}, "confidence": the largest p}.

        Raises:
            SignatureError: a question that the program does not answer; `field` names it.
            InputError: inputs that are not the program's.
        """
        keys = _all_keys(self.program, questions)
        return self._finish(state, questions, keys, self.program.predict(state["inputs"]))

    @with_callbacks  # type: ignore[untyped-decorator]
    async def acall(self, state: Mapping[str, Any], questions: Mapping[str, Any]) -> dict[str, Any]:
        """As a call; long texts do not hold up the event loop."""
        keys = _all_keys(self.program, questions)
        return self._finish(state, questions, keys, await self.program.acall(**state["inputs"]))

    def _finish(
        self, state: Mapping[str, Any], questions: Mapping[str, Any], keys: _Keys, result: Result
    ) -> dict[str, Any]:
        answers = {
            name: _answer(question["type"], keys[name], result.probabilities(name))
            for name, question in questions.items()
        }
        if not dspy.settings.disable_history:  # spares the copies
            asked = {"state": state, "questions": questions}
            record_history(
                self,
                {
                    "request": copy.deepcopy(asked),
                    "response": {"model": self.model, "usage": {}, "answers": copy.deepcopy(answers)},
                    "usage": {},
                    "cache_hit": False,
                    "messages": None,
                    "prompt": json.dumps(asked, default=str),
                    "outputs": [json.dumps(answers)],
                },
            )
        return answers

    def copy(self, **kwargs: Any) -> Self:
        """A client over the same program with a history of its own.

        Args:
            **kwargs: `program` or `callbacks` to change.

        Raises:
            ConfigError: another keyword: there is nothing to sample, so no temperature and no rollout_id.
        """
        for name in kwargs:
            if name not in ("program", "callbacks"):
                raise ConfigError(
                    f"a native program has no setting {name!r}",
                    field=name,
                    hint="Its answers are always the same",
                )
        return type(self)(
            kwargs.get("program", self.program), callbacks=kwargs.get("callbacks", self.callbacks)
        )

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self.copy()  # a program is never written to, so copies share it

    def dump_state(self) -> dict[str, Any]:
        """The client with its program as JSON-able data.

        DSPy loads clients of other packages with `allow_unsafe_lm_state=True` only.
        """
        return {
            LM_CLASS_STATE_KEY: f"{type(self).__module__}.{type(self).__qualname__}",
            "program": packed(self.program),
        }

    @classmethod
    def load_state(cls, state: Mapping[str, Any], *, allow_custom_lm_class: bool = False) -> Self:
        """The client of a state.

        Args:
            allow_custom_lm_class: of no effect: nothing in the state names code.

        Raises:
            ModelFileError: its program is damaged.
        """
        return cls(unpacked(state.get("program")))


def _plain_type(kind: Any) -> Any:
    """The type that a native program learns for a decision."""
    if issubclass(kind, Noul):
        return bool
    if issubclass(kind, Score):
        return Literal[tuple(range(len(kind.criteria())))]
    return Literal[get_args(kind.model_fields["value"].annotation)]


def _rows(examples: Any) -> list[Any]:
    if isinstance(examples, Mapping):
        return [dict(zip(examples, values, strict=True)) for values in zip(*examples.values(), strict=True)]
    return list(examples)


def _plain_row(row: Any, number: int, kinds: Mapping[str, Any]) -> Any:
    if not isinstance(row, Mapping) and not hasattr(row, "toDict"):
        return row  # fit refuses it
    plain = dict(row if isinstance(row, Mapping) else row.toDict())
    for name, kind in kinds.items():
        if kind is not None and name in plain:
            plain[name] = _plain_label(plain[name], kind, name, number)
    return plain


def _plain_label(value: Any, kind: Any, name: str, row: int) -> Any:
    if issubclass(kind, Score):
        return _level(value, kind, name, row)
    return value.value if isinstance(value, Noul | Choice) else value


def _level(value: Any, kind: Any, name: str, row: int) -> int:
    levels = kind.criteria()
    if isinstance(value, Score):
        value = round(value.value) if value.level is None else value.level
    if value in levels:
        return int(levels.index(value))
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < len(levels):
        return value
    raise InputError(
        f"{value!r} is no level of this Score", field=name, row=row,
        hint=f"Give a level's number, 0 to {len(levels) - 1}, its description, or a Score",
    )  # fmt: skip


def _all_keys(program: Program, questions: Mapping[str, Any]) -> _Keys:
    outputs = program.signature.outputs
    for name in questions:
        if name not in outputs:
            raise SignatureError(
                f"the native program does not answer {name!r}", field=name, program=program.id,
                hint=nearest(name, outputs),
            )  # fmt: skip
    return {name: _keys(outputs[name], question, program.id) for name, question in questions.items()}


def _keys(field: Field, question: Mapping[str, Any], program: str) -> dict[Any, Any]:
    """The program's classes of an output -> the keys under which DSPy takes their probabilities.

    Raises:
        SignatureError: the question has other options than the program.
    """
    classes = (False, True) if field.kind == "bool" else field.classes
    if classes is None or field.kind == "multilabel":
        _refuse(field, f"its output is of kind {field.kind}, not one class of several", program)
    values = (False, True) if field.kind == "bool" else field.values or ()
    kind, criteria = question["type"], question.get("criteria")
    if kind == "noul":
        if set(map(type, values)) != {bool}:
            _refuse(field, "DSPy asks for a bool", program)
        return {value: value for value in classes}
    wanted: dict[Any, Any]
    if kind == "choice":
        wanted = {option: option for option in criteria or ()}
        labels = [str(value) for value in values]
    else:
        numbers = all(type(value) is int for value in values)
        wanted = {(i if numbers else level): i for i, level in enumerate(map(_hashable, criteria or ()))}
        labels = list(values)
    if set(wanted) != set(labels):
        _refuse(
            field, f"DSPy asks for {sorted(map(str, wanted))}, it knows {sorted(map(str, labels))}", program
        )
    return {known: wanted[label] for known, label in zip(classes, labels, strict=True)}


def _hashable(level: Any) -> Any:
    return level if isinstance(level, str) else json.dumps(level)


def _refuse(field: Field, why: str, program: str) -> NoReturn:
    raise SignatureError(
        f"the native program does not answer {field.name!r} as it is asked: {why}", field=field.name,
        program=program, hint="Fit one with NativeDecisions.fit(signature, examples)",
    )  # fmt: skip


def _answer(kind: str, keys: Mapping[Any, Any], shares: Mapping[Any, float]) -> dict[str, Any]:
    odds = {keys[known]: min(max(share, 0.0), 1.0) for known, share in shares.items()}
    return (
        {"noul": odds[True]} if kind == "noul" else {"probabilities": odds, "confidence": max(odds.values())}
    )

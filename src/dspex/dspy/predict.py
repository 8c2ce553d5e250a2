"""`dspex.dspy.Predict`: a dspy.Predict that answers natively what its native side is sure of."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from typing import Any, Self

import dspy

from dspex.dspy.modes import checked_mode, mode_now, wants_samples
from dspex.dspy.native_side import TAKEN, NativeSide, as_program, is_fitted, packed, unpacked
from dspex.errors import ConfigError, InputError, ModelFileError, ProgramError, nearest
from dspex.program import Program
from dspex.result import Result, Route
from dspex.signature import Signature

__all__ = ["Predict", "converted", "native_result", "route"]

_log = logging.getLogger("dspex.dspy")

_FORMAT = 1
_FOREIGN = Route("dspy", reason="it is not of a dspex.dspy.Predict")

_KEYWORDS = ("native", "threshold", "callbacks", "fallback", "native_mode", "signature")


class Predict(dspy.Predict):  # type: ignore[misc]
    """A dspy.Predict with a native side.

    A call is answered natively, without an LM, when the native side fits the signature, its confidence is at
    least `threshold`, and nothing asks for the LM: no keyword `lm`, `config`, `demos`, `signature` or
    `prediction` in the call, no `rollout_id` or several completions in the configuration, no optimizer whose
    copy this is. Every other call is that of dspy.Predict. A native answer is written to DSPy's trace, as the
    LM's are.

    Args:
        signature: as of dspy.Predict; or a mapping or a `dspex.Signature`.
        native: a fitted program, or the path of a saved one; None: the LM answers until `fit`.
        threshold: the least confidence of a native answer, 0 to 1. None: every native answer stands; so does
            one of numbers only, which have no confidence.
        callbacks: as of dspy.Predict.
        fallback: when the LM is missing or fails, the native answer stands although it is unsure; its route
            is `degraded`. False: the LM's error is raised.
        native_mode: one of `MODES`; `dspex.dspy.native_mode` overrides it for a block of code.
        **config: as of dspy.Predict.

    Raises:
        SignatureError: the native program does another task.
        ModelFileError: there is no such file, or it cannot be read.
        ConfigError: a threshold out of range, or an unknown mode.
    """

    def __init__(
        self,
        signature: Any,
        native: Any = None,
        threshold: float | None = 0.9,
        callbacks: Any = None,
        *,
        fallback: bool = False,
        native_mode: str = "auto",
        **config: Any,
    ) -> None:
        if isinstance(signature, Signature | Mapping):
            signature = Signature.of(signature).to_dspy()
        for name in config:  # else a misspelt keyword would become one for the LM
            hint = nearest(name, _KEYWORDS)
            if hint.startswith("Did you mean"):
                raise ConfigError(f"Predict has no keyword {name!r}", field=name, hint=hint)
        super().__init__(signature, callbacks=callbacks, **config)
        self.fallback = fallback
        self.threshold = threshold
        self.native_mode = native_mode
        self._side: NativeSide | None
        self.native = native

    @property
    def native(self) -> Program | None:
        """The native side. Set a fitted program, the path of a saved one, or None.

        Raises:
            SignatureError, ModelFileError: see the class.
            ConfigError: it is something else.
        """
        return None if self._side is None else self._side.program

    @native.setter
    def native(self, source: Any) -> None:
        if source is None:
            self._side = None
            return
        if not is_fitted(source):
            what = f"native is a {type(source).__name__}, not a dspex.Program or a path"
            raise ConfigError(what, field="native", hint="For examples there is fit(examples)")
        self._side = NativeSide(as_program(source, self.signature, {}))

    @property
    def threshold(self) -> float | None:
        """The least confidence of a native answer; None: every one stands."""
        return self._threshold

    @threshold.setter
    def threshold(self, value: float | None) -> None:
        self._threshold = checked_threshold(value)

    @property
    def native_mode(self) -> str:
        """One of `MODES`."""
        return self._native_mode

    @native_mode.setter
    def native_mode(self, mode: str) -> None:
        self._native_mode = checked_mode(mode)

    def fit(self, examples: Any, **options: Any) -> Self:
        """Learns the native side from examples.

        Args:
            examples: dspy.Examples, mappings, or a mapping of columns, with a value for every field.
            **options: further arguments of `dspex.fit`.

        Raises:
            SignatureError, InputError, ConfigError: as `dspex.fit`.
        """
        self._side = NativeSide(as_program(examples, self.signature, options))
        return self

    def forward(self, **kwargs: Any) -> Any:
        answer = self._asked(kwargs)
        reason = self._doubt(answer)
        if reason is None:
            return self._given(answer, kwargs)
        try:
            return _marked(super().forward(**kwargs), reason)
        except Exception as error:
            if not self.fallback or isinstance(answer, str):
                raise
            route = _degraded(error)
        return self._given(answer, kwargs, route)

    async def aforward(self, **kwargs: Any) -> Any:
        answer = await self._aasked(kwargs)
        reason = self._doubt(answer)
        if reason is None:
            return self._given(answer, kwargs)
        try:
            return _marked(await super().aforward(**kwargs), reason)
        except Exception as error:
            if not self.fallback or isinstance(answer, str):
                raise
            route = _degraded(error)
        return self._given(answer, kwargs, route)

    def _asked(self, kwargs: dict[str, Any]) -> Result | str:
        """The native answer, or why there is none."""
        program = self._native_now()
        if isinstance(program, str):
            return program
        try:
            return program.predict(_inputs(kwargs))
        except InputError as error:
            return self._unfit(error, kwargs)

    async def _aasked(self, kwargs: dict[str, Any]) -> Result | str:
        program = self._native_now()
        if isinstance(program, str):
            return program
        try:
            return await program.acall(**_inputs(kwargs))
        except InputError as error:
            return self._unfit(error, kwargs)

    @property
    def native_obstacle(self) -> str | None:
        """Why a call made here and now would go to the LM whatever its inputs, or None."""
        found = self._native_now()
        return found if isinstance(found, str) else None

    def _mode(self) -> str:
        return mode_now(self._native_mode)

    def _native_now(self) -> Program | str:
        """The program that may answer, or why none may."""
        mode = self._mode()
        if mode == "off":
            return "native_mode is 'off'"
        side = self._side
        if side is None:
            return "there is no native side"
        fit = side.fit(self.signature)
        if fit.program is None:
            return fit.obstacle
        wish = self._wish_for_lm(side) if mode == "auto" else None
        return wish or fit.program

    def _wish_for_lm(self, side: NativeSide) -> str | None:
        if side.is_compiled_now():
            return "an optimizer compiles"
        if self.fields:
            return "its decision fields read the LM's probabilities"
        lm = self.lm or dspy.settings.lm
        if wants_samples(self.config) or wants_samples(getattr(lm, "kwargs", None)):
            return "the LM is asked for samples: rollout_id, or several completions"
        return None

    def _doubt(self, answer: Result | str) -> str | None:
        """Why the LM is to be asked; None: the native answer stands."""
        if isinstance(answer, str):
            if self._mode() == "only":
                raise ProgramError(
                    f"native_mode is 'only', and {answer}",
                    hint="Call fit(examples), or set native to a program of this signature",
                )
            return answer
        confidence, least = answer.confidence, self._threshold
        if confidence is None or least is None or confidence >= least or self._mode() == "only":
            return None
        return f"confidence {math.floor(confidence * 1000) / 1000} is below {least}"

    def _unfit(self, error: InputError, kwargs: dict[str, Any]) -> str:
        if self._mode() == "only":
            raise error
        wishes = [name for name in TAKEN if name in kwargs]
        if wishes:
            return f"the call asks for the LM by its {' and '.join(wishes)}"
        return f"the inputs are not the native side's: {error.message}"

    def _given(self, result: Result | str, kwargs: dict[str, Any], route: Route | None = None) -> Any:
        """The native answer as DSPy's prediction, written to its trace."""
        assert not isinstance(result, str)
        prediction = self._forward_postprocess([result.to_dict()], self.signature, **kwargs)
        prediction._dspex = (route or result.route, result)
        return prediction

    def dump_state(self, json_mode: bool = True) -> dict[str, Any]:
        """DSPy's state with the native side in it; all of it JSON, and of the size of the model."""
        state: dict[str, Any] = super().dump_state(json_mode=json_mode)
        state["native"] = {
            "format": _FORMAT,
            "threshold": self._threshold,
            "fallback": self.fallback,
            "native_mode": self._native_mode,
            "model": None if self._side is None else packed(self._side.program),
        }
        return state

    def load_state(self, state: dict[str, Any], *, allow_unsafe_lm_state: bool = False) -> Self:
        """Takes over a state. One of a plain dspy.Predict says nothing of the native side, which stays.

        Raises:
            ModelFileError: the native side is damaged or of a newer version; nothing has been changed.
        """
        own = dict(state)
        stored = own.pop("native", None)
        native = None if stored is None else _Stored(stored)
        super().load_state(own, allow_unsafe_lm_state=allow_unsafe_lm_state)
        if native is not None:
            self.fallback, self._threshold, self._native_mode = native.fallback, native.threshold, native.mode
            self._side = native.side
        if self._side is not None:
            self._side.fit(self.signature)  # tells at once if the program's code has another signature now
        return self


class _Stored:
    """The native part of a state, checked."""

    def __init__(self, data: Any) -> None:
        try:
            if data["format"] != _FORMAT:
                raise ModelFileError(
                    f"the state's native part is of format {data['format']!r}, not {_FORMAT}",
                    hint="It was saved by another version of dspex",
                )
            self.threshold = checked_threshold(data["threshold"])
            self.mode = checked_mode(data["native_mode"])
            self.fallback = bool(data["fallback"])
            model = data["model"]
        except (KeyError, TypeError, ConfigError) as error:
            raise ModelFileError(
                f"the state's native part is damaged: {error}", hint="Save the DSPy program again"
            ) from error
        self.side = None if model is None else NativeSide(unpacked(model))


def converted(predictor: Any) -> Predict:
    """Makes a plain dspy.Predict one of dspex without a native side; it is the same object.

    So everything that holds it keeps it: other modules, lists, functions that close over it. Its signature,
    demos, LM, configuration, callbacks and traces stay.
    """
    if type(predictor) is dspy.Predict:
        predictor.__class__ = Predict
        predictor.threshold, predictor.fallback, predictor.native_mode = 0.9, False, "auto"
        predictor.native = None
    made: Predict = predictor
    return made


def route(prediction: Any) -> Route:
    """Who answered: "native" or "dspy", with the reason."""
    found: tuple[Route, Result | None] | None = getattr(prediction, "_dspex", None)
    return _FOREIGN if found is None else found[0]


def native_result(prediction: Any) -> Result | None:
    """The native answer behind a prediction, with confidence and probabilities; None for one of the LM."""
    found: tuple[Route, Result | None] | None = getattr(prediction, "_dspex", None)
    return None if found is None else found[1]


def checked_threshold(value: Any) -> float | None:
    """A threshold.

    Raises:
        ConfigError: no number from 0 to 1, and not None.
    """
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
        raise ConfigError(
            f"threshold is {value!r}", field="threshold", hint="It takes a number from 0 to 1, or None"
        )
    return float(value)


def _inputs(kwargs: dict[str, Any]) -> dict[str, Any]:
    if "_trace" not in kwargs:  # DSPy's own keyword
        return kwargs
    return {name: value for name, value in kwargs.items() if name != "_trace"}


def _degraded(error: Exception) -> Route:
    what = f"the LM failed: {type(error).__name__}: {error}"
    _log.warning("an unsure native answer stands, because %s", what)
    return Route("native", reason=what, degraded=True)


def _marked(prediction: Any, reason: str) -> Any:
    prediction._dspex = (Route("dspy", reason=reason), None)
    return prediction

"""`Distilled`: a DSPy program that answers natively what is certified, and asks its teacher otherwise."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any, Self

import dspy

from dspex.checks import check_outputs
from dspex.distill.agreement import Slice
from dspex.distill.guarded import slice_unknown
from dspex.distill.live import LiveProgram
from dspex.dspy.lazy import Later, LazyPrediction
from dspex.dspy.modes import checked_mode, mode_now, wants_samples
from dspex.dspy.native_part import NativePart
from dspex.dspy.outlook import DistillReport
from dspex.dspy.serving import Serving
from dspex.dspy.tasks import signature_of
from dspex.dspy.teachers import CALL, Call
from dspex.errors import ConfigError, DspexError, InputError, ProgramError
from dspex.program import Program
from dspex.result import Result, Route

__all__ = ["Distilled"]

_ONLY = "native_mode is 'only', and "


class Distilled(dspy.Module):  # type: ignore[misc]  # DSPy has no types
    """A module with a native program before it. Made by `Distill`; by hand to `load` a saved state into.

    A call is answered natively where its certificate covers the answer. Otherwise, and whenever something
    asks for the LM (a keyword that is no input, several completions or a rollout_id, an optimizer whose copy
    this is), the teacher answers through DSPy, as if it had been called. A native answer is written to DSPy's
    trace, under this module. Outputs that were not learned are asked of the teacher when they are read first.

    Args:
        teacher: the dspy.Module behind it; a submodule, so optimizers, states and LMs reach its predictors.
        callbacks: as of dspy.Module.
        signature: of the task, when the teacher does not say; in any form that `dspex.fit` takes.
        slices: the function of a guarantee per slice, for a state that has one: code is no part of a state.

    Raises:
        ConfigError: the teacher is no dspy.Module.
    """

    def __init__(
        self, teacher: Any, callbacks: Any = None, *, signature: Any = None, slices: Slice | None = None
    ) -> None:
        super().__init__(callbacks)
        if not isinstance(teacher, dspy.Module):
            raise ConfigError(f"teacher is a {type(teacher).__name__}, not a dspy.Module", field="teacher")
        self.teacher = teacher
        self._native = NativePart(signature_of(teacher, signature), slices)

    # --- what it is ---

    @property
    def native(self) -> Program | None:
        """The native program, of the version in service; None: none was made."""
        guarded = self._native.in_service
        return None if guarded is None else guarded.program

    @property
    def certificate(self) -> Any:
        """What is guaranteed of the version in service, a `dspex.guarantee.Certificate`; None: nothing was
        certified.
        """
        guarded = self._native.in_service
        return None if guarded is None else guarded.certificate

    @property
    def threshold(self) -> float | None:
        """The score from which an answer stands; None where there is one per group, or none at all."""
        return None if self.certificate is None else self.certificate.threshold

    @property
    def thresholds(self) -> Mapping[str, float | None] | None:
        """The same per class or slice, where that is guaranteed."""
        return None if self.certificate is None else self.certificate.thresholds

    @property
    def signature(self) -> Any:
        """The dspy.Signature class of the task; None: it is not known yet."""
        return None if self._native.signature is None else self._native.signature.to_dspy()

    @property
    def live(self) -> Any:
        """The `dspex.distill.LiveProgram` that serves, records and watches; None: nobody watches."""
        return self._serving.live

    @property
    def native_mode(self) -> str:
        """ "auto", "off" (the teacher answers) or "only" (the native program does, whatever its score)."""
        return self._native.mode

    @native_mode.setter
    def native_mode(self, mode: str) -> None:
        self._native.mode = checked_mode(mode)
        if mode == "auto":
            self._native.put_on()

    @property
    def native_obstacle(self) -> str | None:
        """Why a call made here and now would go to the teacher whatever its inputs, or None."""
        return self._bypass({}) or self._native.obstacle()

    def report(self) -> DistillReport:
        """What is guaranteed, on which rows, under which assumption, and what it cost.

        Of the version in service, which a `live` program may have learned later; else of the compiled one.

        Raises:
            ProgramError: it was not made by `Distill`.
        """
        report = self._native.report_in_service
        if report is None:
            raise ProgramError("there is no report", hint="Distill(...).compile makes one")
        return report

    @property
    def _serving(self) -> Serving:
        return self._native._serving

    # --- its home ---

    def open(self, home: Any, settings: Any = None) -> Self:
        """Serves from a home, as another process may have left it: with its versions, stage and watch.

        Args:
            home: the directory that `Distill` was given.
            settings: a `dspex.distill.DistillSettings` or a mapping; what they do not say of the guarantee is
                as the home keeps it.

        Raises:
            SignatureError, ProgramError: the home is of another task.
            ModelFileError: it is damaged, of a newer version, or there is none.
        """
        self._serving.open(home, self, settings)
        return self

    def close(self) -> None:
        """Ends the threads of `live` and closes its home.

        In canary and live, the certificate of the version in service alone decides from then on. In shadow or
        without a version, as after a breach, the teacher goes on answering, and `native_obstacle` says why,
        until the home is opened again or `native_mode` is set to "auto". A saved state does the same.
        """
        self._serving.close()

    # --- calls ---

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        reason = self._checked(args, kwargs)
        if reason is not None:
            return marked(self.teacher(**kwargs), reason)
        live = self.live  # once: another thread may close it
        if live is not None and self._mode() == "auto":
            return self._served(live, kwargs)
        answer = self._asked(kwargs)
        if isinstance(answer, str):
            return marked(self.teacher(**kwargs), answer)
        return self._given(answer, kwargs)

    async def aforward(self, *args: Any, **kwargs: Any) -> Any:
        reason = self._checked(args, kwargs)
        if reason is not None:
            return marked(await self.teacher.acall(**kwargs), reason)
        live = self.live
        if live is not None and self._mode() == "auto":
            return await self._aserved(live, kwargs)
        answer = self._asked(kwargs)
        if isinstance(answer, str):
            return marked(await self.teacher.acall(**kwargs), answer)
        return self._given(answer, kwargs)

    def _mode(self) -> str:
        return mode_now(self._native.mode)

    def _checked(self, args: Any, kwargs: Mapping[str, Any]) -> str | None:
        if args:
            raise ValueError("A Distilled takes its inputs as keyword arguments, as dspy.Predict does")
        return self._bypass(kwargs)

    def _bypass(self, kwargs: Mapping[str, Any]) -> str | None:
        """Why the teacher is asked without looking at the native side; None: that may answer."""
        mode = self._mode()
        if mode == "only":
            return None
        if mode == "off":
            return "native_mode is 'off'"
        if self._native.is_compiled_now():
            return "an optimizer compiles"
        signature = self._native.signature
        others = [name for name in kwargs if signature is None or name not in signature.inputs]
        if [name for name in others if name != "_trace"]:
            return f"the call asks for the teacher by its {' and '.join(others)}"
        if wants_samples(getattr(dspy.settings.lm, "kwargs", None)):
            return "the LM is asked for samples: rollout_id, or several completions"
        return None

    def _asked(self, kwargs: Mapping[str, Any]) -> Result | str:
        """The native answer, or why the teacher has to be asked; without a home."""
        only = self._mode() == "only"
        guarded = self._native.in_service
        obstacle = "nothing was learned" if guarded is None else None if only else self._native.obstacle()
        if guarded is None or obstacle is not None:
            if only:
                raise ProgramError(_ONLY + str(obstacle), hint="Distill(...).compile makes a native program")
            return str(obstacle)
        inputs = inputs_alone(kwargs)
        try:
            result = guarded.program.predict(inputs)
        except InputError as error:
            if only:
                raise
            return f"the inputs are not the native program's: {error.message}"
        try:
            if only or guarded.stands(result, inputs):
                return result
            least = guarded.least(result, inputs)
        except Exception as error:  # the user's `slices`
            return slice_unknown(error)
        return f"its score of {result.gate_score:.3f} is below {least:.3f}"

    def _served(self, live: LiveProgram, kwargs: dict[str, Any]) -> Any:
        call = Call(self.teacher, dict(kwargs))
        self._serving.remember()
        token = CALL.set(call)
        try:
            result = live.predict(inputs_alone(kwargs))
        except Exception as error:
            return self._after(call, error) or marked(self.teacher(**kwargs), str(error))
        finally:
            CALL.reset(token)
        return self._finished(call, result, kwargs)

    async def _aserved(self, live: LiveProgram, kwargs: dict[str, Any]) -> Any:
        call = Call(self.teacher, dict(kwargs))
        self._serving.remember()
        token = CALL.set(call)
        try:
            result = await live.acall(**inputs_alone(kwargs))
        except asyncio.CancelledError:
            raise
        except Exception as error:
            return self._after(call, error) or marked(await self.teacher.acall(**kwargs), str(error))
        finally:
            CALL.reset(token)
        return self._finished(call, result, kwargs)

    @staticmethod
    def _after(call: Call, error: Exception) -> Any:
        """What the caller gets when serving failed: the teacher's answer or error, if it was asked."""
        if call.prediction is not None:  # it answered; keeping that failed
            return marked(call.prediction, f"its answer was not kept: {error}")
        if call.error is not None:
            raise call.error
        if not isinstance(error, DspexError):
            raise error
        return None

    def _finished(self, call: Call, result: Result, kwargs: dict[str, Any]) -> Any:
        if call.prediction is not None:
            return marked(call.prediction, result.route.reason, result)
        return self._given(result, kwargs)

    def _given(self, result: Result, kwargs: dict[str, Any]) -> Any:
        """The native answer as DSPy's prediction, written to its trace."""
        signature = self._native.signature
        assert signature is not None
        said = check_outputs(signature, result.to_dict(), partial=True)  # a stored Enum is its values
        missing = [name for name in signature.outputs if name not in said]
        aside = ("reasoning",) if isinstance(self.teacher, dspy.ChainOfThought) else ()
        later = Later(self.teacher, inputs_alone(kwargs), missing, aside)
        prediction = LazyPrediction.of(said, later)
        prediction._dspex = (result.route, result)
        settings = dspy.settings
        if kwargs.get("_trace", True) and settings.trace is not None and settings.max_trace_size > 0:
            if len(settings.trace) >= settings.max_trace_size:
                settings.trace.pop(0)
            settings.trace.append((self, inputs_alone(kwargs), prediction))
        return prediction


def inputs_alone(kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Without DSPy's own keyword."""
    return {name: value for name, value in kwargs.items() if name != "_trace"}


def marked(prediction: Any, reason: str, result: Result | None = None) -> Any:
    """The teacher's prediction with its route."""
    if isinstance(prediction, dspy.Prediction):
        prediction._dspex = (Route("dspy", reason=reason), result)
    return prediction

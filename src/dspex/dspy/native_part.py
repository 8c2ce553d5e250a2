"""The native part of a `Distilled`: a DSPy parameter, so that states, copies and larger programs keep it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dspy.predict.parameter import Parameter

from dspex.distill.agreement import Slice
from dspex.distill.guarded import Guarded
from dspex.distill.task import with_outputs
from dspex.dspy.compiling import CompilingCopy
from dspex.dspy.modes import checked_mode
from dspex.dspy.native_side import packed, unpacked
from dspex.dspy.outlook import DistillReport
from dspex.dspy.serving import Serving
from dspex.errors import DspexError, ModelFileError
from dspex.guarantee.certificate import Certificate
from dspex.program import Program
from dspex.signature import Signature
from dspex.spec import bound_signature

__all__ = ["NativePart"]

_FORMAT = 1


class NativePart(CompilingCopy, Parameter):  # type: ignore[misc]  # DSPy has no types
    """Program, certificate and report. A copy shares them; none is written to.

    Attributes:
        signature: the task with all its outputs; None: not known yet.
        guarded: the program and what it may answer; None: it was not made.
        slices: the function of a guarantee per slice; code, so no part of the state.
        report: how it came to be; None: not compiled.
        mode: one of `MODES`.
    """

    def __init__(self, signature: Signature | None = None, slices: Slice | None = None) -> None:
        super().__init__()
        self._serving = Serving()
        self.signature = signature
        self.slices = slices
        self.guarded: Guarded | None = None
        self.report: DistillReport | None = None
        self.mode = "auto"

    @property
    def in_service(self) -> Guarded | None:
        """The version that a home has in service, or had when it was closed; else what was compiled."""
        return self._serving.guarded or self.guarded

    @property
    def report_in_service(self) -> DistillReport | None:
        """The report of that."""
        report, record, guarded = self.report, self._serving.record, self._serving.guarded
        if report is None or record is None or guarded is None or record.number == report.version:
            return report
        return report.of_version(record, tuple(guarded.program.signature.outputs))

    @property
    def program(self) -> Program | None:
        return None if self.in_service is None else self.in_service.program

    def put_on(self) -> None:
        """Lets what a closed home withheld answer; copies keep to it."""
        if self._serving.live is None:
            self._serving = Serving(self._serving.guarded, self._serving.record)

    def reset(self) -> None:
        """Of every DSPy parameter; what was learned stays."""

    def obstacle(self) -> str | None:
        """Why no call can be answered natively; None: some can."""
        guarded, report = self.in_service, self.report  # all versions have its `sliced`
        if guarded is None:
            return "nothing was learned" if report is None else report.reason
        certificate = guarded.certificate
        if not certificate.covers:
            return certificate.reason
        withheld = self._serving.withheld
        if withheld is not None:
            return withheld
        if report is not None and report.sliced and self.slices is None:
            return "its guarantee is one per slice, and the function `slices` was not given with the state"
        return None

    def dump_state(self, json_mode: bool = True) -> dict[str, Any]:
        """All of it as JSON-able data, but the function `slices`."""
        guarded, report = self.in_service, self.report_in_service
        return {
            "format": _FORMAT,
            "withheld": self._serving.withheld,
            "mode": self.mode,
            "signature": None if self.signature is None else self.signature.to_dict(),
            "model": None if guarded is None else packed(guarded.program),
            "certificate": None if guarded is None else guarded.certificate.to_dict(),
            "report": None if report is None else report.to_dict(),
        }

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Takes over a state.

        Raises:
            ModelFileError: it is damaged or of a newer version; nothing has been changed.
            SignatureError: it is of another task; the same.
        """
        signature, guarded, report, mode = self._read(state)
        if self.signature is not None and guarded is not None:
            guarded = Guarded(bound(guarded.program, self.signature), guarded.certificate, self.slices)
        self.guarded, self.report, self.mode = guarded, report, mode
        if self._serving.live is None:
            self._serving = Serving(withheld=state.get("withheld"))  # its own: copies share the one before
        self.signature = self.signature or signature

    def _read(self, state: Any) -> tuple[Signature | None, Guarded | None, DistillReport | None, str]:
        try:
            if state["format"] != _FORMAT:
                raise ModelFileError(
                    f"the state's native part is of format {state['format']!r}, not {_FORMAT}",
                    hint="It was saved by another version of dspex",
                )
            mode = checked_mode(state["mode"])
            signature = None if state["signature"] is None else Signature.from_dict(state["signature"])
            report = None if state["report"] is None else DistillReport.from_dict(state["report"])
            if state["model"] is None:
                return signature, None, report, mode
            certificate = Certificate.from_dict(state["certificate"])
            return signature, Guarded(unpacked(state["model"]), certificate, self.slices), report, mode
        except ModelFileError:
            raise
        except (KeyError, TypeError, ValueError, AttributeError, DspexError) as error:
            raise ModelFileError(
                f"the state's native part is damaged: {error}", hint="Save the DSPy program again"
            ) from error

    def __deepcopy__(self, memo: dict[int, Any]) -> NativePart:
        copy = object.__new__(type(self))
        copy.__dict__.update(self.__dict__)
        copy._thread = self._copys_thread()
        return copy

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_thread": None}  # it holds for this process only


def bound(program: Program, signature: Signature) -> Program:
    """The program with the Enums of a signature that may have further outputs.

    Raises:
        SignatureError: it does another task.
    """
    common = [name for name in program.signature.outputs if name in signature.outputs]
    declared = with_outputs(signature, common) if common else signature
    found = bound_signature(declared, program.signature, program.id)
    return (
        program
        if found == program.signature
        else Program(found, program._arrays, program._meta, program.route)
    )

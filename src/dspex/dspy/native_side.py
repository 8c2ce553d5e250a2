"""The native program within a DSPy predictor: whether it fits the signature, and how it is stored as JSON."""

from __future__ import annotations

import base64
import binascii
import logging
import os
import tempfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from dspex.dspy.compiling import CompilingCopy
from dspex.errors import ConfigError, DspexError, ModelFileError, SignatureError
from dspex.learning.fit import fit
from dspex.program import Program, load
from dspex.signature import Signature
from dspex.spec import bound_signature

__all__ = ["TAKEN", "Fit", "NativeSide", "as_program", "bound_program", "is_fitted", "packed", "unpacked"]

_log = logging.getLogger("dspex.dspy")

#: Keywords that dspy.Predict takes out of a call for itself.
TAKEN = ("signature", "demos", "config", "lm", "prediction")


class Fit(NamedTuple):
    """How a native program fits one dspy.Signature class.

    Attributes:
        signature: the class.
        program: with the Enums of that class; or None when it does not fit.
        obstacle: why it does not fit.
    """

    signature: Any
    program: Program | None
    obstacle: str = ""


class NativeSide(CompilingCopy):
    """A predictor's native program. A copy shares the program, which is never written to.

    A copy that is made while an optimizer compiles knows it: see `is_compiled_now`.
    """

    def __init__(self, program: Program, thread: int | None = None, fit: Fit | None = None) -> None:
        self.program = program
        super().__init__(thread)
        self._fit = fit

    def fit(self, signature: Any) -> Fit:
        """How the program fits the class; found out once for each new class, and told when it does not."""
        fit = self._fit
        if fit is None or fit.signature is not signature:
            fit = self._looked_at(signature)
            self._fit = fit
        return fit

    def _looked_at(self, signature: Any) -> Fit:
        try:
            program = bound_program(self.program, signature)
        except SignatureError as error:
            _log.warning(
                "the native side %r does not fit the signature any more and stands aside: %s",
                self.program.id,
                error.message,
            )
            return Fit(signature, None, obstacle=f"its native side is of another signature: {error.message}")
        return Fit(signature, program)

    def __deepcopy__(self, memo: dict[int, Any]) -> NativeSide:
        return NativeSide(self.program, self._copys_thread(), self._fit)

    def __reduce__(self) -> tuple[Any, ...]:
        return NativeSide, (self.program,)  # without what holds for this process only


def bound_program(program: Program, signature: Any) -> Program:
    """The program with the Enums of a dspy.Signature class, if it does that task.

    Names, types and classes of the fields count, not instructions, descriptions and prefixes: what the
    program learned from examples is not changed by a prompt.

    Raises:
        SignatureError: it does another task, or DSPy takes one of the input's names for itself.
    """
    for name in TAKEN:
        if name in signature.input_fields:
            raise SignatureError(
                f"dspy.Predict takes the keyword {name!r} for itself", field=name, hint="Rename the input"
            )
    bound = bound_signature(Signature.of(signature), program.signature, program.id)
    if bound == program.signature:
        return program
    return Program(bound, program._arrays, program._meta, program.route)


def is_fitted(source: Any) -> bool:
    """Whether it is a program or a path, and not examples."""
    return isinstance(source, Program | str | os.PathLike)


def as_program(source: Any, signature: Any, options: Mapping[str, Any]) -> Program:
    """The native program that is meant by one, by the path of a saved one, or by examples to fit.

    Args:
        signature: the dspy.Signature class it is for.
        options: settings of `dspex.fit`, for examples.

    Raises:
        ModelFileError: there is no such file, or it cannot be read.
        SignatureError: the program does another task, or the signature cannot be answered natively.
        InputError: an example does not fit.
        ConfigError: options without examples.
    """
    if not is_fitted(source):
        return bound_program(fit(signature, source, **options), signature)
    if options:
        raise ConfigError(f"a fitted program takes no options: {', '.join(sorted(options))}")
    program = source if isinstance(source, Program) else load(source)
    return bound_program(program, signature)


_FILE = "model.dspex"


def packed(program: Program) -> dict[str, Any]:
    """The program's file as JSON-able data: {"bytes": its size, "zlib": the compressed file in base64}."""
    with tempfile.TemporaryDirectory(prefix="dspex-") as folder:
        path = Path(folder, _FILE)
        program.save(path)
        data = path.read_bytes()
    return {"bytes": len(data), "zlib": base64.b64encode(zlib.compress(data, 1)).decode("ascii")}


def unpacked(stored: Any) -> Program:
    """The program of what `packed` gave, with every check that a model file goes through. Runs no code of it.

    Raises:
        ModelFileError: it is damaged, or was not made by `packed`.
    """
    try:
        size, text = stored["bytes"], stored["zlib"]
        if not isinstance(size, int) or not isinstance(text, str):
            raise TypeError("its parts are of the wrong types")
        engine = zlib.decompressobj()
        data = engine.decompress(base64.b64decode(text, validate=True), max(size, 0) + 1)
        if len(data) != size or not engine.eof:
            raise ValueError("it is not of the size that it names")
    except (KeyError, TypeError, ValueError, binascii.Error, zlib.error, MemoryError) as error:
        raise ModelFileError(
            f"the state's native program is damaged: {error}", hint="Save the DSPy program again"
        ) from error
    with tempfile.TemporaryDirectory(prefix="dspex-") as folder:
        path = Path(folder, _FILE)
        path.write_bytes(data)
        try:
            return load(path)  # it stays mapped when the file is gone
        except DspexError as error:
            raise ModelFileError(f"the state's native program: {error.message}", hint=error.hint) from error

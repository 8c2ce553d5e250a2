"""The native adapter: fitted programs, run by the compiled core in the caller's thread."""

from __future__ import annotations

import functools
from typing import Any, ClassVar

from dspex.adapters.base import Capabilities, Health
from dspex.adapters.local import LocalAdapter, Runner
from dspex.errors import ConfigError, ProgramError, SignatureError
from dspex.program import Program
from dspex.signature import Signature
from dspex.spec import ENUMERABLE, ProgramSpec, bound_signature

__all__ = ["NativeAdapter", "native_obstacle"]


class NativeAdapter(LocalAdapter):
    """Runs native programs: `examples` in a spec are fitted, `path` is loaded, `program` is adopted.

    It uses no LM. `options` of a spec go to `dspex.fit`; with `path` or `program` there are none.
    """

    name: ClassVar[str] = "native"

    def build(self, spec: ProgramSpec, program_id: str) -> Runner:
        if spec.examples is not None:
            return _fitted(spec, program_id)
        if spec.options:
            raise ConfigError(
                f"a fitted program takes no options: {', '.join(sorted(spec.options))}",
                program=program_id,
                hint="Options are for fitting examples",
            )
        if spec.program is not None and spec.signature is not None:
            return _with_signature(spec.program, spec.signature)
        if spec.path is not None:
            return _loaded(spec.path, spec.signature, program_id)
        if spec.signature is not None:
            require_native(spec.signature, program_id, has_examples=True)
        raise ProgramError(
            "the program is unfitted",
            program=program_id,
            hint="Give examples to fit, the path of a saved program, or a fitted program",
        )

    def get_test_capabilities(self) -> Capabilities:
        self._store.require_open()
        return {
            "adapter": self.name,
            "layers": sorted(self.layers),
            "kinds": sorted(self.kinds),
            "deterministic": True,
            "uses_lm": False,
            "needs_examples": True,
            "scripted": False,
        }

    def health_check(self) -> Health:
        """Runs a program with a known answer, and every held program whose inputs can be made up."""
        if self.closed:
            return Health(False, "closed")
        try:
            _probe_core()
        except Exception as error:  # whatever is wrong is the finding
            return Health(False, f"the compiled core does not work: {error}")
        runners = self.runners()
        for program_id, runner in runners.items():
            try:
                _probe(runner)
            except Exception as error:
                return Health(False, f"program {program_id!r} does not run: {error}", len(runners))
        return Health(True, "a known answer was right, and every program runs", len(runners))


def native_obstacle(signature: Signature, *, has_examples: bool) -> tuple[str | None, str] | None:
    """Why the signature cannot run natively, as (field, reason), or None if it can.

    Args:
        has_examples: the classes of `str` and `list[str]` outputs will be learned from examples.
    """
    for name, field in signature.outputs.items():
        if has_examples and field.takes_learned_classes and field.classes is None:
            signature = signature.with_classes(name, ("a", "b"))  # stand-ins: the rest is the question
    verdict = signature.native_eligibility()
    return None if verdict.ok else (verdict.field, verdict.reason)


def require_native(signature: Signature, program_id: str | None, *, has_examples: bool) -> None:
    """Raises SignatureError, with field and reason, for what cannot run natively."""
    obstacle = native_obstacle(signature, has_examples=has_examples)
    if obstacle is not None:
        field, reason = obstacle
        raise SignatureError(
            f"the signature cannot run natively: {reason}",
            field=field,
            program=program_id,
            hint="Outputs: Literal, Enum, bool, number, list[Literal]. Inputs: text, number, bool, vector",
        )


def _fitted(spec: ProgramSpec, program_id: str) -> Program:
    from dspex import fit  # not at the top: dspex itself imports the adapters

    assert spec.signature is not None  # ProgramSpec lets it out only with a path
    require_native(spec.signature, program_id, has_examples=True)
    if spec.kind == "classify":
        for name, field in spec.signature.outputs.items():
            if field.kind not in ENUMERABLE and not field.takes_learned_classes:
                raise SignatureError(
                    f"kind 'classify' needs outputs that can be listed, not {field.kind}",
                    field=name,
                    program=program_id,
                    hint="Use kind 'predict'",
                )
    for name in ("signature", "examples", "id"):
        if name in spec.options:
            raise ConfigError(f"{name!r} is a key of the spec, not an option of fit", program=program_id)
    return fit(spec.signature, spec.examples, id=program_id, **spec.options)


def _loaded(path: str, declared: Signature | None, program_id: str) -> Program:
    from dspex import load

    program = load(path)
    if declared is None:
        return program
    return _with_signature(program, bound_signature(declared, program.signature, program_id))


def _with_signature(program: Program, signature: Signature) -> Program:
    """The same model under an equivalent signature: a loaded program has values where Enums were."""
    if program.signature == signature:
        return program
    return Program(signature, program._arrays, program._meta)


_PROBES = (("plus sum add", True), ("minus take less", False))


@functools.cache
def _core_probe_program() -> Program:
    from dspex import fit

    # Texts that differ: equal ones stay together in calibration, and would leave it nothing to compare.
    rows = [{"text": f"{text} {number}", "sign": sign} for text, sign in _PROBES for number in range(12)]
    return fit("text -> sign: bool", rows, threads=1)


def _probe_core() -> None:
    program = _core_probe_program()
    for text, expected in _PROBES:
        answer = program.predict({"text": text})["sign"]
        if answer is not expected:
            raise ProgramError(f"a probe answered {answer!r} where {expected!r} was fitted")


_SAMPLES: dict[str, Any] = {"text": "health", "bool": True, "int": 1, "float": 1.0}


def _probe(runner: Runner) -> None:
    """Runs a program on made-up inputs; one that takes a vector is only asked to describe itself."""
    fields = runner.signature.inputs
    if all(field.kind in _SAMPLES for field in fields.values()):
        runner.predict({name: _SAMPLES[field.kind] for name, field in fields.items()})
    else:
        runner.info()

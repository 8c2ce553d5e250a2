"""A native program: a signature, a finished model, and the calls that run it."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, NoReturn

import numpy as np
from numpy.typing import NDArray

from . import _core, modelfile
from .checks import check_content, check_inputs
from .errors import ConfigError, InputError, ModelFileError
from .result import Result, Route
from .signature import Signature

if TYPE_CHECKING:
    from .pool import Pool

__all__ = ["Program", "Reason", "load"]

_ROUTE = Route("native", reason="native program")
_LONG = 4096  # characters from which a call takes longer than handing it to the pool


class Reason(NamedTuple):
    """One part of an explanation.

    Attributes:
        feature: the folded word, pair of words or n-gram; or the name of a numeric input; or "(bias)".
        weight: what it adds to the logit (to the number, for a numeric output).
        kind: "word", "bigram", "skipgram", "ngram", "number" or "bias". N-grams speak for unknown words.
        field: the input it comes from, or "" for the bias.
    """

    feature: str
    weight: float
    kind: str
    field: str


class Program(_core.Predictor):
    """Answers calls of one signature natively; threads may share it. Made by `dspex.fit` and `dspex.load`.

    Attributes:
        id: the program's id.
        signature: with the classes of outputs that were learned from examples.
        kind: "classify" when every output is enumerable, else "predict".
        backend: "native".
    """

    backend: ClassVar[str] = "native"

    def __init__(
        self,
        signature: Signature,
        arrays: Mapping[str, NDArray[Any]],
        meta: Mapping[str, Any],
        route: Route = _ROUTE,
    ) -> None:
        self.id: str = meta["id"]
        heads = [dict(head) | {"classes": _classes(signature, head)} for head in meta["heads"]]
        gate: Mapping[str, Any] = meta.get("gate") or {}
        floor = gate.get("floor")
        self._bind(meta["inputs"], heads, arrays, meta["text"], route, -math.inf if floor is None else floor)
        self.signature = signature
        self._arrays = dict(arrays)
        self._meta = dict(meta)
        self._held_out: Any = None  # of a fresh fit with a gate; see learning.gate.held_out
        numeric = any(head["kind"] == "number" for head in heads)
        self.kind = "predict" if numeric else "classify"

    def _checked_batch(self, rows: Any, on_error: str) -> tuple[Any, bool]:
        from .pool.pool import check_on_error, checked_rows

        return checked_rows(rows, program=self.id), check_on_error(on_error)

    def _check_pool(self, pool: Any) -> None:
        if not hasattr(type(pool), "_is_open"):  # isinstance would need an import, on every batch
            raise ConfigError(f"pool is a {type(pool).__name__}, not a Pool", field="pool", program=self.id)
        if not pool._is_open:
            pool._require_open()

    def _batch_on_pool(
        self, rows: tuple[Any, ...], results: list[Any], collect: bool, progress: Any, pool: Pool | None
    ) -> list[Any]:
        from ._pool import run_batch
        from .pool.pool import default_pool

        return run_batch(pool or default_pool(), self, rows, results, collect=collect, progress=progress)

    async def acall(self, /, **inputs: Any) -> Result:
        """Answers one call without holding up the event loop: short texts at once, which takes a microsecond
        or two, longer ones on the pool, see `dspex.default_pool`.
        """
        for value in inputs.values():
            if isinstance(value, str) and len(value) > _LONG:
                from .pool.pool import default_pool

                return await default_pool().acall(self, inputs)
        return self.predict(inputs)

    def with_route(self, route: Route) -> Program:
        """The same program over the same weights, whose results carry another route."""
        return Program(self.signature, self._arrays, self._meta, route)

    @property
    def certificate(self) -> dict[str, Any] | None:
        """What is guaranteed of its answers; None: nothing.

        A mapping: agreement, delta, method, rows, coverage, reason, and the least score from which answers
        stand (None: none do): "threshold", or "thresholds" by the group that "by" names, "class" or "slice".
        """
        found: dict[str, Any] | None = self._meta.get("certificate")
        return found

    def with_certificate(self, certificate: Mapping[str, Any]) -> Program:
        """The same program over the same weights with this certificate, which goes into its file."""
        return Program(
            self.signature, self._arrays, self._meta | {"certificate": dict(certificate)}, self.route
        )

    def explain(self, /, **inputs: Any) -> dict[str, list[Reason]]:
        """Why each output was answered as it was.

        Returns:
            output -> reasons, loudest first. Their weights sum to the logit of the answer: of the picked
            class (of the second of two; of all given labels together, for several), or to the number.
        """
        logits = self._logits(inputs)
        parts, norm2 = self._parts(inputs)
        result = self.predict(inputs)
        out: dict[str, list[Reason]] = {}
        first = 0
        for head in self._meta["heads"]:
            columns = self._answer_columns(head, first, result, logits)
            reasons = self._reasons(parts, norm2, inputs, columns)
            out[head["name"]] = _in_units(reasons, head) if head["kind"] == "number" else reasons
            first += head["columns"]
        return out

    def _answer_columns(
        self, head: Mapping[str, Any], first: int, result: Result, logits: list[float]
    ) -> list[int]:
        if head["columns"] == 1:
            return [first]
        own = np.asarray(logits[first : first + head["columns"]])
        if head["kind"] == "choice":
            return [first + int(own.argmax())]
        given = [
            first + k
            for k, p in enumerate(result.probabilities(head["name"]).values())
            if p >= head["threshold"]
        ]
        return given or [first + int(own.argmax())]

    def _parts(self, inputs: Mapping[str, Any]) -> tuple[list[tuple[str, str, str, NDArray[Any]]], float]:
        """(kind, feature, field, weights) of every row the texts add, and the sum of their squared norms."""
        parts, norm2 = [], 0.0
        texts = [name for name, kind, _ in self._meta["inputs"] if kind == "text"]
        for index, name in enumerate(texts):
            for kind, feature, square, weights in self._contributions(inputs[name], index):
                parts.append((kind, feature, name, np.asarray(weights)))
                norm2 += square
        return parts, norm2

    def _reasons(
        self,
        parts: list[tuple[str, str, str, NDArray[Any]]],
        norm2: float,
        inputs: Mapping[str, Any],
        columns: list[int],
    ) -> list[Reason]:
        sums: dict[tuple[str, str, str], float] = {}
        scale = 1 / math.sqrt(norm2) if norm2 > 0 else 0.0
        for kind, feature, name, weights in parts:
            key = (feature, kind, name)
            sums[key] = sums.get(key, 0.0) + float(weights[columns].sum()) * scale
        z = self._dense_values(inputs)
        at = 0
        for name, kind, width in self._meta["inputs"]:
            if kind == "text":
                continue
            own = sum(z[at + d] * float(self._arrays["dense"][at + d][columns].sum()) for d in range(width))
            sums[name, "number", name] = own
            at += width
        sums["(bias)", "bias", ""] = float(self._arrays["bias"][columns].sum())
        reasons = [Reason(feature, weight, kind, name) for (feature, kind, name), weight in sums.items()]
        return sorted(reasons, key=lambda r: -abs(r.weight))

    def partial_fit(
        self,
        examples: Any,
        *,
        sample_weight: Iterable[float] | None = None,
        c: float = 10.0,
        id: str | None = None,
    ) -> Program:
        """A new program that has also learned from these examples; this one stays as it is.

        The weights move from where they are, as little as the examples allow; words and pairs that are new
        are added. Classes, calibration, thresholds and the gate stay. For many examples, or new classes, fit
        again on all of them.

        Args:
            examples: as for `dspex.fit`; labels are those the program knows.
            sample_weight: one number >= 0 a row.
            c: how far an example may move the program; > 0.
            id: the new program's id; this one's when left out.

        Raises:
            InputError: an example does not fit the signature, with row and field.
            ConfigError: `c` is out of range.
        """
        from .learning.refine import refined

        arrays, meta = refined(self, examples, sample_weight, c)
        meta.pop("certificate", None)  # it was of the program before
        return Program(self.signature, arrays, meta | {"id": id or self.id})

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the program to one file, in the safetensors format, whole or not at all.

        Raises:
            ModelFileError: the file cannot be written; an older one stays as it was.
        """
        modelfile.write_model(path, self._arrays, self._meta | {"signature": self.signature.to_dict()})

    def info(self) -> dict[str, Any]:
        """What is known of the program, as JSON-able data."""
        return {
            "id": self.id,
            "kind": self.kind,
            "backend": self.backend,
            "signature": self.signature.to_string(),
            "inputs": list(self.signature.inputs),
            "outputs": {
                name: {"kind": field.kind, "classes": list(field.values or ()) or None}
                for name, field in self.signature.outputs.items()
            },
            "weight_rows": len(self._arrays["hashes"]),
            "model_bytes": sum(int(a.nbytes) for a in self._arrays.values()),
            **{key: self._meta[key] for key in ("units", "ngrams", "options", "data", "calibration")},
            "gate": self._meta.get("gate"),
            "certificate": self.certificate,
        }

    def _reject(self, inputs: Any, row: int | None) -> NoReturn:
        """The compiled check said no; this one finds out why."""
        checked = check_inputs(self.signature, inputs, program=self.id, row=row)
        for name, kind, width in self._meta["inputs"]:
            if kind == "vector" and len(checked[name]) != width:
                raise InputError(
                    f"the vector has {len(checked[name])} dimensions", field=name, program=self.id, row=row,
                    hint=f"The program was fitted on {width}",
                )  # fmt: skip
        check_content(self.signature, checked, program=self.id, row=row)
        raise InputError(
            "the text holds no letter, digit or symbol", field=next(iter(checked)), program=self.id, row=row,
            hint="Leave such rows out, or ask another backend",
        )  # fmt: skip

    def __repr__(self) -> str:
        return f"<dspex.Program {self.id!r}: {self.signature.to_string()}>"

    def __reduce__(self) -> tuple[Any, ...]:
        return Program, (self.signature, {k: np.array(v) for k, v in self._arrays.items()}, self._meta)


def _in_units(reasons: list[Reason], head: Mapping[str, Any]) -> list[Reason]:
    """The model works on standardised numbers; people do not."""
    scaled = [r._replace(weight=r.weight * head["scale"]) for r in reasons]
    at = next(i for i, r in enumerate(scaled) if r.kind == "bias")
    scaled[at] = scaled[at]._replace(weight=scaled[at].weight + head["offset"])
    return sorted(scaled, key=lambda r: -abs(r.weight))


def _classes(signature: Signature, head: Mapping[str, Any]) -> tuple[Any, ...] | None:
    field = signature.outputs[head["name"]]
    return (False, True) if field.kind == "bool" else field.classes


def load(path: str | os.PathLike[str]) -> Program:
    """Loads a program that `Program.save` wrote. The weights stay in the mapped file and are shared.

    Enum classes come back as their values: loading imports nothing. Give them their Enum again with
    `signature.with_classes`.

    Raises:
        ModelFileError: the file is missing, damaged, foreign or of a newer version; everything is checked
            before it is used.
    """
    return program_of(modelfile.read_model(path))


def program_of(file: modelfile.ModelFile) -> Program:
    """The program of a model file that has been read.

    Raises:
        ModelFileError: its description or its arrays are not those of a program.
    """
    from ._meta import checked_meta

    try:
        signature, meta = checked_meta(file.meta, file.arrays)
        return Program(signature, file.arrays, meta)
    except ModelFileError as error:
        raise ModelFileError(f"{file.path.name}: {error.message}", hint=error.hint) from error.__cause__
    except (ValueError, TypeError, KeyError, IndexError) as error:
        raise ModelFileError(
            f"{file.path.name}: its parts do not fit each other: {error}", hint="Fit the program again"
        ) from error

"""fit: from a signature and examples to a native program."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dspex import _fit
from dspex.errors import ConfigError, InputError, SignatureError
from dspex.learning.calibrate import best_threshold, held_out_figures
from dspex.learning.examples import Columns, read_examples
from dspex.learning.gate import judged, learn, tolerances, with_groups
from dspex.learning.gate_folds import near_copies
from dspex.learning.options import FitOptions, thread_count
from dspex.learning.progress import reporter
from dspex.learning.targets import head_meta, head_spec, require_sane, stratum
from dspex.learning.weights import sample_weights
from dspex.program import Program
from dspex.signature import Signature

__all__ = ["fit"]

_DENSE_KINDS = ("float", "int", "bool", "vector")


def fit(
    signature: Any,
    examples: Any,
    *,
    sample_weight: Iterable[float] | None = None,
    seed: int = 0,
    threads: int | None = None,
    progress: bool | Callable[[float], None] | None = None,
    id: str | None = None,
    agree: Mapping[str, float] | None = None,
    **options: Any,
) -> Program:
    """Fits a native program.

    Linear models over words, pairs of words and character n-grams are trained by dual coordinate descent, on
    all rows and once more without each fold; the held-out scores calibrate the probabilities. The same
    arguments give the same program, bit for bit, whatever the number of threads. Ctrl-C stops the work and
    leaves nothing behind.

    Args:
        signature: anything `Signature.of` reads. `str` and `list[str]` outputs take their classes from the
            examples.
        examples: mappings from field to value, dspy.Example objects, or one mapping of columns. A label may
            be soft: a mapping from class to probability.
        sample_weight: one number >= 0 a row.
        seed: of the folds and of the order of visits.
        threads: None for all cores.
        progress: True for a bar on standard error, or a function that takes a share in [0, 1].
        id: the program's id; made from the data's fingerprint when left out.
        agree: with `gate`, numeric output -> how far it may be from an example's and still agree with it.
        **options: fields of `FitOptions`.

    Raises:
        SignatureError: the signature cannot be read, or cannot be answered natively.
        InputError: an example does not fit the signature (with row and field), or there is nothing to learn.
        ConfigError: an option that does not exist or is out of range.
    """
    settings = FitOptions.of(options)
    count = thread_count(threads)
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**63:
        raise ConfigError(
            f"option 'seed' is {seed!r}", field="seed", hint="It takes an integer from 0 to 2**63 - 1"
        )
    declared = Signature.of(signature)
    _require_learnable(declared)
    bound, columns = read_examples(declared, examples)
    weights = sample_weights(sample_weight, columns.rows)
    metas = [head_meta(field) for field in bound.outputs.values()]
    specs = [
        head_spec(field, meta, columns.outputs[name], weights, settings)
        for (name, field), meta in zip(bound.outputs.items(), metas, strict=True)
    ]
    text_columns = [columns.inputs[name] for name, field in bound.inputs.items() if field.kind == "text"]
    dense, dense_scale, inputs = _dense(bound, columns)
    chars = sum(len(text) for column in text_columns for text in column)
    settings = settings.for_texts(
        chars / columns.rows, choice=any(meta["kind"] == "choice" for meta in metas)
    )
    assert settings.folds is not None  # settled by for_texts
    fold_count = min(settings.folds, columns.rows)
    strata = stratum(specs[0])
    folds = _folds(text_columns, dense, strata, fold_count, seed)
    if settings.gate:
        folds = np.ascontiguousarray(folds[near_copies(text_columns, strata, fold_count, seed)])
        tolerance = tolerances(bound.outputs, agree)
        specs = [with_groups(meta, spec, seed) for meta, spec in zip(metas, specs, strict=True)]
    elif agree is not None:
        raise ConfigError("agree is for a gate", field="agree", hint="Pass gate=True, or leave agree out")
    with reporter(progress, "fitting") as report:
        arrays, held_out, info = _fit.train(
            text_columns,
            dense,
            folds,
            specs,
            {
                "text": settings.text(),
                "folds": fold_count,
                "threads": count,
                "seed": seed,
                "max_epochs": settings.max_epochs,
                "tolerance": settings.tolerance,
                "min_pair_df": settings.min_pair_df,
                "max_units": settings.max_units,
                "evidence": settings.gate,
            },
            report,
        )
    arrays["dense_scale"] = dense_scale
    _require_finite(arrays)
    figures = {}
    for meta, spec, logits in zip(metas, specs, held_out, strict=True):
        if meta["kind"] == "number":
            meta |= {key: spec[key] for key in ("scale", "offset", "low", "high")}
        if meta["kind"] == "multilabel":
            meta["threshold"] = best_threshold(logits, spec["targets"], weights)
        figures[meta["name"]] = held_out_figures(meta, spec, logits)
    fingerprint = columns.fingerprint()
    meta = {
        "id": id or f"native-{fingerprint[:12]}",
        "inputs": inputs,
        "heads": metas,
        "text": settings.text(),
        "options": settings.to_dict() | {"seed": seed},
        "data": {"rows": columns.rows, "fingerprint": fingerprint},
        "calibration": {
            "method": "held-out folds",
            "folds": fold_count,
            "held_out": figures,
            "models": info["heads"],
        },
        "units": info["units"],
        "ngrams": info["features"] - info["units"],
    }
    held = None
    if settings.gate:
        heads = [
            judged(head, spec, logits, evidence, tolerance.get(head["name"], 0.0))
            for head, spec, logits, evidence in zip(metas, specs, held_out, info["evidence"], strict=True)
        ]
        arrays["gate"], held, record = learn(heads, weights, folds, settings.novelty)
        meta["gate"] = record | {"agree": tolerance}
    program = Program(bound, arrays, meta)
    program._held_out = held
    return program


def _require_learnable(signature: Signature) -> None:
    """The signature must be native-eligible once its open outputs have classes."""
    probe = signature
    for name, field in signature.outputs.items():
        if field.takes_learned_classes and field.classes is None:
            probe = probe.with_classes(name, ("a", "b"))
    verdict = probe.native_eligibility()
    if not verdict.ok:
        raise SignatureError(
            f"this signature cannot be answered natively: {verdict.reason}", field=verdict.field,
            hint="Inputs: text, numbers, bools, vectors. Outputs: Literal, Enum, bool, number, list[Literal]",
        )  # fmt: skip


def _dense(
    signature: Signature, columns: Columns
) -> tuple[NDArray[np.float32], NDArray[np.float32], list[tuple[str, str, int]]]:
    """([rows, width + 1] standardised numbers and a constant 1, [2, width] mean and factor, input kinds)."""
    parts: list[NDArray[np.float64]] = []
    factors: list[NDArray[np.float64]] = []
    inputs: list[tuple[str, str, int]] = []
    for name, field in signature.inputs.items():
        if field.kind not in _DENSE_KINDS:
            inputs.append((name, field.kind, 0))
            continue
        values = np.asarray(columns.inputs[name], dtype=np.float64).reshape(columns.rows, -1)
        require_sane(field, values)
        deviation = values.std(0)
        # A constant column says nothing; a vector counts as much as one number, however long it is.
        usable = deviation > 1e-12 * (1 + np.abs(values).max(0))
        factors.append(np.where(usable, 1 / np.where(usable, deviation, 1), 0) / math.sqrt(values.shape[1]))
        parts.append(values)
        inputs.append((name, field.kind, values.shape[1]))
    raw = np.hstack([*parts, np.empty((columns.rows, 0))])
    mean = raw.mean(0).astype(np.float32)
    scale = np.hstack([*factors, np.empty(0)]).astype(np.float32)
    z = ((raw - mean) * scale).astype(np.float32)
    dense = np.ascontiguousarray(np.hstack([z, np.ones((columns.rows, 1), np.float32)]))
    return dense, np.ascontiguousarray(np.vstack([mean, scale])), inputs


def _folds(
    texts: list[list[str]], dense: NDArray[np.float32], strata: NDArray[np.int64], folds: int, seed: int
) -> NDArray[np.uint8]:
    """[rows] fold of each row: strata are dealt evenly, and rows with the same inputs stay together."""
    rows = len(dense)
    first: dict[tuple[str | bytes, ...], int] = {}
    leader = np.arange(rows)
    if texts:  # a few numbers alone are often the same by chance
        for row, key in enumerate(zip(*texts, map(bytes, dense), strict=True)):
            leader[row] = first.setdefault(key, row)
    order = np.random.default_rng(seed).permutation(rows)
    order = order[np.argsort(strata[order], kind="stable")]
    fold = np.zeros(rows, np.uint8)
    fold[order] = (np.arange(rows) % folds).astype(np.uint8)
    return np.ascontiguousarray(fold[leader])


def _require_finite(arrays: dict[str, NDArray[Any]]) -> None:
    for name in ("bias", "dense", "dense_scale"):
        if not np.isfinite(arrays[name]).all():
            raise InputError(
                "the numbers in the examples are too large to learn from",
                hint="Scale numeric fields to a sane range",
            )

"""Finished models made by hand, of any features and weights, for the compiled core and for the oracle."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pytest

from dspex import _core, reference
from dspex.reference import Model
from dspex.result import Route

TEXT_OPTIONS: dict[str, Any] = {
    "min_n": 2,
    "max_n": 5,
    "word_weight": 1.0,
    "bigram_weight": 1.0,
    "skip_weight": 0.0,
    "char_weight": 2.5,
    "char_power": 0.5,
}
ROUTE = Route("native", reason="made by hand")


def text_options(**changes: Any) -> dict[str, Any]:
    return TEXT_OPTIONS | changes


def text_inputs(*names: str) -> list[tuple[str, str, int]]:
    return [(name, "text", 0) for name in names]


def choice(columns: int) -> list[dict[str, Any]]:
    """One head with a class a column."""
    return [{"name": "label", "kind": "choice", "columns": columns, "classes": tuple(range(columns))}]


def hashes_of(
    texts: Iterable[tuple[int, str]], options: Mapping[str, Any], *, known: bool = True
) -> list[int]:
    """The hashes of all units of (field, text) pairs; with `known` false, only of their words' n-grams."""
    found: dict[int, None] = {}
    for field, text in texts:
        for unit in reference.units(text, field, options):
            found.update(dict.fromkeys([unit.hash] if known else unit.spelled))
    return list(found)


def model_of(
    hashes: Sequence[int],
    *,
    columns: int = 3,
    options: Mapping[str, Any] = TEXT_OPTIONS,
    inputs: Sequence[tuple[str, str, int]] = (("text", "text", 0),),
    heads: Sequence[Mapping[str, Any]] | None = None,
    seed: int = 0,
) -> Model:
    """A model that knows these hashes, with random weights."""
    rng = np.random.default_rng(seed)
    width = sum(size for _, kind, size in inputs if kind != "text")
    arrays = reference.pack(
        hashes, rng.uniform(0.1, 3, len(hashes)), rng.normal(size=(len(hashes), columns)).astype(np.float32)
    )
    arrays["bias"] = rng.normal(size=columns).astype(np.float32)
    arrays["dense"] = rng.normal(size=(width, columns)).astype(np.float32)
    arrays["dense_scale"] = rng.uniform(0.2, 2, (2, width)).astype(np.float32)
    return Model(inputs, heads or choice(columns), arrays, options)


def compiled(model: Model) -> _core.Predictor:
    predictor = _core.Predictor()
    predictor._bind(model.inputs, model.heads, model.arrays, model.text, ROUTE)
    return predictor


def assert_same_features(model: Model, text: str, field: int = 0) -> None:
    """The compiled core takes the same rows from a text, in the same order, with the same weights."""
    ours = compiled(model)._contributions(text, field)
    truth = list(reference.contributions(model, text, field))
    assert [o[:2] for o in ours] == [t[:2] for t in truth]
    if truth:
        np.testing.assert_allclose([o[2] for o in ours], [t[2] for t in truth], rtol=1e-5)
        np.testing.assert_allclose([o[3] for o in ours], [t[3] for t in truth], rtol=1e-5, atol=1e-7)


def assert_same_logits(model: Model, inputs: Mapping[str, Any]) -> None:
    """The compiled core gives the same logits, within what 32-bit sums lose; or both refuse."""
    if not reference.has_content(model, inputs):
        with pytest.raises(TypeError):
            compiled(model)._logits(dict(inputs))
        return
    truth = reference.logits(model, inputs)
    np.testing.assert_allclose(compiled(model)._logits(dict(inputs)), truth, rtol=1e-4, atol=2e-4)

"""The gate's score: how likely an answer is the teacher's, learned on rows that the models have not seen.

A logistic regression over a few features of a call (`src/_native/model/gate.hpp`). Rows answered by models
that were trained without them say how sure the answers really are; rows answered by models that were trained
without their class stand for what belongs to no class, so that no such texts have to be collected.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dspex import _fit
from dspex._meta import GATE_FEATURES
from dspex.errors import ConfigError, nearest
from dspex.learning.gate_regression import Regression, regress, sigmoid
from dspex.program import Program
from dspex.signature import Field

__all__ = ["HeldOut", "held_out"]

_FEWEST_CLASSES = 10  # with fewer, what is left when one goes says little of a text of no class
_FEWEST_ROWS = 50  # with fewer, nothing is too unlike them
_GROUPS = 4
_NOVEL_SHARE = 0.05  # weight of all novel rows together, in that of all rows
TOP = GATE_FEATURES.index("top")
_PARTS = 5  # of the gate's own held-out scores


class HeldOut(NamedTuple):
    """What a program's fit says of each of its examples, by models and a gate that have not seen it.

    Attributes:
        scores: [rows] float32 gate scores in [0, 1].
        wrong: [rows] bool, whether any output differed from the example's.
        picked: [rows] int32 answered class of the first output, by its place among the output's classes; of
            several labels the likeliest, of a number -1.
        familiarity: [rows] float32, see `Result.gate_familiarity`.
    """

    scores: NDArray[np.float32]
    wrong: NDArray[np.bool_]
    picked: NDArray[np.int32]
    familiarity: NDArray[np.float32]


def held_out(program: Program) -> HeldOut:
    """The held-out scores of a program that was just fitted with `gate=True`, in the order of its examples.

    They are kept on that very object, and not in its file.

    Raises:
        ConfigError: the program has none.
    """
    found: HeldOut | None = program._held_out
    if found is None:
        raise ConfigError(
            "this program has no held-out scores",
            field="gate",
            program=program.id,
            hint="Only what dspex.fit(..., gate=True) returned has them; its copies and its file have not",
        )
    return found


def tolerances(outputs: Mapping[str, Field], agree: Any) -> dict[str, float]:
    """How far each number may be from the teacher's and still agree with it; checked.

    Raises:
        ConfigError: not such a mapping, or a number is left out.
    """
    if agree is not None and not isinstance(agree, Mapping):
        raise ConfigError(
            f"agree is a {type(agree).__name__}", field="agree", hint="Map outputs to tolerances"
        )
    given = dict(agree or {})
    numbers = [name for name, field in outputs.items() if field.kind in ("int", "float")]
    for name, value in given.items():
        if name not in numbers:
            raise ConfigError(
                f"agree names {name!r}, which is no numeric output",
                field="agree",
                hint=nearest(str(name), numbers),
            )
        good = isinstance(value, (int, float)) and not isinstance(value, bool)
        if not good or not 0 <= value < 1e200:
            raise ConfigError(
                f"agree[{name!r}] is {value!r}", field="agree", hint="It takes a number from 0 on"
            )
    for name in numbers:
        if name not in given:
            raise ConfigError(
                f"a gate has to know when two numbers agree, and {name!r} has no tolerance",
                field="agree",
                hint=f"For instance agree={{{name!r}: 0.5}}",
            )
    return {name: float(value) for name, value in given.items()}


def with_groups(meta: Mapping[str, Any], spec: dict[str, Any], seed: int) -> dict[str, Any]:
    """The head's spec with its classes dealt to groups that models are trained without, if they are many."""
    if meta["kind"] != "choice":
        return spec
    label = np.asarray(spec["targets"]).argmax(1)
    present = np.unique(label)
    if len(present) < _FEWEST_CLASSES:
        return spec
    group = np.zeros(meta["columns"], np.uint8)
    group[np.random.default_rng(seed).permutation(present)] = np.arange(len(present)) % _GROUPS
    return spec | {"groups": _GROUPS, "group_of_row": np.ascontiguousarray(group[label])}


class Head(NamedTuple):
    """One output's features [rows, features], in and out of scope, and where it was wrong [rows]."""

    features: NDArray[np.float32]
    novel: NDArray[np.float32] | None
    wrong: NDArray[np.bool_]
    picked: NDArray[np.int32]
    is_choice: bool


def learn(
    heads: Sequence[Head], weights: NDArray[np.float32], folds: NDArray[np.uint8], novelty: float
) -> tuple[NDArray[np.float32], HeldOut, dict[str, Any]]:
    """The gate of a program.

    Args:
        heads: one an output.
        weights: [rows] of the examples.
        folds: [rows] fold of each row; rows with the same inputs share one.
        novelty: share of the rows that count as unlike the others.

    Returns:
        (gate [3 * outputs, features], held-out scores, figures to keep).
    """
    parts = folds % _PARTS
    odds = np.full(len(weights), np.inf)
    familiarity = odds.copy()
    for head in heads:
        own = _cross_fitted(head, weights, parts)
        odds = np.minimum(odds, own)
        familiarity = np.minimum(familiarity, own + head.features[:, TOP] if head.is_choice else own)
    floor = _floor(familiarity[weights > 0], novelty)
    scores = sigmoid(odds)
    if floor is not None:
        scores[familiarity < floor] = 0
    gate = np.vstack([_fitted(head, weights).table() for head in heads])
    wrong = np.any([head.wrong for head in heads], axis=0)
    held = HeldOut(scores.astype(np.float32), wrong, heads[0].picked, familiarity.astype(np.float32))
    figures = _figures(held, weights, any(head.novel is not None for head in heads))
    return gate, held, figures | {"floor": floor}


def _floor(familiarity: NDArray[np.float64], novelty: float) -> float | None:
    """The familiarity below which a score is 0; None: it never is, as few rows do not say what is usual."""
    if novelty == 0 or len(familiarity) < _FEWEST_ROWS:
        return None
    return float(np.float32(np.quantile(familiarity, novelty)))


def _fitted(head: Head, weights: NDArray[np.float32], rows: NDArray[np.bool_] | None = None) -> Regression:
    use = slice(None) if rows is None else rows
    x, right, w = head.features[use], ~head.wrong[use], weights[use].astype(np.float64)
    if head.novel is None:
        return regress(x, right, w)
    novel = head.novel[use]
    return regress(
        np.vstack([x, novel]),
        np.concatenate([right, np.zeros(len(novel), np.bool_)]),
        np.concatenate([w, w * _NOVEL_SHARE]),
    )


def _cross_fitted(head: Head, weights: NDArray[np.float32], parts: NDArray[np.uint8]) -> NDArray[np.float64]:
    """[rows] log-odds of scores, each by a gate that was fitted without the row's part."""
    odds = np.empty(len(weights))
    for part in np.unique(parts):
        own = parts == part
        others = ~own if (weights[~own] > 0).any() else own
        odds[own] = _fitted(head, weights, others).log_odds(head.features[own])
    return odds


def judged(
    meta: Mapping[str, Any],
    spec: Mapping[str, Any],
    logits: NDArray[np.float32],
    evidence: Mapping[str, NDArray[np.float32]],
    tolerance: float,
) -> Head:
    """One output's held-out rows as the gate sees them.

    Args:
        meta: of the head, with its threshold or scale.
        spec: of the head, with its targets.
        logits: [rows, columns] held out.
        evidence: as `_fit.train` gives it.
        tolerance: of a number.
    """
    targets = np.asarray(spec["targets"])
    picked = np.full(len(logits), -1, np.int32)
    if meta["kind"] == "number":
        wrong = _numbers_apart(meta, logits[:, 0], spec["values"], tolerance)
    elif meta["kind"] == "binary":
        picked = (logits[:, 0] >= 0).astype(np.int32)
        wrong = picked != (targets[:, 0] >= 0.5)
    elif meta["kind"] == "choice":
        picked = logits.argmax(1).astype(np.int32)
        wrong = picked != targets.argmax(1)
    else:
        limit = np.log(meta["threshold"] / (1 - meta["threshold"]))
        picked = logits.argmax(1).astype(np.int32)
        wrong = ((logits >= limit) != (targets >= 0.5)).any(1)
    novel = None
    if "novel" in evidence:
        novel = _fit.gate_features(meta, evidence["novel"], evidence["novel_evidence"])
    features = _fit.gate_features(meta, logits, evidence["held_out"])
    return Head(features, novel, np.asarray(wrong), picked, meta["kind"] == "choice")


def _numbers_apart(
    meta: Mapping[str, Any], logits: NDArray[np.float32], wanted: NDArray[np.float64], tolerance: float
) -> NDArray[np.bool_]:
    """[rows] whether answers as a call would give them are further off than they may be."""
    given = np.clip(meta["offset"] + meta["scale"] * logits.astype(np.float64), meta["low"], meta["high"])
    if meta["integer"]:
        given = np.rint(given)
    return np.asarray(np.abs(given - wanted) > tolerance)


def _figures(held: HeldOut, weights: NDArray[np.float32], novel: bool) -> dict[str, Any]:
    used = weights > 0
    right, score = ~held.wrong[used], held.scores[used].astype(np.float64)
    p = np.clip(score, 1e-6, 1 - 1e-6)
    return {
        "features": list(GATE_FEATURES),
        "held_out": {
            "rows": int(used.sum()),
            "agreement": float(right.mean()),
            "log_loss": float(-np.where(right, np.log(p), np.log(1 - p)).mean()),
        },
        "novelty": novel,
    }

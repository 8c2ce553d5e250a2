"""What a live program does with its calls, as long as its state stays the same."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from enum import Enum
from functools import partial
from typing import Any

from dspex.distill.agreement import Agreement, imported
from dspex.distill.coins import Coins
from dspex.distill.guarded import Guarded
from dspex.distill.redacted import Redacted, of_redacted
from dspex.distill.rules import rank
from dspex.distill.settings import DistillSettings
from dspex.distill.store import State, Store, VersionRecord
from dspex.distill.tally import Tally
from dspex.distill.terms import weaker
from dspex.guarantee.certificate import Certificate
from dspex.program import Program, load
from dspex.result import Result, Route
from dspex.signature import Signature

__all__ = ["Plan", "plan_of", "without_version"]

_DRIFT_SHARE = 1 / 16  # of the calls; what is not looked at costs nothing
_SAMPLES = 256  # that wait for the background thread, which looks once a second; older ones are dropped


@dataclass(frozen=True, slots=True)
class Plan:
    """One version in one stage. Replaced whole between two calls; each call reads it once.

    Attributes:
        state: that it carries out.
        fast: answers natively, and where the score is at least `threshold`, that is the reply; its coin alone
            says what else there is to do. None where more has to be looked at.
        native: answers natively; None where only the teacher answers.
        threshold: of the score; inf where there is no single one.
        guarded: says which answers stand; None as `native`.
        agreement: compares answers with the teacher's.
        samples: native answers that wait to be looked at for drift of the inputs.
        reference: what they are compared with; None where the version's rows are none.
        batch: answers many rows natively, with an InputError in the place of one that it cannot.
        weaker: why the version guarantees less than the settings ask for: none of its answers is a reply.
    """

    state: State
    coins: Coins
    tally: Tally
    fast: Callable[[Mapping[str, Any]], Result] | None = None
    native: Callable[[Mapping[str, Any]], Result] | None = None
    threshold: float = math.inf
    guarded: Guarded | None = None
    agreement: Agreement | None = None
    samples: deque[Result] = field(default_factory=lambda: deque(maxlen=_SAMPLES))
    reference: Mapping[str, Any] | None = None
    batch: Callable[[list[Mapping[str, Any]]], list[Any]] | None = None
    weaker: str | None = None


def plan_of(
    store: Store, state: State, settings: DistillSettings, seed: int | None, before: Plan | None = None
) -> Plan:
    """The plan for a state.

    Args:
        before: the plan that it replaces; of the same version, the program and its drift are kept.

    A version that guarantees less than the settings ask for answers nothing, until it has been moved back to
    shadow, where it is compared only.

    Raises:
        ModelFileError: the version's file is missing or damaged.
    """
    if state.version is None:
        return without_version(state, settings, seed)
    record = store.version(state.version)
    lack = weaker(record, settings.guarantee)
    if lack is not None and rank(state.stage) > rank("shadow"):
        return replace(without_version(state, settings, seed), weaker=lack)  # until it has been moved back
    coins = _coins(state, settings, seed)
    same = before is not None and before.guarded is not None and before.state.version == state.version
    kept = before if same else None
    guarded = _guarded(store, record, state, settings, kept)
    program, threshold = guarded.program, guarded.threshold
    native = Redacted(store, program) if store.redacts else program
    return Plan(
        state, coins, Tally(coins),
        fast=native.predict if state.stage == "live" and threshold is not None else None,
        native=native.predict,
        threshold=math.inf if threshold is None else threshold,
        guarded=guarded,
        agreement=Agreement(program.signature, settings.guarantee.tolerance),
        reference=record.figures.get("reference"),
        batch=partial(native.batch, on_error="collect"),
        weaker=lack,
    )  # fmt: skip


def without_version(state: State, settings: DistillSettings, seed: int | None) -> Plan:
    """The plan by which the teacher answers all calls."""
    coins = _coins(state, settings, seed)
    return Plan(state, coins, Tally(coins))


def _coins(state: State, settings: DistillSettings, seed: int | None) -> Coins:
    """In the live stage audits are all that a coin is for; before it, every call is a chance to learn."""
    live = state.stage == "live"
    calibrate = settings.lifecycle.audit_share if live else settings.guarantee.before_live
    canary = settings.lifecycle.canary_share if state.stage == "canary" else 0.0
    sample = 0.0 if state.stage == "teacher" else _DRIFT_SHARE
    # A plan's own seed: the coins of the one before must not come again.
    own = None if seed is None else seed + 1_000_003 * state.revision
    return Coins(calibrate, canary, sample, own)


def _guarded(
    store: Store, record: VersionRecord, state: State, settings: DistillSettings, kept: Plan | None
) -> Guarded:
    if kept is not None and kept.guarded is not None:
        program = kept.guarded.program
    else:
        program = load(store.version_file(record.number))
    route = Route("native", reason=f"version {record.number}, {state.stage}: the gate lets it through")
    signature = _with_enums(program.signature, store.signature)
    certificate = Certificate.from_dict(record.certificate)
    slices = of_redacted(store, imported(settings.guarantee.slices, "guarantee.slices"))
    return Guarded(Program(signature, program._arrays, program._meta, route), certificate, slices)


def _with_enums(signature: Signature, declared: Signature) -> Signature:
    """A loaded signature with the Enums that it was fitted with: a file holds their values."""
    for name, output in signature.outputs.items():
        wanted = declared.outputs.get(name)
        if wanted is None or not wanted.classes or wanted.classes == output.classes:
            continue
        if isinstance(wanted.classes[0], Enum):
            signature = signature.with_classes(name, type(wanted.classes[0]))
    return signature

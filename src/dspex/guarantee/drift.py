"""Drift of the inputs: noticed from native answers alone, before any label comes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from dspex.errors import ConfigError, InputError
from dspex.guarantee.bank import Bank
from dspex.guarantee.reference import DriftReference, Event
from dspex.guarantee.states import inside, numbers_of, share_of, state_of, whole_of

__all__ = ["DriftReference", "DriftWatch"]

_FORMAT = "drift-watch/1"
#: What contributes at least this share of the evidence is told as moved.
_TELLING = 0.05
#: Chances of being wrong of the reference's bounds: how finely the shares that it leaves open are told apart.
_LEVELS = (0.3, 0.06, 0.01, 1e-3, 1e-4, 1e-5)
#: That of the bounds that are told to people.
_TOLD = 1e-3


class DriftWatch:
    """Raises an alarm when the calls no longer look like those of the reference.

    Watched are the scores (how many lie below or above each of some limits), the predicted classes (how many
    calls each gets, more or fewer) and the shares of unknown words. Each of these events is bet on as in
    ``dspex.guarantee.betting``; their capitals are averaged, and the alarm is when that reaches ``2 /
    delta``. Half of ``delta`` is for the reference, which is an estimate (see DriftReference), half for the
    live calls. As long as each event's chance, given the past, is what it was when the reference rows were
    drawn (or farther from the side that is bet on, or beyond it by at most ``tolerance``), the chance that
    there is *ever* an alarm is at most ``delta``.

    An alarm stays: from then on calls are counted, and the evidence is that of the alarm.

    Args:
        reference: the past.
        delta: chance of a false alarm, over all time.
        tolerance: shares may move by this much without evidence of drift (0.02: two points in a hundred).
        state: what ``state()`` gave, to go on from.

    Raises:
        ConfigError: ``delta`` not inside 0..1, ``tolerance`` not in 0..1, ``state`` of other settings.
        InputError: ``state`` that is not one of a drift watch with this reference.

    Attributes:
        n: calls so far.
        alarmed_at: the value of ``n`` at the alarm, or None.
    """

    __slots__ = (
        "_banks",
        "_events",
        "_lookers",
        "_parts",
        "alarmed_at",
        "delta",
        "n",
        "reference",
        "tolerance",
    )

    def __init__(
        self,
        reference: DriftReference,
        delta: float,
        *,
        tolerance: float = 0.0,
        state: Mapping[str, Any] | None = None,
    ) -> None:
        self.reference = reference
        self.delta = inside("delta", delta)
        if isinstance(tolerance, bool) or not isinstance(tolerance, int | float) or not 0 <= tolerance < 1:
            raise ConfigError(f"tolerance must be from 0 to below 1, not {tolerance!r}", field="tolerance")
        self.tolerance = float(tolerance)
        self._events = reference.events()
        self._parts = reference.parts()
        levels = levels_of(self._parts, self.delta)
        self._banks = {
            group: Bank(
                cells(reference, events, levels, self.tolerance), credits_of(levels), self._parts[group]
            )
            for group, events in self._events.items()
        }
        self._lookers = {group: _looker(events) for group, events in self._events.items()}
        self.n = 0
        self.alarmed_at: int | None = None
        if state:
            self._resume(state)

    def update(self, score: float, label: str | None, unknown_share: float | None = None) -> bool:
        """Takes the next call; returns whether the alarm is raised (now or before).

        ``label`` is None for a program whose reference has no classes, and ``unknown_share`` for one whose
        reference has no shares of unknown words. A label that the reference does not know is watched, too.

        Raises:
            InputError: a number outside 0..1, or something given that the reference lacks, or the reverse.
        """
        values = self._values(score, label, unknown_share)
        self.n += 1
        for group, bank in self._banks.items():
            happened = self._lookers[group](values[group])
            if self.alarmed_at is None:
                bank.update(happened)
            else:
                bank.see(happened)
        if self.alarmed_at is None and self.evidence * self.delta >= 1.0:
            self.alarmed_at = self.n
        return self.alarmed

    def _values(self, score: float, label: str | None, unknown: float | None) -> dict[str, Any]:
        for field, value, known in (
            ("label", label, self.reference.counts),
            ("unknown_share", unknown, self.reference.unknown),
        ):
            if (value is None) != (known is None):
                raise InputError(
                    f"the reference has {'no' if known is None else 'a'} {field}, the call has {value!r}",
                    field=field,
                    hint="Give what the reference was made of",
                )
        if label is not None and not isinstance(label, str):
            raise InputError(f"a label must be a string, not {label!r}", field="label")
        share = None if unknown is None else share_of("unknown_share", unknown)
        return {"score": share_of("score", score), "classes": label, "unknown": share}

    @property
    def alarmed(self) -> bool:
        return self.alarmed_at is not None

    @property
    def evidence(self) -> float:
        """The e-value against "no drift". The alarm is at ``1 / delta``."""
        total = 0.0
        for bank in self._banks.values():
            total += bank.evidence()
        return total / len(self._parts)

    def report(self) -> dict[str, Any]:
        """What there is to know, JSON-able.

        "alarm", "n", "alarmed_at", "evidence" and "limit" (of the evidence); "since": the calls before what
        contributes most began to move, or None; "text": sentences. For each group that is watched ("score",
        "classes", "unknown") its "evidence" and, once there is an alarm, what "moved", most evidence first: a
        list of "what", "direction", "reference" (the share in it), "at_most" (by the reference; "at_least"
        for what fell), "lately" (share of the last 300 calls or so, fading), "evidence", "part" (of all
        evidence), "since" and "text". "classes" also has "shares": of each class, [in the reference, lately].
        """
        groups: dict[str, dict[str, Any]] = {
            group: {"evidence": float(bank.evidence()), "moved": self._moved(group)}
            for group, bank in self._banks.items()
        }
        if "classes" in groups:
            groups["classes"]["shares"] = self._shares()
        moved = [move for group in groups.values() for move in group["moved"]]
        moved.sort(key=lambda move: -move["part"])
        return {
            "alarm": self.alarmed,
            "n": self.n,
            "alarmed_at": self.alarmed_at,
            "since": moved[0]["since"] if moved else None,
            "evidence": self.evidence,
            "limit": 1.0 / self.delta,
            "text": self._text(moved),
            **groups,
        }

    def _moved(self, group: str) -> list[dict[str, Any]]:
        if not self.alarmed:
            return []
        bank, events = self._banks[group], self._events[group]
        parts = bank.each / self._parts[group] / len(self._parts) / self.evidence
        bounds = self.reference.open_shares(events, _TOLD)
        found: dict[tuple[Any, ...], dict[str, Any]] = {}
        for i in np.argsort(-parts, kind="stable").tolist():
            event = events[i]
            if parts[i] >= _TELLING:
                told = _told(event, float(bounds[i]), float(bank.lately[i]))
                told |= {
                    "evidence": float(bank.each[i]),
                    "part": float(parts[i]),
                    "since": int(bank.since[i]),
                }
                # Of equal limits the one that tells most.
                found.setdefault((event.name, event.limit, event.side), told)
        return list(found.values())

    def _shares(self) -> dict[str, list[float]]:
        lately = self._banks["classes"].lately.tolist()
        return {
            event.name: [event.share, share]
            for event, share in zip(self._events["classes"], lately, strict=True)
            if event.name is not None and event.side == "is"
        }

    def _text(self, moved: list[dict[str, Any]]) -> str:
        if not self.alarmed:
            return (
                f"No drift shown in {self.n} calls against {self.reference.rows} reference rows "
                f"(evidence {self.evidence:.3g}, alarm at {1.0 / self.delta:.3g})."
            )
        told = "; ".join(move["text"] for move in moved)
        since = moved[0]["since"]
        return f"Drift, shown after {self.alarmed_at} calls, seemingly since call {since}: {told}."

    def state(self) -> dict[str, Any]:
        """All that is kept besides the reference, JSON-able: going on from it gives bit-equal results."""
        return {
            "format": _FORMAT,
            "delta": self.delta,
            "tolerance": self.tolerance,
            "rows": self.reference.rows,
            "n": self.n,
            "alarmed_at": self.alarmed_at,
            "banks": {group: bank.state() for group, bank in self._banks.items()},
        }

    @classmethod
    def from_state(cls, reference: DriftReference, state: Mapping[str, Any]) -> Self:
        """The watch that ``state`` was taken from, with its settings and the reference it had.

        Raises:
            InputError: it is not the state of one, or of one with another reference.
        """
        state = state_of(state, _FORMAT)
        delta, tolerance = numbers_of(state, "delta", "tolerance")
        return cls(reference, delta, tolerance=tolerance, state=state)

    def _resume(self, state: Mapping[str, Any]) -> None:
        state = state_of(state, _FORMAT)
        if (state.get("delta"), state.get("tolerance")) != (self.delta, self.tolerance):
            raise ConfigError("the state is of a drift watch with other settings", hint="Begin a new one")
        banks = state.get("banks")
        same = isinstance(banks, Mapping) and set(banks) == set(self._banks)
        if not same or state.get("rows") != self.reference.rows:
            raise InputError("the state is of a drift watch with another reference", hint="Begin a new one")
        for group, bank in self._banks.items():
            bank.resume(state["banks"][group])
        (self.n,) = whole_of(state, "n")
        self.alarmed_at = None if state.get("alarmed_at") is None else whole_of(state, "alarmed_at")[0]


def levels_of(parts: Mapping[str, int], delta: float) -> tuple[float, ...]:
    """The levels whose bounds part the open shares into cells: so many that one event can raise the alarm."""
    levels = list(_LEVELS)
    most = len(parts) * max(parts.values()) / delta
    while credit(levels[-1]) < 2.0 * most:
        levels.append(levels[-1] / 10)
    return tuple(levels)


def cells(
    reference: DriftReference, events: list[Event], levels: tuple[float, ...], tolerance: float
) -> NDArray[np.float64]:
    """The bound of each cell and event, [levels, events]."""
    bounds = np.stack([reference.open_shares(events, level) for level in levels])
    return np.minimum(bounds + tolerance, 1.0)


def credits_of(levels: tuple[float, ...]) -> NDArray[np.float64]:
    """What the reference says against the shares between one level's bound and the next, [levels + 1]."""
    return np.array([credit(level) for level in (1.0, *levels)])


def credit(p: float) -> float:
    """A p-value as an e-value: the mean of all k p^(k-1), 0 < k < 1 (Vovk and Wang, "E-values", 2021)."""
    log = math.log(p)
    return 0.5 if p == 1.0 else (1.0 - p + p * log) / (p * log * log)


def _looker(events: list[Event]) -> Any:
    return _Classes(events) if events[0].group == "classes" else _Limits(events)


class _Limits:
    """Which of some limits a number is beyond."""

    def __init__(self, events: list[Event]) -> None:
        self._limits = np.array([event.limit for event in events])
        self._below = np.array([event.side == "below" for event in events])

    def __call__(self, value: float) -> NDArray[np.bool_]:
        return np.where(self._below, value < self._limits, value > self._limits)


class _Classes:
    """Which classes a label is and is not."""

    def __init__(self, events: list[Event]) -> None:
        self._not = np.array([event.side == "is not" for event in events])
        self._at: dict[str | None, list[int]] = {}
        for at, event in enumerate(events):
            self._at.setdefault(event.name, []).append(at)
        self._other = self._at.get(None, [])

    def __call__(self, label: str) -> NDArray[np.bool_]:
        happened = self._not.copy()
        for at in self._at.get(label, self._other):
            happened[at] = not happened[at]
        return happened


def _told(event: Event, bound: float, lately: float) -> dict[str, Any]:
    """A move for people."""
    if event.group == "classes":
        subject = "classes unknown to the reference" if event.name is None else f"class {event.name!r}"
    else:
        thing = "scores" if event.group == "score" else "shares of unknown words"
        subject = f"{thing} {event.side} {event.limit:.4g}"
    share = event.share
    fell = event.side == "is not"  # its rise is told as the fall of the class
    if fell:
        share, bound, lately = 1.0 - share, 1.0 - bound, 1.0 - lately
    direction = "fell" if fell else "rose"
    return {
        "what": subject,
        "direction": direction,
        "reference": share,
        "at_least" if fell else "at_most": bound,
        "lately": lately,
        "text": f"{subject} {direction} from {share:.1%} to {lately:.1%} of the calls",
    }

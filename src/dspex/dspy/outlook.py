"""What was distilled, and what is guaranteed of it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from dspex.distill.store import VersionRecord
from dspex.errors import ModelFileError
from dspex.guarantee.certificate import Certificate

__all__ = ["DistillReport"]

_SHOWN = 12  # classes in the printed table


@dataclass(frozen=True, slots=True)
class DistillReport:
    """What `Distill` made; print it, or take `to_dict()`.

    Attributes:
        covers: whether any call may be answered natively.
        reason: why, in a sentence.
        agreement, delta, method: as the certificate has them; without one, as asked for.
        taught_by: "teacher" (the module's answers), "labels" (of the examples), "traces" (recorded answers),
            or several of these joined by " and ". The guarantee is of agreement with them.
        learned: the outputs that are answered natively.
        left: output -> why it stays with the teacher.
        rows: "fit" and "calibrate": rows that taught, and that certified; "rejected" by the metric, "failed",
            and "unlabelled" rows.
        cost: of labelling: "asked" answers (rows to learn from with equal inputs share one) and "known" rows,
            "usd", "seconds"; "estimate" as it was told ahead.
        certificate: as of `Certificate.to_dict`; None where nothing was certified.
        figures: "per_class", "boundary", "held_out", "fit_seconds", ...
        self_consistency: of a teacher that was asked several times: "pairs", the share of its answers to the
            same row that are equal, and "majority", the share that is its row's majority; else None.
        rows_needed: further rows that certify which would do; None: none are needed, or it is not known.
        sliced: whether the guarantee is one per slice.
        samples: answers that the teacher gives for one.
        notes: what should be known besides.
        asked: "agreement", "delta" and "method" as asked for; that delta is for all versions of the home
            together.
        version: its number in the home.
        home: the directory; None: it was in memory.
    """

    covers: bool
    reason: str
    agreement: float
    delta: float
    method: str
    taught_by: str
    learned: tuple[str, ...]
    left: Mapping[str, str] = field(default_factory=dict)
    rows: Mapping[str, int] = field(default_factory=dict)
    cost: Mapping[str, Any] = field(default_factory=dict)
    certificate: Mapping[str, Any] | None = None
    figures: Mapping[str, Any] = field(default_factory=dict)
    self_consistency: Mapping[str, float] | None = None
    rows_needed: int | None = None
    sliced: bool = False
    samples: int = 1
    notes: tuple[str, ...] = ()
    asked: Mapping[str, Any] = field(default_factory=dict)
    version: int | None = None
    home: str | None = None

    @property
    def coverage(self) -> float | None:
        """Of the rows that certified, the share that is answered natively; None: nothing was certified."""
        return None if self.certificate is None else self.certificate["coverage"]

    def to_dict(self) -> dict[str, Any]:
        """JSON-able data."""
        return dataclasses.asdict(self) | {"learned": list(self.learned), "notes": list(self.notes)}

    def of_version(self, record: VersionRecord, learned: Sequence[str]) -> DistillReport:
        """The same of another version of the home."""
        certificate = Certificate.from_dict(record.certificate)
        figures = {name: value for name, value in record.figures.items() if name != "reference"}
        return dataclasses.replace(
            self,
            covers=certificate.covers,
            reason=certificate.reason,
            agreement=certificate.agreement,
            delta=certificate.delta,
            method=certificate.method,
            learned=tuple(learned),
            left={name: why for name, why in self.left.items() if name not in learned},
            rows={**self.rows, "fit": record.rows_fit, "calibrate": record.rows_calibrate},
            rows_needed=None,
            certificate=certificate.to_dict(),
            figures=figures,
            version=record.number,
        )

    @classmethod
    def from_dict(cls, data: Any) -> DistillReport:
        """The report that `to_dict` described.

        Raises:
            ModelFileError: the data is not of that form.
        """
        try:
            values = dict(data)
            values |= {name: tuple(values[name]) for name in ("learned", "notes")}
            return cls(**values)
        except (KeyError, TypeError, ValueError) as error:
            raise ModelFileError(
                f"the report is damaged: {error}", hint="Save the DSPy program again"
            ) from error

    def __str__(self) -> str:
        return "\n".join([*self._promise(), *self._rows(), *self._fields(), *self._classes(), *self._notes()])

    def _promise(self) -> list[str]:
        if not self.covers:
            return [f"Nothing is guaranteed, so every call goes to the teacher: {self.reason}"]
        certificate = self.certificate or {}
        return [
            f"Of the calls that are answered natively, at least {self.agreement:.4g} agree with the "
            f"{self.taught_by.replace('teacher', 'teacher module')}, with confidence {1 - self.delta:.3g}.",
            f"Coverage: {certificate['coverage']:.3f} of the {certificate['rows']} rows that certify it; "
            f"{certificate['errors']} of {certificate['accepted']} answered ones disagree "
            f"(at most {certificate['upper_bound']:.4f} in truth).",
            *self._asked(),
            *(f"Assumption: {each}" for each in certificate.get("assumptions", ())),
        ]

    def _asked(self) -> list[str]:
        asked = self.asked
        version = [] if self.version is None else [f"Version: {self.version}"]
        if not asked:
            return version
        return [
            *version,
            f"Asked for: at least {asked['agreement']:.4g}, with confidence {1 - asked['delta']:.3g} for all "
            "versions together.",
        ]

    def _rows(self) -> list[str]:
        rows = ", ".join(f"{count} {name}" for name, count in self.rows.items() if count)
        cost = self.cost
        lines = [f"Rows: {rows or 'none'} ({self.method})"]
        if cost.get("asked"):
            usd = "a price that the LM does not tell" if cost["usd"] is None else f"{cost['usd']:.4g} USD"
            lines.append(f"Labelling: {cost['asked']} calls, {usd}, {cost['seconds']:.3g} s")
        return lines

    def _fields(self) -> list[str]:
        lines = [f"Learned: {', '.join(self.learned) or 'nothing'}"]
        return lines + [f"Left to the teacher: {name}, because {why}" for name, why in self.left.items()]

    def _classes(self) -> list[str]:
        table = self.figures.get("per_class") or {}
        if not table or not self.covers:
            return []
        lines = ["Class, as the teacher gave it: rows, answered natively, wrong"]
        lines += [
            f"  {name}: {line['rows']}, {line['answered']}, {line['wrong']}"
            for name, line in list(table.items())[:_SHOWN]
        ]
        return lines + ([f"  and {len(table) - _SHOWN} more"] if len(table) > _SHOWN else [])

    def _notes(self) -> list[str]:
        lines = list(self.notes)
        noise = self.self_consistency
        if noise is not None:
            lines.append(
                f"Two answers of the teacher to one row are equal in {noise['pairs']:.3f} of the cases, and "
                f"{noise['majority']:.3f} of its answers are the row's majority: nothing can agree with its "
                "single answers more often than that."
            )
        return lines

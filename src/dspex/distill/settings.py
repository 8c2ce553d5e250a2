"""How a program is distilled, watched and moved over, as settings."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, StrictBool, model_validator

from dspex.config.backends import Share
from dspex.config.base import Frozen, Settings, Table
from dspex.config.lm import Count, SomeSeconds, Text
from dspex.config.problems import Misfit

__all__ = ["DistillSettings", "GuaranteeSettings", "LearningSettings", "LifecycleSettings", "StoreSettings"]

_NOVEL_SHARE = 0.05
_CROSS_SHARE = 0.5  # the other half says when there are enough rows, and where the test begins

#: Strictly between 0 and 1.
Inside = Annotated[float, Field(strict=True, gt=0, lt=1)]


class GuaranteeSettings(Settings):
    """What is promised of native answers."""

    agreement: Inside = 0.95
    """Of the natively answered calls, at least this share agrees with the teacher ..."""
    delta: Inside = 0.05
    """... but for a chance of at most this, taken over the rows that certify it."""
    method: Literal["split", "cross"] = "split"
    """"split": rows that certify are used for nothing else. "cross": every row is judged by a model that did
    not see it, and the program is fitted on all of them; takes the fold models to be no better than it."""
    calibration_share: Inside = 0.2
    """Of the labelled rows, the share that certifies ("split"); a coin for each row. In a service, the
    share of the calls before the live stage; with "cross" at least a half, as the rows teach as well."""
    per_class: StrictBool = False
    """Guarantee it within the answers of each class, too."""
    slices: Text | None = None
    """"module:function": from inputs to the name of a slice; each slice is guaranteed by itself."""
    costs: Text | None = None
    """"module:function": cost(inputs, native, teacher) in [0, 1]; bounded in place of the disagreement."""
    tolerance: Table[float] = Field(default_factory=Frozen)
    """Numeric output -> the difference that still agrees. A float needs one; without, an int is equal or
    not."""
    novelty: Annotated[float, Field(strict=True, ge=0, le=0.5)] | None = None
    """Of calls like the rows, the share with the lowest scores that is deferred whatever is certified: what
    is like none of them has such scores. 0: none. None: see `novel_share`."""
    min_coverage: Share = 0.0
    """A certificate that covers less than this share of the calls counts as none."""

    @property
    def before_live(self) -> float:
        """The share of calls that certify in the stages before live."""
        return max(self.calibration_share, _CROSS_SHARE) if self.method == "cross" else self.calibration_share

    @property
    def novel_share(self) -> float:
        """`novelty`, or by default 0.05; the less, the more may disagree beyond 0.05: at 0.10 the half."""
        if self.novelty is not None:
            return self.novelty
        return round(_NOVEL_SHARE * min(1.0, _NOVEL_SHARE / (1 - self.agreement)), 12)

    @model_validator(mode="after")
    def _one_split(self) -> Self:
        if self.per_class and self.slices is not None:
            raise Misfit("either the classes or slices of the inputs are guaranteed by themselves", "slices")
        return self


class LifecycleSettings(Settings):
    """When a version moves on, and when it moves back."""

    automatic: StrictBool = True
    """Move on by these rules; False: only when told to. Moving back after a breach is always automatic."""
    start: Literal["shadow", "canary", "live"] = "shadow"
    """Stage of a first version."""
    refit_start: Literal["shadow", "canary", "live"] = "canary"
    """Stage of a version that takes over from one that is further on already."""
    canary_share: Inside = 0.1
    """Of the calls that the gate lets through, the share that is answered natively in the canary stage."""
    shadow_checks: Count = 200
    """Compared answers that the gate would let through, before shadow becomes canary."""
    canary_checks: Count = 200
    """The same, before canary becomes live."""
    audit_share: Share = 0.02
    """Of the calls, the share whose native answer is compared with the teacher's once the reply has gone
    out; each call by its own coin. 0 takes `automatic` False, and `start` "shadow"."""
    audit_delta: Inside = 0.05
    """For each version, the chance that the watch on its agreement ever raises a false alarm, over all
    processes and restarts of a home, and that of the watch on drift: not for all versions together."""

    @model_validator(mode="after")
    def _watched(self) -> Self:
        if self.audit_share == 0 and (self.automatic or self.start != "shadow"):
            raise Misfit(
                "without audits nothing is watched once a version is live", "audit_share",
                hint="Give a share above 0, or promote versions yourself: automatic=False, start='shadow'",
            )  # fmt: skip
        return self


class LearningSettings(Settings):
    """When a new version is learned beside the service."""

    automatic: StrictBool = True
    """Learn when enough new rows have come, and after a breach."""
    first_rows: Count = 500
    """Labelled rows before the first version is tried, and after a breach before the next. Rows count that
    were ever stored, also those that have been dropped since; of equal ones that are kept once, the first."""
    growth: Annotated[float, Field(strict=True, gt=1)] = 1.5
    """Labelled rows, as a multiple of those at the last try, before the next."""
    max_rows: Count | None = 100_000
    """The newest rows that are learned from; None: all."""
    nice: Annotated[int, Field(strict=True, ge=0, le=19)] = 19
    """Niceness of the process that learns; at 19 it runs when no other process wants to, where the system
    can see to that (Linux)."""
    threads: Count = 1
    """Of the fit."""
    timeout: SomeSeconds = 3600.0
    """Seconds after which a learning process is given up."""


class StoreSettings(Settings):
    """What is kept of calls, and for how long."""

    max_rows: Count | None = 1_000_000
    """Traces beyond this number are dropped, oldest first, those that certify a version in use last."""
    max_age: SomeSeconds | None = None
    """Seconds after which a trace is dropped; None: never."""
    deduplicate: StrictBool = True
    """Of rows to learn from, equal inputs with an equal answer are kept once for each source, with their
    number. Rows that certify are kept each: they are a sample of the calls."""


class DistillSettings(Settings):
    """All of it."""

    guarantee: GuaranteeSettings = GuaranteeSettings()
    lifecycle: LifecycleSettings = LifecycleSettings()
    learning: LearningSettings = LearningSettings()
    store: StoreSettings = StoreSettings()

"""What the router goes by: `RoutingSettings` with its rules checked."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

from dspex.routing.gate import Gate
from dspex.routing.rules import Rule, rules_of

if TYPE_CHECKING:
    from dspex.config import RoutingSettings

__all__ = ["Policy"]


@dataclass(frozen=True, slots=True)
class Policy:
    """The fields and defaults of `RoutingSettings`, which say what they mean.

    A class of its own, so that who configures nothing does not import the configuration.
    """

    backend: str | None = None
    rules: tuple[Rule, ...] = ()
    prefer: str | None = None
    latency_budget_ms: float | None = None
    max_cost: float | None = None
    threshold: float | None = 0.9
    certified: bool = True
    fallback: bool = True
    hedge_after_ms: float | None = None
    native_pool: bool = False
    dspy_pool: bool = False

    @classmethod
    def of(cls, settings: RoutingSettings | None) -> Self:
        """From checked settings, or the defaults.

        Raises:
            ConfigError: a rule that can never match, or two that contradict.
        """
        if settings is None:
            return cls()
        values = {each.name: getattr(settings, each.name) for each in dataclasses.fields(cls)}
        return cls(**{**values, "rules": rules_of(settings.rules)})

    def with_own(self, own: Mapping[str, Any]) -> Policy:
        """As this, but for what a program's own `routing` says. Its rules are looked at before these.

        Raises:
            ConfigError: as `of`, or a setting that does not exist or does not fit.
        """
        if not own:
            return self
        from dspex.config import RoutingSettings

        checked = RoutingSettings.of(own, at="routing")
        changes = {name: getattr(checked, name) for name in checked.model_fields_set}
        if "threshold" in changes:  # said of this very program: it counts, unless both are said
            changes.setdefault("certified", False)
        if "rules" in changes:
            changes["rules"] = (*rules_of(checked.rules, own=True), *self.rules)
        return dataclasses.replace(self, **changes)

    def gate_of(self, certificate: Mapping[str, Any] | None) -> Gate | None:
        """The gate on native answers, or None: all stand.

        Args:
            certificate: of the program, see `Program.certificate`.
        """
        if self.certified and certificate is not None:
            return Gate.of(certificate)
        return None if self.threshold is None else Gate(self.threshold)

    @property
    def native(self) -> str:
        """The native backend where nothing else is said."""
        return "native_pool" if self.native_pool else "native"

    @property
    def dspy(self) -> str:
        """The DSPy backend where nothing else is said."""
        return "dspy_pool" if self.dspy_pool else "dspy"

    @property
    def latency_budget(self) -> float | None:
        """Seconds that a call may take."""
        return None if self.latency_budget_ms is None else self.latency_budget_ms / 1000

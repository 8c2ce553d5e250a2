"""Routing rules: for which calls which backend. They are data, checked when they are loaded."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

__all__ = ["BACKENDS", "NATIVE_BACKENDS", "OPERATIONS", "Facts", "Rule", "rules_of"]

#: Where a program can run; native ones first.
BACKENDS = ("native", "native_pool", "dspy", "dspy_pool")
NATIVE_BACKENDS = BACKENDS[:2]
#: How a program can be called.
OPERATIONS = ("call", "acall", "batch")


@dataclass(frozen=True, slots=True)
class Facts:
    """What rules can look at; it is known when the program is created, and does not change.

    Attributes:
        program: its id.
        kind: what is asked of it.
        signature: in string form; None for a module that has not said.
        native: whether the signature can run natively.
        tags: its labels.
    """

    program: str
    kind: str
    signature: str | None
    native: bool
    tags: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule; made by `rules_of`. Conditions that are None are not looked at.

    Attributes:
        number: its place, from 0.
        use: the backend for calls that fit.
        name: for explanations.
        own: whether it is one of a program's own.
    """

    number: int
    use: str
    name: str | None = None
    operation: str | None = None
    program: str | None = None
    kind: str | None = None
    signature: str | None = None
    tag: str | None = None
    own: bool = False

    def __str__(self) -> str:
        return f"{'own ' if self.own else ''}rule {self.number if self.name is None else repr(self.name)}"

    @property
    def when(self) -> tuple[str | None, ...]:
        """Its conditions, for comparing rules."""
        return self.operation, self.program, self.kind, self.signature, self.tag

    @property
    def is_native(self) -> bool:
        """Whether its backend is a native one."""
        return self.use in NATIVE_BACKENDS

    def misfit(self, facts: Facts, operation: str) -> str | None:
        """The first condition that does not hold, in words; None when the rule fits."""
        if self.operation not in (None, operation):
            return f"it is for {self.operation}"
        if self.program is not None and not _like(facts.program, self.program):
            return f"the program is not {self.program!r}"
        if self.kind not in (None, facts.kind):
            return f"the kind is {facts.kind!r}, not {self.kind!r}"
        if self.signature is not None and not self._fits_signature(facts):
            wanted = self.signature if self.by_eligibility is not None else f"like {self.signature!r}"
            return (
                f"the signature is not {wanted.removeprefix('not ')}"
                if wanted != "not native"
                else ("the signature is native")
            )
        if self.tag is not None and not any(_like(tag, self.tag) for tag in facts.tags):
            return f"no tag is {self.tag!r}"
        return None

    @property
    def by_eligibility(self) -> bool | None:
        """Whether it is for signatures that can run natively, or that cannot; None: for either."""
        return {"native": True, "not native": False}.get(self.signature or "")

    def _fits_signature(self, facts: Facts) -> bool:
        wanted = self.by_eligibility
        if wanted is not None:
            return facts.native is wanted
        return facts.signature is not None and _like(facts.signature, self.signature or "")


def rules_of(settings: Iterable[Any], *, own: bool = False) -> tuple[Rule, ...]:
    """Rules from `RuleSettings`, in their order.

    Args:
        own: they are one program's.

    Raises:
        ConfigError: a rule that can never match, or two that contradict; `field` is "routing.rules.N".
    """
    from dspex.routing.rule_checks import check_rules  # only those who have rules pay for it

    rules = tuple(
        Rule(
            number,
            each.use,
            each.name,
            each.when.operation,
            each.when.program,
            each.when.kind,
            each.when.signature,
            each.when.tag,
            own,
        )
        for number, each in enumerate(settings)
    )
    if rules:
        check_rules(rules)
    return rules


def _like(text: str, pattern: str) -> bool:
    # The text itself always fits: in a signature, brackets are no sets of characters.
    return text == pattern or fnmatchcase(text, pattern)

"""Which rules can never match, and which contradict: found when rules are loaded, not when a call is lost."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from fnmatch import fnmatchcase

from dspex.errors import ConfigError, nearest
from dspex.routing.rules import OPERATIONS, Rule
from dspex.spec import DSPY_KINDS

__all__ = ["ROUTED_KINDS", "check_rules"]

#: Kinds that can be routed.
ROUTED_KINDS = ("predict", "classify", *DSPY_KINDS)


def check_rules(rules: Sequence[Rule]) -> None:
    """Raises ConfigError for the first rule that makes no sense, alone or behind those before it."""
    for rule in rules:
        field = f"routing.rules.{rule.number}"
        impossible = _impossible(rule)
        if impossible is not None:
            reason, hint = impossible
            raise ConfigError(f"{rule} can never match: {reason}", field=field, hint=hint)
        earlier = rules[: rule.number]
        for other in earlier:
            if other.when == rule.when and other.use != rule.use:
                raise ConfigError(
                    f"{other} and {rule} contradict: for the same calls one says {other.use}, "
                    f"the other {rule.use}",
                    field=field,
                    hint="Remove one of them, or say in `when` what tells them apart",
                )
        hiding = _hiding(rule, earlier)
        if hiding:
            names = " and ".join(str(other) for other in hiding)
            verb = "fits all its calls" if len(hiding) == 1 else "fit all its calls together"
            raise ConfigError(
                f"{rule} can never match: {names} {verb}, looked at first",
                field=field,
                hint="Put it before them, or remove it",
            )


def _impossible(rule: Rule) -> tuple[str, str | None] | None:
    """(reason, hint) why no call can ever be routed as this rule says."""
    if rule.kind is not None and rule.kind not in ROUTED_KINDS:
        return f"there is no kind {rule.kind!r} to route", nearest(rule.kind, ROUTED_KINDS)
    for name in ("program", "signature", "tag"):
        if getattr(rule, name) == "":
            return f"{name} is empty", "Leave it out to mean any"
    if not rule.is_native:
        return None
    if rule.kind in DSPY_KINDS:
        return f"kind {rule.kind!r} does not run on {rule.use}", "Use dspy or dspy_pool"
    if rule.by_eligibility is False:
        return f"what is not native does not run on {rule.use}", "Use dspy or dspy_pool"
    return None


def _hiding(rule: Rule, earlier: Sequence[Rule]) -> list[Rule]:
    """The earlier rules that together leave nothing for this one, or none.

    Operations, kinds and eligibility can be listed, so that rules which share a case out between them are
    seen; patterns are compared one with one.
    """
    hiding: list[Rule] = []
    for case in itertools.product(OPERATIONS, ROUTED_KINDS, (True, False)):
        if not _is_for(rule, *case):
            continue
        first = next((other for other in earlier if _is_for(other, *case) and _covers(other, rule)), None)
        if first is None:
            return []
        if first not in hiding:
            hiding.append(first)
    return hiding


def _is_for(rule: Rule, operation: str, kind: str, native: bool) -> bool:
    return (
        rule.operation in (None, operation)
        and rule.kind in (None, kind)
        and rule.by_eligibility in (None, native)
    )


def _covers(general: Rule, special: Rule) -> bool:
    """Whether what fits the patterns of one always fits those of the other."""
    pairs = [(general.program, special.program), (general.tag, special.tag)]
    if general.by_eligibility is None:
        pairs.append((general.signature, None if special.by_eligibility is not None else special.signature))
    return all(wide is None or (narrow is not None and contains(wide, narrow)) for wide, narrow in pairs)


_TOKEN = re.compile(r"\[!?\]?[^\]]*\]|.", re.DOTALL)


def contains(wide: str, narrow: str) -> bool:
    """Whether every text that fits the pattern `narrow` fits `wide`. A yes is certain, a no is not."""
    if wide == narrow or set(wide) == {"*"}:
        return True
    if not any(character in narrow for character in "*?["):
        return fnmatchcase(narrow, wide)
    if "[" in narrow and not fnmatchcase(narrow, wide):
        return False  # a pattern also fits itself, brackets and all
    return _contains(_TOKEN.findall(wide), _TOKEN.findall(narrow))


def _contains(wide: list[str], narrow: list[str]) -> bool:
    # As a pattern is matched with a text, but with the other pattern's parts for characters.
    reach = {0}
    for part in [*narrow, None]:
        reach = _starred(wide, reach)
        if part is None:
            return len(wide) in reach
        reach = {place + _step(wide[place], part) for place in reach if _takes(wide, place, part)}
    return False


def _starred(wide: list[str], reach: set[int]) -> set[int]:
    """The places that are reached when stars take nothing."""
    grown = set(reach)
    for place in sorted(reach):
        while place < len(wide) and wide[place] == "*":
            place += 1
            grown.add(place)
    return grown


def _takes(wide: list[str], place: int, part: str) -> bool:
    if place == len(wide):
        return False
    own = wide[place]
    if own == "*":
        return True
    if part == "*":
        return False
    if own == "?" or own == part:
        return True
    return len(own) > 1 and len(part) == 1 and part != "?" and fnmatchcase(part, own)


def _step(own: str, part: str) -> int:
    return 0 if own == "*" else 1

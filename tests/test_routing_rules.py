"""Routing rules: what they look at, and those that make no sense."""

from __future__ import annotations

import re
from fnmatch import fnmatchcase, translate
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dspex import spec
from dspex.config import RoutingSettings
from dspex.errors import ConfigError
from dspex.routing import BACKENDS, OPERATIONS, Facts, Policy, rules_of
from dspex.routing.rule_checks import ROUTED_KINDS, contains

FACTS = Facts("mail-intents", "classify", "text -> label: Literal['a', 'b']", True, ("cheap", "v2"))


def policy(*rules: dict[str, Any]) -> Policy:
    return Policy.of(RoutingSettings.of({"rules": list(rules)}, at="routing"))


def refused(*rules: dict[str, Any]) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        policy(*rules)
    return caught.value


def test_the_policy_has_the_fields_and_defaults_of_the_settings() -> None:
    assert Policy.of(RoutingSettings()) == Policy() == Policy.of(None)


def test_kinds_are_those_of_specs() -> None:

    assert set(ROUTED_KINDS) == set(spec.KINDS) - {"embed"}


@pytest.mark.parametrize(
    ("when", "fits"),
    [
        ({}, True),
        ({"operation": "call"}, True),
        ({"operation": "batch"}, False),
        ({"program": "mail-intents"}, True),
        ({"program": "mail-*"}, True),
        ({"program": "Mail-*"}, False),
        ({"program": "intents"}, False),
        ({"kind": "classify"}, True),
        ({"kind": "predict"}, False),
        ({"signature": "native"}, True),
        ({"signature": "not native"}, False),
        ({"signature": "text -> *: Literal*"}, True),
        ({"signature": "text -> label: Literal['a', 'b']"}, True),  # brackets and all
        ({"signature": "question -> *"}, False),
        ({"tag": "cheap"}, True),
        ({"tag": "v?"}, True),
        ({"tag": "dear"}, False),
        ({"tag": "cheap", "kind": "predict"}, False),
        ({"tag": "cheap", "kind": "classify", "program": "mail-*", "operation": "call"}, True),
    ],
)
def test_what_a_rule_looks_at(when: dict[str, Any], fits: bool) -> None:
    (rule,) = policy({"when": when, "use": "dspy"}).rules
    misfit = rule.misfit(FACTS, "call")
    assert (misfit is None) is fits, misfit


def test_a_signature_that_is_not_told_fits_no_pattern() -> None:
    module = Facts("m", "module", None, False)
    (anything,) = policy({"when": {"signature": "*"}, "use": "dspy"}).rules
    (other,) = policy({"when": {"signature": "not native"}, "use": "dspy"}).rules
    assert anything.misfit(module, "call") is not None
    assert other.misfit(module, "call") is None


def test_names() -> None:
    first, second = policy({"when": {"tag": "a"}, "use": "dspy"}, {"name": "b", "use": "native"}).rules
    assert (str(first), str(second)) == ("rule 0", "rule 'b'")


@pytest.mark.parametrize(
    ("rule", "field", "words"),
    [
        ({"use": "dspi"}, "routing.rules.0.use", "dspy"),
        ({"use": "dspy", "wen": {}}, "routing.rules.0.wen", "Did you mean 'when'"),
        ({"use": "dspy", "when": {"operatoin": "call"}}, "routing.rules.0.when.operatoin", "'operation'"),
        ({"use": "dspy", "when": {"operation": "cal"}}, "routing.rules.0.when.operation", "'call'"),
        ({"use": "dspy", "when": {"kind": "clasify"}}, "routing.rules.0", "Did you mean 'classify'"),
        ({"use": "dspy", "when": {"kind": "embed"}}, "routing.rules.0", "no kind 'embed'"),
        ({"use": "native", "when": {"kind": "react"}}, "routing.rules.0", "does not run on native"),
        (
            {"use": "native_pool", "when": {"kind": "module"}},
            "routing.rules.0",
            "does not run on native_pool",
        ),
        ({"use": "native", "when": {"signature": "not native"}}, "routing.rules.0", "what is not native"),
        ({"use": "dspy", "when": {"program": ""}}, "routing.rules.0", "program is empty"),
        ({"when": {}}, "routing.rules.0.use", "use"),
    ],
)
def test_a_rule_that_makes_no_sense(rule: dict[str, Any], field: str, words: str) -> None:
    error = refused(rule)
    assert error.field == field
    assert words in str(error)


@pytest.mark.parametrize(
    ("rules", "number", "words"),
    [
        # the same conditions
        ([({"tag": "a"}, "dspy"), ({"tag": "a"}, "dspy")], 1, "rule 0 fits all its calls"),
        ([({"tag": "a"}, "dspy"), ({"tag": "a"}, "native")], 1, "rule 0 and rule 1 contradict"),
        ([({}, "dspy"), ({}, "native")], 1, "contradict"),
        # more general ones before
        ([({}, "dspy"), ({"tag": "a"}, "native")], 1, "rule 0 fits all its calls"),
        ([({"program": "a*"}, "dspy"), ({"program": "ab*"}, "native")], 1, "rule 0"),
        ([({"program": "a*"}, "dspy"), ({"program": "abc"}, "dspy")], 1, "rule 0"),
        ([({"kind": "react"}, "dspy"), ({"kind": "react", "tag": "x"}, "dspy_pool")], 1, "rule 0"),
        ([({"signature": "*"}, "dspy"), ({"signature": "text -> *"}, "native")], 1, "rule 0"),
        # several that share it out
        (
            [({"operation": each}, "dspy") for each in OPERATIONS] + [({"tag": "a"}, "native")],
            3,
            "rule 0 and rule 1 and rule 2 fit all its calls together",
        ),
        (
            [({"signature": "native"}, "native"), ({"signature": "not native"}, "dspy"), ({}, "dspy")],
            2,
            "rule 1",
        ),
        ([({"kind": each}, "dspy") for each in ROUTED_KINDS] + [({}, "native")], len(ROUTED_KINDS), "rule 5"),
        # the second is hidden although a third would not be
        ([({"tag": "*"}, "dspy"), ({"tag": "a"}, "native"), ({}, "native")], 1, "rule 0"),
    ],
)
def test_rules_that_hide_or_contradict_each_other(
    rules: list[tuple[dict[str, Any], str]], number: int, words: str
) -> None:
    error = refused(*({"when": when, "use": use} for when, use in rules))
    assert error.field == f"routing.rules.{number}"
    assert words in error.message


@pytest.mark.parametrize(
    "rules",
    [
        [({"tag": "a"}, "dspy"), ({}, "native")],
        [({"operation": "call"}, "dspy"), ({"operation": "batch"}, "native"), ({}, "dspy_pool")],
        [({"program": "ab*"}, "dspy"), ({"program": "a*"}, "native")],
        [({"program": "a?"}, "dspy"), ({"program": "a*"}, "native")],
        [({"signature": "text -> *"}, "dspy"), ({"signature": "native"}, "native"), ({}, "dspy")],
        [({"signature": "native"}, "native"), ({"signature": "*"}, "dspy")],
        # "not told" is a signature too: no pattern fits it
        [({"signature": "*"}, "dspy"), ({"signature": "not native"}, "dspy_pool")],
        [({"kind": "react"}, "dspy"), ({"tag": "a"}, "native")],
    ],
)
def test_rules_that_can_all_match(rules: list[tuple[dict[str, Any], str]]) -> None:
    assert len(policy(*({"when": when, "use": use} for when, use in rules)).rules) == len(rules)


def test_own_rules_come_first_and_may_hide_the_common_ones() -> None:
    common = policy({"when": {"tag": "a"}, "use": "dspy"}, {"use": "native"})
    own = common.with_own({"rules": [{"use": "dspy_pool"}], "threshold": None})
    assert [rule.use for rule in own.rules] == ["dspy_pool", "dspy", "native"]
    assert [str(rule) for rule in own.rules] == ["own rule 0", "rule 0", "rule 1"]
    assert (own.threshold, own.fallback) == (None, True)
    assert common.with_own({}) is common
    with pytest.raises(ConfigError) as caught:
        common.with_own({"thresold": 1})
    assert (caught.value.field, caught.value.hint) == ("routing.thresold", "Did you mean 'threshold'?")
    with pytest.raises(ConfigError) as caught:
        common.with_own({"rules": [{"use": "dspy"}, {"use": "native"}]})
    assert caught.value.field == "routing.rules.1"


def test_rules_of_nothing() -> None:
    assert rules_of(()) == ()
    assert set(BACKENDS) == {"native", "native_pool", "dspy", "dspy_pool"}


# Patterns

_PATTERNS = st.lists(st.sampled_from(["a", "b", "*", "?", "[ab]", "[!a]"]), max_size=5).map("".join)
_TEXTS = st.text(alphabet="abc", max_size=6)


def fits(text: str, pattern: str) -> bool:
    return text == pattern or fnmatchcase(text, pattern)


@given(_PATTERNS, _PATTERNS, st.lists(_TEXTS, min_size=1, max_size=30))
def test_contained_patterns_fit_no_more(wide: str, narrow: str, texts: list[str]) -> None:
    if contains(wide, narrow):
        for text in [*texts, narrow]:
            assert not fits(text, narrow) or fits(text, wide), (wide, narrow, text)


@pytest.mark.parametrize(
    ("wide", "narrow", "yes"),
    [
        ("*", "anything", True),
        ("**", "a*", True),
        ("a*", "a", True),
        ("a*c", "abc", True),
        ("a*c", "a*b*c", True),
        ("a?", "ab", True),
        ("a?*", "a[bc]", True),
        ("a?", "a[bc]", False),  # "a[bc]" itself fits the one and not the other
        ("a?", "a*", False),
        ("a*", "*a", False),
        ("a", "b", False),
        ("a[bc]", "a[bc]", True),
        ("a[bc]*", "ab*", True),
        ("a[bc]*", "ad*", False),
        ("mail-*", "mail-intents-*", True),
    ],
)
def test_patterns_in_patterns(wide: str, narrow: str, yes: bool) -> None:
    assert contains(wide, narrow) is yes
    assert re.compile(translate(wide))

"""Who answers a call: rules, the gate, the router that picks, and what it says about it."""

from dspex.routing.explanation import Explanation, Step
from dspex.routing.gate import Gate
from dspex.routing.hedge import Hedge, Race
from dspex.routing.policy import Policy
from dspex.routing.router import Bar, Decision, Look, Means, Routed, Router, standing
from dspex.routing.rules import BACKENDS, NATIVE_BACKENDS, OPERATIONS, Facts, Rule, rules_of

__all__ = [
    "BACKENDS",
    "NATIVE_BACKENDS",
    "OPERATIONS",
    "Bar",
    "Decision",
    "Explanation",
    "Facts",
    "Gate",
    "Hedge",
    "Look",
    "Means",
    "Policy",
    "Race",
    "Routed",
    "Router",
    "Rule",
    "Step",
    "rules_of",
    "standing",
]

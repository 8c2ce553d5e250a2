"""Protection around language models: deadlines, limits, breaker, retries, fallbacks, budgets, shared answers.

Knows nothing of DSPy, nor of how a request is sent.
"""

from dspex.protection.answer_cache import AnswerCache
from dspex.protection.budget import Budget
from dspex.protection.chain import Chain, Link, Usage, Verdict
from dspex.protection.deadline import NEVER, Deadline
from dspex.protection.guard import LMGuard
from dspex.protection.permit import Permit
from dspex.protection.single_flight import SingleFlight

__all__ = [
    "NEVER",
    "AnswerCache",
    "Budget",
    "Chain",
    "Deadline",
    "LMGuard",
    "Link",
    "Permit",
    "SingleFlight",
    "Usage",
    "Verdict",
]

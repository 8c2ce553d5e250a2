"""Soft labels: how sure a teacher was, from several answers or from the probabilities of its tokens."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from dspex.signature import Field, Signature

__all__ = ["from_logprobs", "key", "majority", "self_consistency", "shares"]

_SOFT = ("class", "bool")
_BLANK = ' \n\t"'


def key(outputs: Mapping[str, Any]) -> tuple[Any, ...]:
    """Equal for answers that say the same."""
    return tuple(
        (name, frozenset(map(repr, value)) if isinstance(value, list) else repr(value))
        for name, value in sorted(outputs.items())
    )


def majority(answers: Sequence[Mapping[str, Any]], names: Sequence[str]) -> tuple[int, list[int]]:
    """Where the first answer is that says what most say in the outputs `names`; and the votes, most first."""
    votes: dict[Any, list[int]] = {}
    for place, answer in enumerate(answers):
        votes.setdefault(key({name: answer[name] for name in names}), []).append(place)
    order = sorted(votes.values(), key=lambda places: (-len(places), places[0]))
    return order[0][0], [len(places) for places in order]


def shares(answers: Sequence[Mapping[str, Any]], signature: Signature) -> dict[str, dict[Any, float]]:
    """Output -> {class: share of the answers that gave it}, for outputs of one class of several."""
    found: dict[str, dict[Any, float]] = {}
    for name, field in signature.outputs.items():
        if field.kind not in _SOFT and field.annotation is not str:
            continue
        counts: dict[Any, float] = {}
        for answer in answers:
            counts[answer[name]] = counts.get(answer[name], 0.0) + 1 / len(answers)
        found[name] = counts
    return found


def self_consistency(votes: Sequence[Sequence[int]]) -> tuple[float, float] | None:
    """How often a noisy teacher says the same twice, and how often what its majority says.

    Args:
        votes: for each row the votes for its different answers, most first; rows with one answer count not.

    Returns:
        (share of pairs of answers to a row that are equal, share of answers that are their row's majority);
        None when no row has two answers.
    """
    rows = [row for row in votes if sum(row) > 1]
    if not rows:
        return None
    pairs = sum(sum(n * (n - 1) for n in row) / (sum(row) * (sum(row) - 1)) for row in rows) / len(rows)
    most = sum(max(row) / sum(row) for row in rows) / len(rows)
    return pairs, most


def from_logprobs(
    logprobs: Any, text_of: Mapping[str, str], signature: Signature
) -> dict[str, dict[Any, float]]:
    """Output -> {class: probability} from the log-probabilities of an LM's tokens.

    At each token of a class's name the alternatives share out the probability among the classes that begin
    like them; what goes on to no class is left out, and the rest is made to sum to 1.

    Args:
        logprobs: as DSPy gives them: "content" is a list of tokens with "token", "logprob", "top_logprobs".
        text_of: output -> the class's text as the LM wrote it.

    Returns:
        only outputs whose text is found in the tokens and that have more than one possible class.
    """
    tokens = _tokens(logprobs)
    found: dict[str, dict[Any, float]] = {}
    for name, field in signature.outputs.items():
        if field.kind not in _SOFT or name not in text_of:
            continue
        at = _begin(tokens, name, text_of[name])
        odds = {} if at is None else _odds(tokens, at, _names(field))
        total = sum(odds.values())
        if len(odds) > 1 and total > 0:
            found[name] = {label: share / total for label, share in odds.items()}
    return found


_Token = tuple[str, float, dict[str, float]]


def _tokens(logprobs: Any) -> list[_Token]:
    content = _get(logprobs, "content") or []
    return [
        (
            str(_get(token, "token")),
            float(_get(token, "logprob")),
            {
                str(_get(top, "token")): float(_get(top, "logprob"))
                for top in _get(token, "top_logprobs") or []
            },
        )
        for token in content
    ]


def _get(value: Any, name: str) -> Any:
    return value.get(name) if isinstance(value, Mapping) else getattr(value, name, None)


def _begin(tokens: list[_Token], name: str, said: str) -> int | None:
    """The token that the value of a field begins with: the first that holds it after the field's name."""
    text = "".join(token for token, _, _ in tokens)
    mark = text.find(name)
    place = text.find(said, mark + len(name)) if mark >= 0 else -1
    if place < 0:
        return None
    end = 0
    for number, (token, _, _) in enumerate(tokens):
        end += len(token)
        if end > place and token.strip(_BLANK):
            return number
    return None


def _names(field: Field) -> dict[str, Any]:
    """Text -> class."""
    classes = (False, True) if field.kind == "bool" else field.classes or ()
    return {str(getattr(label, "value", label)).lower(): label for label in classes}


def _odds(tokens: list[_Token], at: int, names: Mapping[str, Any]) -> dict[Any, float]:
    odds: dict[Any, float] = {}
    path, prefix = 1.0, ""
    for token, logprob, tops in tokens[at:]:
        for other, logged in tops.items():
            also = [] if other == token else _going_on(prefix, other, names)
            for name in also:
                odds[names[name]] = odds.get(names[name], 0.0) + path * math.exp(logged) / len(also)
        path *= math.exp(logprob)
        possible = _going_on(prefix, token, names)
        prefix = _clean(prefix + token)
        if len(possible) <= 1:
            for name in possible:
                odds[names[name]] = odds.get(names[name], 0.0) + path
            break
    return odds


def _going_on(prefix: str, token: str, names: Mapping[str, Any]) -> list[str]:
    """The names that begin with the prefix and then the token; a blank token ends a name."""
    if not token.strip(_BLANK):
        return [name for name in names if name == prefix] if prefix else list(names)
    text = _clean(prefix + token)
    return [name for name in names if name.startswith(text.rstrip(_BLANK))]


def _clean(text: str) -> str:
    return text.lower().lstrip(_BLANK)

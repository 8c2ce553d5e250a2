"""Small believable examples, made up by a seed, and programs fitted on them in a fraction of a second."""

from __future__ import annotations

import random
from typing import Any

import dspex
from dspex import Program

TOPICS = {
    "refund": ["refund", "money back", "return the item", "charged twice"],
    "card_lost": ["lost my card", "card was stolen", "cannot find my card", "block the card"],
    "limit": ["daily limit", "raise the limit", "withdraw more", "limit is too low"],
}
OPENINGS = ["hello", "hi there", "please help", "good morning", "urgent", "sorry to bother", "question"]
ENDINGS = ["today", "as soon as possible", "thanks a lot", "on friday", "in the app", "at the shop", "again"]
LABEL = "text -> label: Literal['refund', 'card_lost', 'limit']"


def sentence(topic: str, rng: random.Random) -> str:
    return f"{rng.choice(OPENINGS)} {rng.choice(TOPICS[topic])} {rng.choice(ENDINGS)} {rng.randrange(1000)}"


def topical(count: int, seed: int = 0) -> list[dict[str, Any]]:
    """Examples of `LABEL`: {"text", "label"}."""
    rng = random.Random(seed)
    topics = [list(TOPICS)[i % len(TOPICS)] for i in range(count)]
    return [{"text": sentence(topic, rng), "label": topic} for topic in topics]


MIXED = (
    "subject, body, amount: float, items: int, vip: bool, place: list[float] -> "
    "label: Literal['refund', 'card_lost', 'limit'], urgent: bool, price: float, stars: int, "
    "tags: list[Literal['web', 'shop', 'phone']]"
)
MIXED_CLASSES = ("refund", "card_lost", "limit")


def mixed(count: int, seed: int = 0) -> list[dict[str, Any]]:
    """Examples of `MIXED`: every kind of input, and outputs of every kind that depend on them."""
    rng = random.Random(seed)
    rows = []
    for i in range(count):
        topic = MIXED_CLASSES[i % 3]
        urgent, stars = rng.random() < 0.5, rng.randrange(1, 6)
        tags = [tag for tag in ("web", "shop", "phone") if rng.random() < 0.4]
        amount = round(rng.uniform(1, 500), 2)
        rows.append(
            {
                "subject": f"{rng.choice(OPENINGS)} {'urgent now' if urgent else 'no hurry'} {stars} stars",
                "body": f"{sentence(topic, rng)} {' '.join(f'via {tag}' for tag in tags)}",
                "amount": amount,
                "items": rng.randrange(9),
                "vip": rng.random() < 0.3,
                "place": [rng.gauss(0, 1) for _ in range(3)],
                "label": topic,
                "urgent": urgent,
                "price": 2 * amount + 5,
                "stars": stars,
                "tags": tags,
            }
        )
    return rows


def inputs_of(program: Program, row: dict[str, Any]) -> dict[str, Any]:
    return {name: row[name] for name in program.signature.inputs}


def quick(signature: str = LABEL, examples: Any = None, **options: Any) -> Program:
    """A program fitted on one thread."""
    return dspex.fit(signature, topical(90) if examples is None else examples, threads=1, **options)


def accuracy(program: Program, rows: list[dict[str, Any]], output: str = "label") -> float:
    results = program.batch([inputs_of(program, row) for row in rows])
    return sum(r[output] == row[output] for r, row in zip(results, rows, strict=True)) / len(rows)

"""One program, two text inputs, three outputs of different types."""

from itertools import product
from typing import Any

import dspex

SIGNATURE = "subject, body -> team: Literal['billing', 'technical'], urgent: bool, hours: float"
PROBLEMS = [  # subject, body, team, hours of work
    ("invoice", "we were billed twice in march", "billing", 2.0),
    ("VAT", "the VAT number on the invoice is not ours", "billing", 1.0),
    ("refund", "we cancelled in time and were billed all the same", "billing", 3.0),
    ("address", "the invoice has to go to our new address", "billing", 0.5),
    ("error 500", "every page gives an error", "technical", 8.0),
    ("login", "nobody can log in", "technical", 6.0),
    ("import", "rows are missing after the import", "technical", 7.0),
    ("report", "the monthly report opens slowly", "technical", 5.0),
]
ENDINGS = [
    ("please help at once", True),
    ("we are losing money right now", True),
    ("this is an emergency", True),
    ("answer today, it cannot wait", True),
    ("there is no hurry", False),
    ("next week is fine", False),
    ("whenever you have time", False),
    ("thank you", False),
]


def examples() -> list[dict[str, Any]]:
    return [
        {"subject": subject, "body": f"{body}, {ending}", "team": team, "urgent": urgent, "hours": hours}
        for (subject, body, team, hours), (ending, urgent) in product(PROBLEMS, ENDINGS)
    ]


def main() -> None:
    program = dspex.fit(SIGNATURE, examples())
    print(f"kind {program.kind!r}, because a number is among the outputs")

    answer = program(subject="login", body="my colleagues cannot log in, it cannot wait")
    print(f"team {answer.team}, urgent {answer.urgent}, about {answer.hours:.1f} hours")

    # Each output has its own probabilities, numbers have none; the least sure one speaks for them all.
    for name in ("team", "urgent"):
        print(name, {value: round(share, 3) for value, share in answer.probabilities(name).items()})
    print(f"confidence {answer.confidence:.3f}")


if __name__ == "__main__":
    main()

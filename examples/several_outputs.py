"""One program, two text inputs, three outputs of different types."""

import dspex

SIGNATURE = "subject, body -> team: Literal['billing', 'technical'], urgent: bool, hours: float"
ROWS = [
    ("invoice twice", "you billed us two times for march, please correct it", "billing", False, 2.0),
    ("wrong VAT", "the VAT number on the invoice is not ours", "billing", False, 1.0),
    ("refund", "we cancelled in time and were billed all the same", "billing", False, 3.0),
    ("payment refused", "our card is refused and the account is locked now", "billing", True, 4.0),
    ("final notice", "a final notice today, but the invoice was paid last week", "billing", True, 3.0),
    ("new address", "please send the next invoice to our new address", "billing", False, 0.5),
    ("site down", "every page gives error 500 since this morning", "technical", True, 8.0),
    ("login broken", "nobody in the office can log in right now", "technical", True, 6.0),
    ("data lost", "all rows are gone after the import, please help at once", "technical", True, 9.0),
    ("slow report", "the monthly report takes a minute to open", "technical", False, 5.0),
    ("export", "the csv export has no header line", "technical", False, 2.0),
    ("dark mode", "the chart labels are hard to read in dark mode", "technical", False, 3.0),
]


def main() -> None:
    names = ("subject", "body", "team", "urgent", "hours")
    program = dspex.fit(SIGNATURE, [dict(zip(names, row, strict=True)) for row in ROWS])
    print(f"kind {program.kind!r}: a number among the outputs cannot be listed")

    answer = program(subject="error 500", body="nobody can open a page right now")
    print(f"team {answer.team}, urgent {answer.urgent}, about {answer.hours:.1f} hours")

    # Each output has its own probabilities, numbers have none; the least sure one speaks for them all.
    for name in ("team", "urgent"):
        print(name, {value: round(share, 2) for value, share in answer.probabilities(name).items()})
    print(f"confidence {answer.confidence:.2f}")


if __name__ == "__main__":
    main()

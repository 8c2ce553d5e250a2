"""Any number of labels a text: none, one or several."""

import dspex
from dspex.signature import Signature

SIGNATURE = Signature.of("text -> topics: list[Literal['price', 'delivery', 'quality']]")
ROWS: list[tuple[str, list[str]]] = [
    ("far too expensive", ["price"]),
    ("the price went up again", ["price"]),
    ("cheap and it came the next day", ["price", "delivery"]),
    ("expensive, and delivery took three weeks", ["price", "delivery"]),
    ("the parcel never arrived", ["delivery"]),
    ("delivery was late once more", ["delivery"]),
    ("arrived on time", ["delivery"]),
    ("arrived late and broken", ["delivery", "quality"]),
    ("the lid was broken", ["quality"]),
    ("well made, sturdy wood", ["quality"]),
    ("sturdy and worth the price", ["price", "quality"]),
    ("cheap, and it feels cheap: poor quality", ["price", "quality"]),
    ("thank you", []),
    ("hello, is anybody there", []),
    ("have a nice day", []),
]


def main() -> None:
    program = dspex.fit(SIGNATURE, [{"text": text, "topics": topics} for text, topics in ROWS])
    for text in ("the delivery was late and the price too high", "the wood is broken", "good morning"):
        answer = program(text=text)
        shares = {label: round(share, 2) for label, share in answer.probabilities("topics").items()}
        print(f"{text!r}: {answer.topics} {shares}")


if __name__ == "__main__":
    main()

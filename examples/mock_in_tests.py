"""Test your own code without a model: the mock answers what the test says, or fails as it says."""

from dspex import Client
from dspex.errors import CallTimeoutError, DspexError

SIGNATURE = "text -> label: Literal['refund', 'card_lost', 'other']"


def reply(client: Client, text: str) -> str:
    """The code under test."""
    try:
        answer = client.execute_program("intents", {"text": text})
    except DspexError as error:
        return "try again" if error.retryable else "call us"
    return "block the card" if answer.label == "card_lost" else "open a ticket"


def test_a_lost_card_is_blocked() -> None:
    answers = {"I lost my card": "card_lost", "money back": "refund"}
    with Client() as client:
        client.create_program(
            {"id": "intents", "signature": SIGNATURE, "adapter": "mock", "options": {"answers": answers}}
        )
        assert reply(client, "I lost my card") == "block the card"
        assert reply(client, "money back") == "open a ticket"


def test_a_timeout_asks_for_patience() -> None:
    options = {"error": CallTimeoutError, "error_rate": 1.0}
    with Client() as client:
        client.create_program(
            {"id": "intents", "signature": SIGNATURE, "adapter": "mock", "options": options}
        )
        assert reply(client, "I lost my card") == "try again"


if __name__ == "__main__":
    test_a_lost_card_is_blocked()
    test_a_timeout_asks_for_patience()
    print("both tests pass")

"""DSPy with an LM that answers at once: what is left of a call when the model costs nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from benchmarks.datasets import Row
from benchmarks.peers.base import Floats, Peer


class InstantEngine:
    """A DSPy engine that gives the same well-formed answer to every request."""

    def __init__(self, answer: str) -> None:
        from dspy.lm15 import Usage

        self.message = self.saying("label", answer)
        self.usage = Usage()

    @staticmethod
    def saying(field: str, answer: str) -> Any:
        """The message that gives one output this value."""
        from dspy.lm15 import Message

        return Message.assistant(f"[[ ## {field} ## ]]\n{answer}\n\n[[ ## completed ## ]]")

    def said(self, request: Any) -> Any:
        """The message that answers the request."""
        return self.message

    def complete(self, request: Any) -> Any:
        from dspy.lm15 import Response

        message = self.said(request)
        return Response(id=None, model=request.model, message=message, finish_reason="stop", usage=self.usage)

    def close(self) -> None:
        pass


class DspyInstant(Peer):
    name = "dspy_instant"
    requires = ("dspy",)
    import_statement = "import dspy"
    has_accuracy = False
    timed_texts = 100

    def fit(self, rows: Sequence[Row]) -> None:
        import dspy

        labels: Any = Literal.__getitem__(tuple(self.classes))
        signature = dspy.Signature({"text": (str, dspy.InputField()), "label": (labels, dspy.OutputField())})
        # Its cache would write every distinct text to disk, its history keeps every call: both off.
        lm = dspy.LM("benchmark/instant", engine=InstantEngine(self.classes[0]), cache=False)
        dspy.configure(lm=lm, disable_history=True)
        self.program = dspy.Predict(signature)

    def predict_one(self, inputs: Mapping[str, Any]) -> Any:
        return self.program(**inputs).label

    def predict_many(self, texts: Sequence[str]) -> list[Any]:
        return [self.program(text=text).label for text in texts]

    def probabilities(self, texts: Sequence[str]) -> Floats | None:
        return None

    def model_bytes(self) -> int | None:
        return None


PEER = DspyInstant

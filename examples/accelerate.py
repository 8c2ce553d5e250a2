"""Make two of the three steps of a DSPy program native, and see what is left for the language model."""

import os
import tempfile
import time
from pathlib import Path
from typing import Any, Literal

import dspy

from dspex import demo
from dspex.dspy import accelerate, load_accelerated, report, route
from dspex.testing import LMServer, Request

TRAIN, UNSEEN = demo.split()
INTENTS = sorted({row["label"] for row in TRAIN})


class Sort(dspy.Signature):  # type: ignore[misc]  # DSPy has no types
    """Sort a message to an e-bike rental by its intent."""

    text: str = dspy.InputField()
    label: Literal[*INTENTS] = dspy.OutputField()  # type: ignore[valid-type]


class Desk(dspy.Module):  # type: ignore[misc]
    """Sorts a message, says whether it is urgent, and writes a reply."""

    def __init__(self) -> None:
        super().__init__()
        self.sort = dspy.Predict(Sort)
        self.triage = dspy.Predict("text -> urgent: bool")
        self.reply = dspy.ChainOfThought("text, label, urgent: bool -> reply")

    def forward(self, text: str) -> Any:
        label = self.sort(text=text).label
        urgent = self.triage(text=text).urgent
        written = self.reply(text=text, label=label, urgent=urgent)
        return dspy.Prediction(label=label, urgent=urgent, reply=written.reply)


KNOWN = {row["text"]: row["label"] for row in (*TRAIN, *UNSEEN)}


def language_model(request: Request) -> dict[str, Any]:
    """Stands for a language model, which would take a second and money."""
    label = KNOWN.get(request.fields["text"], INTENTS[0])
    urgent = label in ("accident", "damaged_bike", "end_ride")
    return {"label": label, "urgent": urgent, "reasoning": "As the guide says.", "reply": "We are on it."}


def main() -> None:
    os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "true")  # DSPy looks up no prices on the internet
    with LMServer(language_model) as server:
        lm = dspy.LM(**server.lm_config(), cache=False)
        with dspy.context(lm=lm, disable_history=True):
            run(server)


def run(server: LMServer) -> None:
    desk = Desk()
    questions = [dspy.Example(text=row["text"]).with_inputs("text") for row in TRAIN[:200]]

    # Labelled rows teach the first step. The second learns what the language model answers on the questions.
    fast = accelerate(desk, questions, natives={"sort": TRAIN})
    for line in report(fast):
        print(f"{line.name}: {'native' if line.native else 'left to the LM'} {line.reason or line.held_out}")

    texts = [row["text"] for row in UNSEEN[:60]]
    for name, program in (("as it was", desk), ("accelerated", fast)):
        server.clear()
        start = time.perf_counter()
        answers = [program(text=text) for text in texts]
        print(f"{name}: {server.count} requests, {time.perf_counter() - start:.2f} s")
    right = sum(answer.label == KNOWN[text] for answer, text in zip(answers, texts, strict=True))
    print(f"right labels: {right} of {len(texts)}")

    answer = fast.sort(text="the brakes do not work")
    print(f"{answer.label}, answered by {route(answer)}: {route(answer).reason}")

    # It is saved as every DSPy program is, models and all; plain code and the state make it again.
    with tempfile.TemporaryDirectory() as folder:
        fast.save(Path(folder, "desk.json"))
        again = load_accelerated(Desk(), Path(folder, "desk.json"))
    print("loaded:", route(again.sort(text="the brakes do not work")))


if __name__ == "__main__":
    main()

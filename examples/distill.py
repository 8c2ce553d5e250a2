"""Distill a DSPy program: the language model labels, and most calls then do without it, with a guarantee."""

import os
import random
import tempfile
from pathlib import Path
from typing import Any, Literal

import dspy

from dspex import demo
from dspex.dspy import Distill, Distilled, route
from dspex.testing import LMServer, Request

ROWS = demo.load()
random.Random(1).shuffle(ROWS)  # the guarantee is for calls that are drawn like the rows
TRAIN, UNSEEN = ROWS[:1100], ROWS[1100:]
INTENTS = sorted({row["label"] for row in ROWS})
KNOWN = {row["text"]: row["label"] for row in ROWS}


class Sort(dspy.Signature):  # type: ignore[misc]  # DSPy has no types
    """Sort a message to an e-bike rental by its intent, and answer it."""

    text: str = dspy.InputField()
    label: Literal[*INTENTS] = dspy.OutputField()  # type: ignore[valid-type]
    reply: str = dspy.OutputField()


def language_model(request: Request) -> dict[str, Any]:
    """Stands for a language model, which would take a second and money."""
    label = KNOWN.get(request.fields["text"], INTENTS[0])
    return {"reasoning": "As the guide says.", "label": label, "reply": f"This is about {label}."}


def main() -> None:
    os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "true")  # DSPy looks up no prices on the internet
    with LMServer(language_model) as server, tempfile.TemporaryDirectory() as folder:
        lm = dspy.LM(**server.lm_config(), cache=False)
        with dspy.context(lm=lm, disable_history=True):
            run(server, Path(folder))


def run(server: LMServer, folder: Path) -> None:
    # No row has an output: the program itself is the teacher. Its answers are kept in the home as they come.
    program = dspy.ChainOfThought(Sort)
    rows = [dspy.Example(text=row["text"]).with_inputs("text") for row in TRAIN]
    optimizer = Distill(agreement=0.95, home=folder / "home", method="cross", stage="live", progress=False)
    fast = optimizer.compile(program, trainset=rows)
    print(fast.report())
    print(f"asked for labels: {server.count}")

    server.clear()
    answers = {row["text"]: fast(text=row["text"]) for row in UNSEEN}
    native = [text for text, answer in answers.items() if route(answer) == "native"]
    right = sum(answers[text].label == KNOWN[text] for text in native)
    print(f"{len(native)} of {len(answers)} answered natively, {right} of these as the teacher would")
    print(f"asked for the others: {server.count}")

    # A free text is not learned. It is asked for when it is read, and not before.
    answer = answers[native[0]]
    print(f"{answer.label}: {answer.reply}")

    # Saved as every DSPy program is: predictors, native model and certificate.
    fast.save(folder / "sort.json")
    fast.close()
    again = Distilled(dspy.ChainOfThought(Sort))
    again.load(folder / "sort.json")
    print(f"loaded: {route(again(text=native[0]))}")


if __name__ == "__main__":
    main()

"""A service that moves over to native answers, and learns anew when its language model changes its mind."""

import os
import tempfile
import time
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from random import Random
from typing import Any

import dspy

from dspex.dspy import Distill, Distilled, route
from dspex.testing import LMServer, Request

CLASSES = {
    "refund": ("money back", "charged twice", "a wrong amount", "paid too much"),
    "card": ("lost my card", "my card was stolen", "block my card", "a new card"),
    "hours": ("when you open", "opening hours", "closed on sunday", "open at night"),
}
TASK = "text -> label: Literal['refund', 'card', 'fraud', 'hours']"
OPENINGS = ("hello", "please", "hi there", "quick question", "dear team", "excuse me")
ENDINGS = ("thanks", "today", "urgent", "cheers", "bye", "please answer")


def messages() -> Iterator[str]:
    """Messages as they come in, all different."""
    phrases = [phrase for each in CLASSES.values() for phrase in each]
    found = [" ".join(words) for words in product(OPENINGS, phrases, ENDINGS, map(str, range(30)))]
    Random(1).shuffle(found)
    yield from found


class LanguageModel:
    """Stands for one, which would take a second and money for each answer."""

    strict = False  # later on it takes a lost card for a case of fraud

    def __call__(self, request: Request) -> dict[str, Any]:
        text = request.fields["text"]
        label = next(name for name, phrases in CLASSES.items() if any(each in text for each in phrases))
        return {"label": "fraud" if self.strict and label == "card" else label}


def serve(program: Distilled, calls: Iterator[str], stage: str, version: int) -> None:
    """Answers calls until a version has come to a stage."""
    count, native = 0, 0
    while True:
        state = program.live.store.state()
        if (state.stage, state.version) == (stage, version):
            break
        for text in (next(calls) for _ in range(20)):
            native += route(program(text=text)) == "native"
            count += 1
        program.live.flush()  # the service itself need not wait for its audits
        time.sleep(0.01)
    print(f"  {count} calls, {native} of them natively; now {stage} with version {version}: {state.reason}")


def run(server: LMServer, model: LanguageModel, home: Path) -> None:
    calls = messages()
    optimizer = Distill(
        agreement=0.9,
        calibration_share=0.4,
        home=home,
        stage="shadow",
        progress=False,
        # A real service takes the defaults, which look at more answers and ask less often.
        settings={
            "lifecycle": {"shadow_checks": 40, "canary_checks": 40, "canary_share": 0.5, "audit_share": 0.2},
            "learning": {"first_rows": 250},
        },
    )
    rows = [dspy.Example(text=next(calls)).with_inputs("text") for _ in range(200)]
    print("The language model labels, and a native program learns from it:")
    program = optimizer.compile(dspy.Predict(TASK), trainset=rows)
    print(f"  {program.report().reason}")

    print("It moves over, as compared answers agree:")
    serve(program, calls, "canary", 1)
    serve(program, calls, "live", 1)

    print("The language model changes its mind about lost cards; audits find it:")
    model.strict = True
    serve(program, calls, "shadow", 1)

    print("A new version is learned beside the service, and moves over in its turn:")
    serve(program, calls, "live", 2)
    answer = program(text="hello lost my card thanks")
    print(f"  a lost card is now {answer.label!r}, says the {route(answer)} side")

    usage = program.live.status()["usage"]
    print(f"natively answered: {usage['native']:.0f}, asked of the language model: {server.count}")
    program.close()  # `dspex status` and `dspex report` tell more of the home


def main() -> None:
    os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "true")  # DSPy looks up no prices on the internet
    model = LanguageModel()
    with LMServer(model) as server, tempfile.TemporaryDirectory() as folder:
        lm = dspy.LM(**server.lm_config(), cache=False)
        with dspy.context(lm=lm, disable_history=True):
            run(server, model, Path(folder) / "home")


if __name__ == "__main__":
    main()

"""Save a program, load it as another process would, and ask why it answers as it does."""

import tempfile
from pathlib import Path

import dspex
from dspex import demo


def main() -> None:
    text = "the brakes squeak and the front wheel is loose"
    fitted = dspex.fit("text -> label", demo.load())

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "intents.dspex"
        fitted.save(path)
        print(f"{path.name}: {path.stat().st_size / 1024:.0f} KiB")
        program = dspex.load(path)  # maps the file; nothing in it is executed

    answer = program(text=text)
    assert answer == fitted(text=text)
    print(f"{answer.label} {answer.confidence:.2f}")
    for reason in program.explain(text=text)["label"][:6]:
        print(f"  {reason.weight:+.2f} {reason.kind:<8} {reason.feature}")


if __name__ == "__main__":
    main()

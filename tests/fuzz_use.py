"""What the model-file fuzzer does with a file that loads: builds the program and answers with it.

    python tests/fuzz_model_file.py --mutations 100000 --use fuzz_use:answer

The fuzzer's files are of any shape; `program_files` gives it real programs to damage.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import dspex
from dspex import modelfile
from dspex.program import Program, program_of

_ROWS = [
    {
        "text": f"{word} number {i}",
        "size": float(i),
        "label": word,
        "tags": [word, "x"][: 1 + i % 2],
        "score": i / 7,
    }
    for i in range(8)
    for word in ("apple", "pear", "plum", "cherry")
]
_TEXTS = ("apple number 3", "unknown wörds, 日本 !!!", "", "a" * 5000)


def program_files() -> list[bytes]:
    """Saved programs: float rows and int8 rows, one output and several."""
    many = [{"text": f"w{i % 20} x{i}", "label": f"c{i % 20}"} for i in range(80)]
    programs = [
        dspex.fit("text, size: float -> label, tags: list[str], score: float", _ROWS, threads=1),
        dspex.fit("text -> label", many, threads=1),
    ]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "p.dspex")
        out = []
        for program in programs:
            program.save(path)
            out.append(path.read_bytes())
        return out


def answer(file: modelfile.ModelFile) -> None:
    """Runs a loaded file as a program, if it is one; raises ModelFileError if it is not."""
    program: Program = program_of(file)
    for text in _TEXTS:
        inputs: dict[str, Any] = {}
        for name, field in program.signature.inputs.items():
            inputs[name] = {"text": text, "bool": True, "vector": [1.0]}.get(field.kind, 1)
        try:
            result = program.predict(inputs)
        except dspex.errors.InputError:
            continue
        repr(result)
        program.explain(**inputs)

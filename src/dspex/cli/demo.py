"""``dspex demo``: fit the example set that comes with dspex, and show what came out."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from itertools import pairwise
from time import perf_counter
from typing import TYPE_CHECKING, Any

from dspex.cli import bench, evaluate, output
from dspex.cli.fit import read_signature
from dspex.errors import ConfigError

if TYPE_CHECKING:
    from dspex.program import Program
    from dspex.result import Result
    from dspex.signature import Signature

HELP = "fit the example set that comes with dspex and show the result"
DESCRIPTION = (
    "Fits a program on four fifths of the example set (messages to an e-bike rental, 12 intents) and shows "
    "how it does on the rest: accuracy, calibration, a few answers with their reasons, and speed."
)
_BANDS = (1.0, 0.9, 0.7, 0.5, 0.0)
_REASONS = 4
_LONG_ENOUGH = 30  # characters: shorter messages tell a reader little


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-s", "--signature", default="text -> label", help='(default "%(default)s")')
    parser.add_argument("--seed", type=int, default=0, help="same seed: same program (default 0)")
    parser.add_argument("--threads", type=int, help="threads to use (default: all cores)")


def run(args: argparse.Namespace) -> None:
    import dspex
    from dspex import demo
    from dspex.signature import Signature

    signature = Signature.of(read_signature(args.signature))
    _check(signature)
    train, held_out = demo.split()
    begin = perf_counter()
    program = dspex.fit(signature, train, seed=args.seed, threads=args.threads)
    seconds = perf_counter() - begin
    inputs = [{"text": row["text"]} for row in held_out]
    answers = program.batch(inputs)
    figures = {
        "train_n": len(train),
        "fit_seconds": seconds,
        "split": "every fifth message of each intent is held out",
        **evaluate.measure(program, held_out),
        "bands": _bands(held_out, answers),
        "examples": _examples(program, held_out, answers),
        **{key: value for key, value in bench.measure(program, inputs).items() if key != "n"},
    }
    if args.json:
        output.print_json(figures)
    else:
        _print(figures)


def _check(signature: Signature) -> None:
    label = signature.outputs.get("label")
    fits = list(signature.inputs) == ["text"] and list(signature.outputs) == ["label"]
    if not fits or label is None or label.kind not in ("text", "class"):
        raise ConfigError(
            f"the example set has a text and a label, not {signature.to_string()!r}",
            hint='Use "text -> label", with or without the classes as a Literal',
        )


def _right(row: Mapping[str, Any], answer: Result) -> bool:
    return bool(output.plain(answer["label"]) == row["label"])


def _bands(rows: Sequence[Mapping[str, Any]], answers: Sequence[Result]) -> list[dict[str, Any]]:
    """How often answers are right, by how sure they are."""
    bands = []
    for above, least in pairwise(_BANDS):
        inside = [
            _right(row, answer)
            for row, answer in zip(rows, answers, strict=True)
            if least <= (answer.confidence or 0.0)
            and (answer.confidence or 0.0) < (above if above < 1 else 2)
        ]
        share = sum(inside) / len(inside) if inside else None
        bands.append({"from": least, "to": above, "n": len(inside), "accuracy": share})
    return bands


def _examples(
    program: Program, rows: Sequence[Mapping[str, Any]], answers: Sequence[Result]
) -> list[dict[str, Any]]:
    """A few answers worth a look: sure and right, unsure and right, and the mistakes at both ends."""
    by_confidence = sorted(
        (at for at in range(len(rows)) if len(rows[at]["text"]) >= _LONG_ENOUGH),
        key=lambda at: answers[at].confidence or 0.0,
        reverse=True,
    )
    right = [at for at in by_confidence if _right(rows[at], answers[at])]
    wrong = [at for at in by_confidence if not _right(rows[at], answers[at])]
    chosen = [
        ("sure, and right", right[:1]),
        ("typical", right[len(right) // 2 : len(right) // 2 + 1]),
        ("unsure, and right", right[-1:]),
        ("unsure, and wrong (a case for a language model)", wrong[-1:]),
        ("its worst mistake here", wrong[:1]),
    ]
    shown: dict[int, dict[str, Any]] = {}
    for why, places in chosen:
        for at in places:
            shown.setdefault(at, _example(program, rows[at], answers[at], why))
    return list(shown.values())


def _example(program: Program, row: Mapping[str, Any], answer: Result, why: str) -> dict[str, Any]:
    return {
        "why": why,
        "text": row["text"],
        "label": output.plain(answer["label"]),
        "expected": row["label"],
        "confidence": answer.confidence,
        "reasons": _reasons(program, row["text"]),
    }


def _reasons(program: Program, text: str) -> list[tuple[str, float]]:
    """The parts of the text that spoke loudest for the answer, with what they add to its logit."""
    reasons = program.explain(text=text)["label"]
    return [(part.feature, part.weight) for part in reasons if part.field and part.weight > 0][:_REASONS]


def _print(figures: Mapping[str, Any]) -> None:
    print("Messages to an imaginary e-bike rental, 12 intents, written for dspex")
    output.heading("Fit")
    print(f"  {figures['train_n']:,} messages in {figures['fit_seconds']:.2f} s")
    output.heading(f"Measured on {figures['n']:,} messages held out: every fifth of each intent")
    print(f"  accuracy {figures['accuracy']:.3f}, macro-F1 {figures['macro_f1']:.3f}")
    print(f"  expected calibration error {figures['ece']:.3f} (15 bins of equal mass)")
    print()
    evaluate.print_classes(figures["classes"])
    _print_bands(figures)
    _print_examples(figures["examples"])
    output.heading("Speed on this machine, one call at a time and in one batch")
    bench.print_figures(figures)
    output.heading("With data of your own: a JSON object or a CSV record for each example")
    print('  dspex fit yours.jsonl -s "text -> label" -o yours.dspex')
    print("  dspex eval yours.dspex unseen.jsonl")
    print('  dspex predict yours.dspex "a new text"')


def _print_bands(figures: Mapping[str, Any]) -> None:
    output.heading("Does it know when it is right?")
    rows = []
    for band in figures["bands"]:
        name = f"{band['from']:.1f} to {band['to']:.1f}"
        share = output.percent(band["n"] / figures["n"])
        rows.append([name, share, "-" if band["accuracy"] is None else output.percent(band["accuracy"])])
    output.print_table(["confidence", "messages", "right"], rows)
    print("\nWith the least sure messages left to a language model, it would have answered")
    for target, share in figures["coverage"].items():
        print(f"  {output.percent(share):>7} of them at {100 * float(target):.0f} % accuracy")


def _print_examples(examples: Sequence[Mapping[str, Any]]) -> None:
    output.heading("Some answers, and the parts of the text that spoke for them")
    for example in examples:
        wrong = "" if example["label"] == example["expected"] else f", should be {example['expected']}"
        reasons = ", ".join(f"{gram!r} {weight:+.2f}" for gram, weight in example["reasons"])
        print(f"  {example['why']}:")
        print(f"    {output.shorten(example['text'], output.WIDTH - 4)}")
        print(f"    {example['label']} {example['confidence']:.2f}{wrong}")
        print(f"    {output.shorten(reasons, output.WIDTH - 4)}")

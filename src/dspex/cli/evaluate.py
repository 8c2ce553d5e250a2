"""``dspex eval``: how right a program is on rows with known answers, and whether it knows when it is not."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from dspex.cli import output
from dspex.errors import InputError

if TYPE_CHECKING:
    from dspex.program import Program
    from dspex.result import Result
    from dspex.signature import Field

HELP = "measure a program on rows with known answers"
DESCRIPTION = (
    "Prints accuracy, macro-F1, a table of classes, the expected calibration error (15 bins of equal mass), "
    "and the share of rows that can be answered at 95, 98 and 99 % accuracy when the least confident are "
    "left out; for numbers the mean absolute error, for several labels micro-F1. Every output is measured on "
    "its own."
)
TARGETS = (0.95, 0.98, 0.99)
_LABEL_WIDTH = 40


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", metavar="FILE", help="a saved program")
    parser.add_argument(
        "data", metavar="DATA", help="rows: .jsonl, .csv, .tsv or .parquet, or - for JSONL on stdin"
    )


def run(args: argparse.Namespace) -> None:
    import dspex
    from dspex.data import read_rows

    program = dspex.load(args.file)
    figures = measure(program, read_rows(args.data, program.signature))
    if args.json:
        output.print_json(figures)
    else:
        print_figures(figures)


def measure(program: Program, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The figures of a program on rows with inputs and gold outputs.

    Returns:
        ``n``, and ``outputs`` with the figures of each output. With one output they are on top as well.
    """
    inputs = [{name: row[name] for name in program.signature.inputs} for row in rows]
    gold = {name: _gold(field, rows) for name, field in program.signature.outputs.items()}
    results = program.batch(inputs)
    figures = {
        name: _MEASURES[field.kind](field, gold[name], results)
        for name, field in program.signature.outputs.items()
    }
    top = next(iter(figures.values())) if len(figures) == 1 else {}
    return {"n": len(rows), **top, "outputs": figures}


def print_figures(figures: Mapping[str, Any]) -> None:
    print(f"rows                {figures['n']:,}")
    for name, scores in figures["outputs"].items():
        if len(figures["outputs"]) > 1:
            output.heading(f"output {name}")
        print_scores(scores)
        if "classes" in scores:
            print()
            print_classes(scores["classes"])


def print_scores(scores: Mapping[str, Any]) -> None:
    """The figures of one output, without its table of classes."""
    names = {
        "micro_f1": "micro-F1",
        "accuracy": "accuracy",
        "macro_f1": "macro-F1",
        "mae": "mean absolute error",
    }
    if "micro_f1" in scores:
        names["accuracy"] = "all labels right"
    for key, name in names.items():
        if key in scores:
            print(f"{name:<19} {scores[key]:.4f}")
    if "ece" in scores:
        print(f"calibration error   {scores['ece']:.4f}  (15 bins of equal mass)")
    for target, share in scores.get("coverage", {}).items():
        print(f"coverage at {100 * float(target):.0f} %    {share:.4f}")
    if unknown := scores.get("unknown_labels"):
        print(f"not in the program  {output.shorten(', '.join(map(str, unknown)), 60)}")


def print_classes(classes: Iterable[Mapping[str, Any]]) -> None:
    output.print_table(
        ["class", "precision", "recall", "F1", "rows"],
        [
            [
                output.shorten(str(output.plain(score["label"])), _LABEL_WIDTH),
                *(f"{score[key]:.3f}" for key in ("precision", "recall", "f1")),
                f"{score['support']:,}",
            ]
            for score in classes
        ],
    )


# What one output is worth, by kind


def _measure_classes(field: Field, gold: list[Any], results: Sequence[Result]) -> dict[str, Any]:
    from dspex import metrics

    predicted = [result[field.name] for result in results]
    confidence = [
        result.probabilities(field.name)[answer] for result, answer in zip(results, predicted, strict=True)
    ]
    return {
        "accuracy": metrics.accuracy(gold, predicted),
        "macro_f1": metrics.macro_f1(gold, predicted),
        **_calibration(confidence, [g == p for g, p in zip(gold, predicted, strict=True)]),
        "classes": [score._asdict() for score in metrics.per_class(gold, predicted)],
        **_unknown(field, gold),
    }


def _measure_labels(field: Field, gold: list[Any], results: Sequence[Result]) -> dict[str, Any]:
    """Accuracy is that of the whole set; calibration is that of each label's yes or no."""
    from dspex import metrics

    predicted = [frozenset(result[field.name]) for result in results]
    probabilities = [result.probabilities(field.name) for result in results]
    shares = [share for row in probabilities for share in row.values()]
    wanted = [label in labels for labels, row in zip(gold, probabilities, strict=True) for label in row]
    table = metrics.per_label(gold, predicted)
    return {
        "micro_f1": metrics.micro_f1(gold, predicted),
        "macro_f1": sum(score.f1 for score in table) / len(table) if table else 0.0,
        "accuracy": metrics.accuracy(gold, predicted),
        "ece": metrics.expected_calibration_error(shares, wanted),
        "classes": [score._asdict() for score in table],
        **_unknown(field, [label for labels in gold for label in labels]),
    }


def _measure_numbers(field: Field, gold: list[Any], results: Sequence[Result]) -> dict[str, Any]:
    from dspex import metrics

    return {"mae": metrics.mean_absolute_error(gold, [result[field.name] for result in results])}


_MEASURES: dict[str, Callable[[Field, list[Any], Sequence[Result]], dict[str, Any]]] = {
    "class": _measure_classes, "bool": _measure_classes, "multilabel": _measure_labels,
    "int": _measure_numbers, "float": _measure_numbers,
}  # fmt: skip


def _calibration(confidence: list[float], correct: list[bool]) -> dict[str, Any]:
    from dspex import metrics

    return {
        "ece": metrics.expected_calibration_error(confidence, correct),
        "coverage": {str(target): metrics.coverage_at(confidence, correct, target) for target in TARGETS},
    }


def _unknown(field: Field, labels: Iterable[Any]) -> dict[str, Any]:
    """Gold labels that the program has never seen, which it can only get wrong."""
    unknown = sorted({str(label) for label in labels if field.learned and label not in (field.classes or ())})
    return {"unknown_labels": unknown} if unknown else {}


# Gold answers


def _gold(field: Field, rows: Sequence[Mapping[str, Any]]) -> list[Any]:
    """The right answers, checked: a wrong type would count as a wrong answer of the program."""
    read = _gold_reader(field)
    values = []
    for row, values_of_row in enumerate(rows):
        try:
            values.append(read(values_of_row[field.name]))
        except ValueError as error:
            raise InputError(str(error), field=field.name, row=row) from None
    return values


def _gold_reader(field: Field) -> Callable[[Any], Any]:
    if field.kind == "multilabel":
        one = _class_reader(field)
        return lambda value: frozenset(map(one, _list(value)))
    return {"bool": _bool, "int": _number, "float": _number}.get(field.kind) or _class_reader(field)


def _class_reader(field: Field) -> Callable[[Any], Any]:
    from dspex.data import class_finder

    find = class_finder(field)
    known = set(field.classes or ())

    def read(value: Any) -> Any:
        label = find(value)
        if isinstance(label, (list, dict)) or (field.learned and not isinstance(label, str)):
            raise ValueError(f"{value!r} cannot be a class")
        if not field.learned and label not in known:
            raise ValueError(f"{value!r} is not one of the {len(known)} classes of the signature")
        return label

    return read


def _list(value: Any) -> Iterable[Any]:
    if not isinstance(value, (list, tuple, set, frozenset)):
        raise ValueError(f"{value!r} is not a list of labels")
    return value


def _bool(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError(f"{value!r} is not a bool")
    return value


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise ValueError(f"{value!r} is not a finite number")
    return value
